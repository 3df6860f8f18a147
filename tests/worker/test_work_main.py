"""The worker process: exit codes, result files, and an end whenever the daemon wants one or is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.recipe import Preset, Recipe
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.worker_protocol import (
    AuditRequest,
    DatabaseAccess,
    GateMeasured,
    GateRequest,
    Progress,
    PullRequest,
    TrainRequest,
    TrainResult,
    TrialEvaluationRequest,
    VerifyRequest,
    WorkerExit,
)
from retrain_worker.model import bundle
from tests.worker.synthetic_market import saved
from tests.worker.trading_database import make_database, make_rows, request_for, url_of

RECIPE = Recipe(preset=Preset.PAPER, seq_len=32, max_epochs=4, patience=4, batch_size=64, threads=1, device="cpu")


def train_request(folder: Path, **changes: Any) -> TrainRequest:
    values: dict[str, Any] = {
        "run_id": "20261123_031400",
        "run_dir": str(folder),
        "version": "patchtst_v20261123_031400",
        "data": DataPolicy(),
        "split": SplitPolicy(backtest_folds=0),
        "recipe": RECIPE,
        "checkpoint_dir": str(folder / "checkpoints"),
        "incumbent_path": None,
    }
    return TrainRequest(**(values | changes))


class Worker:
    """One worker, its stdin held open as the daemon holds it."""

    def __init__(
        self,
        folder: Path,
        stage: str,
        request: Any,
        *,
        program: tuple[str, ...] = ("-m", "retrain_worker.worker"),
        database_url: str | None = None,
    ) -> None:
        self.result_path = folder / "result.json"
        self.result_path.unlink(missing_ok=True)
        request_path = folder / "request.json"
        request_path.write_bytes(msgspec.json.encode({"stage": stage, "request": request}))
        self.process = subprocess.Popen(
            [sys.executable, *program, str(request_path), str(self.result_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if database_url is not None:
            assert self.process.stdin is not None
            access = DatabaseAccess(url=os.fsencode(database_url))
            print(msgspec.json.encode(access).decode(), file=self.process.stdin, flush=True)

    def lines(self) -> Iterator[str]:
        assert self.process.stdout is not None
        return iter(self.process.stdout)

    def ended(self, *, closes_stdin: bool = False) -> int:
        """Its exit code; communicate() would close stdin, which means something here."""
        if closes_stdin:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.stdin = None
        code = self.process.wait(timeout=120)
        self.log = self.process.stderr.read() if self.process.stderr else ""
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return code

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.result_path.read_bytes())
        return found


def test_train_and_gate_hand_over_typed_results(tmp_path: Path) -> None:
    saved(tmp_path)
    worker = Worker(tmp_path, "TRAIN", train_request(tmp_path))
    progress = [msgspec.json.decode(line, type=Progress) for line in worker.lines()]
    assert worker.ended() == WorkerExit.DONE, worker.log
    assert len(progress) == RECIPE.max_epochs
    assert (worker.result()["kind"], worker.result()["stage"]) == ("result", "TRAIN")
    trained = msgspec.convert(worker.result()["result"], TrainResult)
    bundle.read(Path(trained.model_path), expected_sha256=trained.manifest.sha256)

    gate = GateRequest(
        run_id="20261123_031400",
        run_dir=str(tmp_path),
        candidate_path=trained.model_path,
        incumbent_path=None,
        data=DataPolicy(),
        split=SplitPolicy(),
        recipe=RECIPE,
        policy=GatePolicy(),
    )
    worker = Worker(tmp_path, "GATE", gate)
    assert worker.ended() == WorkerExit.DONE, worker.log
    measured = msgspec.convert(worker.result()["result"], GateMeasured)
    assert measured.evidence.candidate.auc is not None
    assert measured.evidence.candidate.auc > 0.6


def test_an_error_of_ours_comes_back_by_name(tmp_path: Path) -> None:
    worker = Worker(tmp_path, "TRAIN", train_request(tmp_path / "nowhere"))
    assert worker.ended() == WorkerExit.ERROR
    assert worker.result()["kind"] == "error"
    assert worker.result()["error"]["kind"] == "DataUnfitError"
    assert "snapshot" in worker.result()["error"]["what"]


def test_a_request_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    worker = Worker(tmp_path, "DANCE", {})
    assert worker.ended() == WorkerExit.ERROR
    assert worker.result()["error"]["kind"] == "UsageError"


def test_an_unknown_exception_leaves_a_traceback_and_no_result(tmp_path: Path) -> None:
    saved(tmp_path)
    worker = Worker(tmp_path, "TRAIN", train_request(tmp_path, recipe=replace(RECIPE, batch_size=0)))
    assert worker.ended() == 1
    assert "ZeroDivisionError" in worker.log
    assert not worker.result_path.exists()


def test_a_memory_limit_ends_in_an_error_that_names_memory(tmp_path: Path) -> None:
    saved(tmp_path, per_symbol=3000)
    greedy = replace(RECIPE, batch_size=100_000, seq_len=512)
    worker = Worker(tmp_path, "TRAIN", train_request(tmp_path, recipe=greedy, memory_limit_bytes=700 * 2**20))
    assert worker.ended() == WorkerExit.ERROR, worker.log
    error = worker.result()["error"]
    assert error["kind"] == "MemoryError"
    assert "memory" in error["what"]


def test_a_pull_keeps_within_the_smallest_memory_limit_that_the_settings_allow(tmp_path: Path) -> None:
    """The limit counts address space that is reserved and never used; every page reserves some."""
    path = make_database(tmp_path / "t.db", make_rows(20_000))
    request = replace(request_for(tmp_path / "run"), memory_limit_bytes=512 << 20)
    worker = Worker(tmp_path, "PULL", request, database_url=url_of(path))
    assert worker.ended() == WorkerExit.DONE, worker.log
    assert worker.result()["result"]["loaded"] == 20_000


#: asks for more than any limit below, whatever the stage
GREEDY = """
import sys
from retrain_worker.worker import __main__ as work
work._run = lambda request, database_url, report, stopping, rank: len(bytearray(400 << 20))
sys.exit(work.main(sys.argv[1:]))
"""


def requests_of_every_stage(folder: Path, *, limit_bytes: int) -> dict[str, Any]:
    where: dict[str, Any] = {"run_id": "20261123_031400", "run_dir": str(folder), "memory_limit_bytes": limit_bytes}
    now, data, policy = "2026-11-23T03:14:00+00:00", DataPolicy(), GatePolicy()
    look = TrialEvaluationRequest(
        **where,
        number=1,
        model_path="",
        reference_path=None,
        since=now,
        prediction_log="a",
        now=now,
        data=data,
        policy=policy,
        prior=0.5,
        worse_alpha=0.05,
    )
    return {
        "PULL": PullRequest(**where, policy=data, watermark_path=None, now=now),
        "AUDIT": AuditRequest(**where, policy=data, now=now),
        "TRAIN": train_request(folder, memory_limit_bytes=limit_bytes),
        "GATE": GateRequest(
            **where,
            candidate_path="",
            incumbent_path=None,
            data=data,
            split=SplitPolicy(),
            recipe=RECIPE,
            policy=policy,
        ),
        "SHADOW": look,
        "PROBATION": look,
        "VERIFY": VerifyRequest(request_id="a", model_path="", expected_sha256=None, memory_limit_bytes=limit_bytes),
    }


@pytest.mark.parametrize("stage", ["PULL", "AUDIT", "TRAIN", "GATE", "SHADOW", "PROBATION", "VERIFY"])
def test_every_child_keeps_to_the_memory_limit(tmp_path: Path, stage: str) -> None:
    for limit_bytes, code in ((200 << 20, WorkerExit.ERROR), (0, WorkerExit.DONE)):
        request = requests_of_every_stage(tmp_path, limit_bytes=limit_bytes)[stage]
        reads_database = stage in {"PULL", "SHADOW", "PROBATION"}
        worker = Worker(tmp_path, stage, request, program=("-c", GREEDY), database_url="" if reads_database else None)
        assert worker.ended() == code, worker.log
        found = worker.result()
        assert found.get("error", {}).get("kind", "no error") == ("MemoryError" if limit_bytes else "no error")


LONG = replace(RECIPE, max_epochs=10, patience=10, dropout=0.2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    folder = tmp_path_factory.mktemp("undisturbed")
    saved(folder)
    worker = Worker(folder, "TRAIN", train_request(folder, recipe=LONG))
    assert worker.ended() == WorkerExit.DONE, worker.log
    return msgspec.convert(worker.result()["result"], TrainResult)


@pytest.mark.parametrize("how", ["SIGTERM", "stdin closed", "SIGKILL"])
def test_a_stopped_training_goes_on_and_ends_in_the_same_bits(
    tmp_path: Path, how: str, undisturbed: TrainResult
) -> None:
    saved(tmp_path)
    broken = Worker(tmp_path, "TRAIN", train_request(tmp_path, recipe=LONG))
    next(broken.lines())  # one epoch is done and saved
    if how == "stdin closed":
        assert broken.ended(closes_stdin=True) == WorkerExit.INTERRUPTED
    else:
        broken.process.send_signal(signal.Signals[how])
        assert broken.ended() == (WorkerExit.INTERRUPTED if how == "SIGTERM" else -signal.SIGKILL)
    assert not broken.result_path.exists()
    assert not (tmp_path / "candidate").exists()
    resumed = Worker(tmp_path, "TRAIN", train_request(tmp_path, recipe=LONG))
    epochs = [json.loads(line)["fields"]["number"] for line in resumed.lines()]
    assert resumed.ended() == WorkerExit.DONE, resumed.log

    assert epochs[0] > 1
    assert epochs[-1] == LONG.max_epochs
    found = msgspec.convert(resumed.result()["result"], TrainResult)
    assert found.manifest.training["weights_sha256"] == undisturbed.manifest.training["weights_sha256"]


def test_the_child_offers_itself_to_the_out_of_memory_killer(tmp_path: Path) -> None:
    saved(tmp_path)
    worker = Worker(tmp_path, "TRAIN", train_request(tmp_path, recipe=replace(RECIPE, max_epochs=50, patience=50)))
    next(worker.lines())
    assert int(Path(f"/proc/{worker.process.pid}/oom_score_adj").read_text()) == 800
    assert worker.ended(closes_stdin=True) == WorkerExit.INTERRUPTED


def test_a_pull_whose_daemon_has_ended_before_it_gave_the_database_is_interrupted(tmp_path: Path) -> None:
    worker = Worker(tmp_path, "PULL", request_for(tmp_path / "run"))
    assert worker.ended(closes_stdin=True) == WorkerExit.INTERRUPTED, worker.log
    assert not worker.result_path.exists()


def test_pull_and_audit_start_without_torch() -> None:
    program = "import sys; import retrain_worker.worker.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
