"""The run that a verb shows: the named one, or the newest that has what the verb shows.

A skipped run, which has nothing to show, only where there is no other.
"""

from __future__ import annotations

from collections.abc import Callable

from retrain_worker.cli import options
from retrain_worker.domain.host_names import command
from retrain_worker.domain.lifecycle import Outcome, Run
from retrain_worker.errors import UsageError
from retrain_worker.settings import Settings

_MAX_RUNS = 1000


def chosen_run(settings: Settings, run_id: str | None, *, fits: Callable[[Run], bool], otherwise: str) -> Run:
    """The run. Raises UsageError, with the message `otherwise` when there are runs, but none that fits."""
    store = options.open_state(settings)
    if store is None:
        raise options.no_run_yet(settings)
    with store:
        runs = store.history(limit=_MAX_RUNS) if run_id is None else [store.run(run_id)]
    found = [run for run in runs if run is not None and fits(run)]
    if not found:
        raise UsageError(otherwise, where=run_id or "", remedy=f"`{command()} history` lists the runs")
    return next((run for run in found if run.outcome is not Outcome.SKIPPED), found[0])
