"""The watermark: which labelled rows a committed run has covered, as a file of those rows.

Rows get their outcome long after they were inserted, ids are not in time order, and on PostgreSQL they become visible
out of order: no position in the table separates old from new. So the watermark is the set of labelled rows itself, by
id, symbol, decision time, outcome and profit: a late outcome or a correction is new exactly once. Features are not
part of it (another choice of names makes no row new), nor is updated_at (touching a row does not either).
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from retrain_worker import durable_file
from retrain_worker.worker.data.outcomes import LOSS, WIN
from retrain_worker.worker.data.snapshot import Snapshot, frame_of

FILE_NAME = "watermark.parquet"
_KEY = ("id", "symbol", "decided_at", "outcome", "pnl")
_WINDOW_START = "retrain_worker.window_start"


def save(snapshot: Snapshot, path: Path) -> None:
    """Write the labelled rows, and where the window began. Raises DiskFullError."""
    start = snapshot.facts.window_start
    with durable_file.replacing(path) as file:
        _labelled(snapshot).write_parquet(file, metadata={_WINDOW_START: "" if start is None else str(start)})


def count_new(snapshot: Snapshot, path: Path | None) -> int:
    """Labelled rows that the watermark does not hold; all of them where there is no watermark.

    Rows from before its window do not count: they would be new only because the window grew. Raises ValueError or
    OSError when the file is missing or damaged, or of an earlier version.
    """
    labelled = _labelled(snapshot)
    if path is None:
        return len(labelled)
    try:
        start = pl.read_parquet_metadata(path)[_WINDOW_START]
        covered = pl.read_parquet(path)
        new = labelled.join(covered, on=_KEY, how="anti", nulls_equal=True)
    except (pl.exceptions.PolarsError, KeyError) as error:
        raise ValueError(str(error).split("\\n")[0]) from error
    return len(new.filter(pl.col("decided_at") >= int(start)) if start else new)


def _labelled(snapshot: Snapshot) -> pl.DataFrame:
    """The rows with a usable WIN or LOSS."""
    rows = frame_of(snapshot).filter(pl.col("outcome").is_in([LOSS, WIN])).select(_KEY)
    return rows.with_columns(pl.col("symbol").cast(pl.String))
