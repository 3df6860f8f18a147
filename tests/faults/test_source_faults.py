"""A disk that cannot give a page of the trading database: an error of ours, or every row. Never some of them."""

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from retrain_worker.worker.data.source import read_pages
from tests.faults.strace_sweep import STRACE, forked
from tests.worker.trading_database import make_database, make_rows, url_of

pytestmark = pytest.mark.skipif(STRACE is None, reason="strace injects the faults")

CALLS, ROWS, DONE, FAILED = ("openat", "pread64", "read"), 600, 0, 1


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_an_error_of_the_disk_at_any_read_ends_the_reading_or_costs_no_row(tmp_path: Path, journal: str) -> None:
    path, trace = make_database(tmp_path / "trader.db", make_rows(ROWS), journal=journal), tmp_path / "trace"

    def read() -> None:
        found = sum(len(page) for page in read_pages(url_of(path), busy_timeout_seconds=1.0))
        os.write(2, f"{found} rows".encode())

    read()  # whatever is imported late is imported now
    forked(read, trace=CALLS, options=("-y", "-o", str(trace)))
    places = _calls_on(str(path), trace.read_text(errors="replace"))

    assert len(places) > 50
    for call, number in places[::7]:
        code, said = forked(
            read, trace=(call,), options=("-e", f"inject={call}:error=EIO:when={number}", "-o", os.devnull)
        )
        assert (code, said) == (DONE, f"{ROWS} rows") or code == FAILED, (call, number, said)


def _calls_on(path: str, traced: str) -> list[tuple[str, int]]:
    """Each call that names the file, and the how manieth of its kind it is."""
    counts: Counter[str] = Counter()
    found = []
    for line in traced.splitlines():
        if named := re.match(r"(\w+)\(", line):
            counts[named[1]] += 1
            if path in line:
                found.append((named[1], counts[named[1]]))
    return found
