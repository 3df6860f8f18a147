"""The signal to stop a worker: SIGTERM, or the end of its stdin, which the daemon keeps open while it runs."""

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
    """The worker was stopped at a point from which the work can be resumed."""


class StopFlag:
    """Set once, never cleared. After `grace_seconds` the process ends in any case."""

    def __init__(self, *, grace_seconds: float) -> None:
        self._flag = threading.Event()
        self._grace_seconds = grace_seconds
        self._reason = ""

    def __call__(self) -> bool:
        """Whether the worker must stop."""
        return self._flag.is_set()

    def watch(self) -> None:
        """Watch SIGTERM and stdin. Call it once, from the main thread."""
        signal.signal(signal.SIGTERM, self._on_signal)
        threading.Thread(target=self._read_stdin, name="stdin", daemon=True).start()
        threading.Thread(target=self._end_after_grace, name="grace", daemon=True).start()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop("SIGTERM")

    def _read_stdin(self) -> None:
        # os.read: a buffered reader would hold a lock that the interpreter needs at exit
        while os.read(sys.stdin.fileno(), 4096):
            pass
        self._stop("stdin closed: the daemon has ended")

    def _stop(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._flag.set()

    def _end_after_grace(self) -> None:
        self._flag.wait()
        _log.info("stopping (%s)", self._reason)
        time.sleep(self._grace_seconds)
        os._exit(WorkerExit.INTERRUPTED)
