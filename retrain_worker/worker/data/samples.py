"""Which rows end a window, and which part of time each belongs to.

A sample is a row with a usable outcome and a full window: the last `seq_len` rows of its own symbol up to and including
itself, with no gap longer than the policy allows between two of them. Since the snapshot is sorted by (symbol,
decided_at, id), such a window is `seq_len` neighbouring rows: it can hold no later row and no other symbol's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.labels import Label
from retrain_worker.domain.split_policy import Split, SplitPolicy, Window, split_in_time
from retrain_worker.errors import DataUnfitError
from retrain_worker.worker.data.instants import MICROSECONDS, to_datetime, to_microseconds
from retrain_worker.worker.data.outcomes import BUY, NEUTRAL, NO_SIDE, OPEN, WIN
from retrain_worker.worker.data.snapshot import Snapshot

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Int8s = npt.NDArray[np.int8]
Float32s = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Labelled windows in time order (decided_at, position)."""

    #: int64[M], the row of the snapshot at which the window ends
    positions: Int64s
    #: int8[M], 1 or 0
    labels: Int8s
    #: int64[M], microseconds
    decided_at: Int64s
    #: int64[M], microseconds
    known_at: Int64s
    #: int32[M]
    symbol_codes: Int32s

    def __len__(self) -> int:
        return len(self.positions)

    def where(self, chosen: Bools | Int64s) -> Samples:
        """The samples under a mask or at ascending places."""
        return Samples(**{each.name: getattr(self, each.name)[chosen] for each in fields(self)})

    def counts(self) -> dict[str, int]:
        """{"win": rows with label 1, "loss": rows with label 0}."""
        ones = int(self.labels.sum())
        return {"win": ones, "loss": len(self) - ones}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Samples divided in time."""

    train: Samples
    validation: Samples
    holdout: Samples
    #: purged | embargo -> samples that belong to no part
    left_out: dict[str, int]
    split: Split


def select_samples(snapshot: Snapshot, *, policy: DataPolicy, seq_len: int) -> tuple[Samples, dict[str, int]]:
    """The samples, and the other rows counted by the first reason that holds.

    Reasons: no_outcome, neutral, no_side (only with LABEL=direction), short_history (fewer than `seq_len` rows of the
    symbol so far), gap (enough rows, but not since the last long gap).
    """
    in_symbol, since_gap = _run_lengths(snapshot, policy.max_gap_hours)
    reasons: tuple[tuple[str, Bools], ...] = (
        ("no_outcome", snapshot.outcome == OPEN),
        ("neutral", snapshot.outcome == NEUTRAL),
        ("no_side", (snapshot.side == NO_SIDE) & (policy.label is Label.DIRECTION)),
        ("short_history", in_symbol < seq_len),
        ("gap", since_gap < seq_len),
    )
    is_sample = np.ones(len(snapshot), dtype=bool)
    left_out = {}
    for reason, holds in reasons:
        left_out[reason] = int((is_sample & holds).sum())
        is_sample &= ~holds
    positions = np.flatnonzero(is_sample)
    positions = positions[np.lexsort((positions, snapshot.decided_at[positions]))]
    samples = Samples(
        positions=positions,
        labels=_labels(snapshot, positions, policy.label),
        decided_at=snapshot.decided_at[positions],
        known_at=snapshot.known_at[positions],
        symbol_codes=snapshot.symbol_codes[positions],
    )
    return samples, left_out


def window_ends(snapshot: Snapshot, *, policy: DataPolicy, seq_len: int, before: int) -> Int64s:
    """int64[K], ascending: rows decided before `before` (microseconds) with a full window, outcome or not."""
    _in_symbol, since_gap = _run_lengths(snapshot, policy.max_gap_hours)
    return np.flatnonzero((since_gap >= seq_len) & (snapshot.decided_at < before))


def windows(features: Float32s, positions: Int64s, seq_len: int) -> Float32s:
    """float32[B, seq_len, F], oldest row first. Copies one batch; `features` may be memory-mapped."""
    if not len(positions):
        return np.empty((0, seq_len, features.shape[1]), dtype=np.float32)
    view = np.lib.stride_tricks.sliding_window_view(features, (seq_len, features.shape[1]))[:, 0]
    gathered: Float32s = view[positions - (seq_len - 1)]
    return gathered


def split_samples(samples: Samples, policy: SplitPolicy) -> Parts:
    """Divide by time; leave out rows whose outcome would leak from a later part into an earlier one.

    Purged: training samples whose outcome was not known before the validation part's seam, validation samples whose
    outcome was not known before the holdout's. Embargo: the first hours after a seam. Samples of one instant are never
    divided. Raises DataUnfitError when a part is empty or has one class only.
    """
    if not len(samples):
        raise DataUnfitError(
            "no row has both an outcome and a full window", remedy="lower SEQ_LEN or wait for more rows"
        )
    split = _split(samples, policy)
    spans = {name: _inside(samples.decided_at, getattr(split, name)) for name in ("train", "validation", "holdout")}
    in_no_part = ~(spans["train"] | spans["validation"] | spans["holdout"])
    # a seam, not the later part's start: the embargo is not a time in which one may still learn
    validation_at, holdout_at = (to_microseconds(each.end) for each in (split.train, split.validation))
    purged = (spans["train"] & (samples.known_at >= validation_at)) | (
        spans["validation"] & (samples.known_at >= holdout_at)
    )
    parts = {name: samples.where(inside & ~purged) for name, inside in spans.items()}
    for name, part in parts.items():
        _check_part(name, part)
    return Parts(
        **parts,
        split=split,
        left_out={"purged": int(purged.sum()), "embargo": int(in_no_part.sum())},
    )


def balanced(samples: Samples, *, seed: int) -> Samples:
    """As many samples of each label: all of the rarer, a random choice of the commoner, in time order."""
    generator = np.random.default_rng(seed)
    places = [np.flatnonzero(samples.labels == label) for label in (0, 1)]
    size = min(map(len, places))
    chosen = [each if len(each) == size else generator.choice(each, size=size, replace=False) for each in places]
    return samples.where(np.sort(np.concatenate(chosen)))


def _run_lengths(snapshot: Snapshot, max_gap_hours: float) -> tuple[Int64s, Int64s]:
    """(rows of the symbol up to here, rows since the last long gap up to here), int64[N] each, counting the row."""
    place = np.arange(len(snapshot), dtype=np.int64)
    begins = np.ones(len(snapshot), dtype=bool)
    begins[1:] = np.diff(snapshot.symbol_codes) != 0
    after_gap = begins.copy()
    if max_gap_hours > 0:
        after_gap[1:] |= np.diff(snapshot.decided_at) > max_gap_hours * 3600 * MICROSECONDS
    in_symbol, since_gap = (place + 1 - np.maximum.accumulate(np.where(each, place, 0)) for each in (begins, after_gap))
    return in_symbol, since_gap


def _labels(snapshot: Snapshot, positions: Int64s, label: Label) -> Int8s:
    is_one: Bools = snapshot.outcome[positions] == WIN
    if label is Label.DIRECTION:
        is_one = is_one == (snapshot.side[positions] == BUY)
    return is_one.astype(np.int8)


def _split(samples: Samples, policy: SplitPolicy) -> Split:
    instants = samples.decided_at
    before_holdout = int(len(instants) * (1.0 - policy.holdout_share))
    before_validation = int(before_holdout * (1.0 - policy.validation_share))
    start, validation_at, holdout_at = (
        to_datetime(int(instants[min(place, len(instants) - 1)])) for place in (0, before_validation, before_holdout)
    )
    end = to_datetime(int(instants[-1]) + 1)
    return split_in_time(start=start, validation_at=validation_at, holdout_at=holdout_at, end=end, policy=policy)


def _inside(instants: Int64s, window: Window) -> Bools:
    return (instants >= to_microseconds(window.start)) & (instants < to_microseconds(window.end))


def _check_part(name: str, part: Samples) -> None:
    counts = part.counts()
    if min(counts.values()) == 0:
        raise DataUnfitError(
            f"the {name} part holds {counts['win']} samples with label 1, {counts['loss']} with label 0; it needs both",
            remedy="wait for more labelled rows, lower SEQ_LEN, or raise TRAIN_WINDOW_DAYS",
        )
