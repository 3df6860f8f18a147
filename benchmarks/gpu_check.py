"""What tests cannot check without a GPU: `make gpu-check`, under five minutes on a machine with one or more.

Each training runs in worker processes as the daemon starts them: on the CPU, on the GPU in fp32 and bf16, on the GPU
again with its worker killed after the first epoch, and in one process for each GPU. Checked: equal quality, equal bits
after the resumption, and the answers of a model on CPU and GPU to its canary. Exits with 0 (all passed), 1 (a check
failed) or 77 (there is no GPU; nothing was checked). `--device cpu` runs the same steps without a GPU, to test this
script: then, two processes stand for two GPUs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import torch

from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.domain.recipe import Precision, Preset, Recipe
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.worker_protocol import Done, PullRequest, TrainRequest, TrainResult, Working
from retrain_worker.model import bundle

NO_GPU = 77
ROWS = 12_000
END = datetime(2026, 1, 10, tzinfo=UTC)
#: the worker of one training may take this long
DEADLINE_SECONDS = 90.0
#: largest difference to the CPU's training: another device rounds otherwise, which changes the path of a training
MAX_LOSS_DIFFERENCE, MAX_AUC_DIFFERENCE = 0.02, 0.03
#: largest difference of a probability between CPU and GPU, in fp32
MAX_CANARY_DIFFERENCE = 1e-4
RECIPE = Recipe(preset=Preset.PAPER, max_epochs=3, patience=3, threads=0)


@dataclass
class Check:
    """The trainings of one market, and what failed."""

    home: Path
    device: str
    failures: int = 0

    def verdict(self, name: str, found: str, *, passed: bool) -> None:
        """Print a line of the table."""
        self.failures += not passed
        print(f"| {name} | {found} | {'passed' if passed else 'FAILED'} |", flush=True)

    def trained(
        self,
        name: str,
        *,
        device: str = "",
        precision: Precision = RECIPE.precision,
        launcher: str = "",
        is_killed: bool = False,
    ) -> TrainResult:
        """Train in a folder of its own. Raises RetrainError when the worker fails."""
        run_dir = self.home / name
        run_dir.mkdir()
        os.link(self.home / "snapshot.parquet", run_dir / "snapshot.parquet")
        request = TrainRequest(
            run_id=name,
            run_dir=str(run_dir),
            version=f"patchtst_v{name}",
            data=DataPolicy(train_window_days=0),
            split=SplitPolicy(backtest_folds=0),
            recipe=replace(RECIPE, device=device or self.device, precision=precision),
            checkpoint_dir=str(run_dir / "checkpoints"),
            incumbent_path=None,
        )
        workers = WorkerProcesses(
            deadline_seconds={Stage.TRAIN: DEADLINE_SECONDS}, launcher=tuple(launcher.split()), grace_seconds=5.0
        )
        started = time.perf_counter()
        while not isinstance(answer := workers.result_of(Stage.TRAIN, run_dir, request), Done):
            if isinstance(answer, Working):
                if is_killed and "epoch 1 of" in answer.message:
                    psutil.Process(workers.pid).kill()
                    is_killed = False
                time.sleep(0.02)
            elif (run_dir / "checkpoints" / f"{name}.checkpoint").exists() and "SIGKILL" in str(answer.error):
                print(f"  {name}: killed after the first epoch, and started again")
            else:
                raise answer.error
        result: TrainResult = answer.result
        seconds = time.perf_counter() - started
        print(f"  {name}: {seconds:.0f} s, log loss {result.validation_log_loss:.4f}, AUC {best_auc(result):.3f}")
        return result

    def compare(self, name: str, found: TrainResult, expected: TrainResult) -> None:
        """Whether both are of the same quality."""
        loss = found.validation_log_loss - expected.validation_log_loss
        auc = best_auc(found) - best_auc(expected)
        self.verdict(
            name,
            f"log loss {loss:+.4f}, AUC {auc:+.3f} beside the CPU",
            passed=loss < MAX_LOSS_DIFFERENCE and auc > -MAX_AUC_DIFFERENCE,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    device = parser.parse_args().device
    if device == "cuda" and not torch.cuda.is_available():
        print(f"gpu-check: nothing was checked: torch {torch.__version__} finds no CUDA device")
        return NO_GPU
    num_devices = torch.cuda.device_count() if device == "cuda" else 2
    names = [torch.cuda.get_device_name(each) for each in range(num_devices)] if device == "cuda" else ["CPU"]
    print(f"torch {torch.__version__}, {', '.join(names)}; {ROWS:,} rows, {RECIPE.max_epochs} epochs")
    with tempfile.TemporaryDirectory(prefix="gpu-check") as folder:
        check = Check(Path(folder), device)
        write_snapshot(check.home)
        on_cpu = check.trained("cpu", device="cpu")
        on_gpu = check.trained("fp32", precision=Precision.FP32)
        rounded = check.trained("bf16", precision=Precision.BF16)
        resumed = check.trained("resumed", precision=Precision.FP32, is_killed=True)
        all_devices = check.trained(
            "all", precision=Precision.FP32, launcher=f"torchrun --nproc-per-node {num_devices}"
        )

        print("\n| check | found | |\n|---|---|---|")
        check.compare("fp32 on the GPU", on_gpu, on_cpu)
        check.compare("bf16 on the GPU", rounded, on_cpu)
        ran_in = rounded.manifest.training["precision"]
        check.verdict("precision of the bf16 training", ran_in, passed=ran_in == "bf16" or device == "cpu")
        hashes = [each.manifest.training["weights_sha256"] for each in (on_gpu, resumed)]
        is_equal = hashes[0] == hashes[1]
        check.verdict("resumed after a kill", "same bits" if is_equal else "other bits", passed=is_equal)
        check.compare(f"{num_devices} processes, one for each GPU", all_devices, on_cpu)
        for result in (on_cpu, on_gpu):
            difference = canary_difference(result, device)
            name = f"canary of {Path(result.model_path).stem}, CPU against GPU"
            check.verdict(name, f"{difference:.1e}", passed=difference <= MAX_CANARY_DIFFERENCE)
    print("\ngpu-check: " + (f"{check.failures} checks failed" if check.failures else "all checks passed"))
    return 1 if check.failures else 0


def best_auc(result: TrainResult) -> float:
    return result.history[result.best_epoch - 1][3]


def canary_difference(result: TrainResult, device: str) -> float:
    """The largest difference between the recorded answers and those of the device."""
    found = bundle.read(Path(result.model_path))
    assert found.canary is not None
    found.model.to(device)
    return float(np.abs(found.probabilities(found.canary.windows) - found.canary.probabilities).max())


def write_snapshot(folder: Path) -> None:
    """A market, as the stage PULL reads it."""
    from retrain_worker.demo.market import write_market
    from retrain_worker.worker.data.pull import pull

    write_market(folder / "market.db", seed=7, end=END, rows=ROWS, open_rows=100, days=90.0)
    pull(
        PullRequest(
            run_id="x",
            run_dir=str(folder),
            policy=DataPolicy(train_window_days=0),
            watermark_path=None,
            now=END.isoformat(),
        ),
        f"sqlite:///{folder / 'market.db'}",
        lambda _progress: None,
    )


if __name__ == "__main__":
    sys.exit(main())
