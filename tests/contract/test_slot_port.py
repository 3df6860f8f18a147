"""What ports.Slot promises, asked of the model slot and of the double that tests of the stages use."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from retrain_worker import durable_file
from retrain_worker.adapters.model_slot import ModelSlot
from retrain_worker.domain.artifact import checksum_file, checksum_line, manifest_file
from retrain_worker.errors import ArtifactError, RetryLaterError
from retrain_worker.stages.ports import Slot
from tests.fakes import FakeSlot

VERSIONS = ("patchtst_v20260101_000000", "patchtst_v20260102_000000", "patchtst_v20260103_000000")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A slot that names the first of three models."""

    slot: Slot
    #: path and sha256
    models: tuple[tuple[Path, str], ...]
    #: a model that was trained and not published: path and sha256
    candidate: tuple[Path, str]
    #: what the trigger file holds, or None
    announced: Callable[[], str | None]


def write_model(folder: Path, version: str) -> tuple[Path, str]:
    folder.mkdir(exist_ok=True)
    path = folder / f"{version}.pth"
    path.write_bytes(version.encode())
    sha256 = durable_file.sha256_of(path)
    checksum_file(path).write_text(checksum_line(path, sha256))
    manifest_file(path).write_text("{}")
    return path, sha256


@pytest.fixture(params=["model slot", "double"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    models = tuple(write_model(tmp_path / "engine", version) for version in VERSIONS)
    candidate = write_model(tmp_path / "run", "patchtst_v20260104_000000")
    first = models[0][0]
    if request.param == "double":
        hashes: dict[str, str | None] = {str(path): sha256 for path, sha256 in (*models, candidate)}
        double = FakeSlot(named=first, hashes={**hashes, str(tmp_path / "gone.pth"): None})
        last = lambda: str(double.triggered[-1] or "") if double.triggered else None  # noqa: E731
        return Engine(slot=double, models=models, candidate=candidate, announced=last)
    env_file, trigger = tmp_path / "ai-engine.env", tmp_path / "trigger"
    env_file.write_text(f"PATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH={first}\n")
    slot = ModelSlot(engine_models_dir=tmp_path / "engine", engine_env_file=env_file, trigger_file=trigger)
    written = lambda: trigger.read_text().strip() if trigger.exists() else None  # noqa: E731
    return Engine(slot=slot, models=models, candidate=candidate, announced=written)


def test_the_slot_names_what_it_was_pointed_to(engine: Engine) -> None:
    (first, _), (second, sha256), _ = engine.models
    assert engine.slot.current_path() == first
    assert engine.slot.is_shadow_only()
    for _ in range(2):
        engine.slot.point_to(second, expected_sha256=sha256, replacing=first)
        assert engine.slot.current_path() == second


def test_a_third_file_in_the_slot_is_left_alone(engine: Engine) -> None:
    (first, _), (second, _), (third, sha256) = engine.models
    with pytest.raises(RetryLaterError):
        engine.slot.point_to(third, expected_sha256=sha256, replacing=second)
    with pytest.raises(RetryLaterError):
        engine.slot.clear(replacing=second)
    assert engine.slot.current_path() == first


def test_a_model_that_is_not_what_its_hash_says_is_not_named(engine: Engine) -> None:
    (first, _), (second, _), _ = engine.models
    with pytest.raises(ArtifactError):
        engine.slot.point_to(second, expected_sha256="0" * 64, replacing=first)
    with pytest.raises(ArtifactError):
        engine.slot.publish(engine.candidate[0], expected_sha256="0" * 64)
    assert engine.slot.current_path() == first


def test_a_cleared_slot_names_nothing(engine: Engine) -> None:
    (first, _), _, _ = engine.models
    for _ in range(2):
        engine.slot.clear(replacing=first)
        assert engine.slot.current_path() is None


def test_a_published_candidate_has_its_hash_and_can_be_named(engine: Engine) -> None:
    path, sha256 = engine.candidate
    published = engine.slot.publish(path, expected_sha256=sha256)
    assert engine.slot.publish(path, expected_sha256=sha256) == published
    assert engine.slot.sha256_of(published) == sha256
    assert engine.slot.check_ready(published, expected_sha256=sha256) > 0


def test_a_model_that_is_gone_has_no_hash_and_is_not_ready(engine: Engine) -> None:
    gone = engine.candidate[0].parent.parent / "gone.pth"
    assert engine.slot.sha256_of(gone) is None
    with pytest.raises(ArtifactError):
        engine.slot.check_ready(gone, expected_sha256=None)


def test_the_trigger_names_the_model_or_nothing(engine: Engine) -> None:
    assert engine.announced() is None
    engine.slot.trigger(engine.models[1][0])
    assert engine.announced() == str(engine.models[1][0])
    engine.slot.trigger(None)
    assert engine.announced() == ""
