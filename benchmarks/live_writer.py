"""Effect of a pull on a writer: `python benchmarks/live_writer.py`.

A process inserts a row and completes another's outcome in one transaction, every few milliseconds, and times each
commit: first alone, then while another process repeatedly reads the whole table as the pull does. In both journal
modes, without fsync, so that only waiting is measured. A waiting writer sleeps in SQLite's busy handler (1, 2, 5, 10,
15 ... ms).
About 1 minute.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
from big_table import big_table

TABLE = "ai_training_samples"
PAUSE_SECONDS = 0.004


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.read:
        read_for_ever(asked.read)
    print("| journal | the writer | commits | median ms | 99 % ms | longest ms | over 50 ms | pulls |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="live") as folder:
        whole = Path(folder) / "whole.db"
        big_table(whole, rows=asked.rows)
        for journal in ("delete", "wal"):
            path = Path(folder) / f"{journal}.db"
            shutil.copy(whole, path)
            with closing(sqlite3.connect(path)) as connection:
                connection.execute(f"PRAGMA journal_mode={journal}")
            show(journal, "alone", commits(path, asked.seconds), "")
            with subprocess.Popen([sys.executable, __file__, "--read", str(path)], stdout=subprocess.PIPE) as reader:
                assert reader.stdout is not None
                reader.stdout.readline()
                found = commits(path, asked.seconds)
                reader.terminate()
                pulls = reader.stdout.read().decode().split()
            show(journal, "beside the pull", found, pulls[-1] if pulls else "0")


def show(journal: str, who: str, milliseconds: np.ndarray, pulls: str) -> None:
    median, high = np.percentile(milliseconds, (50, 99))
    print(
        f"| {journal} | {who} | {len(milliseconds):,} | {median:.2f} | {high:.2f} | {milliseconds.max():.1f} | "
        f"{int((milliseconds > 50).sum())} | {pulls} |",
        flush=True,
    )


def commits(path: Path, seconds: float) -> np.ndarray:
    """Milliseconds of each transaction."""
    spent = []
    with closing(sqlite3.connect(path, timeout=30.0, isolation_level=None)) as writer:
        writer.execute("PRAGMA synchronous=OFF")
        names = [name for (name,) in writer.execute("SELECT name FROM pragma_table_info(?)", (TABLE,)) if name != "id"]
        copied = ", ".join(names)
        newest = writer.execute(f"SELECT MAX(id) FROM {TABLE}").fetchone()[0]
        end, number = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            started = time.perf_counter()
            writer.execute("BEGIN IMMEDIATE")
            writer.execute(f"INSERT INTO {TABLE} ({copied}) SELECT {copied} FROM {TABLE} WHERE id = ?", (1 + number,))
            writer.execute(f"UPDATE {TABLE} SET updated_at = created_at WHERE id = ?", (newest - number,))
            writer.execute("COMMIT")
            spent.append(1000 * (time.perf_counter() - started))
            number += 1
            time.sleep(PAUSE_SECONDS)
    return np.array(spent)


def read_for_ever(path: str) -> None:
    from ingest import ours

    print(json.dumps("ready"), flush=True)
    pulls = 0
    while True:
        ours(f"sqlite:///{path}")
        pulls += 1
        print(pulls, flush=True)


if __name__ == "__main__":
    main()
