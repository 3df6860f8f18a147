"""The same data, settings, seed and machine give the same weights: `python benchmarks/reproducible.py`.

Trains one snapshot of a simulated market in four worker processes, as the daemon does: twice identically, once stopped
by SIGTERM after its second epoch and resumed, once with another seed. Prints the sha256 of the weights alone (names,
shapes, numbers; the hash of the file differs, because it contains its version and the time of writing).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from retrain_worker import settings
from retrain_worker.demo.market import write_market
from retrain_worker.domain.worker_protocol import DatabaseAccess, PullRequest, TrainRequest, WorkerExit
from retrain_worker.settings import Settings

END = datetime(2026, 1, 10, tzinfo=UTC)
RUN_ID = "20260110_000000"
STOP_AFTER_EPOCHS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings, e.g. BALANCE=weights")
    asked = parser.parse_args()
    given = {"MAX_EPOCHS": "4", "DEVICE": "cpu", "GATE_BACKTEST_FOLDS": "0"}
    given |= dict(pair.split("=", 1) for pair in asked.set)
    print("| preset | training | epochs | sha256 of the weights |\n|---|---|---|---|")
    agree = True
    with tempfile.TemporaryDirectory(prefix="reproducible") as folder:
        database = Path(folder) / "market.db"
        write_market(database, seed=1, end=END, rows=asked.rows, days=20.0)
        for preset in ("paper", "engine"):
            plain = settings.load({**given, "PRESET": preset})
            other = settings.load({**given, "PRESET": preset, "SEED": str(plain.recipe.seed + 1)})
            found = {
                "first": trained(Path(folder) / f"{preset}-1", database, plain),
                "second": trained(Path(folder) / f"{preset}-2", database, plain),
                f"stopped after epoch {STOP_AFTER_EPOCHS}, resumed": trained(
                    Path(folder) / f"{preset}-3", database, plain, is_stopped=True
                ),
                "another seed": trained(Path(folder) / f"{preset}-4", database, other),
            }
            for name, (epochs, sha256) in found.items():
                print(f"| {preset} | {name} | {epochs} | {sha256} |", flush=True)
            first, second, resumed, another = (sha256 for _epochs, sha256 in found.values())
            agree &= first == second == resumed != another
    print("\nequal exactly where expected" if agree else "\nNOT as expected")
    sys.exit(0 if agree else 1)


def trained(run_dir: Path, database: Path, asked: Settings, *, is_stopped: bool = False) -> tuple[str, str]:
    """(epochs before + after the interruption, sha256 of the weights)."""
    run_dir.mkdir()
    worker(
        "PULL",
        run_dir,
        database,
        PullRequest(run_id=RUN_ID, run_dir=str(run_dir), policy=asked.data, watermark_path=None, now=END.isoformat()),
    )
    request = TrainRequest(
        run_id=RUN_ID,
        run_dir=str(run_dir),
        version=f"patchtst_v{RUN_ID}",
        data=asked.data,
        split=asked.split,
        recipe=asked.recipe,
        checkpoint_dir=str(run_dir / "checkpoints"),
        incumbent_path=None,
    )
    before = worker("TRAIN", run_dir, database, request, stop_after=STOP_AFTER_EPOCHS)[0] if is_stopped else 0
    after, result = worker("TRAIN", run_dir, database, request)
    return f"{before} + {after}" if is_stopped else str(after), result["manifest"]["training"]["weights_sha256"]


def worker(
    stage: str, run_dir: Path, database: Path, request: object, *, stop_after: int | None = None
) -> tuple[int, dict[str, Any]]:
    """Run a stage in a worker; (progress lines that name an epoch, the fields of its result)."""
    asked, answered = run_dir / f"{stage}.request.json", run_dir / f"{stage}.result.json"
    asked.write_bytes(msgspec.json.encode({"stage": stage, "request": request}))
    process = subprocess.Popen(
        [sys.executable, "-m", "retrain_worker.worker", str(asked), str(answered)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    access = DatabaseAccess(url=os.fsencode(f"sqlite:///{database}"))
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(access).decode() + "\n")
    process.stdin.flush()
    epochs = 0
    with process:
        for progress in process.stdout:
            epochs += "number" in json.loads(progress)["fields"]
            if stop_after is not None and epochs == stop_after:
                process.send_signal(signal.SIGTERM)
        process.wait()  # before stdin closes, which would stop it
    expected = WorkerExit.DONE if stop_after is None else WorkerExit.INTERRUPTED
    assert process.returncode == expected, f"{stage} ended with {process.returncode}"
    return epochs, json.loads(answered.read_bytes())["result"] if stop_after is None else {}


if __name__ == "__main__":
    main()
