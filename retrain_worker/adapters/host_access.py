"""Access of the service's user to what other programs own: recorded, granted, restored. Runs as root.

That user can write to these places, so no link is followed, and everything is changed through descriptors.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from retrain_worker import durable_file, typed_json
from retrain_worker.adapters import posix_acl
from retrain_worker.adapters.account_names import group_name, user_name
from retrain_worker.errors import SlotError

RECORD = Path("/var/lib/retrain-worker/access.json")
READ, ENTER_AND_WRITE = 4, 7


@dataclass(frozen=True, kw_only=True)
class Access:
    """Owner, mode and access control list of a file."""

    uid: int
    gid: int
    mode: int
    acl: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """What was there before, by path, and the files that were added."""

    before: dict[str, Access] = field(default_factory=dict)
    added: tuple[str, ...] = ()


class HostAccess:
    """Grants access to one user; every method returns a line for each change, or nothing."""

    def __init__(self, *, uid: int, gid: int, record: Path = RECORD) -> None:
        self._uid, self._gid = uid, gid
        self._record_path = record
        self._record = typed_json.decode(record.read_bytes(), Record) if record.exists() else Record()

    def grant(self, path: Path, permissions: int, *, is_sticky: bool = False) -> Iterator[str]:
        """The user has these permissions. `is_sticky`: in the directory, it renames and removes its own files only."""
        with self._changing(path) as (fd, found, lines):
            entries = posix_acl.entries_of(fd)
            if found.st_uid != self._uid and posix_acl.effective(entries, self._uid) & permissions != permissions:
                posix_acl.write(fd, posix_acl.encoded({**entries, (posix_acl.USER, self._uid): permissions}))
            if is_sticky:
                os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | stat.S_ISVTX)
        yield from lines

    def hand_over(self, file: Path) -> Iterator[str]:
        """The user may replace the file by one of the same owner and mode; its former owner and group keep theirs."""
        with self._changing(file) as (fd, found, lines):
            if (found.st_uid, found.st_gid) != (self._uid, self._gid):
                entries = posix_acl.entries_of(fd)
                others = {tag: bits for (tag, _number), bits in entries.items()}
                if found.st_uid not in (0, self._uid):
                    entries[posix_acl.USER, found.st_uid] = others[posix_acl.USER_OBJ]
                is_group_of_others = found.st_gid not in (0, self._gid)
                if is_group_of_others and others[posix_acl.GROUP_OBJ] & ~others[posix_acl.OTHER]:
                    entries[posix_acl.GROUP, found.st_gid] = others[posix_acl.GROUP_OBJ]
                os.fchown(fd, self._uid, self._gid)
                if entries != posix_acl.entries_of(fd):
                    posix_acl.write(fd, posix_acl.encoded(entries))
                os.fchmod(fd, stat.S_IMODE(found.st_mode))
        yield from lines

    def has_list_for_others(self, file: Path) -> bool:
        """Whether its access control list names a user or a group that a user namespace of the service hides."""
        with _opened(file) as fd:
            seen = {
                (posix_acl.USER, self._uid),
                (posix_acl.GROUP, self._gid),
                (posix_acl.USER, 0),
                (posix_acl.GROUP, 0),
            }
            named = {key for key in posix_acl.entries_of(fd) if key[0] in (posix_acl.USER, posix_acl.GROUP)}
        return not named <= seen

    def make_own(self, directory: Path) -> Iterator[str]:
        """A directory of the user's own; its parents belong to root. An existing one is left as it is."""
        if directory.exists():
            return
        directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700)
        with _opened(directory) as fd:
            os.fchown(fd, self._uid, self._gid)
            os.fchmod(fd, 0o2750)
            yield f"{directory}: created, {_text(_access_of(fd))}"

    def add_file(self, path: Path, text: str) -> Iterator[str]:
        """A file of root's, which `restore` removes."""
        if path.exists() and path.read_text() == text:
            return
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        durable_file.replace_file(path, text.encode())
        if str(path) not in self._record.added:
            self._keep(Record(before=self._record.before, added=(*self._record.added, str(path))))
        yield f"{path}: written"

    def restore(self) -> Iterator[str]:
        """Everything in the record as it was; then there is no record any more."""
        for path, before in reversed(self._record.before.items()):
            if not Path(path).exists():
                yield f"{path}: does not exist any more"
                continue
            with _opened(Path(path)) as fd:
                now = _access_of(fd)
                os.fchown(fd, before.uid, before.gid)
                posix_acl.write(fd, before.acl)
                os.fchmod(fd, before.mode)
            yield f"{path}: {_text(now)} -> {_text(before)}"
        for added in self._record.added:
            Path(added).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                Path(added).parent.rmdir()
            yield f"{added}: removed"
        self._record_path.unlink(missing_ok=True)
        self._record = Record()

    @contextlib.contextmanager
    def _changing(self, path: Path) -> Iterator[tuple[int, os.stat_result, list[str]]]:
        """A descriptor, its status, and a list that gets a line for the change, which is recorded before it is made."""
        lines: list[str] = []
        with _opened(path) as fd:
            before = _access_of(fd)
            if str(path) not in self._record.before:
                self._keep(Record(before={**self._record.before, str(path): before}, added=self._record.added))
            yield fd, os.fstat(fd), lines
            now = _access_of(fd)
            if now != before:
                lines.append(f"{path}: {_text(before)} -> {_text(now)}")

    def _keep(self, record: Record) -> None:
        self._record_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable_file.replace_file(self._record_path, msgspec.json.encode(record), mode=0o600)
        self._record = record


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of a directory, or of a regular file with one name. Raises SlotError for anything else."""
    with durable_file.named_errors(path, doing="open"):
        fd = durable_file.open_unfollowed(path)
    try:
        found = os.fstat(fd)
        if not (stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)):
            raise SlotError("not a directory or a regular file with one name", where=str(path))
        yield fd
    finally:
        os.close(fd)


def _access_of(fd: int) -> Access:
    found = os.fstat(fd)
    return Access(uid=found.st_uid, gid=found.st_gid, mode=stat.S_IMODE(found.st_mode), acl=posix_acl.read(fd))


def _text(access: Access) -> str:
    """`root:quantum 1770, user quantum-retrain rwx`."""
    named = {posix_acl.USER: ("user", user_name), posix_acl.GROUP: ("group", group_name)}
    entries = posix_acl.decoded(access.acl) if access.acl else {}
    lists = (
        f", {named[tag][0]} {named[tag][1](number)} {'r' if bits & 4 else '-'}{'w' if bits & 2 else '-'}"
        f"{'x' if bits & 1 else '-'}"
        for (tag, number), bits in entries.items()
        if tag in named
    )
    return f"{user_name(access.uid)}:{group_name(access.gid)} {access.mode:04o}{''.join(lists)}"
