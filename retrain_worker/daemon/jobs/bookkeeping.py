"""Writes finished runs, and which model serves, into the stack's own tables.

A database that is busy or unreachable is retried without limit. A row that the database rejects is tried
MAX_ATTEMPTS times, then skipped with a warning that names its run, so that it blocks no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import takewhile

import structlog

from retrain_worker.adapters.stack_tables import StackTables
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.lifecycle import Outcome, Run
from retrain_worker.errors import RetryLaterError, RowRefusedError

log = structlog.get_logger()

#: passes in which a row is tried, one a minute
MAX_ATTEMPTS = 5
_PROGRESS = "bookkeeping"
_MAX_RUNS = 50


@dataclass(frozen=True, kw_only=True)
class _Progress:
    """What is written already. Without it, the newest runs are written again, which changes nothing."""

    #: the newest run that is written, or remembered in `waiting`
    run_id: str = ""
    #: ids of runs that were still waiting when newer ones were written
    waiting: frozenset[str] = frozenset()
    #: ids of runs on probation whose promotion is written
    on_probation: frozenset[str] = frozenset()
    #: the deployment that is written as the one in service
    serving: str = ""


class Bookkeeping:
    """Remembers in the state database what it has written."""

    def __init__(self, store: StateDb, tables: Callable[[], StackTables | None]) -> None:
        """`tables`: those of the configuration in force; None where BOOKKEEPING=false."""
        self._store = store
        self._tables = tables
        self._problem: str | None = None
        #: run id and attempts of the row that was rejected last
        self._rejected: tuple[str, int] = ("", 0)

    def run(self) -> None:
        """One pass, unless BOOKKEEPING=false."""
        tables = self._tables()
        if tables is not None:
            self.write(tables)

    def write(self, tables: StackTables) -> None:
        """Write what is new. Never raises for what the stack's database does.

        A run that still waits while newer ones are written is remembered, and follows when it is over; one on probation
        is written twice, when it is promoted and when the probation is over.
        """
        done = self._progress()
        newest = takewhile(lambda run: run.run_id != done.run_id, self._store.history(limit=_MAX_RUNS))
        for run in [run for run in map(self._store.run, sorted(done.waiting)) if run is not None]:
            if not (run.is_finished or (run.is_concluded and run.run_id not in done.on_probation)):
                continue
            if not self._is_done(run, tables):
                return
            self._note(run)
        for run in reversed([run for run in newest if run.is_concluded or run.is_waiting]):
            if run.is_concluded and not self._is_done(run, tables):
                return
            self._note(run, run_id=run.run_id)
        self._write_serving(tables)

    def _write_serving(self, tables: StackTables) -> None:
        """After the runs, so that the version in service has its row."""
        reached, done = self._store.reached_deployments(), self._progress().serving
        serving = reached[-1] if reached else None
        if serving is None or serving.deployment_id == done:
            return
        new = list(takewhile(lambda change: change.deployment_id != done, reversed(reached)))
        for run in map(self._store.run, dict.fromkeys(change.run_id for change in new if change.run_id)):
            # one that is rolled back when it has been over for long is written again
            if run is not None and run.outcome is Outcome.ROLLED_BACK and not self._is_done(run, tables):
                return
        try:
            tables.record_serving(serving)
        except RowRefusedError as error:
            log.warning("bookkeeping_given_up", message=str(error), version=serving.version)
        except RetryLaterError as error:
            self._warn(f"{error}; retrying")
            return
        self._problem = None
        self._store.remember(_PROGRESS, replace(self._progress(), serving=serving.deployment_id))

    def _progress(self) -> _Progress:
        return self._store.recall(_PROGRESS, _Progress) or _Progress()

    def _note(self, run: Run, **changes: str) -> None:
        """Remember what is still to be written of `run`."""
        done, ids = self._progress(), {run.run_id}
        waiting = done.waiting | ids if run.is_waiting else done.waiting - ids
        is_written = run.is_waiting and run.is_concluded
        on_probation = done.on_probation | ids if is_written else done.on_probation - ids
        self._store.remember(_PROGRESS, replace(done, waiting=waiting, on_probation=on_probation, **changes))

    def _is_done(self, run: Run, tables: StackTables) -> bool:
        """Whether the rows of `run` are written, or skipped for good."""
        try:
            tables.record(run, serving=self._store.last_deployment())
        except RowRefusedError as error:
            return self._is_skipped(run, error)
        except RetryLaterError as error:
            self._warn(f"{error}; retrying", run_id=run.run_id)
            return False
        self._problem = None
        return True

    def _is_skipped(self, run: Run, error: RowRefusedError) -> bool:
        run_id, attempts = self._rejected
        attempts = attempts + 1 if run_id == run.run_id else 1
        self._rejected = (run.run_id, attempts)
        if attempts < MAX_ATTEMPTS:
            self._warn(f"{error}; retrying", run_id=run.run_id)
            return False
        log.warning(
            "bookkeeping_given_up",
            run_id=run.run_id,
            message=f"run {run.run_id} is not in the stack's tables: rejected {attempts} times: {error}",
        )
        self._problem = None
        return True

    def _warn(self, problem: str, **fields: str) -> None:
        """Once for as long as the problem lasts."""
        if problem != self._problem:
            self._problem = problem
            log.warning("bookkeeping_failed", message=problem, **fields)
