"""Walks the roots: one file system unless told otherwise, no link followed, every regular file told by its content.

Memory is bounded by MAX_LISTED files of a kind and MAX_EXAMPLES of what could not be looked at; the rest is counted.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from retrain_worker.discovery.content import HEAD_BYTES, Kind, kind_of
from retrain_worker.discovery.pack import Walk, shown
from retrain_worker.errors import UsageError

MAX_LISTED = 2_000
MAX_EXAMPLES = 100
_MAX_LINKS = 50_000
_SECONDS_BETWEEN_SENTENCES = 2.0
_MOUNTS = Path("/proc/self/mounts")
#: file systems that hold no files of anybody
PSEUDO_FILE_SYSTEMS = frozenset(
    {
        "autofs",
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "fusectl",
        "hugetlbfs",
        "mqueue",
        "nsfs",
        "proc",
        "pstore",
        "rpc_pipefs",
        "securityfs",
        "selinuxfs",
        "sysfs",
        "tracefs",
    }
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file of a kind we know. `links` are symbolic links within the roots that lead to it."""

    path: Path
    kind: Kind
    size: int
    modified: float
    identity: tuple[int, int]
    links: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A line of /proc/self/mounts."""

    device: str
    point: str
    kind: str


def mounts(table: Path = _MOUNTS) -> tuple[Mount, ...]:
    """What is mounted; nothing where the kernel does not say."""
    try:
        lines = table.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ()
    fields = [[_unescaped(part) for part in line.split(" ")] for line in lines]
    return tuple(Mount(device=each[0], point=each[1], kind=each[2]) for each in fields if len(each) > 2)


def scan(roots: Sequence[Path], *, cross_file_systems: bool, say: Callable[[str], None]) -> tuple[list[Found], Walk]:
    """Every file of a known kind under `roots`, by path, and what the walk did not see.

    `say` is told now and then where the walk is. Raises UsageError when a root is not a directory.
    """
    walker = _Walker(roots=_distinct(roots), cross_file_systems=cross_file_systems, say=say)
    for root in walker.roots:
        walker.walk(root)
    return walker.found(), walker.walked()


def _distinct(roots: Sequence[Path]) -> tuple[Path, ...]:
    """The roots without links, and without those that lie within another."""
    real = []
    for root in roots:
        path = Path(os.path.realpath(root.expanduser()))
        if not path.is_dir():
            raise UsageError("this is not a directory", where=shown(root), remedy="name directories to look through")
        real.append(path)
    outermost = [path for path in real if not any(other in path.parents for other in real)]
    return tuple(dict.fromkeys(outermost))


@dataclass(kw_only=True)
class _Walker:
    roots: tuple[Path, ...]
    cross_file_systems: bool
    say: Callable[[str], None]
    num_files: int = 0
    num_directories: int = 0
    num_unreadable: int = 0
    num_links_out: int = 0
    unreadable: list[str] = field(default_factory=list)
    not_entered: list[str] = field(default_factory=list)
    links_out: list[str] = field(default_factory=list)
    links: dict[str, list[Path]] = field(default_factory=dict)
    files: list[Found] = field(default_factory=list)
    counts: Counter[Kind] = field(default_factory=Counter)
    _said_at: float = field(default_factory=time.monotonic)
    _pseudo: dict[str, str] = field(
        default_factory=lambda: {mount.point: mount.kind for mount in mounts() if mount.kind in PSEUDO_FILE_SYSTEMS}
    )

    def walk(self, root: Path) -> None:
        if str(root) in self._pseudo:
            self._leave_out(root, f"{self._pseudo[str(root)]} holds no files")
            return
        device = root.stat().st_dev
        waiting = [str(root)]
        while waiting:
            folder = waiting.pop()
            self.num_directories += 1
            self._say_now_and_then(folder)
            try:
                with os.scandir(folder) as entries:
                    inner = [entry.path for entry in entries if self._is_folder_to_enter(entry, device)]
            except OSError as error:
                self._note_unreadable(folder, error)
                continue
            waiting.extend(sorted(inner, reverse=True))

    def _is_folder_to_enter(self, entry: os.DirEntry[str], device: int) -> bool:
        """Whether to walk on into `entry`; what is no folder is looked at here."""
        try:
            if entry.is_symlink():
                self._note_link(entry.path)
                return False
            about = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(about.st_mode):
                self.num_files += 1
                self._look_at(entry.path, about)
            if not stat.S_ISDIR(about.st_mode):
                return False
            if entry.path in self._pseudo:
                return False
            if about.st_dev != device and not self.cross_file_systems:
                self._leave_out(Path(entry.path), "another file system")
                return False
        except OSError as error:
            self._note_unreadable(entry.path, error)
            return False
        return True

    def _look_at(self, path: str, about: os.stat_result) -> None:
        # a file may have been replaced since: no link is followed, no pipe waited for
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            kind = kind_of(Path(path), os.read(handle, HEAD_BYTES), more=lambda size: os.pread(handle, size, 0))
        finally:
            os.close(handle)
        if kind is None:
            return
        self.counts[kind] += 1
        if self.counts[kind] <= MAX_LISTED:
            self.files.append(
                Found(
                    path=Path(path),
                    kind=kind,
                    size=about.st_size,
                    modified=about.st_mtime,
                    identity=(about.st_dev, about.st_ino),
                )
            )

    def _note_link(self, path: str) -> None:
        target = os.path.realpath(path)
        if not any(target == str(root) or root in Path(target).parents for root in self.roots):
            self.num_links_out += 1
            if len(self.links_out) < MAX_EXAMPLES:
                self.links_out.append(f"{shown(path)} -> {shown(target)}")
        elif len(self.links) < _MAX_LINKS:
            self.links.setdefault(target, []).append(Path(path))

    def _note_unreadable(self, path: str, error: OSError) -> None:
        self.num_unreadable += 1
        if len(self.unreadable) < MAX_EXAMPLES:
            self.unreadable.append(f"{shown(path)}: {error.strerror}")

    def _leave_out(self, path: Path, why: str) -> None:
        if len(self.not_entered) < MAX_EXAMPLES:
            self.not_entered.append(f"{shown(path)}: {why}")

    def _say_now_and_then(self, folder: str) -> None:
        now = time.monotonic()
        if now - self._said_at >= _SECONDS_BETWEEN_SENTENCES:
            self._said_at = now
            self.say(f"{self.num_files:,} files in {self.num_directories:,} folders, now {shown(folder)}")

    def found(self) -> list[Found]:
        return [
            Found(
                path=each.path,
                kind=each.kind,
                size=each.size,
                modified=each.modified,
                identity=each.identity,
                links=tuple(self.links.get(str(each.path), ())),
            )
            for each in sorted(self.files, key=lambda one: one.path)
        ]

    def walked(self) -> Walk:
        return Walk(
            roots=tuple(shown(root) for root in self.roots),
            is_one_file_system=not self.cross_file_systems,
            num_files=self.num_files,
            num_directories=self.num_directories,
            unreadable=tuple(self.unreadable),
            num_unreadable=self.num_unreadable,
            not_entered=tuple(self.not_entered),
            links_out=tuple(self.links_out),
            num_links_out=self.num_links_out,
            left_out={str(kind): count - MAX_LISTED for kind, count in self.counts.items() if count > MAX_LISTED},
        )


def _unescaped(text: str) -> str:
    """As /proc/self/mounts writes it, with octal escapes for blanks."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
