"""How the worker computes: bf16 where it pays, nothing written and executed where that is forbidden."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.recipe import InputTransform, Precision, Preset, Recipe
from retrain_worker.domain.report_request import ReportRequest, RunPage
from retrain_worker.domain.worker_protocol import GateRequest, InspectRequest, TrainResult, VerifyRequest, WorkerExit
from retrain_worker.model import presets
from retrain_worker.worker import compute, inference
from retrain_worker.worker.training import loop, process_group
from retrain_worker.worker.training.train import train
from tests.slot_home import write_model
from tests.unit.test_report import promoted
from tests.worker.synthetic_market import saved
from tests.worker.test_training import RECIPE, Journal, never, request, weights_of

CPU = torch.device("cpu")
ENGINE = presets.engine(num_features=4)
PAPER = presets.paper(num_features=4, context_length=64, input_transform=InputTransform.STANDARDISE)
#: starts python with the arguments that follow, as MemoryDenyWriteExecute= does it: PR_SET_MDWE, refuse exec gain
FORBIDDEN = (
    sys.executable,
    "-c",
    """
import ctypes, os, sys
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0):
    raise OSError(ctypes.get_errno(), "PR_SET_MDWE")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
""",
)


# ---------------------------------------------------------------- precision


@pytest.fixture
def amx(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    def pretend(has: bool) -> None:
        monkeypatch.setattr(compute, "_has_bf16_units", lambda: has)

    return pretend


@pytest.mark.parametrize(
    ("asked", "config", "batch_size", "has_units", "expected"),
    [
        (Precision.AUTO, ENGINE, 128, True, Precision.BF16),
        (Precision.AUTO, ENGINE, 32, True, Precision.FP32),
        (Precision.AUTO, PAPER, 128, True, Precision.FP32),
        (Precision.AUTO, ENGINE, 128, False, Precision.FP32),
        (Precision.FP32, ENGINE, 128, True, Precision.FP32),
        (Precision.BF16, PAPER, 8, True, Precision.BF16),
        (Precision.BF16, ENGINE, 128, False, Precision.FP32),
    ],
)
def test_bf16_is_used_where_it_is_there_and_pays(
    amx: Callable[[bool], None], asked: Precision, config: Any, batch_size: int, has_units: bool, expected: Precision
) -> None:
    amx(has_units)
    assert compute.precision_for(asked, config, batch_size=batch_size, device=CPU) is expected
    assert compute.precision_for(asked, config, batch_size=batch_size, device=torch.device("cuda")) is Precision.FP32


def test_without_onednn_there_is_no_bf16(amx: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch) -> None:
    amx(True)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert compute.precision_for(Precision.BF16, ENGINE, batch_size=128, device=CPU) is Precision.FP32


@pytest.mark.skipif(not compute._has_bf16_units(), reason="this CPU has no AMX")
def test_products_are_rounded_only_inside() -> None:
    a, b = torch.randn(256, 128), torch.randn(128, 256)
    exact = a @ b
    with compute.products_in(Precision.BF16):
        rounded = a @ b
    assert torch.equal(a @ b, exact)
    assert 1e-4 < float((rounded - exact).abs().max()) < 0.5
    with compute.products_in(Precision.FP32):
        assert torch.equal(a @ b, exact)


def test_epochs_are_judged_in_fp32_and_the_precision_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, per_symbol=500)
    at_judging, at_learning = [], []
    logits_at, one_epoch = inference.logits_at, loop._one_epoch

    mkldnn: Any = torch.backends.mkldnn

    def judged(*arguments: Any) -> Any:
        at_judging.append(mkldnn.matmul.fp32_precision)
        return logits_at(*arguments)

    def learned(*arguments: Any, **more: Any) -> Any:
        at_learning.append(mkldnn.matmul.fp32_precision)
        return one_epoch(*arguments, **more)

    monkeypatch.setattr(process_group, "logits_at", judged)
    monkeypatch.setattr(loop, "_one_epoch", learned)
    monkeypatch.setattr(compute, "_has_bf16_units", lambda: True)
    recipe = dataclasses.replace(RECIPE, max_epochs=2, precision=Precision.BF16)
    result = train(request(tmp_path, recipe=recipe), Journal(), never)
    assert set(at_learning) == {"bf16"}
    assert "bf16" not in at_judging
    assert result.manifest.training["precision"] == "bf16"
    assert result.manifest.training["threads"] == 1


@pytest.mark.skipif(not compute._has_bf16_units(), reason="this CPU has no AMX")
def test_bf16_gives_the_same_bits_each_time(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, preset=Preset.ENGINE, max_epochs=1, precision=Precision.BF16, threads=2)
    found = []
    for name in ("first", "second"):
        saved(tmp_path / name, per_symbol=500)
        found.append(weights_of(train(request(tmp_path / name, recipe=recipe), Journal(), never)))
    assert found[0] == found[1]


# ---------------------------------------------------------------- MemoryDenyWriteExecute=


def log_of_worker(command: tuple[str, ...], folder: Path, content: dict[str, Any]) -> str:
    """The log of a worker that has carried out the request `content`."""
    (folder / "request.json").write_bytes(msgspec.json.encode(content))
    with subprocess.Popen(
        [*command, "-m", "retrain_worker.worker", str(folder / "request.json"), str(folder / "result.json")],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # this process has imported the worker, which sets some for its own libraries
        env={name: value for name, value in os.environ.items() if not name.startswith("POLARS_")},
    ) as worker:
        assert worker.stderr is not None
        log = worker.stderr.read()
    assert worker.returncode == WorkerExit.DONE, log
    return log


def test_under_memory_deny_write_execute_training_works_in_fp32_and_learns_the_same(tmp_path: Path) -> None:
    recipe = Recipe(preset=Preset.PAPER, seq_len=32, max_epochs=2, batch_size=64, device="cpu", threads=2)
    found = {}
    for name, command in (("forbidden", FORBIDDEN), ("free", (sys.executable,))):
        folder = tmp_path / name
        saved(folder)
        precision = Precision.BF16 if command is FORBIDDEN else Precision.FP32
        asked = request(folder, recipe=dataclasses.replace(recipe, precision=precision))
        content = {"stage": "TRAIN", "request": asked}
        log = log_of_worker(command, folder, content)
        assert ("PRECISION=bf16 needs" in log) is (command is FORBIDDEN)
        found[name] = msgspec.convert(json.loads((folder / "result.json").read_bytes())["result"], TrainResult)
    assert found["forbidden"].manifest.training["precision"] == "fp32"
    assert found["forbidden"].validation_log_loss == pytest.approx(found["free"].validation_log_loss, abs=1e-3)

    folder = tmp_path / "forbidden"
    measured = GateRequest(
        run_id=asked.run_id,
        run_dir=str(folder),
        candidate_path=found["forbidden"].model_path,
        incumbent_path=None,
        data=asked.data,
        split=asked.split,
        recipe=asked.recipe,
        policy=GatePolicy(),
    )
    log_of_worker(FORBIDDEN, folder, {"stage": "GATE", "request": measured})
    evidence = json.loads((folder / "result.json").read_bytes())["result"]["evidence"]
    assert evidence["candidate"]["n"] > 0


@pytest.mark.parametrize("stage", ["VERIFY", "INSPECT"])
def test_a_model_is_verified_where_writing_and_executing_is_forbidden(tmp_path: Path, stage: str) -> None:
    model, sha256 = write_model(tmp_path, "patchtst_v20260101_000000", seed=1)
    requests = {
        "VERIFY": VerifyRequest(request_id="a", model_path=str(model), expected_sha256=sha256),
        "INSPECT": InspectRequest(paths=(bytes(model),)),
    }
    log_of_worker(FORBIDDEN, tmp_path, {"stage": stage, "request": requests[stage]})

    assert "primitive" not in (tmp_path / "result.json").read_text()


def test_pages_are_drawn_where_writing_and_executing_is_forbidden(tmp_path: Path) -> None:
    page = RunPage(run=promoted().run, run_dir=str(tmp_path), output_path=str(tmp_path / "report.html"))
    log_of_worker(FORBIDDEN, tmp_path, {"stage": "REPORT", "request": ReportRequest(runs=(page,))})

    text = (tmp_path / "report.html").read_text()
    assert "reliability diagram" in text
    assert "could not be drawn" not in text
