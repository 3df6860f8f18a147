"""Rows that are in the table more than once: same symbol, same instant, same features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Int8s = npt.NDArray[np.int8]
Float32s = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Copies:
    """What to do about copies, as masks over the rows."""

    #: copies that say the same as the row that is kept
    agreeing: Bools
    #: copies in a group whose outcomes contradict each other
    conflicting: Bools
    #: the kept row of such a group: good as history, but nobody knows its outcome
    unusable: Bools


def find_copies(symbol_codes: Int32s, decided_at: Int64s, features: Float32s, outcome: Int8s) -> Copies:
    """Rows must be in canonical order. Of each group one row is kept: the lowest id that has an outcome (>= 0), if any.

    An open row beside one with an outcome is no conflict: the same decision, written down before and after.
    """
    agreeing, conflicting, unusable = (np.zeros(len(outcome), dtype=bool) for _ in range(3))
    follows = (np.diff(symbol_codes) == 0) & (np.diff(decided_at) == 0)
    tied = np.zeros(len(outcome), dtype=bool)
    tied[1:] |= follows
    tied[:-1] |= follows
    rows = np.flatnonzero(tied)
    if not len(rows):
        return Copies(agreeing=agreeing, conflicting=conflicting, unusable=unusable)
    _, vectors = np.unique(features[rows], axis=0, return_inverse=True)
    keys = (outcome[rows] < 0, vectors.reshape(-1), decided_at[rows], symbol_codes[rows])
    order = np.lexsort(keys)
    rows = rows[order]
    starts = np.ones(len(rows), dtype=bool)
    starts[1:] = np.logical_or.reduce([np.diff(key[order]) != 0 for key in keys[1:]])
    first = np.flatnonzero(starts)
    highest = np.maximum.reduceat(outcome[rows], first)
    lowest = np.minimum.reduceat(np.where(outcome[rows] < 0, np.int8(127), outcome[rows]), first)
    is_conflict = (highest >= 0) & (lowest != highest)
    group = np.cumsum(starts) - 1
    agreeing[rows[~starts & ~is_conflict[group]]] = True
    conflicting[rows[~starts & is_conflict[group]]] = True
    unusable[rows[first[is_conflict]]] = True
    return Copies(agreeing=agreeing, conflicting=conflicting, unusable=unusable)
