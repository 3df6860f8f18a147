"""A model file in the format of another runtime, believed only after it gave the recorded answers when read back.

Each export takes raw windows (B, T, F), as our own file does, and answers P(label = 1) (B,): the input transform and
the calibration are inside. Only safetensors holds no program: the weights, with the network's config in its header.
The file appears under its name after the check, or not at all.
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

from retrain_worker.domain.worker_protocol import ExportFormat, ExportRequest, ExportResult
from retrain_worker.errors import ArtifactError, ContractError, UsageError
from retrain_worker.model import bundle, patchtst
from retrain_worker.model.bundle import Bundle
from retrain_worker.model.patchtst import PatchTST, PatchTSTConfig

#: of the ONNX graph: what onnxruntime, TensorRT and OpenVINO of 2024 read
ONNX_OPSET = 18
INSTALL = "pip install 'retrain-worker[export]'"

Windows = NDArray[np.float32]
Answers = NDArray[np.float64]
#: raw windows in, probabilities out, by what was written
Reader = Callable[[Windows], Answers]


def export(request: ExportRequest) -> ExportResult:
    """Write the model as `request` says, read it back, compare with the canary.

    Raises UsageError (the output is there already, a package is missing), ArtifactError (the model file is not sound,
    or the written one answers otherwise), ContractError (a file of the older scripts has no canary to check against).
    """
    output = Path(request.output_path)
    if output.exists():
        raise UsageError("it is there already", where=str(output), remedy="name another with --out, or remove it")
    model_file = bundle.read(Path(request.model_path))
    if model_file.canary is None:
        raise ContractError(
            "it has no recorded answers to check an export against",
            where=str(model_file.path),
            remedy="export a file that this program has trained",
        )
    write = {
        ExportFormat.ONNX: _write_onnx,
        ExportFormat.TORCH_EXPORT: _write_torch_export,
        ExportFormat.SAFETENSORS: _write_safetensors,
    }[request.format]
    with _appearing(output) as temporary:
        try:
            answer = write(model_file, temporary)
        except ImportError as error:
            raise UsageError(
                f"--format {request.format} needs a package that is not installed ({error.name})",
                where="export",
                remedy=INSTALL,
            ) from error
        error_found = _largest_difference(answer, model_file)
        if error_found > bundle.CANARY_TOLERANCE:
            raise ArtifactError(
                f"the {request.format} file answers otherwise than its model: its canary differs by {error_found:.3g}, "
                f"more than {bundle.CANARY_TOLERANCE:g}; it was thrown away",
                where=str(output),
            )
        data = temporary.read_bytes()
    return ExportResult(
        output_path=str(output),
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        canary_error=error_found,
        canary_windows=len(model_file.canary.windows),
    )


@contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """A temporary name beside `output`, which takes that name durably when all went well."""
    temporary = output.with_name(f".{output.stem}.{os.getpid()}.tmp{output.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def _largest_difference(answer: Reader, model_file: Bundle) -> float:
    """Over the whole canary at once, and over its first window alone: an export must take any number of windows."""
    canary = model_file.canary
    assert canary is not None, "checked before anything was written"
    differences = np.concatenate(
        [
            np.abs(answer(canary.windows) - canary.probabilities),
            np.abs(answer(canary.windows[:1]) - canary.probabilities[:1]),
        ]
    )
    return float(np.max(np.where(np.isfinite(differences), differences, np.inf)))


class _Answering(nn.Module):
    """The model with a probability at its end."""

    def __init__(self, model: PatchTST) -> None:
        super().__init__()
        self.model = model

    def forward(self, windows: Tensor) -> Tensor:
        """P(label = 1) (B,) of raw windows (B, T, F)."""
        return torch.sigmoid(self.model(windows))


def _described(model_file: Bundle) -> dict[str, str]:
    """What a consumer must know, as texts."""
    contract, manifest = model_file.contract, model_file.manifest
    return {
        "format": manifest.format,
        "version": manifest.version,
        "source_sha256": manifest.sha256,
        "feature_names": json.dumps(contract.feature_names),
        "context_length": str(contract.context_length),
        "label": str(contract.label),
        "thresholds": json.dumps(asdict(manifest.thresholds)),
        "config": json.dumps(msgspec.to_builtins(dict(manifest.config))),
    }


# ---------------------------------------------------------------- formats: each writes, and returns how to ask


def _write_onnx(model_file: Bundle, path: Path) -> Reader:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401 (torch's exporter needs it; missing, it is said like the others)

    with _quietly():
        program = torch.onnx.export(
            _Answering(model_file.model).eval(),
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

    def answer(windows: Windows) -> Answers:
        return np.asarray(session.run(["probabilities"], {"windows": windows})[0], dtype=np.float64)

    return answer


def _write_torch_export(model_file: Bundle, path: Path) -> Reader:
    with _quietly():
        program = torch.export.export(
            _Answering(model_file.model).eval(),
            (_example(model_file),),
            dynamic_shapes={"windows": {0: torch.export.Dim("batch")}},
        )
        torch.export.save(program, path, extra_files={"model.json": json.dumps(_described(model_file))})
        module = torch.export.load(path).module()

    def answer(windows: Windows) -> Answers:
        with torch.inference_mode():
            found: Answers = module(torch.from_numpy(windows)).double().numpy()
        return found

    return answer


def _write_safetensors(model_file: Bundle, path: Path) -> Reader:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    state = {name: tensor.contiguous() for name, tensor in model_file.model.state_dict().items()}
    save_file(state, path, metadata=_described(model_file))
    with safe_open(path, framework="pt") as file:
        config = PatchTSTConfig(**json.loads(file.metadata()["config"]))
    model = PatchTST(config)
    model.load_state_dict(load_file(path), strict=True)
    return lambda windows: patchtst.probabilities(model, windows)


def _example(model_file: Bundle) -> Tensor:
    """A batch of two: torch takes a dimension of one for a constant."""
    assert model_file.canary is not None, "checked before anything was written"
    return torch.from_numpy(np.resize(model_file.canary.windows, (2, *model_file.canary.windows.shape[1:])))


@contextmanager
def _quietly() -> Iterator[Any]:
    """The exporters talk about their own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
