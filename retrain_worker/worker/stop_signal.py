"""When the worker must stop: SIGTERM, or the end of its stdin, which the daemon holds open as long as it lives."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from types import FrameType

from retrain_worker.domain.worker_protocol import WorkerExit

_log = logging.getLogger(__name__)


class StoppedError(Exception):
    """The work was given up at a safe point because the worker was told to stop."""


class StopFlag:
    """Set once, never cleared. After `grace_seconds` the process ends, whatever it is doing."""

    def __init__(self, *, grace_seconds: float) -> None:
        self._flag = threading.Event()
        self._grace_seconds = grace_seconds
        self._reason = ""

    def __call__(self) -> bool:
        """Whether to stop."""
        return self._flag.is_set()

    def watch(self) -> None:
        """Listen to SIGTERM and to stdin. Call it once, from the main thread."""
        signal.signal(signal.SIGTERM, self._on_signal)
        threading.Thread(target=self._read_stdin, name="stdin", daemon=True).start()
        threading.Thread(target=self._end_after_grace, name="grace", daemon=True).start()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop("SIGTERM")

    def _read_stdin(self) -> None:
        # os.read: a buffered reader would hold a lock that the interpreter wants at its end
        while os.read(sys.stdin.fileno(), 4096):
            pass
        self._stop("stdin closed: the daemon is gone")

    def _stop(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._flag.set()

    def _end_after_grace(self) -> None:
        self._flag.wait()
        _log.info("stopping (%s)", self._reason)
        time.sleep(self._grace_seconds)
        os._exit(WorkerExit.INTERRUPTED)
