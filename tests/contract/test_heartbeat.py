"""The watchdog gets no ping while a job does not return."""

import threading
from typing import cast

import pytest
from structlog.testing import capture_logs

from retrain_worker.adapters.systemd import Notifier
from retrain_worker.daemon import service
from retrain_worker.daemon.job_schedule import Job, JobSchedule
from retrain_worker.daemon.wiring import Components


class Listener:
    """Counts what the service manager would hear."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.pings = 0

    def status(self, text: str) -> None:
        self.said.append(text)

    def watchdog(self) -> None:
        self.pings += 1


def test_a_job_that_hangs_ends_the_pings_and_a_slow_one_does_not(
    components: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "status_line", lambda _components: "idle")
    now, held, entered = [0.0], threading.Event(), threading.Event()

    def relay() -> None:
        entered.set()
        held.wait()

    schedule = JobSchedule(
        (Job(name="relay", action=relay, every_seconds=0.01, patience_seconds=120.0),), clock=lambda: now[0]
    )
    listener = Listener()
    schedule.start()
    try:
        assert entered.wait(60)
        now[0] = 100.0
        service._heartbeat(components, schedule, cast(Notifier, listener))
        assert listener.pings == 1
        now[0] = 200.0
        with capture_logs() as logged:
            stuck = service._heartbeat(components, schedule, cast(Notifier, listener))
            service._heartbeat(components, schedule, cast(Notifier, listener), reported=stuck)
        assert listener.pings == 1
        assert listener.said == ["idle", "idle", "idle"], "the status goes on"
        assert [each["event"] for each in logged] == ["job_stuck"], "it is said once"
    finally:
        held.set()
        schedule.stop(wait_seconds=60)
