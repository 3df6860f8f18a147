"""The wired components on a real home: what one pass of a job does under faults."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from retrain_worker import settings
from retrain_worker.cli.options import prepare_home
from retrain_worker.daemon import run_driver, source_audit, wiring
from retrain_worker.daemon.job_backoff import MAX_PAUSE_SECONDS
from retrain_worker.daemon.jobs.slot_watch import SlotWatch
from retrain_worker.daemon.run_schedule import RunSchedule
from retrain_worker.daemon.service import jobs_of
from retrain_worker.daemon.wiring import Components, open_components
from retrain_worker.domain.artifact import manifest_file
from retrain_worker.domain.facts import RunFacts
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Stage
from retrain_worker.domain.slot_request import SlotRequestArguments, SlotRequestKind
from retrain_worker.errors import DiskFullError, StateError
from retrain_worker.stages.advance import STAGES
from retrain_worker.stages.audit import reference_run_id
from retrain_worker.stages.step import Step
from tests.run_facts import forced_gate_facts, probation_facts

NOW = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)


@pytest.fixture
def clock(monkeypatch):
    """The boot clock, which moves when it is told to."""
    seconds = [0.0]
    monkeypatch.setattr(wiring, "boot_clock", lambda: seconds[0])
    return seconds


@pytest.fixture
def app(tmp_path, clock):
    loaded = settings.load({"RETRAIN_INTERVAL_H": "4"}, home=tmp_path / "home", db=str(tmp_path / "none.db"))
    prepare_home(loaded)
    with open_components(loaded) as app:
        yield app


def one_pass(app: Components, name: str) -> None:
    next(job for job in jobs_of(app) if job.name == name).action()


def an_ended_run(app: Components, at: datetime) -> None:
    run, _ = app.store.open_run(requested_by="schedule", reason="test", at=at)
    app.store.record(run.ended(Outcome.FAILED, "test", at=at))


def test_an_attempt_dated_in_the_future_delays_the_next_run_by_one_interval_and_no_more(app):
    an_ended_run(app, datetime(2036, 1, 1, tzinfo=UTC))
    schedule = RunSchedule(app.store, app.configuration)
    due = schedule.next_run_at(NOW)

    assert due == NOW + timedelta(hours=4)
    assert schedule.next_run_at(NOW + timedelta(hours=3)) == due
    assert schedule.next_run_at(NOW + timedelta(hours=5)) <= NOW + timedelta(hours=5)
    an_ended_run(app, due)
    assert schedule.next_run_at(due + timedelta(minutes=1)) == due + timedelta(hours=4)


def test_a_tick_that_fails_unexpectedly_again_and_again_ends_the_run(app, monkeypatch):
    run, _ = app.store.open_run(requested_by="schedule", reason="test", at=NOW)
    monkeypatch.setitem(STAGES, Stage.PULL, lambda *_: 1 / 0)
    for _ in range(5):
        app.driver.run_pass()

    assert app.store.run(run.run_id).outcome is Outcome.ABANDONED
    assert app.backoff.fatal is None


def test_a_broken_memory_ends_the_process_and_not_the_run(app, monkeypatch):
    app.store.open_run(requested_by="schedule", reason="test", at=NOW)

    def advance(*_):
        raise StateError("the disk is gone")

    monkeypatch.setattr(run_driver, "advance", advance)
    one_pass(app, "run driver")

    assert isinstance(app.backoff.fatal, StateError)


@pytest.mark.parametrize("method", ["unfinished_run", "waiting_slot_request", "last_deployment"])
def test_a_memory_that_breaks_anywhere_in_a_pass_ends_the_process(app, monkeypatch, method):
    def broken(*_, **__):
        raise StateError("the disk is gone")

    monkeypatch.setattr(app.store, method, broken)
    one_pass(app, "run driver")

    assert isinstance(app.backoff.fatal, StateError)


def test_a_full_disk_is_reported_once_and_the_job_is_tried_again(app, clock, monkeypatch, capsys):
    run, _ = app.store.open_run(requested_by="schedule", reason="test", at=NOW)
    record = app.store.record

    def full(*_, **__):
        raise DiskFullError("no space is left", where="state.db")

    monkeypatch.setattr(app.store, "record", full)
    monkeypatch.setattr(run_driver, "advance", lambda run, context: context.store.record(run))
    for _ in range(5):
        clock[0] += MAX_PAUSE_SECONDS
        one_pass(app, "run driver")

    said = capsys.readouterr()
    assert (said.out + said.err).count("no space is left") == 1
    assert "no space is left" in app.status.line()
    assert (app.store.run(run.run_id).num_deaths, app.backoff.fatal) == (0, None)
    monkeypatch.setattr(app.store, "record", record)
    monkeypatch.setattr(run_driver, "advance", lambda run, context: Step(run=run, message="it goes on"))
    clock[0] += MAX_PAUSE_SECONDS
    one_pass(app, "run driver")
    assert "no space" not in app.status.line()


def test_nothing_begins_once_the_app_is_closing(app):
    app.driver.interrupt()
    app.driver.run_pass()

    assert app.store.history(10) == []


def test_the_folder_of_the_last_promoted_run_is_never_swept_for_the_next_audit_measures_drift_against_it(app):
    app.configuration.settings = replace(app.configuration.settings, keep_runs=1)
    ids = []
    for day in range(1, 5):
        at = NOW + timedelta(days=day)
        an_ended_run(app, at)
        ids.append(app.store.history(1)[0].run_id)
        app.run_folders.run_dir(ids[-1])
    promoted = Deployment(
        deployment_id=ids[1],
        run_id=ids[1],
        kind=DeploymentKind.PROMOTE,
        version=f"patchtst_v{ids[1]}",
        model_path="/m.pth",
        sha256="0" * 64,
        size_bytes=1,
        previous_version=None,
        previous_model_path=None,
        state=DeploymentState.NOT_CONFIRMED,
        created_at=NOW,
        updated_at=NOW,
        requested_by="schedule",
        reason="test",
    )
    app.store.record_deployment(promoted)
    app.store.record_deployment(
        replace(
            promoted,
            deployment_id="rollback_20260115_000000",
            run_id=None,
            kind=DeploymentKind.ROLLBACK,
            version="patchtst_v0",
        )
    )
    app.retention.run()

    assert [run_id for run_id in ids if app.run_folders.path_of(run_id).exists()] == [ids[1], ids[3]]


def test_the_folder_that_a_forced_or_an_ordered_promotion_goes_back_to_is_never_swept(app):
    app.configuration.settings = replace(app.configuration.settings, keep_runs=1)
    ids = []
    for day in range(1, 6):
        an_ended_run(app, NOW + timedelta(days=day))
        ids.append(app.store.history(1)[0].run_id)
        app.run_folders.run_dir(ids[-1])
    forced = replace(app.store.run(ids[3]), facts=RunFacts(gate=forced_gate_facts(ids[0])))
    app.store.record(
        forced, deployment=replace(a_deployment(0, [Path("/m.pth")]), deployment_id=forced.run_id, run_id=forced.run_id)
    )
    app.store.open_slot_request(
        SlotRequestKind.PROMOTE, arguments=SlotRequestArguments(run_id=ids[1]), requested_by="a", reason="", at=NOW
    )
    app.retention.run()

    assert reference_run_id(app.store) == ids[0]
    assert [run_id for run_id in ids if app.run_folders.path_of(run_id).exists()] == [ids[0], ids[1], ids[4]]


def test_check_and_audit_measure_drift_against_the_folder_that_a_run_would(app):
    ids = []
    for day in range(1, 3):
        an_ended_run(app, NOW + timedelta(days=day))
        ids.append(app.store.history(1)[0].run_id)
    forced = replace(app.store.run(ids[1]), facts=RunFacts(gate=forced_gate_facts(ids[0])))
    app.store.record(
        forced, deployment=replace(a_deployment(0, [Path("/m.pth")]), deployment_id=forced.run_id, run_id=forced.run_id)
    )

    assert source_audit._reference_dir(app.configuration.settings, pytest.fail) == str(app.run_folders.path_of(ids[0]))


def a_deployment(
    number: int, models, *, kind=DeploymentKind.PROMOTE, before: int | None = None, day: int = 0
) -> Deployment:
    previous = models[number - 1 if before is None else before] if number or before else None
    return Deployment(
        deployment_id=f"{kind}_{number}_{day}",
        run_id=None,
        kind=kind,
        version=models[number].stem,
        model_path=str(models[number]),
        sha256="0" * 64,
        size_bytes=1,
        previous_version=previous and previous.stem,
        previous_model_path=previous and str(previous),
        state=DeploymentState.CONFIRMED,
        created_at=NOW,
        updated_at=NOW,
        requested_by="schedule",
        reason="",
    )


def published_models(app: Components, number: int) -> list[Path]:
    models = [
        app.configuration.settings.engine_models_dir / f"patchtst_v2026010{day}_000000.pth"
        for day in range(1, number + 1)
    ]
    for model in models:
        model.write_bytes(b"x")
        manifest_file(model).write_text("{}")
    return models


def test_retention_keeps_what_serves_what_served_and_what_a_roll_back_would_return_to(app):
    app.configuration.settings = replace(app.configuration.settings, keep_models=2)
    models = published_models(app, 9)
    for number in range(4):
        app.store.record_deployment(a_deployment(number, models))
    # 3 was taken back, so 2 serves and 1 is what would return
    app.store.record_deployment(a_deployment(2, models, kind=DeploymentKind.ROLLBACK, before=3))
    app.configuration.settings.engine_env_file.write_text(
        f"PATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH={models[2]}\n"
    )
    app.store.open_slot_request(
        SlotRequestKind.ROLLBACK,
        arguments=SlotRequestArguments(version=models[0].stem),
        requested_by="a",
        reason="",
        at=NOW,
    )
    app.retention.run()

    assert [model for model in models if model.exists()] == [*models[:4], *models[7:]]


def test_retention_keeps_the_model_to_which_a_roll_back_returns_past_a_condemned_one(app):
    app.configuration.settings = replace(app.configuration.settings, keep_models=2)
    models = published_models(app, 7)
    run, _ = app.store.open_run(requested_by="schedule", reason="test", at=NOW)
    judged = replace(run, stage=Stage.PROBATION).with_fact(probation_facts(rollback_reason="worse"))
    app.store.record(judged.ended(Outcome.ROLLED_BACK, "worse", at=NOW))
    for number in range(3):
        deployment = a_deployment(number, models)
        blocked = replace(deployment, deployment_id=run.run_id, sha256="c" * 64)
        app.store.record_deployment(blocked if number == 1 else deployment)
    app.configuration.settings.engine_env_file.write_text(
        f"PATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH={models[2]}\n"
    )
    app.retention.run()

    assert [model for model in models if model.exists()] == [*models[:3], *models[5:]]


def test_the_model_that_a_hand_edit_names_is_never_swept(app):
    app.configuration.settings = replace(app.configuration.settings, keep_models=2)
    models = published_models(app, 5)
    app.configuration.settings.engine_env_file.write_text(
        f"PATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH={models[0]}\n"
    )
    app.retention.run()

    assert [model for model in models if model.exists()] == [models[0], *models[3:]]


def test_a_hand_edit_is_recorded_once_when_two_looks_agree(app):
    env, watch = app.configuration.settings.engine_env_file, SlotWatch()
    for _ in range(4):
        watch.check(app.configuration.context)
    env.write_text("PATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH=/half/writ")
    watch.check(app.configuration.context)
    for path in ("/opt/by_hand.pth", "/opt/by_hand.pth", "/opt/by_hand.pth"):
        env.write_text(f"PATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH={path}\n")
        watch.check(app.configuration.context)

    assert [(one.kind, one.model_path) for one in app.store.deployments(9)] == [("external", "/opt/by_hand.pth")]
