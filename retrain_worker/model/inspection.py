"""What any file is that somebody calls a model: read with suspicion, described for a person, never executed.

First the bytes are looked at (empty, cut short, another kind of file), then what a safe load makes of them (whose file,
which tensors, which objects it refuses), then whether `bundle.read` would trust it. Each step that fails says why.
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

from retrain_worker.domain.artifact import checksum_file
from retrain_worker.domain.printable import printable
from retrain_worker.domain.worker_protocol import UNNAMED, FileReport
from retrain_worker.errors import ArtifactError
from retrain_worker.model import bundle, presets

#: first bytes of files that are no models, however they are called
_SIGNATURES = (
    (b"SQLite format 3\0", "SQLite database"),
    (b"\x89HDF\r\n\x1a\n", "HDF5 file"),
    (b"\x1f\x8b", "gzip file"),
    (b"\x7fELF", "program"),
)
#: what a safe load can make something of
_LOADABLE = ("PyTorch file", "PyTorch file of before 1.6, or another pickle")
_ZIP = b"PK\x03\x04"
_SAMPLE_BYTES = 512


def inspect(path: Path) -> FileReport:
    """What `path` is, and whether it can be trusted as a model. Never raises ArtifactError: the report says it."""
    report = FileReport(path=printable(path), kind="not readable", problem="")
    try:
        data = bundle.bytes_of(path)
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
        # this is about the file, not about the rows: one of the older scripts' need not name its features
        read = bundle.read(path, feature_names=(UNNAMED,) * presets.ENGINE_INPUTS)
        return replace(
            report,
            manifest=read.manifest,
            canary_error=read.canary_error(),
            parameters=sum(tensor.numel() for tensor in read.model.parameters()),
        )
    except ArtifactError as error:
        return replace(report, problem=error.what.removeprefix("this model file cannot be used: "))


def _weights_file(path: Path, data: bytes, kind: str) -> Mapping[str, Any]:
    if kind not in _LOADABLE:
        raise ArtifactError(f"it is no PyTorch file of weights: {kind}")
    return bundle.loaded(path, data)


def kind_of_bytes(data: bytes) -> str:
    """What a file is by its first and last bytes, a few words."""
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
    """Global names in the pickle of a PyTorch file that a safe load refuses; found by reading, not by loading."""
    # it can only look into sound archives; what is wrong with others, the load says
    with suppress(Exception):
        return tuple(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data))))
    return ()


def _kind_of_zip(data: bytes) -> str:
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except zipfile.BadZipFile:
        return "PyTorch file or archive, cut short"
    ends = {name.partition("/")[2] for name in names}
    if "constants.pkl" in ends:
        return "TorchScript program"
    if "archive_format" in ends:
        return "torch.export program"
    return _LOADABLE[0] if "data.pkl" in ends else "zip archive"


def _is_text(sample: bytes) -> bool:
    with suppress(UnicodeDecodeError):
        return all(character.isprintable() or character.isspace() for character in sample.decode())
    return False


def _checksum(path: Path, data: bytes) -> str:
    beside = checksum_file(path)
    if not beside.is_file():
        return "none"
    words = beside.read_text(encoding="utf-8", errors="replace").split()
    return "agrees" if words and words[0].lower() == hashlib.sha256(data).hexdigest() else "differs"


def _shapes(found: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in bundle.state_in(found).items()}
