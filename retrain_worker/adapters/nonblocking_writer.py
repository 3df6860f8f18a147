"""Writes lines to a descriptor from a thread of its own, so that a reader that stops reading does not block the caller.

The queue is bounded; lines that do not fit are dropped, and their number is written once the reader reads again.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

_FLUSH_POLL_SECONDS = 0.01


class LineWriter:
    """A bounded queue before a descriptor."""

    def __init__(self, fd: int, *, max_lines: int = 1000, about_dropped: Callable[[int], bytes] | None = None) -> None:
        """`about_dropped` makes the line that reports how many were dropped."""
        self._fd = fd
        self._about_dropped = about_dropped
        self._num_reported = 0
        self._queue: queue.Queue[bytes] = queue.Queue(maxsize=max_lines)
        self._num_dropped = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._write_all, daemon=True, name="log-writer").start()

    @property
    def num_dropped(self) -> int:
        """Lines that were not written."""
        return self._num_dropped

    def put(self, line: bytes) -> None:
        """Queue one line, including its line end. Never blocks."""
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self._drop()

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until everything is written, at most that long. Whether it is."""
        until = time.monotonic() + timeout_seconds
        while self._queue.unfinished_tasks:
            if time.monotonic() >= until:
                return False
            time.sleep(_FLUSH_POLL_SECONDS)
        return True

    def _write_all(self) -> None:
        while True:
            line = self._queue.get()
            try:
                self._write(line)
            except OSError:
                self._drop()
            else:
                self._report_dropped()
            finally:
                self._queue.task_done()

    def _write(self, line: bytes) -> None:
        view = memoryview(line)
        while view:
            view = view[os.write(self._fd, view) :]

    def _report_dropped(self) -> None:
        """Once, when the queue is empty."""
        num_dropped = self._num_dropped - self._num_reported
        if self._about_dropped is not None and num_dropped and self._queue.empty():
            with suppress(OSError):
                self._write(self._about_dropped(num_dropped))
                self._num_reported += num_dropped

    def _drop(self) -> None:
        with self._lock:
            self._num_dropped += 1
