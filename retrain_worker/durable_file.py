"""Atomic and durable writing and replacing of files.

Temporary file in the same directory, all bytes, fsync, read back, rename, fsync of the directory. After any error, in
particular of fsync, the temporary file is discarded: the kernel may have dropped the pages that it could not write
(https://wiki.postgresql.org/wiki/Fsync_Errors). Names of temporary files are unique, start with TEMPORARY_PREFIX and
end in .tmp, so that no glob for models matches them and the next start can remove them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedWriter, FileIO
from pathlib import Path

from retrain_worker.errors import ArtifactError, DiskFullError, RetrainError, RetryLaterError, SlotError, StateError

TEMPORARY_PREFIX = ".retrain-worker."
_TEMPORARY_SUFFIX = ".tmp"
_CHUNK_BYTES = 1 << 20
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
#: in glibc since 2.28, not in Python
_RENAMEAT2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_PUT_BACKS = 10
#: hashes of the content, which the kernel writes; they would be wrong for new bytes
_XATTRS_OF_CONTENT = frozenset({"security.ima", "security.evm"})

_REMEDIES = {
    errno.EACCES: "give the daemon's user the right to read and to write in this directory",
    errno.EPERM: "give this file to the daemon's user, or let its group write there",
    errno.EROFS: "the file system is read-only here: grant the directory with ReadWritePaths=",
    errno.EBUSY: "the file is a mount point of its own, so it cannot be replaced: "
    "grant its directory with ReadWritePaths=, not the file",
    errno.ELOOP: "put a regular file there; symbolic links are not followed",
    errno.ENOTDIR: "a part of this path is not a directory",
    errno.ENOENT: "create it, or name another path",
}


@dataclass(frozen=True, kw_only=True)
class FileMetadata:
    """Metadata of a file."""

    mode: int
    uid: int
    gid: int
    xattrs: tuple[tuple[str, bytes], ...] = ()


class ChangedMeanwhileError(Exception):
    """Another process has changed the file that was to be replaced; its version is kept."""


def replace_file(target: Path, content: bytes, *, mode: int = 0o644, metadata: FileMetadata | None = None) -> None:
    """Make `target` hold `content`. With `metadata`, owner, mode and extended attributes are those; else only `mode`.

    Raises DiskFullError, SlotError (permission, read-only, mount point), or RetryLaterError for an I/O error; then
    `target` is unchanged.
    """
    with named_errors(target, size=len(content)), _temporary(target) as (temporary, file):
        _fill(temporary, file, content, metadata, mode=mode, target=target)
        temporary.rename(target)
        sync_directory(target.parent)


def exchange_file(target: Path, content: bytes, *, metadata: FileMetadata, is_expected: Callable[[Path], bool]) -> bool:
    """Make the existing file `target` hold `content`, unless it is no longer the expected file.

    `is_expected(path)`: whether the file of this name is the one to replace. It is called before the exchange, and
    afterwards for the file that was replaced: an edit between the two is put back. Returns False where the file system
    cannot exchange two names (renameat2(2), RENAME_EXCHANGE): then that interval is not covered.
    Raises ChangedMeanwhileError, and what `replace_file` raises; then `target` is unchanged, or as another process left
    it.
    """
    with named_errors(target, size=len(content)), _temporary(target) as (temporary, file):
        _fill(temporary, file, content, metadata, mode=metadata.mode, target=target)
        new_inode = temporary.stat().st_ino
        if not is_expected(target):
            raise ChangedMeanwhileError
        if not _exchanged(temporary, target):
            temporary.rename(target)
            sync_directory(target.parent)
            return False
        try:
            was_expected = is_expected(temporary)
        except BaseException:
            _put_back(temporary, target, new_inode)
            raise
        if not was_expected:
            _put_back(temporary, target, new_inode)
            raise ChangedMeanwhileError
        sync_directory(target.parent)
        temporary.unlink()
    return True


def copy_durably(source: Path, target: Path, *, mode: int, expected_sha256: str) -> None:
    """Make `target` a copy of `source`, atomically.

    The hash of what was read and of what was written must both be `expected_sha256`: ArtifactError if not.
    """
    with named_errors(source, doing="read"):
        size = source.stat().st_size
    with named_errors(target, size=size), _temporary(target) as (temporary, file):
        read_sha256 = _copy(source, file.fileno())
        if read_sha256 != expected_sha256:
            raise ArtifactError(f"its sha256 is {read_sha256}, expected {expected_sha256}", where=str(source))
        os.fchmod(file.fileno(), mode)
        _sync_and_close(file)
        written_sha256 = _read_back(temporary)
        if written_sha256 != expected_sha256:
            raise RetryLaterError(
                "the copy does not read back as it was written", where=str(target), remedy="check the disk"
            )
        temporary.rename(target)
        sync_directory(target.parent)


@contextlib.contextmanager
def replacing(target: Path, *, mode: int = 0o644) -> Iterator[BufferedWriter[FileIO]]:
    """A file to write; it appears under `target`, durable, when the block ends without an error.

    For a directory in which one process writes at a time: leftovers of a killed process for this target are removed
    first. Raises DiskFullError, SlotError, RetryLaterError; then `target` is unchanged.
    """
    with named_errors(target):
        for stale in target.parent.glob(f"{TEMPORARY_PREFIX}{glob.escape(target.name)}.*{_TEMPORARY_SUFFIX}"):
            stale.unlink(missing_ok=True)
        with _temporary(target) as (temporary, file):
            writer = BufferedWriter(file)  # a raw file may write fewer bytes than requested
            yield writer
            writer.flush()
            writer.detach()
            os.fchmod(file.fileno(), mode)
            _sync_and_close(file)
            temporary.rename(target)
            sync_directory(target.parent)


def write_in_place(target: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write `target` without a rename: a path unit detects the closing of a written file, but not a rename.

    For files whose content may be incomplete after a crash.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with named_errors(target, size=len(content)):
        fd = os.open(target, flags, mode)
        try:
            _leave_to_owner(fd, target.parent)
            _write_all(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)
        sync_directory(target.parent)


def _leave_to_owner(fd: int, directory: Path) -> None:
    """Give a file that root created in a directory of the daemon's user to that user."""
    owner = directory.stat()
    if os.geteuid() == 0 and os.fstat(fd).st_uid != owner.st_uid:
        os.fchown(fd, owner.st_uid, owner.st_gid)


def open_unfollowed(path: Path) -> int:
    """A descriptor to read a file that is not a symbolic link."""
    return os.open(path, _READ)


def metadata_of(fd: int) -> FileMetadata:
    """Owner, mode and extended attributes of an open file."""
    found = os.fstat(fd)
    try:
        xattrs = tuple((name, os.getxattr(fd, name)) for name in os.listxattr(fd) if name not in _XATTRS_OF_CONTENT)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        xattrs = ()
    return FileMetadata(mode=found.st_mode & 0o7777, uid=found.st_uid, gid=found.st_gid, xattrs=xattrs)


def read_all(fd: int, limit_bytes: int) -> bytes:
    """The bytes of an open file from its current offset, at most `limit_bytes` + 1."""
    parts, left = [], limit_bytes + 1
    while left > 0 and (part := os.read(fd, min(left, _CHUNK_BYTES))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def read_regular(path: Path, limit_bytes: int, *, follow_links: bool = True) -> bytes:
    """The whole file. Raises OSError, also when it is no regular file (it is not waited for) or has more bytes."""
    with opened_regular(path, limit_bytes, follow_links=follow_links) as fd:
        content = read_all(fd, limit_bytes)
    if len(content) > limit_bytes:
        raise _too_large(path, limit_bytes)
    return content


def sha256_of_regular(path: Path, limit_bytes: int) -> str:
    """The sha256 of a file that is no link. Raises OSError, also when it is no regular file or has more bytes."""
    digest, left = hashlib.sha256(), limit_bytes
    with opened_regular(path, limit_bytes, follow_links=False) as fd:
        while left >= 0 and (chunk := os.read(fd, _CHUNK_BYTES)):
            digest.update(chunk)
            left -= len(chunk)
    if left < 0:
        raise _too_large(path, limit_bytes)
    return digest.hexdigest()


@contextlib.contextmanager
def opened_regular(path: Path, limit_bytes: int, *, follow_links: bool) -> Iterator[int]:
    """A descriptor to read a regular file of at most so many bytes. Raises OSError for any other."""
    fd = os.open(path, _READ & ~os.O_NOFOLLOW if follow_links else _READ)
    try:
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if found.st_size > limit_bytes:
            raise _too_large(path, limit_bytes)
        yield fd
    finally:
        os.close(fd)


def _too_large(path: Path, limit_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"more than {limit_bytes:,} bytes", str(path))


def check_same(path: Path, opened: os.stat_result) -> None:
    """Raise StateError when `path` no longer names the file that was opened."""
    try:
        found: os.stat_result | None = path.stat()
    except OSError:
        found = None
    if found is None or not os.path.samestat(found, opened):
        raise StateError(
            f"{'removed' if found is None else 'replaced by another file'} while this process uses it",
            where=str(path),
            remedy="stop the daemon before you touch its state; restore the file, then start",
        )


def free_bytes(directory: Path) -> int:
    """Bytes that an ordinary user may still write on this file system."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable. EINVAL, from a file system without support, is ignored."""
    with named_errors(directory):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        finally:
            os.close(fd)


def sweep_temporaries(directory: Path) -> tuple[Path, ...]:
    """Remove the leftovers of killed processes in `directory`. Only for the process that holds the state directory."""
    with named_errors(directory):
        stale = tuple(sorted(directory.glob(f"{TEMPORARY_PREFIX}*{_TEMPORARY_SUFFIX}")))
        for path in stale:
            path.unlink(missing_ok=True)
    return stale


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[tuple[Path, FileIO]]:
    """A new file beside `target`; closed and removed when the block raises."""
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{target.name}.{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}")
    file = FileIO(os.open(temporary, _CREATE, 0o600), "wb")
    try:
        yield temporary, file
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _fill(
    temporary: Path, file: FileIO, content: bytes, metadata: FileMetadata | None, *, mode: int, target: Path
) -> None:
    """Write, apply the metadata, fsync, close and read back."""
    _write_all(file.fileno(), content)
    _apply_metadata(file.fileno(), metadata, mode=mode, target=target)
    _sync_and_close(file)
    if _read_back(temporary) != hashlib.sha256(content).hexdigest():
        raise RetryLaterError(
            "the bytes on the disk are not those that were written", where=str(target), remedy="check the disk"
        )


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names atomically; False where the system or the file system cannot."""
    if _RENAMEAT2 is None:
        return False
    if _RENAMEAT2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _put_back(temporary: Path, target: Path, new_inode: int) -> None:
    """Undo an exchange: `target` is again the replaced file, or what another process has written since."""
    expected = new_inode
    for _ in range(_PUT_BACKS):
        put = temporary.lstat().st_ino
        _exchanged(temporary, target)
        if temporary.lstat().st_ino == expected:
            return
        expected = put
    raise SlotError(
        "another process keeps changing the file", where=str(target), remedy="find out which process writes it"
    )


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _copy(source: Path, fd: int) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(source):
        digest.update(chunk)
        _write_all(fd, chunk)
    return digest.hexdigest()


def _chunks(source: Path) -> Iterator[bytes]:
    try:
        with source.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise RetryLaterError(
            f"cannot be read: {error.strerror}", where=str(source), remedy="check the disk"
        ) from error


def _apply_metadata(fd: int, metadata: FileMetadata | None, *, mode: int, target: Path) -> None:
    """Apply owner, mode and attributes to the temporary file. Raises SlotError when they cannot be applied."""
    if metadata is None:
        os.fchmod(fd, mode)
        return
    try:
        found = os.fstat(fd)
        if (found.st_uid, found.st_gid) != (metadata.uid, metadata.gid):
            os.fchown(fd, metadata.uid, metadata.gid)
        os.fchmod(fd, metadata.mode)
        present = dict(metadata_of(fd).xattrs)
        for name, value in metadata.xattrs:
            if present.get(name) != value:
                os.setxattr(fd, name, value)
    except PermissionError as error:
        raise SlotError(
            f"cannot keep owner {metadata.uid}:{metadata.gid}, mode or attributes of this file ({error.strerror})",
            where=str(target),
            remedy="make the daemon's user the owner of the file, and its directory setgid for the group",
        ) from error


def _sync(path: Path) -> None:
    fd = open_unfollowed(path)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_and_close(file: FileIO) -> None:
    os.fsync(file.fileno())
    file.close()


def _read_back(path: Path) -> str:
    digest = hashlib.sha256()
    fd = open_unfollowed(path)
    try:
        while chunk := os.read(fd, _CHUNK_BYTES):
            digest.update(chunk)
    finally:
        os.close(fd)
    return digest.hexdigest()


@contextlib.contextmanager
def named_errors(path: Path, *, doing: str = "write", size: int | None = None) -> Iterator[None]:
    """Turn every OSError of the block into an error of this program with a remedy; `size` bytes are to be written."""
    try:
        yield
    except OSError as error:
        raise named_error(error, path, doing=doing, size=size) from error


def named_error(error: OSError, path: Path, *, doing: str = "write", size: int | None = None) -> RetrainError:
    """The error of this program for an OSError, with a remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = (error.strerror or "no space left on device").lower()
        needed = "" if size is None else f" ({size:,} bytes needed)"
        return DiskFullError(f"{what}{needed}", where=str(path), remedy="free space on this file system")
    what = f"cannot {doing} here: {error.strerror or error}"
    if error.errno in _REMEDIES:
        return SlotError(what, where=str(path), remedy=_REMEDIES[error.errno])
    return RetryLaterError(what, where=str(path), remedy="check the disk and the system log")
