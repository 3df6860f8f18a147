"""A model that was rolled back does not come back by itself, whichever way an engine chooses its file."""

import os
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.adapters.model_slot import ModelSlot
from retrain_worker.domain import env_file
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState
from retrain_worker.domain.slot_request import SlotRequest, SlotRequestArguments, SlotRequestKind, SlotRequestState
from retrain_worker.errors import DiskFullError
from retrain_worker.stages.slot_requests import carry_out
from tests.contract.test_slot_port import VERSIONS, write_model
from tests.fakes import NOW, fake_context


def loaded_by_the_seed_s_agent(models: Path, env: Path) -> Path | None:
    """PATCHTST_MODEL_PATH; without it, the last `patchtst_v*.pth` of its directory by name."""
    named = env_file.value_of(env.read_bytes(), "PATCHTST_MODEL_PATH")
    return Path(named) if named else max(models.glob("patchtst_v*.pth"), default=None)


def loaded_by_the_newer_code(models: Path, _env: Path) -> Path | None:
    """The newest `patchtst_v*.pth` or `.pkl` by time, whatever the variable says."""
    files = [*models.glob("patchtst_v*.pth"), *models.glob("patchtst_v*.pkl")]
    return max(files, key=lambda path: path.stat().st_mtime_ns, default=None)


class Engine:
    """An engine's directory with three promoted models, of which the last is in the slot."""

    def __init__(self, root: Path) -> None:
        self.models, self.env, self.withdrawn = root / "engine", root / "ai-engine.env", root / "withdrawn"
        made = [write_model(self.models, version) for version in VERSIONS]
        self.paths = [path for path, _ in made]
        self.env.write_text(f"PATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH={self.paths[-1]}\n")
        for number, path in enumerate(self.paths):
            os.utime(path, (number, number))
        self.slot = ModelSlot(engine_models_dir=self.models, engine_env_file=self.env, withdrawn_dir=self.withdrawn)
        self.context = fake_context(root / "state", slot=self.slot)
        for number, (path, sha256) in enumerate(made):
            self.context.store.record_deployment(_promotion(path, sha256, self.paths[number - 1] if number else None))
        self.number = 0

    def roll_back(self, **arguments: Any) -> SlotRequest:
        self.number += 1
        request = SlotRequest(
            request_id=f"rollback_{self.number}",
            kind=SlotRequestKind.ROLLBACK,
            requested_by="ada",
            reason="loses money",
            created_at=NOW,
            updated_at=NOW,
            arguments=SlotRequestArguments(**arguments),
        )
        while not request.is_answered:
            request = carry_out(request, self.context).request
        return request

    def loaded(self) -> set[str | None]:
        """What engines of both habits load at their next start."""
        found = (habit(self.models, self.env) for habit in (loaded_by_the_seed_s_agent, loaded_by_the_newer_code))
        return {path.stem if path else None for path in found}

    def files(self) -> list[str]:
        return sorted(path.name for path in self.models.iterdir())


def _promotion(path: Path, sha256: str, before: Path | None) -> Deployment:
    return Deployment(
        deployment_id=path.stem,
        run_id=None,
        kind=DeploymentKind.PROMOTE,
        version=path.stem,
        model_path=str(path),
        sha256=sha256,
        size_bytes=1,
        previous_version=before.stem if before else None,
        previous_model_path=str(before) if before else None,
        state=DeploymentState.CONFIRMED,
        created_at=NOW,
        updated_at=NOW,
        requested_by="schedule",
        reason="",
    )


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


@pytest.mark.parametrize("version", VERSIONS[:2])
def test_after_a_rollback_engines_of_every_habit_load_the_model_that_returned(engine: Engine, version: str) -> None:
    assert engine.roll_back(version=version).state is SlotRequestState.DONE

    assert engine.loaded() == {version}
    assert engine.files() == [f"{version}.pth", f"{version}.pth.json", f"{version}.pth.sha256"]


def test_after_a_rollback_to_none_no_engine_finds_a_model(engine: Engine) -> None:
    assert engine.roll_back(to_none=True).state is SlotRequestState.DONE

    assert engine.loaded() == {None}


def test_a_withdrawn_model_returns_when_it_is_named(engine: Engine) -> None:
    engine.roll_back(version=VERSIONS[0])
    assert engine.roll_back(version=VERSIONS[2]).state is SlotRequestState.DONE

    assert engine.loaded() == {VERSIONS[2]}
    assert engine.paths[2].read_bytes() == VERSIONS[2].encode()


def test_a_withdrawn_model_that_was_changed_does_not_return(engine: Engine) -> None:
    engine.roll_back(version=VERSIONS[0])
    (engine.withdrawn / engine.paths[2].name).write_bytes(b"another")
    request = engine.roll_back(version=VERSIONS[2])

    assert request.state is SlotRequestState.REFUSED
    assert engine.loaded() == {VERSIONS[0]}


def test_files_of_others_stay_where_they_are(engine: Engine) -> None:
    (engine.models / "patchtst_v3_final.pth").write_bytes(b"theirs")
    os.utime(engine.models / "patchtst_v3_final.pth", (0, 0))
    engine.roll_back()

    assert "patchtst_v3_final.pth" in engine.files()
    assert loaded_by_the_newer_code(engine.models, engine.env) == engine.paths[1]


def test_a_rollback_is_not_delayed_by_models_that_cannot_be_moved(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_model: Path | None) -> None:
        raise DiskFullError("no space left", where="/data")

    monkeypatch.setattr(engine.slot, "keep_only", full)
    assert engine.roll_back().state is SlotRequestState.DONE
    assert loaded_by_the_seed_s_agent(engine.models, engine.env) == engine.paths[1]


def test_withdrawn_models_count_for_the_retention(engine: Engine) -> None:
    engine.roll_back(version=VERSIONS[0])
    assert [path.name for path in engine.slot.remove_old_models(keep=1, protected=[])] == [f"{VERSIONS[1]}.pth"]
    assert engine.slot.remove_old_models(keep=1, protected=[engine.paths[2]]) == ()
    assert sorted(path.suffix for path in engine.withdrawn.iterdir()) == [".json", ".pth", ".sha256"]
