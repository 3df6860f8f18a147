"""Rows that repeat earlier ones under another stamp: they are no independent evidence.

Two rows are equal when their features, outcome, profit and price move are. A near copy is a closed trade that follows
an equal one of its symbol within NEAR. A replayed stretch is a sequence of STRETCH or more closed trades that equals an
earlier one of its symbol.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from retrain_worker.worker.data.instants import MICROSECONDS

NEAR = 60 * MICROSECONDS
#: long enough that features and profits of a few values do not agree by chance
STRETCH = 8
REASONS = ("near_copy", "replayed")
#: an odd multiplier of a polynomial hash
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def near(rows: pl.DataFrame, features: Sequence[str]) -> pl.Series:
    """String[n]: `near_copy` or null, for rows in canonical order."""
    key, codes = _keys(rows, features).to_numpy(), rows["symbol"].to_physical().to_numpy()
    decided_at = rows["decided_at"].to_numpy()
    order = np.lexsort((decided_at, key, codes))
    is_near = np.zeros(len(rows), dtype=bool)
    is_near[order[1:]] = (
        (np.diff(key[order]) == 0) & (np.diff(codes[order]) == 0) & (np.diff(decided_at[order]) <= NEAR)
    )
    return _named(REASONS[0], is_near & (rows["recorded_outcome"] >= 0).to_numpy())


def replayed(rows: pl.DataFrame, features: Sequence[str]) -> pl.Series:
    """String[n]: `replayed` or null, for rows in canonical order."""
    key, codes = _keys(rows, features).to_numpy(), rows["symbol"].to_physical().to_numpy()
    is_closed = (rows["recorded_outcome"] >= 0).to_numpy()
    num_stretches = max(0, len(rows) - STRETCH + 1)
    stretch = codes[:num_stretches].astype(np.uint64)
    is_whole = codes[:num_stretches] == codes[STRETCH - 1 :]
    for number in range(STRETCH):
        here = slice(number, number + num_stretches)
        is_whole &= is_closed[here]
        if number:  # a feed that stands still repeats itself without being a replay
            is_whole &= key[here] != key[number - 1 : number - 1 + num_stretches]
        stretch = stretch * _MULTIPLIER + key[here]
    starts = np.flatnonzero(is_whole)
    _, first = np.unique(stretch[starts], return_index=True)
    is_replayed = np.zeros(len(rows), dtype=bool)
    for start in np.delete(starts, first):
        is_replayed[start : start + STRETCH] = True
    return _named(REASONS[1], is_replayed)


def _named(reason: str, holds: npt.NDArray[np.bool_]) -> pl.Series:
    return pl.select(pl.when(pl.Series(holds)).then(pl.lit(reason))).to_series()


def _keys(rows: pl.DataFrame, features: Sequence[str]) -> pl.Series:
    """UInt64[n]: equal for equal rows."""
    return rows.select(*features, "recorded_outcome", "pnl", "price_move").hash_rows()
