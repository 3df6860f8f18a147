"""The composition root on a real home: what one pass of a job does when the world is odd."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from retrain_worker import settings
from retrain_worker.cli.options import prepare_home
from retrain_worker.daemon import app as app_module
from retrain_worker.daemon.app import App
from retrain_worker.domain.lifecycle import Deployment, DeploymentState, Outcome, Stage
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


def test_the_folder_of_the_last_promoted_run_is_never_swept_for_the_next_audit_measures_drift_against_it(app):
    app._settings = replace(app._settings, keep_runs=1)
    ids = []
    for day in range(1, 5):
        at = NOW + timedelta(days=day)
        an_ended_run(app, at)
        ids.append(app.store.history(1)[0].run_id)
        app.world.folders.run_dir(ids[-1])
    promoted = Deployment(
        deployment_id=ids[1], run_id=ids[1], kind="promote", version=f"patchtst_v{ids[1]}", model_path="/m.pth",
        sha256="0" * 64, size_bytes=1, previous_version=None, previous_model_path=None,
        state=DeploymentState.NOT_CONFIRMED, created_at=NOW, updated_at=NOW, requested_by="schedule", reason="test")
    app.store.record_deployment(promoted)
    app.store.record_deployment(replace(
        promoted, deployment_id="rollback_20260115_000000", run_id=None, kind="rollback", version="patchtst_v0"))
    app.sweep()

    assert [run_id for run_id in ids if app.world.folders.path_of(run_id).exists()] == [ids[1], ids[3]]
