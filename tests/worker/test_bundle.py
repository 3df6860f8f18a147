"""A model file is written as a whole, and accepted only after all checks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from retrain_worker.domain import artifact
from retrain_worker.domain.artifact import Manifest, ModelContract
from retrain_worker.domain.recipe import InputTransform, Preset, Tuning
from retrain_worker.errors import ArtifactError, ContractError
from retrain_worker.model import bundle, inspection, patchtst, presets
from retrain_worker.model.patchtst import PatchTST

NAMES = ("rsi", "ma_cross", "volatility", "returns_1h")
CONTRACTS = {
    "standardise": ModelContract(
        preset=Preset.PAPER, context_length=32, feature_names=NAMES, input_transform=InputTransform.STANDARDISE
    ),
    "instance": ModelContract(
        preset=Preset.PAPER, context_length=32, feature_names=NAMES, input_transform=InputTransform.INSTANCE
    ),
    "engine": ModelContract(
        preset=Preset.ENGINE, context_length=128, feature_names=NAMES, input_transform=InputTransform.MINMAX
    ),
}


def rows(count: int = 400) -> Any:
    return np.random.default_rng(5).normal([50, 0, 0.1, 0], [20, 0.01, 0.03, 0.005], (count, 4)).astype(np.float32)


def windows(length: int, count: int = 20) -> Any:
    return np.lib.stride_tricks.sliding_window_view(rows(), length, axis=0)[:count].transpose(0, 2, 1).copy()


def written(folder: Path, kind: str = "standardise") -> Path:
    contract = CONTRACTS[kind]
    torch.manual_seed(1)
    model = PatchTST(presets.config_for(contract, dropout=0.1))
    if kind == "standardise":
        model.standardise_on(rows())
    path = artifact.model_file(folder, "patchtst_v20261123_031400")
    lookback = {"lookback": 24, "patch_weights": [0.05, 0.15, 0.8]}
    origin = bundle.Origin(training={"run_id": "20261123_031400", "seed": 1, **lookback}, scorecard={"auc": 0.7})
    bundle.write(path, model=model, contract=contract, canary_windows=windows(contract.context_length), origin=origin)
    return path


@pytest.mark.parametrize("kind", CONTRACTS)
def test_what_is_written_is_what_is_read(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    found = bundle.read(path)
    assert found.contract == CONTRACTS[kind]
    assert found.manifest.training["run_id"] == "20261123_031400"
    assert found.canary is not None
    assert len(found.canary.windows) == 16
    assert found.canary_error() == 0.0
    torch.manual_seed(1)
    again = PatchTST(presets.config_for(CONTRACTS[kind], dropout=0.1))
    if kind == "standardise":
        again.standardise_on(rows())
    again = patchtst.folded(again)
    assert bundle.weights_sha256(found.model) == bundle.weights_sha256(again)
    raw = windows(found.contract.context_length)
    np.testing.assert_array_equal(found.probabilities(raw), patchtst.probabilities(again, raw))


@pytest.mark.parametrize("kind", CONTRACTS)
def test_windows_of_another_shape_are_refused(tmp_path: Path, kind: str) -> None:
    found = bundle.read(written(tmp_path, kind))
    length = found.contract.context_length

    shapes = ((1, length + 1, 4), (1, length - 1, 4), (1, 1, 4), (1, length, 3), (1, length, 8), (length, 4), (1, 0))
    for shape in shapes:
        with pytest.raises(ContractError, match=rf"not \(n, {length}, 4\)"):
            found.probabilities(np.zeros(shape, dtype=np.float32))


def test_sidecars_say_what_the_file_is(tmp_path: Path) -> None:
    path = written(tmp_path)
    subprocess.run(["sha256sum", "--check", "--strict", f"{path.name}.sha256"], cwd=tmp_path, check=True)
    manifest = json.loads(artifact.manifest_file(path).read_bytes())
    assert manifest["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest["size_bytes"] == path.stat().st_size
    assert manifest["contract"]["feature_names"] == list(NAMES)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, f"{path.name}.sha256", f"{path.name}.json"])


def test_engine_file_fits_the_engines_own_module_strictly(tmp_path: Path) -> None:
    path = written(tmp_path, "engine")
    content = torch.load(path, weights_only=True)
    plain = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(128, 4, 512, 0.1, batch_first=True), 3, enable_nested_tensor=False
    )
    inside = {
        name.removeprefix("transformer."): tensor
        for name, tensor in content["model_state_dict"].items()
        if name.startswith("transformer.")
    }
    plain.load_state_dict(inside, strict=True)
    assert set(content["model_state_dict"]) - {f"transformer.{n}" for n in inside} == {
        "patch_embedding.weight",
        "patch_embedding.bias",
        "pos_encoding",
        "output_proj.weight",
        "output_proj.bias",
    }


def test_reading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    path = written(tmp_path)
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    bundle.read(path)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


# ---------------------------------------------------------------- damage


def test_a_file_with_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    sound = path.read_bytes()
    for position in range(0, len(sound), len(sound) // 50):
        path.write_bytes(sound[:position] + bytes([sound[position] ^ 0x10]) + sound[position + 1 :])
        with pytest.raises(ArtifactError, match="sha256"):
            bundle.read(path)


@pytest.mark.parametrize("kept", [0, 1, 100, 5000])
def test_a_truncated_file_is_refused_even_without_a_checksum(tmp_path: Path, kept: int) -> None:
    path = written(tmp_path)
    artifact.checksum_file(path).unlink()
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ArtifactError, match=path.name):
        bundle.read(path)


def test_another_file_than_the_expected_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="sha256"):
        bundle.read(written(tmp_path), expected_sha256="0" * 64)


def test_a_missing_file_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        bundle.read(tmp_path / "nothing.pth")


def rewritten(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The same file with its content changed and no checksum beside it."""
    content = torch.load(path, weights_only=True)
    content = change(content) or content
    torch.save(content, path)
    artifact.checksum_file(path).unlink()
    return path


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.__setitem__(key, value)


def _weights(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        tensor = content["model_state_dict"][name]
        content["model_state_dict"][name] = tensor + value

    return change


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "newer major": (
        _set("format", "patchtst/2.0"),
        r"format is patchtst/2.0, and this version reads patchtst/1.x; install",
    ),
    "older major": (_set("format", "patchtst/0.9"), r"patchtst/0.9"),
    "malformed minor": (_set("format", "patchtst/1.x"), r"patchtst/1.x"),
    "a weight moved": (_weights("output_proj.bias", 0.01), "canary"),
    "a weight not finite": (_weights("output_proj.bias", float("nan")), "finite"),
    "weights missing": (lambda c: c["model_state_dict"].__delitem__("pos_encoding"), "missing: pos_encoding"),
    "weights too many": (lambda c: c["model_state_dict"].update(extra=torch.ones(1)), "extra"),
    "other shape": (lambda c: c["model_state_dict"].update(pos_encoding=torch.ones(1, 9, 64)), "shape"),
    "giant config": (lambda c: c["config"].update(d_model=10**9), "d_model"),
    "size that is text": (lambda c: c["config"].update(d_model="32"), "d_model"),
    "size missing": (lambda c: c["config"].__delitem__("d_model"), "d_model"),
    "thresholds not finite": (lambda c: c["thresholds"].update(buy=float("nan")), "thresholds"),
    "no canary": (lambda c: c.__delitem__("canary"), "canary"),
    "empty canary": (lambda c: c["canary"].update(windows=torch.ones(0, 32, 4)), "canary"),
    "canary of nan": (lambda c: c["canary"].update(probabilities=torch.full((16,), float("nan"))), "canary"),
    "feature dropped": (lambda c: c.update(feature_names=c["feature_names"][1:]), "feature names"),
    "other transform": (_set("input_transform", "instance"), "transform"),
    "label unknown": (_set("label", "luck"), "luck"),
    "a list": (lambda c: [c], "list"),
}


@pytest.mark.parametrize("change_name", CHANGES)
def test_changed_content_is_refused_with_its_reason(tmp_path: Path, change_name: str) -> None:
    change, reason = CHANGES[change_name]
    path = rewritten(written(tmp_path), change)
    with pytest.raises(ArtifactError, match=reason):
        bundle.read(path)


# ---------------------------------------------------------------- other minors of the format


def as_newer_minor(content: dict[str, Any]) -> None:
    """What a later version may add: unknown keys at every level."""
    content["format"] = "patchtst/1.99"
    for level in (content, *(content[key] for key in ("config", "thresholds", "training", "scorecard", "canary"))):
        level["added_later"] = {"tensor": torch.ones(2), "text": "x", "number": 1.0}


def as_minor_0(content: dict[str, Any]) -> None:
    """What 157e5f3 wrote: no minor, and settings of the training in `config`."""
    content["format"] = "patchtst/1"
    content["config"].update(dropout=0.4, input_noise=0.1)
    content["feature_names"] = list(content["feature_names"])


@pytest.mark.parametrize("change", [as_newer_minor, as_minor_0])
@pytest.mark.parametrize("kind", CONTRACTS)
def test_a_file_of_another_minor_gives_the_same_answers(tmp_path: Path, kind: str, change: Any) -> None:
    path = written(tmp_path, kind)
    raw = windows(CONTRACTS[kind].context_length)
    expected = bundle.read(path)

    found = bundle.read(rewritten(path, change))

    np.testing.assert_array_equal(found.probabilities(raw), expected.probabilities(raw))
    assert found.contract == CONTRACTS[kind]
    assert found.canary_error() == 0.0
    assert found.manifest.config == expected.manifest.config
    assert inspection.inspect(path).problem == ""


def test_the_description_of_the_network_has_no_settings_of_the_training(tmp_path: Path) -> None:
    path = written(tmp_path)
    manifest = json.loads(artifact.manifest_file(path).read_bytes())
    assert manifest["format"] == torch.load(path, weights_only=True)["format"] == "patchtst/1.1"
    assert torch.load(path, weights_only=True)["config"] == manifest["config"]
    assert not manifest["config"].keys() & {field.name for field in dataclasses.fields(Tuning)}


def test_unknown_and_absent_fields_of_a_manifest_are_accepted(tmp_path: Path) -> None:
    fields = json.loads(artifact.manifest_file(written(tmp_path)).read_bytes())
    for level in (fields, fields["contract"], fields["thresholds"], fields["config"]):
        level["added_later"] = [1]
    del fields["training"], fields["scorecard"]
    found = msgspec.json.decode(json.dumps(fields), type=Manifest)
    assert found.contract == CONTRACTS["standardise"]


class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("as_torch_file", [True, False])
def test_nothing_in_a_model_file_is_executed(tmp_path: Path, as_torch_file: bool) -> None:
    path, trace = tmp_path / "patchtst_bomb.pth", tmp_path / "executed"
    if as_torch_file:
        torch.save({"model_state_dict": {}, "metadata": Bomb(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(ArtifactError):
        bundle.read(path)
    assert not trace.exists()
    assert inspection.inspect(path).problem


# ---------------------------------------------------------------- files of the stack's older scripts


def engine_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    return PatchTST(presets.engine(num_features=4)).state_dict()


@pytest.mark.parametrize("form", ["wrapped", "bare"])
def test_engine_weights_of_older_scripts_are_understood(tmp_path: Path, form: str) -> None:
    path = tmp_path / "patchtst_v20251210_031617.pth"
    state = engine_state()
    torch.save({"model_state_dict": state, "val_loss": 0.69} if form == "wrapped" else state, path)

    found = bundle.read(path, feature_names=NAMES)

    assert found.contract == dataclasses.replace(CONTRACTS["engine"])
    assert found.canary_error() is None
    assert found.manifest.version == "patchtst_v20251210_031617"
    assert np.isfinite(found.probabilities(windows(128))).all()


def test_older_files_name_their_own_features_first(tmp_path: Path) -> None:
    path = tmp_path / "patchtst_old.pth"
    own = ("a", "b", "c", "d")
    torch.save({"model_state_dict": engine_state(), "metadata": {"feature_names": list(own)}}, path)
    assert bundle.read(path, feature_names=NAMES).contract.feature_names == own


def test_older_files_that_do_not_fit_say_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "patchtst_old.pth"
    wide = engine_state() | {"patch_embedding.weight": torch.zeros(128, 16 * 23)}
    torch.save({"model_state_dict": wide}, path)
    with pytest.raises(ArtifactError, match=r"patch_embedding.weight has shape \(128, 368\)"):
        bundle.read(path, feature_names=NAMES)
    torch.save({"model_state_dict": wide, "feature_names": [f"f{i}" for i in range(23)]}, path)
    with pytest.raises(ArtifactError, match="23"):
        bundle.read(path)
    torch.save({"encoder.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(ArtifactError, match=r"missing.*it has encoder\.weight"):
        bundle.read(path, feature_names=NAMES)
    torch.save({"epoch": 3, "val_loss": 0.69}, path)
    with pytest.raises(ArtifactError, match="no weights"):
        bundle.read(path, feature_names=NAMES)
    torch.save({"model_state_dict": engine_state()}, path)
    with pytest.raises(ArtifactError, match="does not name the features"):
        bundle.read(path)
    torch.save({"model_state_dict": engine_state(), "generator": np.random.default_rng(1)}, path)
    with pytest.raises(ArtifactError, match="safe load"):
        bundle.read(path, feature_names=NAMES)
