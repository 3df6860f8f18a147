"""Rows that are in the table more than once: same symbol, same instant, same features."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

#: a copy that equals the row that is kept; a copy in a group whose outcomes contradict each other
REASONS = ("duplicate", "duplicate_conflict")


def marked(rows: pl.DataFrame, features: Sequence[str]) -> pl.DataFrame:
    """The rows with `reason`, one of REASONS for each copy, and `is_disputed`.

    `rows` in canonical order. Of each group one row is kept: the lowest id that has an outcome (>= 0), if any; where
    the outcomes of the group contradict each other it is disputed: good as history, but its outcome is not known. An
    open row beside one with an outcome is no conflict: the same decision, written before and after.
    """
    follows = (pl.col("symbol") == pl.col("symbol").shift()) & (pl.col("decided_at") == pl.col("decided_at").shift())
    follows = follows.fill_null(False)
    tied = rows.with_row_index("place").filter(follows | follows.shift(-1, fill_value=False))
    if not len(tied):
        return rows.with_columns(reason=pl.lit(None, dtype=pl.String), is_disputed=pl.lit(False))
    group = ["symbol", "decided_at", *features]
    tied = tied.sort(pl.col("recorded_outcome") < 0, "place").select(
        "place",
        kept=pl.col("place").first().over(group),
        outcomes=pl.col("recorded_outcome").filter(pl.col("recorded_outcome") >= 0).n_unique().over(group),
    )
    is_copy, is_disputed = pl.col("place") != pl.col("kept"), pl.col("outcomes") > 1
    found = tied.select(
        "place",
        reason=pl.when(is_copy).then(pl.when(is_disputed).then(pl.lit(REASONS[1])).otherwise(pl.lit(REASONS[0]))),
        is_disputed=~is_copy & is_disputed,
    ).filter(pl.col("reason").is_not_null() | pl.col("is_disputed"))
    joined = rows.with_row_index("place").join(found, on="place", how="left", maintain_order="left").drop("place")
    return joined.with_columns(pl.col("is_disputed").fill_null(False))
