"""What a trained model is, without loading it: version, contract, manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from retrain_worker.domain.labels import Label, Thresholds

FORMAT = "patchtst/1"
MODEL_NAME = "patchtst"
MODEL_TYPE = "PatchTST"
_VERSION = re.compile(r"patchtst_v\d{8}_\d{6}")


@dataclass(frozen=True, kw_only=True)
class ModelContract:
    """What an engine must agree with to run a model: names, shapes, transform, meaning."""

    #: engine | paper
    preset: str
    #: rows per window
    context_length: int
    feature_names: tuple[str, ...]
    #: standardise | instance | minmax
    input_transform: str
    label: Label = Label.OUTCOME


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The readable JSON beside the weights: all that is in the file but the tensors, and the file's hash."""

    format: str
    version: str
    created_at: datetime
    file: str
    sha256: str
    size_bytes: int
    contract: ModelContract
    #: keyword arguments of model.patchtst.PatchTSTConfig
    config: Mapping[str, Any]
    thresholds: Thresholds
    #: run id, rows, window, watermark, seed, versions, data hash
    training: Mapping[str, Any] = field(default_factory=dict)
    #: scorecard on the validation part at the time of writing
    scorecard: Mapping[str, Any] = field(default_factory=dict)


def version_of(run_id: str) -> str:
    """The model version that run `run_id` makes: `patchtst_v<YYYYmmdd_HHMMSS>`."""
    return f"patchtst_v{run_id}"


def model_file(directory: Path, version: str) -> Path:
    """The model file of `version` in `directory`."""
    return directory / f"{version}.pth"


def checksum_file(model: Path) -> Path:
    """`<file>.sha256`, in the form that `sha256sum -c` reads."""
    return model.with_name(model.name + ".sha256")


def manifest_file(model: Path) -> Path:
    """`<file>.json`, the readable manifest."""
    return model.with_name(model.name + ".json")


def checksum_line(model: Path, sha256: str) -> str:
    """The content of the checksum file."""
    return f"{sha256}  {model.name}\n"


def is_our_version(name: str) -> bool:
    """Whether a file stem is one that this program writes."""
    return _VERSION.fullmatch(name) is not None
