"""Lateness of the timers of another busy process, with and without a training beside it.

    python benchmarks/neighbour.py                 about three minutes on a quiet machine

The other process represents the trading program: one thread per processor, busy for half of each period of 5 ms and
asleep until the next. The lateness is how much later than planned it wakes. A training runs beside it in three ways:
as the unit runs it (Nice=10, CPUSchedulingPolicy=batch, one thread), with normal priority, and with torch's default
number of threads. Control groups (CPUWeight=) need root and are not used here; the unit applies them in addition.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from retrain_worker.demo.market import write_market

PERIOD_SECONDS = 0.005
BUSY_SECONDS = 0.0025


def lateness_of(seconds: float) -> list[float]:
    """Lateness in seconds, one for each period."""
    late, due = [], time.monotonic()
    until = due + seconds
    while due < until:
        due += PERIOD_SECONDS
        time.sleep(max(0.0, due - time.monotonic()))
        woken = time.monotonic()
        late.append(woken - due)
        while time.monotonic() < woken + BUSY_SECONDS:
            pass
        due = max(due, woken)  # a missed period counts once
    return late


def neighbours(seconds: float) -> np.ndarray:
    """Lateness of one such process per processor, pooled, in milliseconds."""
    count = len(os.sched_getaffinity(0))
    with get_context("spawn").Pool(count) as pool:
        return np.concatenate([np.array(late) for late in pool.map(lateness_of, [seconds] * count)]) * 1000


def as_the_unit() -> None:
    """The unit's priority settings without control groups."""
    os.nice(10)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def training(database: Path, home: Path, *, threads: int, is_nice: bool) -> subprocess.Popen[bytes]:
    """A run whose training outlasts the measurement."""
    settings = {"MAX_EPOCHS": "1000", "PATIENCE": "1000", "TRAIN_THREADS": str(threads)}
    return subprocess.Popen(
        [sys.executable, "-m", "retrain_worker", "once", "--db", str(database), "--home", str(home)],
        env={**os.environ, **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=as_the_unit if is_nice else None,  # noqa: PLW1509 (it starts no thread before)
    )


def measured(database: Path, folder: Path, seconds: float, *, threads: int, is_nice: bool) -> tuple[np.ndarray, float]:
    """Lateness beside a training, and the processor seconds of the training."""
    run = training(database, folder, threads=threads, is_nice=is_nice)
    try:
        while not list((folder / "checkpoints").rglob("*.checkpoint")):
            if run.poll() is not None:
                sys.exit(f"the run ended before training ({run.returncode})")
            time.sleep(0.1)
        before = cpu_seconds(run.pid)
        late = neighbours(seconds)
        return late, cpu_seconds(run.pid) - before
    finally:
        run.terminate()
        run.wait()


def cpu_seconds(pid: int) -> float:
    """Of the process and its live workers."""
    import psutil

    process = psutil.Process(pid)
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True)))


def row(name: str, late: np.ndarray, cpu: float | None) -> str:
    """One line of the table."""
    p50, p99, p999 = np.quantile(late, [0.5, 0.99, 0.999])
    got = f"{cpu:.0f}" if cpu is not None else ""
    return f"| {name} | {p50:.2f} | {p99:.2f} | {p999:.2f} | {late.max():.1f} | {got} |"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="retrain-worker-neighbour-") as name:
        folder = Path(name)
        write_market(folder / "trader.db", seed=1, end=datetime.now(UTC), rows=20_000)
        print(f"{len(os.sched_getaffinity(0))} processors; {options.seconds:g} s each; lateness in milliseconds\n")
        print(
            "| beside the other processes | p50 | p99 | p99.9 | worst | training's CPU s |\n|---|---|---|---|---|---|"
        )
        print(row("nothing", neighbours(options.seconds), None), flush=True)
        for title, threads, is_nice in (
            ("a training with the unit's priority", 1, True),
            ("a training of normal priority", 1, False),
            ("normal priority, all threads", 0, False),
        ):
            late, cpu = measured(
                folder / "trader.db",
                folder / f"home-{threads}-{is_nice}",
                options.seconds,
                threads=threads,
                is_nice=is_nice,
            )
            print(row(title, late, cpu), flush=True)
        print(row("nothing (repeated)", neighbours(options.seconds), None))


if __name__ == "__main__":
    main()
