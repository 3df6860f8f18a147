"""Writes finished runs, and which model serves, into the stack's own tables.

A database that is busy or unreachable is tried again without limit. A row that the database rejects is tried
MAX_ATTEMPTS times, then skipped with a warning that names its run, so that it blocks no other.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

import structlog

from retrain_worker.adapters.stack_tables import StackTables
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.lifecycle import Run
from retrain_worker.errors import RetryLaterError, RowRefusedError

log = structlog.get_logger()

#: passes in which a row is tried, one a minute
MAX_ATTEMPTS = 5
_BOOKED_UNTIL = "booked_until"
#: ids of runs that were still waiting when newer ones were written
_BOOKED_LATE = "booked_late"
#: ids of runs on probation whose promotion is written
_BOOKED_ON_PROBATION = "booked_on_probation"
#: id of the deployment that is written as the one in service
_BOOKED_SERVING = "booked_serving"
_MAX_RUNS = 50


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
        """One pass, where the settings ask for it."""
        tables = self._tables()
        if tables is not None:
            self.write(tables)

    def write(self, tables: StackTables) -> None:
        """Write what is new. Never raises for what the stack's database does.

        A run that still waits while newer ones are written is remembered, and follows when it is over; one on probation
        is written twice, when it is promoted and when the probation is over.
        """
        late, on_probation = self._ids(_BOOKED_LATE), self._ids(_BOOKED_ON_PROBATION)
        booked = self._store.recall(_BOOKED_UNTIL) or ""
        newest = takewhile(lambda run: run.run_id != booked, self._store.history(limit=_MAX_RUNS))
        known = [run for run in map(self._store.run, sorted(late)) if run is not None]
        for run in known:
            if not (run.is_finished or (run.is_concluded and run.run_id not in on_probation)):
                continue
            if not self._is_done(run, tables):
                return
            self._note(run, late, on_probation)
        for run in reversed([run for run in newest if run.is_concluded or run.is_waiting]):
            if run.is_concluded and not self._is_done(run, tables):
                return
            self._note(run, late, on_probation)
            self._store.remember(_BOOKED_UNTIL, run.run_id)
        self._write_serving(tables)

    def _write_serving(self, tables: StackTables) -> None:
        """After the runs, so that the version in service has its row."""
        serving = self._store.last_deployment()
        if serving is None or serving.deployment_id == self._store.recall(_BOOKED_SERVING):
            return
        try:
            tables.record_serving(serving)
        except RowRefusedError as error:
            log.warning("bookkeeping_given_up", message=str(error), version=serving.version)
        except RetryLaterError as error:
            self._warn(f"{error}; retrying")
            return
        self._problem = None
        self._store.remember(_BOOKED_SERVING, serving.deployment_id)

    def _note(self, run: Run, late: set[str], on_probation: set[str]) -> None:
        """Update both sets by what is still to be written of `run`, and remember them."""
        (late.add if run.is_waiting else late.discard)(run.run_id)
        (on_probation.add if run.is_waiting and run.is_concluded else on_probation.discard)(run.run_id)
        self._store.remember(_BOOKED_LATE, " ".join(sorted(late)))
        self._store.remember(_BOOKED_ON_PROBATION, " ".join(sorted(on_probation)))

    def _ids(self, key: str) -> set[str]:
        return set((self._store.recall(key) or "").split())

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
