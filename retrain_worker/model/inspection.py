"""Inspection of any file that is named as a model: its kind, its content, and whether it is valid. Nothing is executed.

First the bytes are examined (empty, truncated, another kind of file), then the result of a safe load (which writer,
which tensors, which objects it refuses), then `bundle.read` verifies it. The first step that fails gives the reason.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from retrain_worker.domain.printable import printable
from retrain_worker.domain.worker_protocol import UNNAMED, FileReport
from retrain_worker.errors import ArtifactError, message_of
from retrain_worker.model import bundle, presets, safe_load
from retrain_worker.model.checksum import stored_checksum

#: first bytes of files that are not models
_SIGNATURES = (
    (b"SQLite format 3\0", "SQLite database"),
    (b"\x89HDF\r\n\x1a\n", "HDF5 file"),
    (b"\x1f\x8b", "gzip file"),
    (b"\x7fELF", "program"),
)
#: kinds that a safe load is tried on
_LOADABLE = ("PyTorch file", "PyTorch file of before 1.6, or another pickle")
_ZIP = b"PK\x03\x04"
_SAMPLE_BYTES = 512


def inspect(path: Path) -> FileReport:
    """What `path` is, and whether it is a valid model. Never raises ArtifactError: the report contains it."""
    report = FileReport(path=printable(path), kind="not readable", problem="")
    try:
        data = safe_load.bytes_of(path)
        report = replace(
            report,
            kind=kind_of_bytes(data),
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            checksum=_checksum(path, data),
            refused_globals=refused_globals(data),
        )
        found = _weights_file(path, data, report.kind)
        report = replace(report, kind=bundle.kind_of(found), tensors=_shapes(found))
        # a file of the older scripts need not name its features; no rows are read here
        read = bundle.read(path, feature_names=(UNNAMED,) * presets.ENGINE_INPUTS)
        return replace(
            report,
            manifest=read.manifest,
            canary_error=read.canary_error(),
            parameters=sum(tensor.numel() for tensor in read.model.parameters()),
        )
    except ArtifactError as error:
        return replace(report, problem=printable(message_of(error.what, action=error.remedy)))


def _weights_file(path: Path, data: bytes, kind: str) -> Mapping[str, Any]:
    if kind not in _LOADABLE:
        raise ArtifactError(f"it is not a PyTorch file of weights, but: {kind}")
    return safe_load.loaded(path, data)


def kind_of_bytes(data: bytes) -> str:
    """The kind of a file by its first and last bytes, in a few words."""
    if data.startswith(_ZIP):
        return _kind_of_zip(data)
    header_bytes = int.from_bytes(data[:8], "little")
    kinds = (
        (not data, "empty file"),
        *((data.startswith(signature), kind) for signature, kind in _SIGNATURES),
        (data[:1] == b"\x08" and b"pytorch" in data[:_SAMPLE_BYTES], "ONNX model"),
        (data[:1] == b"\x80", _LOADABLE[1]),
        (data[8:9] == b"{" and 8 + header_bytes <= len(data), "safetensors file"),
        (_is_text(data[:_SAMPLE_BYTES]), "text"),
    )
    return next((kind for holds, kind in kinds if holds), "unknown bytes")


def refused_globals(data: bytes) -> tuple[str, ...]:
    """Global names in the pickle of a PyTorch file that a safe load refuses; the pickle is read, not loaded."""
    # works for intact archives only; for others the load gives the reason
    with suppress(Exception):
        named = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data))
        return tuple(sorted(set(named) - safe_load.NUMPY_NAMES))
    return ()


def _kind_of_zip(data: bytes) -> str:
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except zipfile.BadZipFile:
        return "PyTorch file or archive, truncated"
    members = {name.partition("/")[2] for name in names}
    if "constants.pkl" in members:
        return "TorchScript program"
    if "archive_format" in members:
        return "torch.export program"
    return _LOADABLE[0] if "data.pkl" in members else "zip archive"


def _is_text(sample: bytes) -> bool:
    with suppress(UnicodeDecodeError):
        return all(character.isprintable() or character.isspace() for character in sample.decode())
    return False


def _checksum(path: Path, data: bytes) -> str:
    stored = stored_checksum(path)
    if stored is None:
        return "none"
    return "agrees" if stored == hashlib.sha256(data).hexdigest() else "differs"


def _shapes(found: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {printable(name): tuple(tensor.shape) for name, tensor in bundle.state_in(found).items()}
