"""A disk that cannot give a page of the trading database: an error of ours, or every row. Never some of them.

Each reading is a process of its own: Polars and the check of the file have threads, which a fork would leave behind.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.strace_sweep import STRACE
from tests.worker.trading_database import make_database, make_rows, url_of

pytestmark = pytest.mark.skipif(STRACE is None, reason="strace injects the faults")

CALLS, ROWS = ("openat", "pread64", "read"), 600
READ = """
import sys
from retrain_worker.errors import RetrainError
from retrain_worker.worker.data.source import read_pages
try:
    print(sum(len(page) for page in read_pages(sys.argv[1], busy_timeout_seconds=1.0)), "rows")
except RetrainError as error:
    print("refused:", error)
"""


def read_under_strace(path: Path, *options: str) -> str:
    """What the reading prints. strace follows its threads and sees only the calls on the file."""
    command = [str(STRACE), "-f", "-qq", "-P", str(path), *options, sys.executable, "-c", READ, url_of(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.strip()


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_an_error_of_the_disk_at_any_read_ends_the_reading_or_costs_no_row(tmp_path: Path, journal: str) -> None:
    path, trace = make_database(tmp_path / "trader.db", make_rows(ROWS), journal=journal), tmp_path / "trace"
    assert read_under_strace(path, "-e", f"trace={','.join(CALLS)}", "-o", str(trace)) == f"{ROWS} rows"
    counts = {call: trace.read_text(errors="replace").count(f" {call}(") for call in CALLS}

    assert sum(counts.values()) > 50, counts
    found = []
    for call, count in counts.items():
        for number in range(1, count + 1, 9):
            inject = f"inject={call}:error=EIO:when={number}"
            found.append(read_under_strace(path, "-e", f"trace={call}", "-e", inject, "-o", "/dev/null"))
            assert found[-1] == f"{ROWS} rows" or found[-1].startswith("refused:"), (call, number, found[-1])
    assert any(each.startswith("refused:") for each in found)
