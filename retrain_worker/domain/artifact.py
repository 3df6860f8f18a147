"""A trained model without its weights: version, format, contract, manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from retrain_worker.domain.labels import Label, Thresholds
from retrain_worker.domain.recipe import InputTransform, Preset

MODEL_NAME = "patchtst"
MODEL_TYPE = "PatchTST"
#: largest difference to the recorded canary that is accepted, since machines round differently
CANARY_TOLERANCE = 1e-5
#: where the engine looks for models, unless ENGINE_MODELS_DIR names another directory
ENGINE_MODELS_DIR = "/opt/quantum/ai_engine/models"
#: the line of the engine's env file that names the model in its slot
PATH_KEY = "PATCHTST_MODEL_PATH"
#: of the model file. A reader accepts every minor of its major, so a minor adds only what a reader may ignore; what a
#: reader must know needs a new major. Minor 1 has no settings of the training in `config`
FORMAT_MAJOR, FORMAT_MINOR = 1, 1
FORMAT = f"{MODEL_NAME}/{FORMAT_MAJOR}.{FORMAT_MINOR}"
_FORMAT = re.compile(rf"{MODEL_NAME}/{FORMAT_MAJOR}(\.\d+)?")
_VERSION = re.compile(r"patchtst_v\d{8}_\d{6}")


@dataclass(frozen=True, kw_only=True)
class ModelContract:
    """What an engine must agree with to run a model: features, shape, transform, label."""

    preset: Preset
    #: rows per window
    context_length: int
    feature_names: tuple[str, ...]
    input_transform: InputTransform
    label: Label = Label.OUTCOME


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The readable JSON beside the model file: its content without tensors, and its hash."""

    format: str
    version: str
    created_at: datetime
    file: str
    sha256: str
    size_bytes: int
    contract: ModelContract
    #: PatchTSTConfig.architecture
    config: Mapping[str, Any]
    thresholds: Thresholds
    #: run id, rows, window, watermark, seed, versions, data hash
    training: Mapping[str, Any] = field(default_factory=dict)
    #: on the validation part
    scorecard: Mapping[str, Any] = field(default_factory=dict)


def version_of(run_id: str) -> str:
    """The version of the model that run `run_id` trains: `patchtst_v<YYYYmmdd_HHMMSS>`."""
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


def signature_file(model: Path) -> Path:
    """`<file>.sig`, the signed statement about the model (signing)."""
    return model.with_name(model.name + ".sig")


def checksum_line(model: Path, sha256: str) -> str:
    """The content of the checksum file."""
    return f"{sha256}  {model.name}\n"


def url_of(models_url: str, model_path: str) -> str:
    """Where the file is below MODELS_URL; empty without one of the two."""
    return f"{models_url.rstrip('/')}/{PurePosixPath(model_path).name}" if models_url and model_path else ""


def is_readable(file_format: str) -> bool:
    """Whether this version of the program reads model files of this format."""
    return _FORMAT.fullmatch(file_format) is not None


def is_our_version(name: str) -> bool:
    """Whether a file stem has the form of the versions that this program writes."""
    return _VERSION.fullmatch(name) is not None
