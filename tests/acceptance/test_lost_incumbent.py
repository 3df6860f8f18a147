"""The engine's model cannot be read: nothing takes its place until a person says what the engine is to run."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import once, retrain_worker

ENV = "# engine\nPATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH={}\n"
#: each worker keeps to it; far over what this market asks for
MEMORY_MB = 2048


@pytest.fixture(scope="module")
def refused(learnable: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """A run beside an incumbent of random bytes; what `check` said before."""
    home = tmp_path_factory.mktemp("lost") / "home"
    lost, env = home / "engine/models/patchtst_old.pth", home / "engine/ai-engine.env"
    lost.parent.mkdir(parents=True)
    lost.write_bytes(bytes(range(129, 256)) * 40)
    env.write_text(ENV.format(lost))
    checked = retrain_worker("check", "--db", learnable, "--home", home)
    code, result, said = once(learnable, home, WORKER_MEMORY_MB=MEMORY_MB)
    return home, lost, env, checked, code, result, said


def test_check_says_that_the_model_in_the_slot_cannot_be_read(refused: tuple[Any, ...]) -> None:
    _, lost, _, checked, *_ = refused

    assert checked.returncode == 1
    assert f"PATCHTST_MODEL_PATH names {lost}, which cannot be read as a model" in checked.stdout
    assert "are ready for a swap" not in checked.stdout


def test_a_candidate_does_not_take_the_place_of_a_model_that_nobody_can_read(refused: tuple[Any, ...]) -> None:
    _, lost, env, _, code, result, said = refused

    assert (code, result.get("outcome")) == (11, "REFUSED"), said
    assert [reason.partition(":")[0] for reason in result["reasons"]] == ["contract"]
    assert str(lost) in result["reasons"][0]
    assert "promote RUN --accept-contract" in result["reasons"][0]
    assert {gate["name"]: gate["result"] for gate in result["gates"]}["contract"] == "UNDECIDED"
    assert env.read_text() == ENV.format(lost)


def test_a_person_who_names_the_contract_opens_the_way_also_when_the_file_is_gone(refused: tuple[Any, ...]) -> None:
    home, lost, env, _, _, result, _ = refused
    lost.unlink()
    order = ("promote", result["run_id"], "--home", home, "--reason", "its file got lost")
    forced = retrain_worker(*order, "--force", WORKER_MEMORY_MB=MEMORY_MB)
    named = re.search(r"--accept-contract (\S+)", forced.stdout)

    assert forced.returncode == 11, forced.stderr
    assert named is not None, forced.stdout
    assert env.read_text() == ENV.format(lost)
    done = retrain_worker(*order, "--accept-contract", named[1], WORKER_MEMORY_MB=MEMORY_MB)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path(env.read_text().rpartition("=")[2].strip()).stem == f"patchtst_v{result['run_id']}"
