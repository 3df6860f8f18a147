"""The one more run that follows the current run, because a retrain request came too late for it.

A run reads its rows in PULL; a later request may be made because of newer ones. However many come, one run follows. The
stored note names the run that it follows, so it is valid as long as that run is the newest, and needs no removal.
"""

from __future__ import annotations

from dataclasses import dataclass

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.lifecycle import Run, Stage

_KEY = "queued_request"


@dataclass(frozen=True, kw_only=True)
class QueuedRequest:
    """The run that it follows, and why it was requested, one line."""

    after_run_id: str
    reason: str
    #: it runs although nothing is new
    is_forced: bool = False


def comes_too_late(run: Run) -> bool:
    """Whether `run`, the current run, has read its rows already."""
    return run.stage is not Stage.PULL


def note(store: StateDb, run: Run, reason: str, *, is_forced: bool) -> bool:
    """Queue one more run after `run`, for `reason`, one line; False when one is queued already.

    A forced run takes the place of one that is not.
    """
    queued = store.recall(_KEY, QueuedRequest)
    if queued is not None and queued.after_run_id == run.run_id and (queued.is_forced or not is_forced):
        return False
    store.remember(_KEY, QueuedRequest(after_run_id=run.run_id, reason=reason, is_forced=is_forced))
    return True


def due(store: StateDb) -> QueuedRequest | None:
    """The queued run, which begins when there is no current run; None when none is queued."""
    queued, newest = store.recall(_KEY, QueuedRequest), store.history(limit=1)
    return queued if queued and newest and newest[0].run_id == queued.after_run_id else None
