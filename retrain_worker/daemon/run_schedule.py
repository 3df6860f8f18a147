"""When the next run is due, and why.

It is computed from the last attempt in the state database, never from this process's start: a restart neither forgets
a due run nor repeats one, and a run missed while the host was down happens once (docs/explanation/architecture.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.daemon import queued_request
from retrain_worker.daemon.configuration import Configuration
from retrain_worker.domain.facts import check_aware
from retrain_worker.domain.lifecycle import Requester

_CLOCK_WENT_BACK = "clock_went_back"


@dataclass(frozen=True, kw_only=True)
class _ClockWentBack:
    """The last attempt, and when it was noticed that it is in the future."""

    last_attempt_at: datetime
    noticed_at: datetime

    def __post_init__(self) -> None:
        check_aware(self.last_attempt_at, self.noticed_at)


@dataclass(frozen=True, kw_only=True)
class DueRun:
    """A run that is to begin."""

    requested_by: Requester
    reason: str
    is_forced: bool = False


class RunSchedule:
    """One run every RETRAIN_INTERVAL_H, and one after a retrain request that came too late for the current run."""

    def __init__(self, store: StateDb, configuration: Configuration) -> None:
        self._store = store
        self._configuration = configuration

    def due(self, at: datetime) -> DueRun | None:
        """The run that is due at `at`, while there is no current run; None when none is due, or a pause holds it."""
        if self.is_held():
            return None
        if queued := queued_request.due(self._store):
            return DueRun(requested_by=Requester.TRIGGER, reason=queued.reason, is_forced=queued.is_forced)
        if at >= self.next_run_at(at):
            return DueRun(requested_by=Requester.SCHEDULE, reason=f"every {self._hours:g} h")
        return None

    def is_held(self) -> bool:
        """Whether a pause holds every run that is scheduled or requested."""
        return self._configuration.context.pause is not None and not self._configuration.settings.train_while_paused

    def next_run_at(self, at: datetime) -> datetime:
        """When the next scheduled run is due, seen from `at`."""
        return next_run_at(last_attempt_at=self._last_attempt_at(at), now=at, interval=timedelta(hours=self._hours))

    @property
    def _hours(self) -> float:
        return self._configuration.settings.retrain_interval_hours

    def _last_attempt_at(self, at: datetime) -> datetime | None:
        """The last attempt; one dated in the future counts from when this was noticed, because the clock went back."""
        last = self._store.last_attempt_at()
        if last is None or last <= at:
            return last
        known = self._store.recall(_CLOCK_WENT_BACK, _ClockWentBack)
        if known is not None and known.last_attempt_at == last and known.noticed_at <= at:
            return known.noticed_at
        self._store.remember(_CLOCK_WENT_BACK, _ClockWentBack(last_attempt_at=last, noticed_at=at))
        return at


def next_run_at(*, last_attempt_at: datetime | None, interval: timedelta, now: datetime) -> datetime:
    """When the next run is due: now if none was ever attempted; never more than one interval ahead.

    A last attempt in the future means that the clock went back since; the interval then counts from now.
    """
    if last_attempt_at is None:
        return now
    return min(last_attempt_at, now) + interval
