"""Writes lines to a descriptor from a thread of its own, so that a reader who has stopped cannot stop the writer.

The queue is bounded; lines that do not fit are dropped and counted.
"""

from __future__ import annotations

import os
import queue
import threading
import time

_FLUSH_POLL_SECONDS = 0.01


class LineWriter:
    """A bounded queue before a descriptor."""

    def __init__(self, fd: int, *, max_lines: int = 1000) -> None:
        self._fd = fd
        self._queue: queue.Queue[bytes] = queue.Queue(maxsize=max_lines)
        self._num_dropped = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._write_all, daemon=True, name="log-writer").start()

    @property
    def num_dropped(self) -> int:
        """Lines that never reached the descriptor."""
        return self._num_dropped

    def put(self, line: bytes) -> None:
        """Queue one line, its line end included. Never blocks."""
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self._drop()

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until all is written, not longer than that. Whether all is."""
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
                view = memoryview(line)
                while view:
                    view = view[os.write(self._fd, view):]
            except OSError:
                self._drop()
            finally:
                self._queue.task_done()

    def _drop(self) -> None:
        with self._lock:
            self._num_dropped += 1
