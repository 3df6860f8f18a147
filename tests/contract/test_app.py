"""The composition root on a real home: what one pass of a job does when the world is odd."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from retrain_worker import settings
from retrain_worker.cli.options import prepare_home
from retrain_worker.daemon import app as app_module
from retrain_worker.daemon.app import App
from retrain_worker.domain.lifecycle import Outcome, Stage
from retrain_worker.errors import StateError

NOW = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)


@pytest.fixture
def app(tmp_path):
    loaded = settings.load({"RETRAIN_INTERVAL_H": "4"}, home=tmp_path / "home", db=str(tmp_path / "none.db"))
    prepare_home(loaded)
    with App(loaded) as app:
        yield app


def an_ended_run(app: App, at: datetime) -> None:
    run, _ = app.store.open_run(requested_by="schedule", reason="test", at=at)
    app.store.record(run.ended(Outcome.FAILED, "test", at=at))


def test_an_attempt_dated_in_the_future_delays_the_next_run_by_one_interval_and_no_more(app):
    an_ended_run(app, datetime(2036, 1, 1, tzinfo=UTC))
    due = app.next_run_at(NOW)

    assert due == NOW + timedelta(hours=4)
    assert app.next_run_at(NOW + timedelta(hours=3)) == due
    assert app.next_run_at(NOW + timedelta(hours=5)) <= NOW + timedelta(hours=5)
    an_ended_run(app, due)
    assert app.next_run_at(due + timedelta(minutes=1)) == due + timedelta(hours=4)


def test_a_tick_that_fails_unexpectedly_again_and_again_ends_the_run(app):
    run, _ = app.store.open_run(requested_by="schedule", reason="test", at=NOW)
    app.store.record(replace(run, stage=Stage.GATE))  # a stage whose facts are missing
    for _ in range(5):
        app.tick()

    assert app.store.run(run.run_id).outcome is Outcome.ABANDONED
    assert app.broken is None


def test_a_broken_memory_ends_the_process_and_not_the_run(app, monkeypatch):
    app.store.open_run(requested_by="schedule", reason="test", at=NOW)

    def advance(*_):
        raise StateError("the disk is gone")

    monkeypatch.setattr(app_module, "advance", advance)
    app.tick()

    assert isinstance(app.broken, StateError)


def test_nothing_begins_once_the_app_is_closing(app):
    app.interrupt()
    app.tick()

    assert app.store.history(10) == []
