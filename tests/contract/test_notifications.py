"""Outcomes reach a real web hook; a receiver that fails delays nothing and is given up."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from retrain_worker.daemon.monitoring import monitoring_jobs
from retrain_worker.domain.lifecycle import Outcome
from retrain_worker.errors import SettingsError
from tests.daemon_home import opened_components

NOW = datetime.now(UTC)


class Hook:
    """A web hook on the loopback interface."""

    def __init__(self) -> None:
        self.status = 200
        self.received: list[dict[str, Any]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if hook.status == 200:
                    hook.received.append(json.loads(body))
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"json://operator:s3cret@127.0.0.1:{self.server.server_port}/hook?token=t0ken"


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    thread = threading.Thread(target=hook.server.serve_forever)
    thread.start()
    yield hook
    hook.server.shutdown()
    thread.join()
    hook.server.server_close()


def end_run(components: Any, outcome: Outcome, reason: str = "", *, hours: int) -> None:
    at = NOW + timedelta(hours=hours)
    run, _ = components.store.open_run(requested_by="schedule", reason="test", at=at)
    components.store.record(run.ended(outcome, reason, at=at))


def test_each_new_outcome_is_sent_once_also_across_restarts(tmp_path: Path, hook: Hook) -> None:
    for number in range(2):
        with (
            opened_components(tmp_path / "home", NOTIFY_URLS=hook.url) as components,
            monitoring_jobs(components) as (job,),
        ):
            if number == 0:
                end_run(components, Outcome.FAILED, "from before", hours=0)
                job.action()
                end_run(components, Outcome.FAILED, "the disk is full", hours=1)
                end_run(components, Outcome.SKIPPED, "too few rows", hours=2)
                end_run(components, Outcome.REFUSED, "features.constant", hours=3)
            for _ in range(5):
                job.action()

    assert [each["type"] for each in hook.received] == ["failure", "warning"]
    assert "the disk is full" in hook.received[0]["message"]
    assert hook.received[0]["title"].endswith(": FAILED")
    assert "features.constant" in hook.received[1]["message"]


def test_a_receiver_that_fails_is_tried_again_and_its_url_is_never_shown(tmp_path: Path, hook: Hook) -> None:
    with (
        opened_components(tmp_path / "home", NOTIFY_URLS=hook.url) as components,
        monitoring_jobs(components) as (job,),
        capture_logs() as logged,
    ):
        job.action()
        end_run(components, Outcome.FAILED, "the disk is full", hours=0)
        hook.status = 503
        for _ in range(3):
            job.action()
        hook.status = 200
        job.action()
        job.action()

    assert len(hook.received) == 1
    assert [each["event"] for each in logged] == ["notification_not_sent"]
    assert "; retrying" in logged[0]["message"]
    assert "s3cret" not in str(logged)
    assert "t0ken" not in str(logged)


def test_a_receiver_that_never_answers_does_not_hold_later_outcomes(tmp_path: Path, hook: Hook) -> None:
    with (
        opened_components(tmp_path / "home", NOTIFY_URLS=hook.url) as components,
        monitoring_jobs(components) as (job,),
        capture_logs() as logged,
    ):
        job.action()
        end_run(components, Outcome.FAILED, "the first", hours=0)
        hook.status = 503
        for _ in range(10):
            job.action()
        hook.status = 200
        end_run(components, Outcome.FAILED, "the second", hours=1)
        job.action()

    assert ["the second" in each["message"] for each in hook.received] == [True]
    assert "no further attempt" in logged[-1]["message"]


def test_only_the_outcomes_of_the_setting_are_sent(tmp_path: Path, hook: Hook) -> None:
    with (
        opened_components(tmp_path / "home", NOTIFY_URLS=hook.url, NOTIFY_ON="rolled_back, SKIPPED") as components,
        monitoring_jobs(components) as (job,),
    ):
        job.action()
        end_run(components, Outcome.FAILED, hours=0)
        end_run(components, Outcome.SKIPPED, "too few rows", hours=1)
        job.action()
        job.action()

    assert [each["type"] for each in hook.received] == ["info"]


def test_a_url_that_apprise_does_not_know_ends_the_start_without_showing_it(tmp_path: Path) -> None:
    with (
        opened_components(tmp_path / "home", NOTIFY_URLS="json://localhost nonsense://s3cret@host") as components,
        pytest.raises(SettingsError, match="cannot read number 2 of 2 URLs") as raised,
        monitoring_jobs(components),
    ):
        pass

    assert "s3cret" not in str(raised.value)
