"""The one more run that follows the run at work, because a retrain request came too late for it.

A run reads its rows in PULL; a later request may be made because of newer ones. However many come, one run follows. The
stored note names the run that it follows, so it is valid as long as that run is the newest, and needs no removal.
"""

from __future__ import annotations

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.lifecycle import Run, Stage

_KEY = "follow_up"


def comes_too_late(run: Run) -> bool:
    """Whether `run`, which is at work, has read its rows already."""
    return run.stage is not Stage.PULL


def note(store: StateDb, run: Run, reason: str) -> bool:
    """Queue one more run after `run`, for `reason`, one line; False when one is queued already."""
    if _noted(store)[0] == run.run_id:
        return False
    store.remember(_KEY, f"{run.run_id} {reason}")
    return True


def due(store: StateDb) -> str | None:
    """Why a queued run is to begin, while no run is at work; None when none is queued."""
    after, reason = _noted(store)
    newest = store.history(limit=1)
    return reason if newest and newest[0].run_id == after else None


def _noted(store: StateDb) -> tuple[str, str]:
    after, _, reason = (store.recall(_KEY) or "").partition(" ")
    return after, reason
