"""One process per state directory: a lock that the kernel releases when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Self

from retrain_worker import durable_file
from retrain_worker.errors import AlreadyRunningError

_TRIES = 5
_PAUSE_SECONDS = 0.05


class StateLock:
    """The lock `<state_dir>/lock`, held until `release` or the end of the process. Workers do not inherit it."""

    def __init__(self, state_dir: Path) -> None:
        """Take the lock. Raises AlreadyRunningError when another process has it, SlotError when it cannot be made."""
        self._path = path = state_dir / "lock"
        with durable_file.named_errors(path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        if not _locked(self._fd):
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise AlreadyRunningError(
                f"another retrain-worker (pid {holder}) uses this state directory",
                where=str(state_dir),
                remedy="stop that process, or use another --home",
            ) from None
        # the pid is only for the message above; a full disk must not prevent the lock
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def check(self) -> None:
        """Raise StateError when the file is not the one that is locked: a second process could take the new one."""
        durable_file.check_same(self._path, os.fstat(self._fd))

    def release(self) -> None:
        """Release the lock. Doing it twice changes nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):  # it is closed nevertheless
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _locked(fd: int) -> bool:
    """Whether the lock is taken now. Tried several times: `is_held` of another process holds it for an instant."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_SECONDS)
        else:
            return True
    return False


def holder_of(state_dir: Path) -> int | None:
    """The process that uses this state directory now, or None."""
    if not is_held(state_dir):
        return None
    pid = (state_dir / "lock").read_text().strip()
    return int(pid) if pid.isdecimal() else None


def is_held(state_dir: Path) -> bool:
    """Whether a process uses this state directory now. Makes no file."""
    try:
        fd = os.open(state_dir / "lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
