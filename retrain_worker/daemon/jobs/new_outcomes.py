"""The outcomes of runs that a job passes on: each once, also across restarts, and none from before its first pass."""

from __future__ import annotations

from dataclasses import dataclass

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.lifecycle import Run

#: the newest runs; an older one has a new outcome no more
_NUM_RUNS = 20


@dataclass(frozen=True, kw_only=True)
class PassedOn:
    """The outcomes of the newest runs that were passed on, or given up: `RUN_ID OUTCOME`."""

    outcomes: tuple[str, ...]


class NewOutcomes:
    """What one job has still to pass on, stored under its key."""

    def __init__(self, store: StateDb, key: str) -> None:
        self._store, self._key = store, key

    def oldest(self) -> Run | None:
        """The run with the oldest outcome that was not passed on."""
        runs = self._concluded()
        known = self._store.recall(self._key, PassedOn)
        if known is None:
            self._store.remember(self._key, PassedOn(outcomes=tuple(runs)))
            return None
        return next((run for name, run in reversed(runs.items()) if name not in known.outcomes), None)

    def done(self, run: Run) -> None:
        """The outcome of this run was passed on, or given up."""
        runs, known = self._concluded(), self._store.recall(self._key, PassedOn)
        kept = tuple(name for name in known.outcomes if name in runs) if known else ()
        self._store.remember(self._key, PassedOn(outcomes=(*kept, _name_of(run))))

    def _concluded(self) -> dict[str, Run]:
        """The newest first."""
        return {_name_of(run): run for run in self._store.history(limit=_NUM_RUNS) if run.is_concluded}


def _name_of(run: Run) -> str:
    return f"{run.run_id} {run.outcome}"
