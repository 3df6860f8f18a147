"""How much of a training is done: epochs of each variant and of each backtest fold, weighted by their rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from retrain_worker.domain.worker_protocol import Progress


class WorkLeft:
    """Adds the done share and the seconds left to each progress message.

    The seconds follow from the pace of this process; an attempt that ends early shortens what is left.
    """

    def __init__(
        self, report: Callable[[Progress], None], total: float, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._report, self._total, self._now = report, total, now
        self._began_at, self._done, self._skipped = now(), 0.0, 0.0

    def advance(self, amount: float) -> None:
        """Work of this process was done."""
        self._done += amount

    def skip(self, amount: float) -> None:
        """Work was done by an earlier process, or is not necessary any more."""
        self._skipped += amount

    def report(self, message: str, **fields: Any) -> None:
        """Report `message` with what is left."""
        left = max(0.0, self._total - self._skipped - self._done)
        seconds = (self._now() - self._began_at) / self._done * left if self._done else None
        share = 1.0 - left / self._total if self._total else None
        self._report(Progress(message=message, fields=fields, share=share, seconds_left=seconds))
