"""When the next run is due, and the table of APScheduler jobs.

The next run is computed from the persisted last attempt, never from this process's start: a restart neither forgets a
due run nor repeats one, and a run missed while the host was down happens once (docs/architecture.md, Scheduling).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger


def next_run_at(*, last_attempt_at: datetime | None, interval: timedelta, now: datetime) -> datetime:
    """When the next run is due: now if none was ever attempted; never more than one interval ahead.

    A last attempt in the future means that the clock went back since; the interval then counts from now.
    """
    if last_attempt_at is None:
        return now
    return min(last_attempt_at, now) + interval


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row of the table: what is done, how often, and the longest that one pass may take."""

    name: str
    action: Callable[[], None]
    every_seconds: float
    #: a pass that is under way for longer makes the watchdog's ping stop
    patience_seconds: float


class Schedule:
    """Runs the jobs in threads of their own and knows whether each is alive."""

    def __init__(self, jobs: tuple[Job, ...], *, clock: Callable[[], float]) -> None:
        """`clock`: seconds that never go back (CLOCK_BOOTTIME)."""
        self._jobs = jobs
        self._clock = clock
        self._finished_at = {job.name: clock() for job in jobs}
        self._scheduler: BackgroundScheduler | None = None
        self._idle = threading.Condition()
        self._num_passes = 0

    def start(self) -> None:
        """Every job once at once, then at its interval."""
        # Memory job store: a persistent one deletes what it cannot unpickle and repeats jobs without id.
        scheduler = BackgroundScheduler(
            jobstores={"default": MemoryJobStore()},
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(max_workers=len(self._jobs))},
        )
        for job in self._jobs:
            scheduler.add_job(
                self._watched(job),
                IntervalTrigger(seconds=job.every_seconds, timezone=UTC),
                id=job.name,
                next_run_time=datetime.now(UTC),
                coalesce=True,
                max_instances=1,
                misfire_grace_time=None,
            )
        # A pass that takes longer than its interval is no news; one that takes longer than its patience is `stuck`.
        logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)
        scheduler.start()
        self._scheduler = scheduler

    def restart(self) -> None:
        """Plan every job anew: APScheduler trusts the wall clock and would sleep through a jump back."""
        self.stop()
        self.start()

    def stop(self, *, wait_seconds: float = 0.0) -> None:
        """No job starts any more; a pass under way has `wait_seconds` to end."""
        if self._scheduler is not None:
            self._scheduler.shutdown(wait=False)
            self._scheduler = None
        with self._idle:
            self._idle.wait_for(lambda: self._num_passes == 0, timeout=wait_seconds)

    def stuck(self) -> tuple[str, ...]:
        """The jobs that have not finished a pass for longer than their patience."""
        now = self._clock()
        return tuple(
            job.name
            for job in self._jobs
            if now - self._finished_at[job.name] > job.every_seconds + job.patience_seconds
        )

    def _watched(self, job: Job) -> Callable[[], None]:
        def one_pass() -> None:
            with self._idle:
                self._num_passes += 1
            try:
                job.action()
            finally:
                self._finished_at[job.name] = self._clock()
                with self._idle:
                    self._num_passes -= 1
                    self._idle.notify_all()

        return one_pass
