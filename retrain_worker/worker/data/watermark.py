"""The watermark: which labelled rows a committed run has covered. It is the snapshot of that run.

Rows get their outcome long after they were inserted, ids are not in time order, and on PostgreSQL they become visible
out of order: no position in the table separates old from new. So the watermark is the set of labelled rows itself, by
id, symbol, decision time, outcome and profit: a late outcome or a correction is new exactly once. Features are not
part of it (another choice of names makes no row new), nor is updated_at (touching a row does not either).
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from retrain_worker.worker.data.outcomes import LOSS, WIN
from retrain_worker.worker.data.snapshot import Snapshot, frame_of, load

_KEY = ("id", "symbol", "decided_at", "outcome", "pnl")


def count_new(snapshot: Snapshot, path: Path | None) -> int:
    """Labelled rows that the watermark does not hold; all of them where there is no watermark.

    `path`: a file in the folder of the committed run. Rows from before its window do not count: they would be new only
    because the window grew. Raises DataUnfitError when its snapshot is missing or damaged.
    """
    labelled = _labelled(snapshot)
    if path is None:
        return len(labelled)
    committed = load(path.parent)
    new = labelled.join(_labelled(committed), on=_KEY, how="anti", nulls_equal=True)
    start = committed.facts.window_start
    return len(new if start is None else new.filter(pl.col("decided_at") >= start))


def _labelled(snapshot: Snapshot) -> pl.DataFrame:
    """The rows with a usable WIN or LOSS."""
    rows = frame_of(snapshot).filter(pl.col("outcome").is_in([LOSS, WIN])).select(_KEY)
    return rows.with_columns(pl.col("symbol").cast(pl.String))
