"""`check` names what a host lacks, with the setting or the command that corrects it."""

from dataclasses import replace
from pathlib import Path

import pytest

from retrain_worker import settings
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.cli.checks import Check, _engine
from retrain_worker.domain.lifecycle import DeploymentState, Stage
from tests.contract.test_run_store import DEPLOYMENT
from tests.fakes import NOW
from tests.run_facts import train_facts


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
