"""How fast rows become training arrays, beside the least that any reader needs: `python benchmarks/ingest.py --help`.

Every measurement is a process of its own, and the ways take turns (A B C, A B C ...), so that what else the machine
does falls on all of them alike: read the ratios. The floor is the driver's fetchall of the same columns, nothing
parsed. The seed's way is pandas.read_sql, iterrows and json.loads on at most SEED_ROWS rows; its rows/s are taken to
hold for any number; it needs pandas, which the extra `test` brings. A run reads 17 columns, for the audit and the gates
besides the arrays; floor and seed's way are also measured over the six that the arrays alone need (`-6`), since the
floor grows cheaper with fewer columns and the seed's way does not. Memory is the peak (VmHWM) above the same process
before the work, its libraries imported. About 9 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from big_table import END, big_table

if TYPE_CHECKING:
    import psycopg

SEED_ROWS = 60_000
FETCH_ROWS = 10_000
#: rows that one process ingests at least; a small table is read several times, after a warm-up
ROWS_A_PROCESS = 200_000
TABLE = "ai_training_samples"
#: what a float32 matrix with symbols, times and labels takes
SIX = "symbol, timestamp, features, feature_names, target_class, exit_time"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One process's answer: medians over its repetitions."""

    rows: int
    seconds: float
    #: processor time of this process, which is more than `seconds` when it uses two cores
    cpu_seconds: float
    megabytes: float

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[6_000, 600_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the table shows medians (default 3)")
    parser.add_argument("--objects", action="store_true", help="features as JSON objects; arrays without it")
    parser.add_argument("--no-postgres", action="store_true", help="SQLite only, though this host has a PostgreSQL")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "URL"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(vars(measured(*asked.measure))))
        return
    print("| source | rows | way | rows/s | of the floor | times the seed's way | processor s | MB above libraries |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="ingest") as folder, contextlib.ExitStack() as stack:
        initdb = None if asked.no_postgres else initdb_of_this_host()
        home = stack.enter_context(postgres_server(initdb)) if initdb else None
        for rows in asked.rows:
            path = Path(folder) / f"market_{rows}.db"
            big_table(path, rows=rows, as_objects=asked.objects)
            compare(
                "SQLite",
                f"sqlite:///{path}",
                ["floor", "ours", "seed", "floor-6", "seed-6"],
                rows=rows,
                repeats=asked.repeats,
            )
            if home:
                url = f"postgresql://trader@/postgres?host={home}"
                fill_postgres(url, path)
                compare("PostgreSQL", url, ["floor", "ours"], rows=rows, repeats=asked.repeats)
            path.unlink()


def compare(source: str, url: str, ways: list[str], *, rows: int, repeats: int) -> None:
    """Let the ways take turns, then print one line for each."""
    rounds = [{way: in_own_process(way, url) for way in ways} for _ in range(repeats)]
    for way in ways:
        found = [each[way] for each in rounds]
        columns = "-6" if way.endswith("-6") else ""
        of_floor = median(each[way].rate / each[f"floor{columns}"].rate for each in rounds)
        seed = f"seed{columns}"
        of_seed = f"{median(each[way].rate / each[seed].rate for each in rounds):.1f}" if seed in ways else ""
        shown = f"{rows:,}" if way != seed else f"{found[0].rows:,}"
        print(
            f"| {source} | {shown} | {way} | {median(each.rate for each in found):,.0f} | {of_floor:.2f} | {of_seed} "
            f"| {median(each.cpu_seconds for each in found):.2f} | {median(e.megabytes for e in found):.0f} |",
            flush=True,
        )


def in_own_process(way: str, url: str) -> Measured:
    command = [sys.executable, __file__, "--measure", way, url]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Measured(**json.loads(answer.stdout))


def measured(way: str, url: str) -> Measured:
    """Do the work in this process, a big table once, a small one several times after a warm-up."""
    ways: dict[str, Callable[[str], int]] = {
        "floor": sqlite_floor,
        "ours": ours,
        "seed": seeds_way,
        "floor-6": partial(sqlite_floor, columns=SIX),
        "seed-6": partial(seeds_way, columns=SIX),
    }
    work = postgres_floor if url.startswith("postgresql:") and way == "floor" else ways[way]
    import_libraries(way, url)
    before = peak_megabytes()
    rows, seconds, cpu_seconds = timed(work, url)
    enough = SEED_ROWS if way.startswith("seed") else ROWS_A_PROCESS
    more = [timed(work, url)[1:] for _ in range(enough // rows - 1)]
    if more:
        seconds, cpu_seconds = (median(column) for column in zip(*more, strict=True))
    return Measured(rows=rows, seconds=seconds, cpu_seconds=cpu_seconds, megabytes=peak_megabytes() - before)


def timed(work: Callable[[str], int], url: str) -> tuple[int, float, float]:
    started, cpu_started = time.perf_counter(), time.process_time()
    rows = work(url)
    return rows, time.perf_counter() - started, time.process_time() - cpu_started


def import_libraries(way: str, url: str) -> None:
    if way.startswith("seed"):
        import pandas as pd  # noqa: F401
    elif way == "ours":
        import retrain_worker.worker.data.pull
        import retrain_worker.worker.data.sqlite_source
    if url.startswith("postgresql:"):
        import psycopg

        # the dialect is loaded at its first use
        psycopg.connect(url).close()
        if way == "ours":
            import retrain_worker.worker.data.postgres_source  # noqa: F401


def peak_megabytes() -> float:
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def columns_read() -> str:
    from retrain_worker.worker.data.page import PAGE_SCHEMA

    return ", ".join(PAGE_SCHEMA)


def sqlite_floor(url: str, *, columns: str = "") -> int:
    # like pull(): a collector that looks for cycles among rows would only slow the floor down
    gc.disable()
    path = url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return len(connection.execute(f"SELECT {columns or columns_read()} FROM {TABLE}").fetchall())


def postgres_floor(url: str) -> int:
    import psycopg

    gc.disable()
    rows = 0
    with psycopg.connect(url) as connection, connection.cursor(name="floor") as cursor:
        cursor.execute(f"SELECT {columns_read()} FROM {TABLE}")
        while page := cursor.fetchmany(FETCH_ROWS):
            rows += len(page)
    return rows


def ours(url: str) -> int:
    """What pull() does before it writes: pages, arrays, canonical order, content hash."""
    from retrain_worker.domain.data_policy import DataPolicy
    from retrain_worker.worker.data.instants import to_microseconds
    from retrain_worker.worker.data.pull import read_window

    gc.disable()
    now = to_microseconds(END)
    return len(read_window(DataPolicy(), url, now=now, busy_timeout_seconds=5.0, report=lambda _progress: None))


def seeds_way(url: str, *, columns: str = "") -> int:
    import pandas as pd

    path = url.removeprefix("sqlite:///")
    features, labels, keys = [], [], []
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        frame = pd.read_sql(f"SELECT {columns or columns_read()} FROM {TABLE} LIMIT {SEED_ROWS}", connection)
    for _, row in frame.iterrows():
        features.append(json.loads(row["features"]))
        labels.append(row["target_class"] == "WIN")
        keys.append((row["symbol"], row["timestamp"]))
    return len(features)


def initdb_of_this_host() -> str | None:
    """Debian keeps the server's programs off the PATH."""
    newest = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name), default=None)
    return shutil.which("initdb") or (str(newest / "initdb") if newest else None)


@contextlib.contextmanager
def postgres_server(initdb: str) -> Iterator[Path]:
    """A server of our own on a socket in a temporary folder; PostgreSQL refuses to run as root."""
    home = Path(tempfile.mkdtemp(prefix="pg"))
    user = "nobody" if os.geteuid() == 0 else None
    if user:
        shutil.chown(home, user)
    subprocess.run(
        [initdb, "-D", home / "data", "-A", "trust", "-U", "trader", "--no-sync"],
        check=True,
        cwd=home,
        stdout=subprocess.DEVNULL,
        user=user,
    )
    postgres = Path(initdb).resolve().with_name("postgres")
    command: list[str | Path] = [postgres, "-D", home / "data", "-k", home, "-c", "listen_addresses=", "-F"]
    process = subprocess.Popen(command, cwd=home, stderr=subprocess.DEVNULL, user=user)
    try:
        yield home
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(home, ignore_errors=True)


def fill_postgres(url: str, path: Path) -> None:
    """Copy the SQLite table into PostgreSQL, instants as timestamptz."""
    kinds = {"DATETIME": "timestamptz", "FLOAT": "double precision", "VARCHAR": "text", "INTEGER": "bigint"}
    with contextlib.closing(sqlite3.connect(path)) as source, waited_for(url) as target:
        found = source.execute("SELECT name, type FROM pragma_table_info(?)", (TABLE,)).fetchall()
        names = ", ".join(name for name, _ in found)
        definition = ", ".join(f"{name} {kinds.get(kind, kind)}" for name, kind in found)
        target.execute("SET timezone = 'UTC'")
        target.execute(f"DROP TABLE IF EXISTS {TABLE}")
        target.execute(f"CREATE TABLE {TABLE} ({definition})")
        with target.cursor() as cursor, cursor.copy(f"COPY {TABLE} ({names}) FROM STDIN") as copy:
            for row in source.execute(f"SELECT {names} FROM {TABLE}"):
                copy.write_row(row)
        target.commit()
        target.autocommit = True
        target.execute(f"VACUUM ANALYZE {TABLE}")


def waited_for(url: str) -> psycopg.Connection:
    import psycopg

    for _ in range(200):
        with contextlib.suppress(psycopg.OperationalError):
            return psycopg.connect(url)
        time.sleep(0.05)
    sys.exit("the PostgreSQL server does not start")


if __name__ == "__main__":
    main()
