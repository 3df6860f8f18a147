"""`check` names what a host lacks, with the setting or the command that corrects it."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from retrain_worker import settings
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.cli.checks import _engine, _undecidable_probation, all_checks
from retrain_worker.cli.results import Check
from retrain_worker.domain.lifecycle import DeploymentState, Stage
from tests.contract.test_run_store import DEPLOYMENT
from tests.fakes import NOW
from tests.run_facts import train_facts
from tests.unit.test_stages import PULLED


def engine_checks(root: Path, **given: str) -> list[Check]:
    env_file, models = root / "ai-engine.env", root / "models"
    models.mkdir(exist_ok=True)
    env_file.write_text("PATCHTST_SHADOW_ONLY=true\n")
    paths = {
        "ENGINE_ENV_FILE": str(env_file),
        "ENGINE_MODELS_DIR": str(models),
        "STATE_PATH": str(root),
        "ENGINE_TRIGGER_FILE": str(root / "restart"),
    }
    return list(_engine(settings.load({**paths, **given})))


def test_a_contract_that_nobody_knows_is_a_warning_with_the_setting_that_states_it(tmp_path: Path) -> None:
    [unknown] = [check for check in engine_checks(tmp_path) if "PRESET=auto" in check.finding]

    assert not unknown.blocks
    assert "PRESET=engine" in unknown.remedy


@pytest.mark.parametrize("preset", ["engine", "auto"])
def test_a_contract_that_is_set_or_was_in_the_slot_is_known(tmp_path: Path, preset: str) -> None:
    if preset == "auto":
        with StateDb(tmp_path / "state.db") as store:
            run, _ = store.open_run(requested_by="once", reason="test", at=NOW)
            moved = run.with_fact(train_facts()).moved_to(Stage.AUDIT, at=NOW)
            promotion = replace(DEPLOYMENT, run_id=run.run_id, state=DeploymentState.CONFIRMED)
            store.record(moved, deployment=promotion)

    assert not [check for check in engine_checks(tmp_path, PRESET=preset) if "PRESET=auto" in check.finding]


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({}, ""),
        ({"PROBATION_MIN_OUTCOMES": "1681"}, "PROBATION_MIN_OUTCOMES=1681 outcomes take about 168 h"),
        ({"PROBATION_MIN_OUTCOMES": "1679"}, ""),
        ({"PROBATION_MIN_OUTCOMES": "1681", "PROBATION_MAX_HOURS": "200"}, ""),
        ({"PROBATION_MIN_OUTCOMES": "1681", "PROBATION_HOURS": "200"}, ""),
        ({"PROBATION_MIN_OUTCOMES": "1681", "PROBATION_HOURS": "0"}, ""),
    ],
)
def test_a_probation_that_could_never_decide_is_refused(given: dict[str, str], cause: str) -> None:
    ten_an_hour = replace(
        PULLED, labelled=2400, first_at="2026-01-01T00:00:00+00:00", last_at="2026-01-11T00:00:00+00:00"
    )
    found = _undecidable_probation(settings.load(given), ten_an_hour)

    assert (cause in found) if cause else not found
    assert _undecidable_probation(settings.load(given), replace(ten_an_hour, first_at=None)) == ""


@pytest.mark.parametrize("exists", [True, False])
def test_the_folder_of_models_url_must_exist(tmp_path: Path, exists: bool) -> None:
    store = tmp_path / "models of all"
    if exists:
        store.mkdir()
    given = {name: str(tmp_path) for name in ("STATE_PATH", "MODEL_PATH", "CHECKPOINT_PATH")}
    found = islice(all_checks(settings.load({**given, "MODELS_URL": store.as_uri()})), 5)
    [check] = [check for check in found if check.name == "MODELS_URL"]

    assert check.is_ok is exists
    assert str(store) in check.finding
