"""What the idle daemon costs: `python benchmarks/idle.py [--minutes 10] [--json]`.

A daemon on a home with too few rows for a run, after its first attempt: resident memory, share of one core and
wake-ups a second, from /proc, without its Redis server; then system calls, counted by strace for ten seconds; then the
processor time of the start of two commands.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "retrain_worker"]
SYSCALL_SECONDS = 10
#: the pages of the first run are written by then
SETTLE_SECONDS = 15
STARTS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--quick", action="store_true", help="one minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="idle") as folder:
        found = measured(Path(folder), seconds=60.0 if asked.quick else asked.minutes * 60)
    if asked.json:
        print(json.dumps(found))
        return
    print("| figure | value |\n|---|---|")
    for name, value in found.items():
        print(f"| {name} | {value:.3g} |" if value < 1 else f"| {name} | {value:.1f} |")


def measured(folder: Path, *, seconds: float) -> dict[str, float]:
    """Every figure by its name."""
    database, home = folder / "trader.db", folder / "home"
    subprocess.run([*COMMAND, "init-db", database, "--rows", "300"], check=True, stdout=subprocess.DEVNULL)
    daemon = subprocess.Popen(
        [*COMMAND, "run", "--home", home, "--db", database], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not list((home / "models" / "runs").glob("*/report.html")):
            time.sleep(1)
            assert daemon.poll() is None, "the daemon ended"
        time.sleep(SETTLE_SECONDS)
        cpu, wakes, began = cpu_seconds(daemon.pid), wake_ups(daemon.pid), time.monotonic()
        time.sleep(seconds)
        elapsed = time.monotonic() - began
        found = {
            "minutes": elapsed / 60,
            "resident MB": resident_mb(daemon.pid),
            "% of a core": 100 * (cpu_seconds(daemon.pid) - cpu) / elapsed,
            "wake-ups a second": (wake_ups(daemon.pid) - wakes) / elapsed,
            "threads": float(len(list(Path(f"/proc/{daemon.pid}/task").iterdir()))),
        }
        found |= system_calls(daemon.pid)
        found["--help: seconds of CPU"] = start_seconds("--help")
        found["status: seconds of CPU"] = start_seconds("status", "--home", str(home))
    finally:
        daemon.terminate()
        daemon.wait()
    return found


def resident_mb(pid: int) -> float:
    """VmRSS."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


def cpu_seconds(pid: int) -> float:
    """Processor time of the process, by all its threads, without its children."""
    total = 0
    for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):  # nanoseconds; `stat` has ticks of 10 ms
        total += int(schedstat.read_text().split()[0])
    return total / 1e9


def wake_ups(pid: int) -> int:
    """How often a thread has slept until something woke it."""
    files = Path(f"/proc/{pid}/task").glob("*/status")
    found = (re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", file.read_text(), re.MULTILINE)[0] for file in files)
    return sum(map(int, found))


def system_calls(pid: int) -> dict[str, float]:
    """System calls a second, and those of futex; nothing where strace is not installed."""
    try:
        tracer = subprocess.Popen(["strace", "-f", "-c", "-p", str(pid)], stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        return {}
    time.sleep(SYSCALL_SECONDS)
    tracer.send_signal(signal.SIGINT)
    rows = [line.split() for line in tracer.communicate()[1].splitlines()]
    calls = {row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit()}
    return {
        "system calls a second": calls.get("total", 0) / SYSCALL_SECONDS,
        "futex calls a second": calls.get("futex", 0) / SYSCALL_SECONDS,
    }


def start_seconds(*arguments: str) -> float:
    """The least processor time of a few starts."""
    spent = []
    for _ in range(STARTS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


if __name__ == "__main__":
    main()
