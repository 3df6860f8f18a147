"""Peak memory of each worker on a large database: `python benchmarks/memory.py [--rows 1000000]`; about 10 minutes.

Pull, audit, train (one epoch) and gate run as the daemon starts them, one process each; the peak is the kernel's count
of resident pages (ru_maxrss). Exits with 1 when one exceeds --limit-mb.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from big_table import END, big_table

from retrain_worker import settings
from retrain_worker.domain.worker_protocol import (
    DATABASE_URL_VARIABLE,
    AuditRequest,
    GateRequest,
    PullRequest,
    TrainRequest,
    WorkerExit,
)

RUN_ID = "20260110_000000"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--limit-mb", type=int, default=2048)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings, e.g. PRESET=engine")
    asked = parser.parse_args()
    given = {"MAX_EPOCHS": "1", "DEVICE": "cpu", "GATE_BACKTEST_FOLDS": "0"}
    given |= dict(pair.split("=", 1) for pair in asked.set)
    known = settings.load(given)
    with tempfile.TemporaryDirectory(prefix="memory") as folder:
        database, run_dir = Path(folder) / "market.db", Path(folder) / RUN_ID
        run_dir.mkdir()
        big_table(database, rows=asked.rows)
        where, now = {"run_id": RUN_ID, "run_dir": str(run_dir)}, END.isoformat()
        print("| stage | rows | peak MB | seconds |\n|---|---|---|---|")
        peaks = [
            worker("PULL", run_dir, database, PullRequest(**where, policy=known.data, watermark_path=None, now=now)),
            worker("AUDIT", run_dir, database, AuditRequest(**where, policy=known.data, now=now)),
            worker(
                "TRAIN",
                run_dir,
                database,
                TrainRequest(
                    **where,
                    version=f"patchtst_v{RUN_ID}",
                    data=known.data,
                    split=known.split,
                    recipe=known.recipe,
                    checkpoint_dir=str(run_dir / "checkpoints"),
                    incumbent_path=None,
                ),
            ),
            worker(
                "GATE",
                run_dir,
                database,
                GateRequest(
                    **where,
                    candidate_path=str(run_dir / "candidate" / f"patchtst_v{RUN_ID}.pth"),
                    incumbent_path=None,
                    data=known.data,
                    split=known.split,
                    recipe=known.recipe,
                    policy=known.gate,
                ),
            ),
        ]
    print(f"\nhighest peak {max(peaks):.0f} MB, limit {asked.limit_mb} MB")
    sys.exit(0 if max(peaks) <= asked.limit_mb else 1)


def worker(stage: str, run_dir: Path, database: Path, request: object) -> float:
    """Run a stage to its end and print its line; its peak in MB."""
    asked, answered = run_dir / f"{stage}.request.json", run_dir / f"{stage}.result.json"
    asked.write_bytes(msgspec.json.encode({"stage": stage, "request": request}))
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "retrain_worker.worker", str(asked), str(answered)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin", DATABASE_URL_VARIABLE: f"sqlite:///{database}"},
    )
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdin.close()
    assert process.returncode == WorkerExit.DONE, answered.read_text() if answered.exists() else process.returncode
    result = json.loads(answered.read_bytes())["result"]
    rows = result.get("loaded") or sum(result.get("parts", {}).get("train", {}).values()) or ""
    print(f"| {stage} | {rows} | {usage.ru_maxrss / 1024:.0f} | {time.perf_counter() - started:.0f} |", flush=True)
    return usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
