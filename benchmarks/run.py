"""Cost of a whole daily run, pull to event: `python benchmarks/run.py [--rows N] [--days N] [--preset P]`.

A first run on a market of the demo with 200 rows a day, then a second one a day later, on the same home with the new
rows. Wall and processor seconds of each stage's worker process, from /proc; what is left of the command is the daemon,
its state database, the embedded Redis server and the swap. Processor seconds are what a busy host leaves comparable.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from retrain_worker.demo.market import continue_market, write_market

COMMAND = [sys.executable, "-m", "retrain_worker", "once"]
TICKS = os.sysconf("SC_CLK_TCK")
#: between two looks at the workers: what a worker spends after the last one is missed
POLL_SECONDS = 0.01
#: the page of the run, and the evaluation of the model that serves
AFTER_EVENT = ("report", "probation")


@dataclass(frozen=True)
class Cost:
    """Seconds."""

    wall: float
    cpu: float

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.wall - other.wall, self.cpu - other.cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=6_000)
    parser.add_argument("--preset", choices=["auto", "paper", "engine"], default="auto")
    asked = parser.parse_args()
    end, days = datetime.now(UTC) - timedelta(days=1), asked.rows / 200
    with tempfile.TemporaryDirectory(prefix="run") as name:
        folder = Path(name)
        market = write_market(folder / "trader.db", seed=7, end=end, rows=asked.rows, days=days)
        first = one_run(folder, preset=asked.preset)
        continue_market(market)
        second = one_run(folder, preset=asked.preset)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {asked.rows} rows, {asked.preset}\n")
    print("| run | stage | wall s | processor s |\n|---|---|---:|---:|")
    for run, costs in (("first", first), ("a day later", second)):
        for stage, cost in costs.items():
            print(f"| {run} | {stage} | {cost.wall:.2f} | {cost.cpu:.2f} |")


def one_run(folder: Path, *, preset: str) -> dict[str, Cost]:
    """The cost of a run by stage, the daemon and the sum until its event included."""
    before, began = children_seconds(), time.monotonic()
    process = subprocess.Popen(
        [*COMMAND, "--home", folder / "home", "--db", folder / "trader.db"],
        env=os.environ | {"PRESET": preset},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    stages: dict[str, Cost] = {}
    watcher = threading.Thread(target=watch, args=(process, stages))
    watcher.start()
    status = process.wait()
    watcher.join()
    assert status in (0, 11), f"the run ended with exit status {status}"
    whole = Cost(time.monotonic() - began, children_seconds() - before)
    rest, until_event = whole, whole
    for stage, cost in stages.items():
        rest -= cost
        if stage in AFTER_EVENT:
            until_event -= cost
    later = {f"{stage} (after the event)": stages.pop(stage) for stage in AFTER_EVENT if stage in stages}
    return {**stages, "daemon, with start and Redis": rest, "pull to event": until_event, **later}


def watch(process: subprocess.Popen[bytes], stages: dict[str, Cost]) -> None:
    """Read the processor time of the workers until the run ends."""
    began: dict[int, float] = {}
    while process.poll() is None:
        for pid in children_of(process.pid):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except (OSError, ValueError):
                continue
            if b"retrain_worker.worker" not in command:
                continue
            stage = Path(os.fsdecode(command[command.index(b"retrain_worker.worker") + 1])).name.partition(".")[0]
            began.setdefault(pid, time.monotonic())
            stages[stage] = Cost(time.monotonic() - began[pid], (int(fields[11]) + int(fields[12])) / TICKS)
        time.sleep(POLL_SECONDS)


def children_of(pid: int) -> list[int]:
    """The processes that any thread of `pid` has started."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, children.read_text().split())
        except OSError:
            continue
    return found


def children_seconds() -> float:
    """Processor seconds of the processes that have ended, their own children included."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
