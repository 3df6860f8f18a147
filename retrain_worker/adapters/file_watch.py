"""Waits for changes of files (inotify(7)), in the place of a check every second.

A change that the kernel does not report is possible: on a network file system, in a directory that did not exist yet,
beyond fs.inotify.max_user_instances. So the caller checks the files as well, less often. Called through ctypes: the
daemon needs four system calls, and watchfiles and watchdog bring event loops or threads.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Self

#: MODIFY, ATTRIB, CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE
_CHANGES = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200
_OVERFLOW = 0x4000
#: struct inotify_event: wd, mask, cookie, len; then `len` bytes of the name
_EVENT = struct.Struct("iIII")
_READ_BYTES = 65_536

_libc = ctypes.CDLL(None, use_errno=True)


class FileWatch:
    """Some files, which need not exist. For select(2): readable when there may be changes."""

    def __init__(self, files: Iterable[Path]) -> None:
        """A file that cannot be watched is left out."""
        self.files = frozenset(files)
        self._names: defaultdict[int, set[bytes]] = defaultdict(set)
        self._fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for file in self.files if self._fd >= 0 else ():
            watch = _libc.inotify_add_watch(self._fd, os.fsencode(file.parent), _CHANGES)
            if watch >= 0:
                self._names[watch].add(os.fsencode(file.name))

    def descriptors(self) -> list[int]:
        """For select(2); empty where the kernel gives none."""
        return [self._fd] if self._fd >= 0 else []

    def has_changed(self) -> bool:
        """Whether one of the files was changed, made, replaced or removed since the last call. Does not wait."""
        found = False
        while events := self._read():
            start = 0
            while start < len(events):
                watch, mask, _, length = _EVENT.unpack_from(events, start)
                start += _EVENT.size
                name = events[start : start + length].rstrip(b"\0")
                start += length
                found |= bool(mask & _OVERFLOW) or name in self._names.get(watch, ())
        return found

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, _READ_BYTES) if self._fd >= 0 else b""
        except BlockingIOError:
            return b""
