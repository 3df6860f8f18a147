"""Which labelled rows a committed run has seen: the watermark, one 64-bit hash per row.

Rows get their outcome long after they were inserted, ids are not in time order, and on PostgreSQL they become visible
out of order: no position in the table separates old from new. So the watermark is the set of labelled rows itself. The
hash covers id, symbol, decision time, outcome and profit: a late outcome or a correction is new exactly once. It does
not cover features (another choice of names makes no row new) nor updated_at (touching a row does not either).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrain_worker import durable_file
from retrain_worker.worker.data.instants import UNREADABLE
from retrain_worker.worker.data.snapshot import Snapshot

FILE_NAME = "fingerprints.npy"
DTYPE = np.dtype([("id", "<i8"), ("hash", "<u8")])

UInt64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """The labelled rows of one snapshot, and where its window began."""

    #: DTYPE[n], sorted by id, then hash
    rows: npt.NDArray[np.void]
    #: microseconds; older rows were never looked at. int64's minimum = every row was
    window_start: int


def fingerprints_of(snapshot: Snapshot) -> Fingerprints:
    """The fingerprints of the rows with a usable WIN or LOSS."""
    labelled = np.flatnonzero((snapshot.outcome == 0) | (snapshot.outcome == 1))
    rows = np.empty(len(labelled), dtype=DTYPE)
    rows["id"] = snapshot.ids[labelled]
    rows["hash"] = _hashes(snapshot, labelled)
    rows.sort(order=("id", "hash"))
    start = snapshot.facts.window_start
    return Fingerprints(rows=rows, window_start=UNREADABLE if start is None else start)


def count_new(snapshot: Snapshot, seen: Fingerprints | None) -> int:
    """Labelled rows that `seen` does not hold.

    Rows from before its window do not count: they would be new only because the window grew.
    """
    labelled = np.flatnonzero((snapshot.outcome == 0) | (snapshot.outcome == 1))
    if seen is None:
        return len(labelled)
    is_new: Bools = ~np.isin(_hashes(snapshot, labelled), seen.rows["hash"])
    return int((is_new & (snapshot.decided_at[labelled] >= seen.window_start)).sum())


def save(fingerprints: Fingerprints, path: Path) -> None:
    """One file: the window's start, then the rows, each as numpy writes an array. Raises DiskFullError."""
    with durable_file.replacing(path) as file:
        np.save(file, np.int64(fingerprints.window_start), allow_pickle=False)
        np.save(file, fingerprints.rows, allow_pickle=False)


def load(path: Path) -> Fingerprints:
    """Raises ValueError or OSError when the file is missing or damaged."""
    with path.open("rb") as file:
        try:
            window_start = np.load(file, allow_pickle=False)
            rows = np.load(file, allow_pickle=False)
        except EOFError as error:
            raise ValueError("the file ends too early") from error
    if rows.dtype != DTYPE or window_start.shape != ():
        raise ValueError("this is no fingerprints file")
    return Fingerprints(rows=rows, window_start=int(window_start))


def _hashes(snapshot: Snapshot, rows: npt.NDArray[np.int64]) -> UInt64s:
    """uint64[len(rows)]."""
    names = [hashlib.blake2b(symbol.encode("utf-8", "surrogatepass"), digest_size=8) for symbol in snapshot.symbols]
    symbols = np.array([int.from_bytes(name.digest(), "little") for name in names], dtype=np.uint64)
    pnl = snapshot.pnl[rows] + 0.0  # one zero
    pnl[np.isnan(pnl)] = np.nan  # one NaN
    mixed = _mix(snapshot.ids[rows].astype(np.uint64))
    for part in (
        symbols[snapshot.symbol_codes[rows]],
        snapshot.decided_at[rows].astype(np.uint64),
        snapshot.outcome[rows].astype(np.uint64),
        pnl.view(np.uint64),
    ):
        mixed = _mix(mixed ^ part)
    return mixed


def _mix(values: UInt64s) -> UInt64s:
    """The finalizer of splitmix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
