"""What the daemon does with requests: one run for a flood, and one more for those that come too late."""

from contextlib import ExitStack

import pytest
from structlog.testing import capture_logs

from retrain_worker import settings
from retrain_worker.adapters.retrain_requests import BATCH, trigger
from retrain_worker.cli.options import prepare_home
from retrain_worker.daemon.wiring import open_components
from retrain_worker.domain.events import REQUEST_GROUP, REQUEST_STREAM
from retrain_worker.domain.lifecycle import Outcome, Stage


@pytest.fixture
def opened(tmp_path, redis_server):
    """The components on the same home, opened anew at each call."""
    resources = ExitStack()

    def opened():
        resources.close()
        loaded = settings.load(
            {"RETRAIN_INTERVAL_H": "4", "REDIS_URL": redis_server.url},
            home=tmp_path / "home",
            db=str(tmp_path / "none.db"),
        )
        prepare_home(loaded)
        return resources.enter_context(open_components(loaded))

    with resources:
        yield opened


def ask(client, *reasons):
    for reason in reasons:
        trigger(client, reason=reason, requested_by="ops")


def move(app, stage):
    """The run under way has come to `stage`."""
    run = app.store.unfinished_run()
    for due in list(Stage)[1 : list(Stage).index(stage) + 1]:
        run = run.moved_to(due, at=app.configuration.context.now())
    app.store.record(run)


def end(app):
    run = app.store.unfinished_run()
    app.store.record(run.ended(Outcome.FAILED, "test", at=app.configuration.context.now()))


def reasons(app):
    return [run.request_reason for run in reversed(app.store.history(9))]


def pending(client):
    return client.xpending(REQUEST_STREAM, REQUEST_GROUP)["pending"]


def test_a_flood_of_requests_makes_one_run_and_is_acknowledged(opened, client):
    app = opened()
    ask(client, *(f"number {number}" for number in range(BATCH * 2 + 10)))
    client.xadd(REQUEST_STREAM, {"payload": "{"})
    for _ in range(4):
        app.retrain_requests.run()
        if app.store.unfinished_run() is not None:
            end(app)  # as one with nothing new does, at once

    assert reasons(app) == ["ops: number 0"]
    assert pending(client) == 0


def test_a_request_that_comes_before_the_rows_are_taken_joins(opened, client):
    app = opened()
    app.driver.begin("schedule", "every 4 h")
    ask(client, "now")
    app.retrain_requests.run()
    end(app)
    app.driver.run_pass()

    assert reasons(app) == ["every 4 h"]


def test_requests_that_come_too_late_make_one_more_run_at_once_also_after_a_restart(opened, client):
    app = opened()
    app.driver.begin("schedule", "every 4 h")
    move(app, Stage.TRAIN)
    ask(client, "newer rows")
    app.retrain_requests.run()
    ask(client, "me too", "and me")
    app.retrain_requests.run()
    assert pending(client) == 0
    assert reasons(app) == ["every 4 h"], "not yet: one run at a time"

    app = opened()
    end(app)
    app.driver.run_pass()
    assert reasons(app) == ["every 4 h", "ops: newer rows"]
    end(app)
    app.driver.run_pass()
    assert reasons(app) == ["every 4 h", "ops: newer rows"], "once"


def test_a_request_during_the_run_that_follows_makes_another_one(opened, client):
    app = opened()
    for _ in range(2):
        if app.store.unfinished_run() is None:
            app.driver.begin("trigger", "first")
        move(app, Stage.GATE)
        ask(client, "again")
        app.retrain_requests.run()
        end(app)
        app.driver.run_pass()

    assert reasons(app) == ["first", "ops: again", "ops: again"]


def test_a_request_is_recorded_before_it_is_acknowledged(opened, client, monkeypatch):
    app = opened()
    ask(client, "precious")

    def broken(**_):
        raise OSError("the disk is gone")

    monkeypatch.setattr(app.store, "open_run", broken)
    with pytest.raises(OSError, match="gone"):
        app.retrain_requests.run()
    assert pending(client) == 1

    app = opened()
    app.retrain_requests.run()
    assert reasons(app) == ["ops: precious"]


def test_a_stream_of_another_type_is_said_once(opened, client):
    app = opened()
    client.set(REQUEST_STREAM, "theirs")
    with capture_logs() as said:
        for _ in range(3):
            app.retrain_requests._requests._back_off.after(None)
            app.retrain_requests.run()

    assert [line["event"] for line in said] == ["requests_problem"]
