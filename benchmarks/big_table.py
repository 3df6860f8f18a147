"""A large simulated trading database for benchmarks: `python benchmarks/big_table.py FILE [--rows 1000000]`.

The demo's market in the stack's schema, learnable (`Regime`), one trade in a hundred open. 1,000,000 rows: some
15 seconds, 460 MB. Other benchmarks call `big_table`.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

#: end of the table: the same rows whenever it is created
END = datetime(2026, 1, 10, tzinfo=UTC)
#: less than TRAIN_WINDOW_DAYS, so that a run reads every row
DAYS = 150.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, metavar="FILE", help="must not exist yet")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--objects", action="store_true", help="features as JSON objects; arrays without it")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    big_table(asked.path, rows=asked.rows, as_objects=asked.objects, seed=asked.seed)
    print(f"{asked.path}: {asked.rows:,} rows, {asked.path.stat().st_size / 1e6:,.0f} MB")


def big_table(path: Path, *, rows: int, as_objects: bool = False, seed: int = 1) -> None:
    """Write the database `path`. Raises UsageError when it exists."""
    from retrain_worker.demo.market import write_market

    open_rows = rows // 100
    write_market(path, seed=seed, end=END, rows=rows - open_rows, open_rows=open_rows, days=DAYS, as_objects=as_objects)


if __name__ == "__main__":
    main()
