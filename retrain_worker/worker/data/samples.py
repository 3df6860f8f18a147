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
from retrain_worker.domain.split_policy import Split, SplitPolicy, split_in_time
from retrain_worker.errors import DataUnfitError
from retrain_worker.worker.data.instants import MICROSECONDS, to_datetime, to_microseconds
from retrain_worker.worker.data.outcomes import BUY, NEUTRAL, NO_SIDE, OPEN, WIN
from retrain_worker.worker.data.snapshot import Float32s, Int8s, Int32s, Int64s, Snapshot

Bools = npt.NDArray[np.bool_]

#: fewest samples, and samples of the rarer label, of a part to train or to evaluate on
MIN_PART_ROWS = 50
MIN_PART_CLASS_ROWS = 10
#: share of samples at the instant of another one of their symbol, over which times are taken for truncated
_TRUNCATED = 0.5


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


def training_parts(
    snapshot: Snapshot, *, policy: DataPolicy, split: SplitPolicy, seq_len: int
) -> tuple[Samples, Parts]:
    """What a training has: every sample, and the parts. Raises DataUnfitError where a part is too small."""
    samples = select_samples(snapshot, policy=policy, seq_len=seq_len)
    if not len(samples):
        longest = int(_run_lengths(snapshot, policy.max_gap_hours).max(initial=0))
        raise DataUnfitError(
            f"no labelled row ends a full window of {seq_len} rows: the longest series of one symbol has {longest:,} "
            f"rows without a gap of more than {policy.max_gap_hours:g} hours ({len(snapshot):,} rows of "
            f"{len(snapshot.symbols):,} symbols)",
            where="split",
            remedy="check the column symbol, wait for more rows of each symbol, lower SEQ_LEN (PRESET=engine has 128) "
            "or raise MAX_GAP_H",
        )
    parts = split_samples(samples, split)
    for name, part in (("train", parts.train), ("validation", parts.validation)):
        if is_unfit(part):
            counts = part.counts()
            raise DataUnfitError(
                f"the {name} part has {len(part)} samples, {counts['win']} with label 1 and {counts['loss']} with "
                f"label 0; it needs {MIN_PART_ROWS}, {MIN_PART_CLASS_ROWS} of each",
                where="split",
                remedy="wait for more labelled rows, raise TRAIN_WINDOW_DAYS or lower SEQ_LEN",
            )
    return samples, parts


def is_unfit(*parts: Samples) -> bool:
    """Whether one of them has too few samples to train or to evaluate on."""
    return any(len(part) < MIN_PART_ROWS or min(part.counts().values()) < MIN_PART_CLASS_ROWS for part in parts)


def select_samples(snapshot: Snapshot, *, policy: DataPolicy, seq_len: int) -> Samples:
    """The rows with a usable WIN or LOSS (with LABEL=direction, of a known side too) at the end of a full window."""
    positions = np.flatnonzero(
        _has_label(snapshot, policy.label) & (_run_lengths(snapshot, policy.max_gap_hours) >= seq_len)
    )
    positions = positions[np.lexsort((positions, snapshot.decided_at[positions]))]
    return Samples(
        positions=positions,
        labels=_labels(snapshot, positions, policy.label),
        decided_at=snapshot.decided_at[positions],
        known_at=snapshot.known_at[positions],
        symbol_codes=snapshot.symbol_codes[positions],
    )


def count_without_window(snapshot: Snapshot, samples: Samples, *, label: Label) -> int:
    """The rows with a usable label that are no samples, because their window is not full."""
    return int(_has_label(snapshot, label).sum()) - len(samples)


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
    windows = {"train": split.train, "validation": split.validation, "holdout": split.holdout}
    edges = np.array([to_microseconds(at) for window in windows.values() for at in (window.start, window.end)])
    # 1 train, 3 validation, 5 holdout; even numbers are between two of them
    place = np.searchsorted(edges, samples.decided_at, side="right")
    # a seam, not the later part's start: the embargo is not a time in which one may still learn
    is_purged = ((place == 1) | (place == 3)) & (samples.known_at >= edges[place])
    parts = {}
    for number, name in enumerate(windows):
        is_inside = place == 2 * number + 1
        parts[name] = samples.where(is_inside & ~is_purged)
        _check_part(name, parts[name], samples, purged=int((is_inside & is_purged).sum()))
    left_out = {"purged": int(is_purged.sum()), "embargo": int((place % 2 == 0).sum())}
    return Parts(**parts, split=split, left_out=left_out)


def balanced(samples: Samples, *, seed: int) -> Samples:
    """As many samples of each label: all of the rarer, a random choice of the commoner, in time order."""
    generator = np.random.default_rng(seed)
    places = [np.flatnonzero(samples.labels == label) for label in (0, 1)]
    size = min(map(len, places))
    chosen = [each if len(each) == size else generator.choice(each, size=size, replace=False) for each in places]
    return samples.where(np.sort(np.concatenate(chosen)))


def _has_label(snapshot: Snapshot, label: Label) -> Bools:
    """bool[N]: WIN or LOSS, with LABEL=direction of a known side too."""
    has_label: Bools = (snapshot.outcome != OPEN) & (snapshot.outcome != NEUTRAL)
    return has_label & (snapshot.side != NO_SIDE) if label is Label.DIRECTION else has_label


def _run_lengths(snapshot: Snapshot, max_gap_hours: float) -> Int64s:
    """int64[N]: rows of the symbol since its last long gap, this one included."""
    place = np.arange(len(snapshot))
    begins = np.ones(len(snapshot), dtype=bool)
    begins[1:] = np.diff(snapshot.symbol_codes) != 0
    if max_gap_hours > 0:
        begins[1:] |= np.diff(snapshot.decided_at) > max_gap_hours * 3600 * MICROSECONDS
    lengths: Int64s = place + 1 - np.maximum.accumulate(np.where(begins, place, 0))
    return lengths


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


def _check_part(name: str, part: Samples, samples: Samples, *, purged: int) -> None:
    counts = part.counts()
    if min(counts.values()) > 0:
        return
    details, remedy = "", "wait for more labelled rows, lower SEQ_LEN, or raise TRAIN_WINDOW_DAYS"
    tied = len(samples) - len(np.unique(np.stack([samples.symbol_codes, samples.decided_at]), axis=1).T)
    if tied > _TRUNCATED * len(samples):
        instants = len(np.unique(samples.decided_at))
        details = (
            f": the {len(samples):,} samples are at {instants:,} instant{'s' * (instants > 1)}, and those of one "
            "instant are never divided"
        )
        remedy = "write timestamp as the time of each decision in seconds, not as a date or the time of an import"
    elif purged > len(part):
        remedy = "check exit_time, or updated_at where there is none: a bulk update dates every outcome late"
    raise DataUnfitError(
        f"the {name} part holds {counts['win']} samples with label 1, {counts['loss']} with label 0; it needs both"
        + f" ({purged:,} more are purged: their outcome was not known when the next part begins)" * bool(purged)
        + details,
        where="split",
        remedy=remedy,
    )
