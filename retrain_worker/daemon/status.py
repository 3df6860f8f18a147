"""What the daemon says of itself in STATUS=: what it does, or when it will, and what is wrong."""

from __future__ import annotations

from datetime import timedelta

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.daemon.configuration import Configuration
from retrain_worker.daemon.job_backoff import JobBackoff
from retrain_worker.daemon.jobs.event_relay import EventRelay
from retrain_worker.daemon.jobs.waiting_runs import WaitingRuns
from retrain_worker.daemon.run_driver import RunDriver
from retrain_worker.daemon.run_schedule import RunSchedule
from retrain_worker.domain.lifecycle import DeploymentKind
from retrain_worker.errors import RetrainError


class Status:
    """Reads the parts of the daemon; changes nothing."""

    def __init__(
        self,
        *,
        store: StateDb,
        configuration: Configuration,
        schedule: RunSchedule,
        driver: RunDriver,
        waiting_runs: WaitingRuns,
        relay: EventRelay,
        backoff: JobBackoff,
    ) -> None:
        self._store = store
        self._configuration = configuration
        self._schedule = schedule
        self._driver = driver
        self._waiting_runs = waiting_runs
        self._relay = relay
        self._backoff = backoff

    def line(self) -> str:
        """One line. Never raises for what the state database does."""
        try:
            return "; ".join(self._parts())
        except RetrainError as error:
            return str(error)

    def _parts(self) -> list[str]:
        parts = [self._driver.message or self._idle_message(), *self._waiting_runs.messages()]
        parts += [problem.message for problem in self._backoff.problems()]
        if self._relay.problem:
            parts.append(f"{self._relay.problem}, {self._store.num_pending()} events waiting")
        return parts

    def _idle_message(self) -> str:
        at, last = self._configuration.context.now(), self._store.last_deployment()
        wait = self._schedule.next_run_at(at) - at
        incumbent = "no incumbent"
        if last is not None and last.model_path:
            incumbent = f"incumbent {last.version}" + (" (external)" if last.kind is DeploymentKind.EXTERNAL else "")
        if wait > timedelta():
            return f"idle, next run in {in_words(wait)}; {incumbent}"
        is_first = self._store.last_attempt_at() is None
        return f"starting the {'first' if is_first else 'next'} run; {incumbent}"


def in_words(wait: timedelta) -> str:
    """`3 h 12 min`, `12 min`, `40 s`, or `now`."""
    seconds = int(wait.total_seconds())
    if seconds <= 0:
        return "now"
    if seconds < 60:
        return f"{seconds} s"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
