"""Retention removes the oldest run folders and models, and none that is or may be needed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.daemon import source_audit
from retrain_worker.daemon.wiring import Components
from retrain_worker.domain.artifact import manifest_file
from retrain_worker.domain.facts import RunFacts
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Stage
from retrain_worker.domain.slot_request import SlotRequestArguments, SlotRequestKind
from retrain_worker.stages.audit import reference_run_id
from tests.daemon_home import an_ended_run, one_pass
from tests.run_facts import forced_gate_facts, probation_facts

NOW = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)


def a_deployment(
    number: int,
    models: list[Path],
    *,
    kind: DeploymentKind = DeploymentKind.PROMOTE,
    before: int | None = None,
    day: int = 0,
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
        previous_version=previous.stem if previous else None,
        previous_model_path=str(previous) if previous else None,
        state=DeploymentState.CONFIRMED,
        created_at=NOW,
        updated_at=NOW,
        requested_by="schedule",
        reason="",
    )


def published_models(components: Components, number: int) -> list[Path]:
    models = [
        components.configuration.settings.engine_models_dir / f"patchtst_v2026010{day}_000000.pth"
        for day in range(1, number + 1)
    ]
    for model in models:
        model.write_bytes(b"x")
        manifest_file(model).write_text("{}")
    return models


def test_the_folder_of_the_last_promoted_run_is_kept_because_drift_is_measured_against_it(components: Any) -> None:
    components.configuration.settings = replace(components.configuration.settings, keep_runs=1)
    ids = []
    for day in range(1, 5):
        at = NOW + timedelta(days=day)
        an_ended_run(components, at)
        ids.append(components.store.history(1)[0].run_id)
        components.run_folders.run_dir(ids[-1])
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
    components.store.record_deployment(promoted)
    components.store.record_deployment(
        replace(
            promoted,
            deployment_id="rollback_20260115_000000",
            run_id=None,
            kind=DeploymentKind.ROLLBACK,
            version="patchtst_v0",
        )
    )
    one_pass(components, "retention")

    assert [run_id for run_id in ids if components.run_folders.path_of(run_id).exists()] == [ids[1], ids[3]]


def test_the_folders_that_a_forced_promotion_or_a_slot_request_refers_to_are_kept(components: Any) -> None:
    components.configuration.settings = replace(components.configuration.settings, keep_runs=1)
    ids = []
    for day in range(1, 6):
        an_ended_run(components, NOW + timedelta(days=day))
        ids.append(components.store.history(1)[0].run_id)
        components.run_folders.run_dir(ids[-1])
    forced = replace(components.store.run(ids[3]), facts=RunFacts(gate=forced_gate_facts(ids[0])))
    components.store.record(
        forced, deployment=replace(a_deployment(0, [Path("/m.pth")]), deployment_id=forced.run_id, run_id=forced.run_id)
    )
    components.store.open_slot_request(
        SlotRequestKind.PROMOTE, arguments=SlotRequestArguments(run_id=ids[1]), requested_by="a", reason="", at=NOW
    )
    one_pass(components, "retention")

    assert reference_run_id(components.store) == ids[0]
    assert [run_id for run_id in ids if components.run_folders.path_of(run_id).exists()] == [ids[0], ids[1], ids[4]]


def test_check_and_audit_measure_drift_against_the_same_folder_as_a_run(components: Any) -> None:
    ids = []
    for day in range(1, 3):
        an_ended_run(components, NOW + timedelta(days=day))
        ids.append(components.store.history(1)[0].run_id)
    forced = replace(components.store.run(ids[1]), facts=RunFacts(gate=forced_gate_facts(ids[0])))
    components.store.record(
        forced, deployment=replace(a_deployment(0, [Path("/m.pth")]), deployment_id=forced.run_id, run_id=forced.run_id)
    )

    known = source_audit._known_state(components.configuration.settings, pytest.fail)
    assert known["reference_dir"] == str(components.run_folders.path_of(ids[0]))


def test_the_models_that_serve_or_served_or_that_a_rollback_would_return_are_kept(components: Any) -> None:
    components.configuration.settings = replace(components.configuration.settings, keep_models=2)
    models = published_models(components, 9)
    for number in range(4):
        components.store.record_deployment(a_deployment(number, models))
    # 3 was taken back, so 2 serves and 1 is what would return
    components.store.record_deployment(a_deployment(2, models, kind=DeploymentKind.ROLLBACK, before=3))
    components.configuration.settings.engine_env_file.write_text(
        f"PATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH={models[2]}\n"
    )
    components.store.open_slot_request(
        SlotRequestKind.ROLLBACK,
        arguments=SlotRequestArguments(version=models[0].stem),
        requested_by="a",
        reason="",
        at=NOW,
    )
    one_pass(components, "retention")

    assert [model for model in models if model.exists()] == [*models[:4], *models[7:]]


def test_the_model_that_a_rollback_returns_instead_of_a_blocked_one_is_kept(components: Any) -> None:
    components.configuration.settings = replace(components.configuration.settings, keep_models=2)
    models = published_models(components, 7)
    run, _ = components.store.open_run(requested_by="schedule", reason="test", at=NOW)
    judged = replace(run, stage=Stage.PROBATION).with_fact(probation_facts(rollback_reason="worse"))
    components.store.record(judged.ended(Outcome.ROLLED_BACK, "worse", at=NOW))
    for number in range(3):
        deployment = a_deployment(number, models)
        blocked = replace(deployment, deployment_id=run.run_id, sha256="c" * 64)
        components.store.record_deployment(blocked if number == 1 else deployment)
    components.configuration.settings.engine_env_file.write_text(
        f"PATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH={models[2]}\n"
    )
    one_pass(components, "retention")

    assert [model for model in models if model.exists()] == [*models[:3], *models[5:]]


def test_the_model_that_an_external_change_names_is_kept(components: Any) -> None:
    components.configuration.settings = replace(components.configuration.settings, keep_models=2)
    models = published_models(components, 5)
    components.configuration.settings.engine_env_file.write_text(
        f"PATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH={models[0]}\n"
    )
    one_pass(components, "retention")

    assert [model for model in models if model.exists()] == [models[0], *models[3:]]
