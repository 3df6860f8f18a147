"""Walks directories: one file system unless requested otherwise, no link followed, every regular file classified.

Memory is bounded by MAX_LISTED files of a kind and MAX_EXAMPLES of what could not be examined; the rest is counted.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from retrain_worker.discovery.file_classification import HEAD_BYTES, Kind, kind_of
from retrain_worker.discovery.progress import Progress
from retrain_worker.discovery.proof_pack import Walk
from retrain_worker.domain.printable import printable
from retrain_worker.errors import UsageError

MAX_LISTED = 2_000
MAX_EXAMPLES = 100
_MAX_LINKS = 50_000
#: threads: a cold disk serves several reads at once
_NUM_READERS = 8
_MAX_READING = 4 * _NUM_READERS
_SECONDS_BETWEEN_STEPS = 0.5
# a file may have been replaced since its directory was read: no link is followed, no pipe waited for
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file of a known kind. `links` are symbolic links within the roots that lead to it."""

    path: Path
    kind: Kind
    size: int
    modified: float
    links: tuple[Path, ...] = ()


def classify(path: str) -> Found | None:
    """The file at `path` if it is regular and its kind is known. Raises OSError."""
    handle = os.open(path, _READ)
    try:
        kind = kind_of(
            path,
            os.read(handle, HEAD_BYTES),
            read=lambda most: os.pread(handle, min(most, os.fstat(handle).st_size), 0),
        )
        if kind is None or not stat.S_ISREG((about := os.fstat(handle)).st_mode):
            return None
        return Found(path=Path(path), kind=kind, size=about.st_size, modified=about.st_mtime)
    finally:
        os.close(handle)


def distinct_roots(roots: Iterable[Path]) -> tuple[Path, ...]:
    """The roots resolved, without those inside another. Raises UsageError for what is not a directory."""
    real = []
    for root in roots:
        path = Path(os.path.realpath(root.expanduser()))
        if not path.is_dir():
            raise UsageError("not a directory", where=printable(root), remedy="name directories to search")
        real.append(path)
    return tuple(dict.fromkeys(path for path in real if not any(other in path.parents for other in real)))


def has_stored_files(mount_point: str) -> bool:
    """False for file systems that the kernel generates: proc, sysfs, cgroup ... Raises OSError."""
    return os.statvfs(mount_point).f_blocks > 0


@dataclass(kw_only=True)
class _Directory:
    """What one directory holds. The texts are `path: reason`."""

    directories: list[str] = field(default_factory=list)
    files: list[Found] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    num_files: int = 0
    unreadable: list[str] = field(default_factory=list)
    not_entered: list[str] = field(default_factory=list)


def _read_directory(path: str, *, cross_file_systems: bool) -> _Directory:
    """Classify the files in a directory."""
    read = _Directory()
    try:
        device = Path(path).stat().st_dev
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    if _is_to_enter(entry, device, read, cross_file_systems=cross_file_systems):
                        read.directories.append(entry.path)
                except OSError as error:
                    read.unreadable.append(f"{printable(entry.path)}: {error.strerror}")
    except OSError as error:
        read.unreadable.append(f"{printable(path)}: {error.strerror}")
    return read


def _is_to_enter(entry: os.DirEntry[str], device: int, read: _Directory, *, cross_file_systems: bool) -> bool:
    """Whether an entry is a directory to be entered; files and links are added to `read`."""
    if entry.is_symlink():
        read.links.append(entry.path)
    elif entry.is_file(follow_symlinks=False):
        read.num_files += 1
        if found := classify(entry.path):
            read.files.append(found)
    elif entry.is_dir(follow_symlinks=False):
        if entry.stat(follow_symlinks=False).st_dev == device:
            return True
        if has_stored_files(entry.path):
            if cross_file_systems:
                return True
            read.not_entered.append(f"{printable(entry.path)}: another file system")
    return False


@dataclass(kw_only=True)
class DirectoryWalk:
    """The files found so far, and what was not examined."""

    roots: tuple[Path, ...]
    cross_file_systems: bool
    progress: Progress
    #: files found of each kind, those beyond MAX_LISTED too
    num_found: Counter[Kind] = field(default_factory=Counter)
    _num_files: int = 0
    _num_directories: int = 0
    _num_unreadable: int = 0
    _num_links_out: int = 0
    _unreadable: list[str] = field(default_factory=list)
    _not_entered: list[str] = field(default_factory=list)
    _links_out: list[str] = field(default_factory=list)
    _links: dict[str, list[Path]] = field(default_factory=dict)
    _files: list[Found] = field(default_factory=list)

    def run(self) -> None:
        """Walk all roots. Raises Stopped; what was found until then is kept."""
        pool = ThreadPoolExecutor(_NUM_READERS)
        try:
            for root in map(str, self.roots):
                if has_stored_files(root):
                    self._walk(root, pool)
                else:
                    self._not_entered.append(f"{printable(root)}: a file system without stored files")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def found(self) -> list[Found]:
        """The files of a known kind, by path, with the links that lead to them."""
        files = sorted(self._files, key=lambda one: one.path)
        return [replace(each, links=tuple(self._links.get(str(each.path), ()))) for each in files]

    def walked(self) -> Walk:
        """What was examined, and what was not."""
        return Walk(
            roots=tuple(map(printable, self.roots)),
            is_one_file_system=not self.cross_file_systems,
            num_files=self._num_files,
            num_directories=self._num_directories,
            unreadable=tuple(self._unreadable),
            num_unreadable=self._num_unreadable,
            not_entered=tuple(self._not_entered),
            links_out=tuple(self._links_out),
            num_links_out=self._num_links_out,
        )

    def _walk(self, root: str, pool: ThreadPoolExecutor) -> None:
        """Read the directories below `root` by several threads, in an order that does not depend on their speed."""
        waiting, reading = [root], deque[Future[_Directory]]()
        while waiting or reading:
            while waiting and len(reading) < _MAX_READING:
                path = waiting.pop()
                self.progress.step("walking", self._num_files, None, path)
                reading.append(pool.submit(_read_directory, path, cross_file_systems=self.cross_file_systems))
            while not wait([reading[0]], timeout=_SECONDS_BETWEEN_STEPS).done:
                self.progress.step("walking", self._num_files, None, path)  # a file system that does not answer
            directory = reading.popleft().result()
            self._note(directory)
            waiting.extend(sorted(directory.directories, reverse=True))

    def _note(self, read: _Directory) -> None:
        self._num_directories += 1
        self._num_files += read.num_files
        for found in read.files:
            self.num_found[found.kind] += 1
            if self.num_found[found.kind] <= MAX_LISTED:
                self._files.append(found)
        self._num_unreadable += len(read.unreadable)
        self._unreadable += read.unreadable[: MAX_EXAMPLES - len(self._unreadable)]
        self._not_entered += read.not_entered[: MAX_EXAMPLES - len(self._not_entered)]
        for link in read.links:
            self._note_link(link)

    def _note_link(self, path: str) -> None:
        target = os.path.realpath(path)
        if not any(f"{target}/".startswith(f"{str(root).rstrip('/')}/") for root in self.roots):
            self._num_links_out += 1
            if len(self._links_out) < MAX_EXAMPLES:
                self._links_out.append(f"{printable(path)} -> {printable(target)}")
        elif len(self._links) < _MAX_LINKS:
            self._links.setdefault(target, []).append(Path(path))
