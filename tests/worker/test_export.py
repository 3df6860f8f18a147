"""An export reproduces its model's answers in its own runtime, or it is removed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from retrain_worker.domain.worker_protocol import ExportFormat, ExportRequest
from retrain_worker.errors import ArtifactError, ContractError, UsageError
from retrain_worker.model import bundle, export, patchtst
from tests.worker.test_bundle import CONTRACTS, NAMES, engine_state, windows, written


def request(model: Path, wanted: ExportFormat = ExportFormat.SAFETENSORS) -> ExportRequest:
    return ExportRequest(model_path=str(model), format=wanted, output_path=str(model.with_name("out.bin")))


#: the engine's ONNX file has a test of its own
PAIRS = [
    ("standardise", ExportFormat.ONNX),
    ("standardise", ExportFormat.TORCH_EXPORT),
    ("instance", ExportFormat.TORCH_EXPORT),
    ("engine", ExportFormat.TORCH_EXPORT),
    *((kind, ExportFormat.SAFETENSORS) for kind in CONTRACTS),
]


@pytest.mark.parametrize(("kind", "wanted"), PAIRS)
def test_each_format_reproduces_the_canary_of_each_preset(tmp_path: Path, kind: str, wanted: ExportFormat) -> None:
    model = written(tmp_path, kind)
    result = export.export(request(model, wanted))
    assert result.canary_error < 1e-6
    assert result.canary_windows == 16
    assert Path(result.output_path).stat().st_size == result.size_bytes
    assert not list(tmp_path.glob(".*"))


def test_an_onnx_file_is_self_contained_and_accepts_any_batch_size(tmp_path: Path) -> None:
    model = written(tmp_path, "engine")
    path = export.export(request(model, ExportFormat.ONNX)).output_path
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 5, 20):
        raw = windows(128, count)
        (answers,) = session.run(None, {"windows": raw})
        np.testing.assert_allclose(answers, bundle.read(model).probabilities(raw), atol=1e-6)
    facts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert facts["feature_names"] == '["rsi", "ma_cross", "volatility", "returns_1h"]'
    assert facts["source_sha256"] == bundle.read(model).manifest.sha256


def test_an_export_that_does_not_reproduce_the_canary_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = written(tmp_path)
    actual = patchtst.probabilities
    monkeypatch.setattr(patchtst, "probabilities", lambda *given, **named: actual(*given, **named) + 2e-5)
    monkeypatch.setattr(bundle.Bundle, "canary_error", lambda _self: 0.0)
    with pytest.raises(ArtifactError, match=r"differ by 2e-05.*removed"):
        export.export(request(model))
    assert not list(tmp_path.glob("*out*"))


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"onnxscript.*pip install '/path/to/retrain_worker\[export\]'"):
        export.export(request(written(tmp_path), ExportFormat.ONNX))


def test_what_cannot_be_checked_or_would_be_overwritten_is_not_written(tmp_path: Path) -> None:
    model = written(tmp_path)
    export.export(request(model))
    before = (tmp_path / "out.bin").read_bytes()
    with pytest.raises(UsageError, match="the file exists"):
        export.export(request(model, ExportFormat.TORCH_EXPORT))
    assert (tmp_path / "out.bin").read_bytes() == before
    older = tmp_path / "older.pth"
    torch.save({"model_state_dict": engine_state(), "feature_names": list(NAMES)}, older)
    with pytest.raises(ContractError, match="no canary"):
        export.export(
            ExportRequest(model_path=str(older), format=ExportFormat.ONNX, output_path=str(tmp_path / "older.onnx"))
        )
