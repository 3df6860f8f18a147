"""Runs the jobs of the daemon at their intervals (APScheduler), and knows which of them do not return."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row of the table: what is done, how often, and the longest that one pass may take."""

    name: str
    action: Callable[[], None]
    every_seconds: float
    #: a pass that takes longer stops the watchdog's ping
    patience_seconds: float


class _Every(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Fires once however much time has passed: IntervalTrigger lists each missed second when the clock leaps."""

    def __init__(self, seconds: float) -> None:
        self._interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """One interval from `now`."""
        del previous_fire_time
        return now + self._interval


class JobSchedule:
    """Runs each job in a thread of its own, never twice at a time."""

    def __init__(self, jobs: tuple[Job, ...], *, clock: Callable[[], float]) -> None:
        """`clock`: seconds that never go back (CLOCK_BOOTTIME)."""
        self._jobs = jobs
        self._clock = clock
        self._finished_at = {job.name: clock() for job in jobs}
        self._scheduler: BackgroundScheduler | None = None
        self._idle = threading.Condition()
        self._num_passes = 0
        self._is_stopped = True

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
                _Every(job.every_seconds),
                id=job.name,
                next_run_time=datetime.now(UTC),
                coalesce=True,
                max_instances=1,
                misfire_grace_time=None,
            )
        # APScheduler warns of each pass longer than its interval; only one longer than its patience matters: `stuck`.
        logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)
        with self._idle:
            self._is_stopped = False
        scheduler.start()
        self._scheduler = scheduler

    def restart(self) -> None:
        """Schedule every job anew: APScheduler trusts the wall clock and would sleep through a jump back."""
        self.stop()
        self.start()

    def stop(self, *, wait_seconds: float = 0.0) -> None:
        """No job starts any more; a pass in progress has `wait_seconds` to end."""
        if self._scheduler is not None:
            self._scheduler.shutdown(wait=False)
            self._scheduler = None
        with self._idle:
            self._is_stopped = True  # also for a pass that a thread of the executor has not begun yet
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
                if self._is_stopped:
                    return
                self._num_passes += 1
            try:
                job.action()
            finally:
                self._finished_at[job.name] = self._clock()
                with self._idle:
                    self._num_passes -= 1
                    self._idle.notify_all()

        return one_pass


def boot_clock() -> float:
    """Seconds since boot, suspend included; never goes back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
