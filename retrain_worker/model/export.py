"""Export of a model to the format of another runtime, kept only if the written file reproduces the canary.

Each export takes raw windows (B, T, F), as the model file does, and returns P(label = 1) (B,): the input transform and
the calibration are included. A safetensors file holds no program, but the weights, and the network's config in its
header. The file appears under its name after the check, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from retrain_worker import typed_json
from retrain_worker.domain.artifact import CANARY_TOLERANCE
from retrain_worker.domain.worker_protocol import ExportFormat, ExportRequest, ExportResult
from retrain_worker.errors import ArtifactError, ContractError, UsageError, install_extra
from retrain_worker.model import bundle, patchtst
from retrain_worker.model.bundle import Bundle
from retrain_worker.model.patchtst import PatchTST, PatchTSTConfig

#: of the ONNX graph: what onnxruntime, TensorRT and OpenVINO of 2024 read
ONNX_OPSET = 18

Windows = NDArray[np.float32]
Probabilities = NDArray[np.float64]
#: computes probabilities with the written file
Predict = Callable[[Windows], Probabilities]


def export(request: ExportRequest) -> ExportResult:
    """Write the model in the requested format, read it back, compare with the canary.

    Raises UsageError (the output exists, a package is missing), ArtifactError (the model file is not valid, or the
    written one does not reproduce the canary), ContractError (a file of the older scripts has no canary).
    """
    output = Path(request.output_path)
    if output.exists():
        raise UsageError("the file exists", where=str(output), remedy="name another with --out, or remove it")
    model_file = bundle.read(Path(request.model_path))
    if model_file.canary is None:
        raise ContractError(
            "it has no canary that an export could be checked against",
            where=str(model_file.path),
            remedy="export a model that this program trained",
        )
    write = {
        ExportFormat.ONNX: _write_onnx,
        ExportFormat.TORCH_EXPORT: _write_torch_export,
        ExportFormat.SAFETENSORS: _write_safetensors,
    }[request.format]
    with _appearing(output) as temporary:
        try:
            predict = write(model_file, temporary)
        except ImportError as error:
            raise UsageError(
                f"--format {request.format} needs a package that is not installed ({error.name})",
                where="export",
                remedy=install_extra("export"),
            ) from error
        canary_error = _largest_difference(predict, model_file)
        if canary_error > CANARY_TOLERANCE:
            raise ArtifactError(
                f"the answers of the {request.format} file to the canary differ by {canary_error:.3g}, more than "
                f"{CANARY_TOLERANCE:g}; the file was removed",
                where=str(output),
            )
        data = temporary.read_bytes()
    return ExportResult(
        output_path=str(output),
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        canary_error=canary_error,
        canary_windows=len(model_file.canary.windows),
    )


@contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """A temporary file beside `output`, renamed to it durably if the block raises nothing."""
    temporary = output.with_name(f".{output.stem}.{os.getpid()}.tmp{output.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def _largest_difference(predict: Predict, model_file: Bundle) -> float:
    """Over the whole canary in one batch, and over its first window alone: an export accepts any batch size."""
    canary = model_file.canary
    assert canary is not None, "checked before anything was written"
    differences = np.concatenate(
        [
            np.abs(predict(canary.windows) - canary.probabilities),
            np.abs(predict(canary.windows[:1]) - canary.probabilities[:1]),
        ]
    )
    return float(np.max(np.where(np.isfinite(differences), differences, np.inf)))


class _WithSigmoid(nn.Module):
    """The model with a sigmoid after its logits."""

    def __init__(self, model: PatchTST) -> None:
        super().__init__()
        self.model = model

    def forward(self, windows: Tensor) -> Tensor:
        """P(label = 1) (B,) of raw windows (B, T, F)."""
        return torch.sigmoid(self.model(windows))


def _described(model_file: Bundle) -> dict[str, str]:
    """What a consumer needs beside the weights, as texts."""
    contract, manifest = model_file.contract, model_file.manifest
    return {
        "format": manifest.format,
        "version": manifest.version,
        "source_sha256": manifest.sha256,
        "feature_names": json.dumps(contract.feature_names),
        "context_length": str(contract.context_length),
        "label": str(contract.label),
        "thresholds": json.dumps(asdict(manifest.thresholds)),
        "config": msgspec.json.encode(manifest.config).decode(),
    }


# ---------------------------------------------------------------- formats: each writes, and returns its prediction


def _write_onnx(model_file: Bundle, path: Path) -> Predict:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401 (needed by torch's exporter; imported here so that its absence is reported)

    with _silent():
        program = torch.onnx.export(
            _WithSigmoid(model_file.model).eval(),
            (_example(model_file),),
            dynamo=True,
            opset_version=ONNX_OPSET,
            input_names=["windows"],
            output_names=["probabilities"],
            dynamic_shapes={"windows": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None, "dynamo=True returns a program"
    proto = program.model_proto
    onnx.helper.set_model_props(proto, _described(model_file))
    onnx.checker.check_model(proto, full_check=True)
    onnx.save_model(proto, str(path))

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def predict(windows: Windows) -> Probabilities:
        return np.asarray(session.run(["probabilities"], {"windows": windows})[0], dtype=np.float64)

    return predict


def _write_torch_export(model_file: Bundle, path: Path) -> Predict:
    with _silent():
        program = torch.export.export(
            _WithSigmoid(model_file.model).eval(),
            (_example(model_file),),
            dynamic_shapes={"windows": {0: torch.export.Dim("batch")}},
        )
        torch.export.save(program, path, extra_files={"model.json": json.dumps(_described(model_file))})
        module = torch.export.load(path).module()

    def predict(windows: Windows) -> Probabilities:
        with torch.inference_mode():
            found: Probabilities = module(torch.from_numpy(windows)).double().numpy()
        return found

    return predict


def _write_safetensors(model_file: Bundle, path: Path) -> Predict:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    state = {name: tensor.contiguous() for name, tensor in model_file.model.state_dict().items()}
    save_file(state, path, metadata=_described(model_file))
    with safe_open(path, framework="pt") as file:
        config = typed_json.decode(file.metadata()["config"], PatchTSTConfig)
    model = PatchTST(config)
    model.load_state_dict(load_file(path), strict=True)
    return lambda windows: patchtst.probabilities(model, windows)


def _example(model_file: Bundle) -> Tensor:
    """A batch of two: torch treats a dimension of size one as constant."""
    assert model_file.canary is not None, "checked before anything was written"
    return torch.from_numpy(np.resize(model_file.canary.windows, (2, *model_file.canary.windows.shape[1:])))


@contextmanager
def _silent() -> Iterator[Any]:
    """Suppress warnings and log messages of the exporters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
