"""Signals of the process. A handler only sets a flag; the main loop acts on it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from types import FrameType


class Signals:
    """SIGTERM and SIGINT stop, a second one ends the process at once; SIGHUP reloads."""

    def __init__(self) -> None:
        """Install the handlers: as early as possible, because an unhandled SIGHUP ends the process."""
        self.stopping = False
        self.reloading = False
        # not an Event: wait() holds its lock, and a handler that interrupts wait() and needs that lock waits for ever
        self._read_end, self._write_end = os.pipe()
        for end in (self._read_end, self._write_end):
            os.set_blocking(end, False)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGHUP, self._reload)

    def wait(self, seconds: float, *descriptors: int) -> None:
        """Sleep until a signal arrives, one of the descriptors can be read, or the time is over."""
        if self._read_end in select.select([self._read_end, *descriptors], [], [], seconds)[0]:
            os.read(self._read_end, select.PIPE_BUF)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.stopping:
            os._exit(1)
        self.stopping = True
        self._wake()

    def _reload(self, _number: int, _frame: FrameType | None) -> None:
        self.reloading = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it is awake already
            os.write(self._write_end, b"\0")
