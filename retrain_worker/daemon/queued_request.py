"""A request that comes too late for the run under way: noted as one more run, which begins when that one has ended.

A run takes its rows in PULL; whoever asks later may ask because of newer ones. However many ask, one run follows. The
note names the run that it follows, so it counts as long as that run is the newest, and needs no clearing.
"""

from __future__ import annotations

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.lifecycle import Run, Stage

_KEY = "follow_up"


def comes_too_late(run: Run | None) -> bool:
    """Whether `run`, which is under way, has taken its rows already."""
    return run is not None and run.stage is not Stage.PULL


def note(store: StateDb, run: Run, reason: str) -> bool:
    """One more run after `run`, for `reason`, one line; False when one is noted already."""
    if _noted(store)[0] == run.run_id:
        return False
    store.remember(_KEY, f"{run.run_id} {reason}")
    return True


def due(store: StateDb) -> str | None:
    """Why a run is to begin now, while none is under way; None when none is to follow."""
    after, reason = _noted(store)
    newest = store.history(limit=1)
    return reason if newest and newest[0].run_id == after else None


def _noted(store: StateDb) -> tuple[str, str]:
    after, _, reason = (store.recall(_KEY) or "").partition(" ")
    return after, reason
