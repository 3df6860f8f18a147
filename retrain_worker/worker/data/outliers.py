"""Rows whose features are so far out that they alone would decide the scale of the others.

A standardisation divides by the standard deviation. A few rows in another unit, or times 1e30, make that so large that
every other row becomes the same number.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from retrain_worker.worker.data.feature_cells import Reason

#: distance from the median, in interquartile ranges, from which a value can be an outlier: both of its symbol and of
#: all rows. A normal distribution ends at 4, a volume with a log-normal one reaches 1,000
LIMIT = 50.0
#: such values are outliers only if they make the standard deviation this many times that of the other rows
INFLATION = 10.0
#: rows of a symbol that give it quartiles of its own
_MIN_ROWS = 20


def reason(rows: pl.DataFrame, features: Sequence[str]) -> pl.Series:
    """String[n]: `features_outlier` or null. All features are finite."""
    is_outlier = pl.Series([False], dtype=pl.Boolean).new_from_index(0, len(rows))
    far = rows.select(_is_far(pl.col(name).cast(pl.Float64)).alias(name) for name in features)
    for is_far in far.iter_columns():
        if is_far.any():
            values = rows.select("symbol", value=pl.col(is_far.name).cast(pl.Float64))
            is_outlier |= _outliers_of(values, is_far)
    return is_outlier.replace_strict({True: Reason.FEATURES_OUTLIER.word, False: None}, return_dtype=pl.String)


def _outliers_of(rows: pl.DataFrame, is_far: pl.Series) -> pl.Series:
    """Boolean[n]: the outliers among the column `value`, of those that are far from all rows."""
    has_own = pl.len().over("symbol") >= _MIN_ROWS
    is_far &= rows.select(~has_own | _is_far(pl.col("value"), "symbol")).to_series()
    values = rows["value"].to_numpy()
    is_inflated = values.std() > INFLATION * values[~is_far.to_numpy()].std() if not is_far.all() else False
    return is_far & is_inflated


def _is_far(value: pl.Expr, group: str | None = None) -> pl.Expr:
    """Whether `value` is beyond LIMIT of all rows or of its own group."""
    low, middle, high = (value.quantile(share, "nearest") for share in (0.25, 0.5, 0.75))
    if group:
        low, middle, high = (each.over(group) for each in (low, middle, high))
    # where most rows have one value, the quartiles are equal, and the value itself is the scale
    scale = pl.when(high > low).then(high - low).otherwise(middle.abs())
    return (value - middle).abs() > LIMIT * scale
