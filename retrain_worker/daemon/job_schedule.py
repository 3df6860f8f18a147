"""Runs the jobs of the daemon, each in a thread of its own, and knows which of them do not return."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

#: after a wake-up: what comes in a burst is one pass
_BURST_SECONDS = 0.05


def never() -> bool:
    """For a job that is never idle."""
    return False


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row of the table: what is done, how often, and the longest that one pass may take."""

    name: str
    action: Callable[[], None]
    #: from the end of a pass to the next one, which a wake-up starts at once
    every_seconds: float
    #: the same while `is_idle`
    idle_seconds: float = 0.0
    #: a pass that takes longer stops the watchdog's ping
    patience_seconds: float
    #: whether nothing is to be done until a wake-up, or the end of a long pause
    is_idle: Callable[[], bool] = never

    @property
    def longest_pause_seconds(self) -> float:
        """The longest time without a pass."""
        return max(self.every_seconds, self.idle_seconds)


class Wakeups:
    """Ends the pause of a job, from any thread. Without a schedule that runs the job, nothing happens."""

    def __init__(self) -> None:
        self._events: dict[str, threading.Event] = {}

    def wake(self, *names: str) -> None:
        """Start a pass of these jobs now; of one that is in a pass, when that has ended."""
        for name in names:
            self.event_of(name).set()

    def event_of(self, name: str) -> threading.Event:
        """What the pause of the job waits for."""
        return self._events.setdefault(name, threading.Event())


class JobSchedule:
    """Each job once at the start, then after its pauses, which are of the monotonic clock: no leap of time matters."""

    def __init__(self, jobs: tuple[Job, ...], *, clock: Callable[[], float], wakeups: Wakeups | None = None) -> None:
        """`clock`: seconds that never go back and do not count a suspend, in which no job can return."""
        self._jobs = jobs
        self._clock = clock
        self._wakeups = wakeups or Wakeups()
        self._finished_at = {job.name: clock() for job in jobs}
        self._idle = threading.Condition()
        self._num_passes = 0
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start the threads. They end after `stop`."""
        for job in self._jobs:
            threading.Thread(target=self._repeat, args=(job,), name=job.name).start()

    def stop(self, *, wait_seconds: float = 0.0) -> None:
        """No pass begins any more; one in progress has `wait_seconds` to end."""
        self._stopped.set()
        self._wakeups.wake(*(job.name for job in self._jobs))
        with self._idle:
            self._idle.wait_for(lambda: self._num_passes == 0, timeout=wait_seconds)

    def stuck(self) -> tuple[str, ...]:
        """The jobs that have not finished a pass for longer than their patience."""
        now = self._clock()
        return tuple(
            job.name
            for job in self._jobs
            if now - self._finished_at[job.name] > job.longest_pause_seconds + job.patience_seconds
        )

    def _repeat(self, job: Job) -> None:
        woken = self._wakeups.event_of(job.name)
        while self._begin_pass():
            woken.clear()
            try:
                job.action()
            finally:
                self._finished_at[job.name] = self._clock()
                with self._idle:
                    self._num_passes -= 1
                    self._idle.notify_all()
            if woken.wait(job.idle_seconds if job.is_idle() else job.every_seconds):
                self._stopped.wait(_BURST_SECONDS)

    def _begin_pass(self) -> bool:
        with self._idle:
            if not self._stopped.is_set():
                self._num_passes += 1
            return not self._stopped.is_set()


def boot_clock() -> float:
    """Seconds since boot, suspend included; never goes back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
