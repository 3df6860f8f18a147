"""The model file: written durably, and verified completely when it is read.

A model file is one file that torch.load(weights_only=True) accepts, with everything that a consumer needs
(docs/reference/model-file.md). Beside it are its checksum in the form of `sha256sum -c` and a readable manifest. `read`
verifies hash, format, names, shapes, finite weights, and the canary: recorded windows whose probabilities the file must
reproduce. Nothing in a model file is executed: weights_only=True, always (CVE-2025-32434 and CVE-2026-24747 are why
torch is at least 2.10).

The stack's older scripts wrote the engine's weights as a dict with `model_state_dict` or as a bare state dict. Such
files are read too, so that an incumbent can be measured; they have no canary and often no feature names.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from retrain_worker import durable_file, typed_json
from retrain_worker.domain.artifact import (
    CANARY_TOLERANCE,
    FORMAT,
    FORMAT_MAJOR,
    MODEL_NAME,
    Manifest,
    ModelContract,
    checksum_file,
    checksum_line,
    is_readable,
    manifest_file,
)
from retrain_worker.domain.labels import Thresholds
from retrain_worker.domain.recipe import InputTransform, Preset
from retrain_worker.errors import ArtifactError, ContractError, MalformedError
from retrain_worker.model import patchtst, presets, safe_load
from retrain_worker.model.checksum import stored_checksum
from retrain_worker.model.patchtst import PatchTST, PatchTSTConfig

#: `format` in the manifest of a file of the stack's older scripts
OLDER_FORMAT = "engine state dict"
#: windows kept in the canary
CANARY_WINDOWS = 16
#: a reader runs the model on all of them
_MAX_CANARY_WINDOWS = 4096

_State = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Canary:
    """Raw windows (W, T, F) float32 and the probabilities (W,) float64 that they must give."""

    windows: NDArray[np.float32]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A model file that was read and verified."""

    path: Path
    manifest: Manifest
    model: PatchTST
    #: None: a file of the stack's older scripts
    canary: Canary | None

    @property
    def contract(self) -> ModelContract:
        """What an engine must agree with to run it."""
        return self.manifest.contract

    def probabilities(self, windows: NDArray[np.float32]) -> NDArray[np.float64]:
        """P(label = 1) (B,) of raw windows (B, T, F); gate, canary and follower all use this.

        Raises ContractError when the windows have another length or number of features.
        """
        expected = (self.contract.context_length, len(self.contract.feature_names))
        if windows.shape[1:] != expected:
            raise ContractError(
                f"the windows have shape {windows.shape}, not (n, {expected[0]}, {expected[1]})",
                where=self.path.name,
                remedy=f"a window is {expected[0]} rows of the features {', '.join(self.contract.feature_names)}",
            )
        return patchtst.probabilities(self.model, windows)

    def canary_error(self) -> float | None:
        """Largest difference between the recorded and the replayed canary; None without a canary; may be infinite."""
        if self.canary is None:
            return None
        differences = np.abs(self.probabilities(self.canary.windows) - self.canary.probabilities)
        return float(np.max(np.where(np.isfinite(differences), differences, np.inf)))


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is recorded about the training of a model. Plain values only."""

    training: Mapping[str, Any] = field(default_factory=dict)
    scorecard: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Thresholds = field(default_factory=Thresholds)


# ---------------------------------------------------------------- writing


def write(
    path: Path, *, model: PatchTST, contract: ModelContract, canary_windows: NDArray[np.float32], origin: Origin
) -> Manifest:
    """Write the file of `model`, its checksum and its manifest durably; the hash is that of the bytes as read back.

    `canary_windows` (W, T, F) are raw windows. Raises ArtifactError when the model gives no finite probabilities,
    DiskFullError, SlotError or RetryLaterError when the disk fails.
    """
    model = patchtst.folded(model)
    windows = np.ascontiguousarray(canary_windows[:CANARY_WINDOWS], dtype=np.float32)
    probabilities = patchtst.probabilities(model, windows)
    if not len(windows) or not np.isfinite(probabilities).all():
        raise ArtifactError("the canary is empty or its probabilities are not finite", where=str(path))
    content = {
        **msgspec.to_builtins(
            {
                "format": FORMAT,
                "version": path.stem,
                "created_at": datetime.now(UTC),
                "config": model.config.architecture,
                "preset": contract.preset,
                "input_transform": contract.input_transform,
                "feature_names": contract.feature_names,
                "label": contract.label,
                "thresholds": origin.thresholds,
                "training": origin.training,
                "scorecard": origin.scorecard,
            }
        ),
        "model_state_dict": {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()},
        "canary": {"windows": torch.from_numpy(windows), "probabilities": torch.from_numpy(probabilities)},
    }
    # given a path instead of a file object, torch writes the name into the bytes
    with durable_file.replacing(path) as file:
        torch.save(content, file)
    manifest = _manifest(content, path=path, data=path.read_bytes(), config=model.config)
    with durable_file.replacing(checksum_file(path)) as file:
        file.write(checksum_line(path, manifest.sha256).encode())
    with durable_file.replacing(manifest_file(path)) as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    return manifest


def weights_sha256(model: PatchTST) -> str:
    """Hash of the weights alone, which version and time of writing do not change."""
    digest = hashlib.sha256()
    for name, tensor in patchtst.folded(model).state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------- reading


def read(
    path: Path,
    *,
    expected_sha256: str | None = None,
    feature_names: tuple[str, ...] = (),
    follow_links: bool = True,
) -> Bundle:
    """The model in `path`, verified. Raises ArtifactError with the reason when any check fails.

    The hash is compared with `expected_sha256`, else with the checksum file beside it, if there is one. `feature_names`
    are used only for a file of the older scripts that does not contain its own. The file is opened once.
    """
    data = safe_load.bytes_of(path, follow_links=follow_links)
    _check_hash(path, data, expected_sha256)
    found = safe_load.loaded(path, data)
    bundle = _our_bundle(path, data, found) if _is_ours(found) else _older_bundle(path, data, found, feature_names)
    error = bundle.canary_error()
    if error is not None and error > CANARY_TOLERANCE:
        raise _unfit(
            path,
            f"the answers to its canary differ from the recorded ones by {error:.3g}, more than {CANARY_TOLERANCE:g}",
        )
    return bundle


def _check_hash(path: Path, data: bytes, expected_sha256: str | None) -> None:
    if expected_sha256 is None:
        expected_sha256 = stored_checksum(path)
    actual = hashlib.sha256(data).hexdigest()
    if expected_sha256 is not None and actual != expected_sha256:
        raise _unfit(
            path, f"its sha256 is {actual}, expected {expected_sha256 or 'one, but its checksum file is empty'}"
        )


def _is_ours(found: Mapping[str, Any]) -> bool:
    return isinstance(found.get("format"), str) and str(found["format"]).startswith(f"{MODEL_NAME}/")


def state_in(found: Mapping[str, Any]) -> _State:
    """The tensors of any dict of weights, by name."""
    state = found.get("model_state_dict", found)
    return {str(n): t for n, t in state.items() if isinstance(t, torch.Tensor)} if isinstance(state, Mapping) else {}


def kind_of(found: Mapping[str, Any]) -> str:
    """Which kind of file this is, in a few words."""
    if _is_ours(found):
        return f"model file, format {found['format']}"
    if "model_state_dict" in found:
        return "dict with model_state_dict"
    return "bare state dict" if state_in(found) else "dict without weights"


def _our_bundle(path: Path, data: bytes, found: Mapping[str, Any]) -> Bundle:
    if not is_readable(found["format"]):
        raise ArtifactError(
            f"its format is {found['format']}, and this version reads {MODEL_NAME}/{FORMAT_MAJOR}.x",
            where=str(path),
            remedy="install a version of retrain-worker that reads it",
        )
    try:
        config = typed_json.convert(found["config"], PatchTSTConfig)
        manifest = _manifest(found, path=path, data=data, config=config)
        canary = Canary(
            windows=found["canary"]["windows"].numpy(), probabilities=found["canary"]["probabilities"].double().numpy()
        )
    except (MalformedError, KeyError, TypeError, ValueError, AttributeError, ContractError) as error:
        raise _unfit(path, f"its description is not valid ({type(error).__name__}: {error})") from error
    contract = manifest.contract
    if len(contract.feature_names) != config.num_features or contract.input_transform != config.input_transform:
        raise _unfit(path, "its feature names or its input transform contradict its config")
    expected = (config.context_length, config.num_features)
    if canary.windows.ndim != 3 or not len(canary.windows) or canary.windows.shape[1:] != expected:
        raise _unfit(path, f"its canary has shape {canary.windows.shape}, not (n, {expected[0]}, {expected[1]})")
    if len(canary.windows) > _MAX_CANARY_WINDOWS:
        raise _unfit(path, f"its canary has {len(canary.windows):,} windows, more than {_MAX_CANARY_WINDOWS:,}")
    if canary.probabilities.shape != canary.windows.shape[:1]:
        raise _unfit(path, "its canary does not have one probability for each window")
    model = _model(path, config, state_in(found))
    return Bundle(path=path, manifest=manifest, model=model, canary=canary)


def _older_bundle(path: Path, data: bytes, found: Mapping[str, Any], feature_names: tuple[str, ...]) -> Bundle:
    state = state_in(found)
    if not state:
        raise _unfit(path, f"it holds no weights: a {kind_of(found)} with the keys {_some(found)}")
    names = _older_feature_names(path, found) or feature_names
    if not names:
        raise _unfit(path, "it does not name the features that it was trained on")
    try:
        # the engine's network has the same weights for 4 features, repeated, and for 8
        config = presets.engine(num_features=len(names))
    except ContractError as error:
        raise _unfit(path, f"{error.what}: {_some(names)}") from error
    contract = ModelContract(
        preset=Preset.ENGINE,
        context_length=config.context_length,
        feature_names=names,
        input_transform=InputTransform.MINMAX,
    )
    manifest = Manifest(
        format=OLDER_FORMAT,
        version=path.stem,
        created_at=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        file=path.name,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        contract=contract,
        config=config.architecture,
        thresholds=Thresholds(),
    )
    return Bundle(path=path, manifest=manifest, model=_model(path, config, state), canary=None)


def _older_feature_names(path: Path, found: Mapping[str, Any]) -> tuple[str, ...]:
    for place in (found, found.get("metadata"), found.get("config")):
        names = place.get("feature_names") if isinstance(place, Mapping) else None
        if names:
            if not all(isinstance(name, str) for name in names):
                raise _unfit(path, "its feature_names are not all text")
            return tuple(names)
    return ()


def _model(path: Path, config: PatchTSTConfig, state: _State) -> PatchTST:
    """The network with these weights, in evaluation mode. Tensors are checked before anything is allocated."""
    expected = patchtst.shapes(config)
    actual = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if missing := expected.keys() - actual.keys():
        raise _unfit(path, f"weights are missing: {_some(missing)}; it has {_some(actual)}")
    if surplus := actual.keys() - expected.keys():
        raise _unfit(path, f"it has weights that the network does not have: {_some(surplus)}")
    for name, shape in expected.items():
        if actual[name] != shape:
            why = _other_layout(config, name, actual[name])
            raise _unfit(path, f"{name} has shape {actual[name]}, not {shape}: it belongs to {why}")
        if not torch.isfinite(state[name]).all():
            raise _unfit(path, f"{name} holds values that are not finite")
        if name.endswith("num_batches_tracked") != (not state[name].is_floating_point()):
            raise _unfit(path, f"{name} is {state[name].dtype}")
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn and discarded; the caller's stream is kept
        model = PatchTST(config)
    model.load_state_dict(state, strict=True)
    return model.eval()


def _other_layout(config: PatchTSTConfig, name: str, shape: tuple[int, ...]) -> str:
    """The network that a patch embedding of another width belongs to."""
    if name != "patch_embedding.weight" or len(shape) != 2 or not config.mixes_channels:
        return "another network"
    inputs, surplus = divmod(shape[1], config.patch_length)
    width = f"{inputs} inputs a row" if not surplus else f"patches of {shape[1]} values"
    return f"a network of {width}, and the engine's has {config.num_channels}"


def _manifest(content: Mapping[str, Any], *, path: Path, data: bytes, config: PatchTSTConfig) -> Manifest:
    """The manifest of a file; fields of `content` that a later minor of the format has added are ignored."""
    facts = {
        "file": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "size_bytes": len(data),
        "contract": {**content, "context_length": config.context_length},
        "config": config.architecture,
    }
    manifest = typed_json.convert({**content, **facts}, Manifest)
    if not all(math.isfinite(limit) for limit in (manifest.thresholds.buy, manifest.thresholds.sell)):
        raise ValueError("the thresholds are not finite")
    return manifest


def _some(names: Iterable[object]) -> str:
    ordered = sorted(str(name) for name in names)
    return ", ".join(ordered[:4]) + (f" and {len(ordered) - 4} more" if len(ordered) > 4 else "")


def _unfit(path: Path, what: str) -> ArtifactError:
    return ArtifactError(what, where=str(path))
