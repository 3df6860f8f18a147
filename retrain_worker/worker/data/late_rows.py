"""Rows that were written to the table after later decisions of their symbol: these cannot have had them as history.

A row that is stamped before a decision and inserted after its exit would carry the outcome into the window.
"""

from __future__ import annotations

import polars as pl

from retrain_worker.worker.data.instants import MICROSECONDS

#: by how much a row may be written after a decision that it is history of
TOLERANCE = 60 * MICROSECONDS
#: without MAX_GAP_H, how far apart a row and a decision are that are compared
_MAX_HOURS = 48.0


def reason(max_gap_hours: float) -> pl.Expr:
    """String: `inserted_late` or null, for rows in canonical order with `written_at` (created_at, or decided_at).

    A row is compared with the decisions up to `max_gap_hours` after it, as they were written: history that was imported
    before, or together with its decisions, is kept, and so is history that is further away than a window reaches over.
    """
    # rows of one instant are in the order of their ids, so the row number, a few microseconds, keeps them apart
    backwards = -(pl.col("decided_at") + pl.int_range(pl.len())).reverse()
    reach = f"{round((max_gap_hours or _MAX_HOURS) * 3600) * MICROSECONDS}i"
    next_written = pl.col("written_at").reverse().rolling_min_by(backwards, reach).reverse().over("symbol")
    return pl.when(pl.col("written_at") > next_written + TOLERANCE).then(pl.lit("inserted_late"))
