"""What more rows and a second process cost: `benchmarks/scale.py [--rows 10000 100000 1000000] [--processes 2]`.

Pull, audit, train (one epoch) and gate run as the daemon starts them, one process each, on a table of each size:
seconds, processor seconds, and the kernel's peak of resident pages (ru_maxrss). Then the smallest table is trained for
one epoch and for three in one process and in several: the difference is the cost of an epoch without the start. The
processor seconds are valid on a busy machine as well. Exits with 1 when a peak exceeds --limit-mb. --until ends each
size after a stage. A million rows: about 5 minutes of processor time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from big_table import END, big_table

from retrain_worker import settings
from retrain_worker.adapters.worker_launcher import environment_for, launched
from retrain_worker.adapters.worker_process import COMMAND
from retrain_worker.domain.worker_protocol import (
    AuditRequest,
    DatabaseAccess,
    GateRequest,
    PullRequest,
    TrainRequest,
    WorkerExit,
)
from retrain_worker.settings import Settings

RUN_ID = "20260110_000000"
STAGES = ("PULL", "AUDIT", "TRAIN", "GATE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--processes", type=int, default=2, help="1: no comparison of processes")
    parser.add_argument("--until", default="GATE", choices=STAGES)
    parser.add_argument("--limit-mb", type=int, default=2048)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings, e.g. PRESET=engine")
    asked = parser.parse_args()
    given = {"MAX_EPOCHS": "1", "DEVICE": "cpu", "GATE_BACKTEST_FOLDS": "0"}
    given |= dict(pair.split("=", 1) for pair in asked.set)
    known = settings.load(given)
    peaks = []
    print("| rows | stage | seconds | processor s | microseconds a row | peak MB |\n|---|---|---|---|---|---|")
    for rows in asked.rows:
        with table(rows) as (database, run_dir):
            for stage in STAGES[: STAGES.index(asked.until) + 1]:
                used = worker(stage, run_dir, database, request_of(stage, run_dir, known))
                peaks.append(used.peak_mb)
                print(
                    f"| {rows:,} | {stage} | {used.seconds:.1f} | {used.processor:.1f} "
                    f"| {used.processor / rows * 1e6:.0f} | {used.peak_mb:.0f} |",
                    flush=True,
                )
    print(f"\nhighest peak {max(peaks):.0f} MB, limit {asked.limit_mb} MB")
    if asked.processes > 1:
        compare_processes(min(asked.rows), asked.processes, known)
    sys.exit(0 if max(peaks) <= asked.limit_mb else 1)


@dataclass(frozen=True, kw_only=True)
class Used:
    """What a worker has used, with the processes that it has waited for."""

    seconds: float
    processor: float
    peak_mb: float


@contextmanager
def table(rows: int) -> Iterator[tuple[Path, Path]]:
    """A database of so many rows, and the folder of a run."""
    with tempfile.TemporaryDirectory(prefix="scale") as folder:
        database, run_dir = Path(folder) / "market.db", Path(folder) / RUN_ID
        run_dir.mkdir()
        big_table(database, rows=rows)
        yield database, run_dir


def request_of(stage: str, run_dir: Path, known: Settings) -> object:
    folder, now = str(run_dir), END.isoformat()
    if stage == "PULL":
        return PullRequest(run_id=RUN_ID, run_dir=folder, policy=known.data, watermark_path=None, now=now)
    if stage == "AUDIT":
        return AuditRequest(
            run_id=RUN_ID,
            run_dir=folder,
            policy=known.data,
            now=now,
            split=known.split,
            seq_len=known.recipe.window_length(None),
        )
    if stage == "TRAIN":
        return TrainRequest(
            run_id=RUN_ID,
            run_dir=folder,
            version=f"patchtst_v{RUN_ID}",
            data=known.data,
            split=known.split,
            recipe=known.recipe,
            checkpoint_dir=str(run_dir / "checkpoints"),
            incumbent_path=None,
        )
    return GateRequest(
        run_id=RUN_ID,
        run_dir=folder,
        candidate_path=str(run_dir / "candidate" / f"patchtst_v{RUN_ID}.pth"),
        incumbent_path=None,
        data=known.data,
        split=known.split,
        recipe=known.recipe,
        policy=known.gate,
    )


def compare_processes(rows: int, processes: int, known: Settings) -> None:
    """An epoch in one process with its threads, and in several that divide them."""
    print("\n| processes | an epoch: seconds | processor s | start: seconds | processor s |\n|---|---|---|---|---|")
    with table(rows) as (database, run_dir):
        worker("PULL", run_dir, database, request_of("PULL", run_dir, known))
        for number in (1, processes):
            launcher = () if number == 1 else ("torchrun", "--nproc-per-node", str(number))
            used = []
            for epochs in (1, 3):
                recipe = replace(known.recipe, max_epochs=epochs, patience=epochs)
                request = request_of("TRAIN", run_dir, replace(known, recipe=recipe))
                used.append(worker("TRAIN", run_dir, database, request, launcher=launcher))
            short, long = used
            seconds, processor = (long.seconds - short.seconds) / 2, (long.processor - short.processor) / 2
            print(
                f"| {number} | {seconds:.2f} | {processor:.2f} | {short.seconds - seconds:.1f} "
                f"| {short.processor - processor:.1f} |",
                flush=True,
            )


def worker(stage: str, run_dir: Path, database: Path, request: object, *, launcher: tuple[str, ...] = ()) -> Used:
    """Run a stage to its end."""
    asked, answered = run_dir / f"{stage}.request.json", run_dir / f"{stage}.result.json"
    asked.write_bytes(msgspec.json.encode({"stage": stage, "request": request}))
    answered.unlink(missing_ok=True)
    started = time.perf_counter()
    process = subprocess.Popen(
        [*launched(COMMAND, launcher), str(asked), str(answered)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin"} | environment_for(launcher),
    )
    access = DatabaseAccess(url=os.fsencode(f"sqlite:///{database}"))
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(access) + b"\n")
    process.stdin.flush()
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdin.close()
    assert process.returncode == WorkerExit.DONE, answered.read_text() if answered.exists() else process.returncode
    return Used(
        seconds=time.perf_counter() - started,
        processor=usage.ru_utime + usage.ru_stime,
        peak_mb=usage.ru_maxrss / 1024,
    )


if __name__ == "__main__":
    main()
