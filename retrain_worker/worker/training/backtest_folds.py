"""Backtest folds: the candidate's configuration on earlier periods, each trained only on what was known before it.

They extend the evidence of skill beyond one holdout. A fold is the split of domain/split_policy.py as of the time when
it ends: its own training and validation part, purged and embargoed, and the fold in place of the holdout. Where
several variants were tried, the folds lie before the validation part on which one of them was chosen.

Folds begin and end on a fixed grid in time, so that the run of the next day has the same folds with the same rows and
finds their predictions in the fold store.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain_worker import durable_file
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.errors import DataUnfitError
from retrain_worker.worker.data.instants import MICROSECONDS, to_microseconds
from retrain_worker.worker.data.samples import Parts, Samples, split_samples
from retrain_worker.worker.data.snapshot import Snapshot
from retrain_worker.worker.training import training_identity
from retrain_worker.worker.training.process_group import ALONE, ProcessGroup

#: fewest rows of a fold that is used
MIN_FOLD_ROWS = 100
#: periods that are tried for each fold: a source may have paused
PERIODS_TRIED = 4
#: of the grid: its steps are 1, 2, 3, 4, 6, 8, 12, 16, ... hours
_HOUR = 3600 * MICROSECONDS
_STEPS = sorted(_HOUR * factor << power for factor in (1, 3) for power in range(18))


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One fold, as the holdout of `parts`."""

    parts: Parts
    #: microseconds; training and predictions read nothing but rows decided in [since, until)
    since: int
    until: int

    @property
    def prior(self) -> float:
        """P(label = 1) of its training part."""
        return float(self.parts.train.labels.mean())

    def key(self, identity: Mapping[str, Any], snapshot: Snapshot, features_NF: NDArray[np.float32]) -> str:
        """The hash of all that its predictions follow from: `identity`, its rows and their outcomes."""
        is_read = (snapshot.decided_at >= self.since) & (snapshot.decided_at < self.until)
        numbers = np.cumsum(is_read) - 1
        digest = hashlib.sha256(training_identity.as_json(identity).encode())
        arrays: list[NDArray[Any]] = [features_NF[is_read], snapshot.decided_at[is_read]]
        for part in (self.parts.train, self.parts.validation, self.parts.holdout):
            arrays += [numbers[part.positions], part.labels, part.decided_at, part.known_at]
        for array in arrays:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class FoldAnswers:
    """The predictions on one backtest fold."""

    #: (M,) rows of the snapshot
    positions: NDArray[np.int64]
    #: (M,)
    answers: NDArray[np.float64]
    #: P(label = 1) of its training part
    prior: float


def past_folds(
    snapshot: Snapshot, samples: Samples, parts: Parts, policy: SplitPolicy, *, seq_len: int, is_variant_chosen: bool
) -> Iterator[Fold]:
    """The folds before `parts.holdout`, newest first, until one has too few rows to train on.

    `is_variant_chosen`: the variant of the candidate was chosen on the validation part, so no fold has its rows. A fold
    is at most as long as the newest VALIDATION_SHARE of the rows before the holdout; the newest one ends within its own
    length before the seam; a period with few rows is no fold. A training window that moves from day to day moves the
    rows of the folds by a step of the grid at a time.
    """
    # the end of the validation part, so that nothing is used from the embargo or that was not known by then
    seam = to_microseconds(parts.split.validation.end)
    past = _known_before(samples, seam)
    size = int(len(past) * policy.validation_share)
    if is_variant_chosen:
        seam = to_microseconds(parts.split.train.end)
        past = _known_before(past, seam)
    if not size or not len(past):
        return
    span = seam - int(past.decided_at[-min(size, len(past))])
    step = max((each for each in _STEPS if each <= span), default=_STEPS[0])
    start = snapshot.facts.window_start
    since = int(snapshot.decided_at.min()) if start is None else -(-start // step) * step
    # windows of rows before it would change with the training window
    past = past.where(snapshot.decided_at[past.positions - (seq_len - 1)] >= since)
    wanted, last = policy.backtest_folds, seam // step
    for until in range(last * step, (last - PERIODS_TRIED * wanted) * step, -step):
        known = _known_before(past, until)
        rows = int((known.decided_at >= until - step).sum())
        if not wanted or not len(known):
            return
        if rows < MIN_FOLD_ROWS:
            continue
        # half a row less: the product of share and number must not be rounded to the row before
        try:
            fold = split_samples(known, replace(policy, holdout_share=(rows - 0.5) / len(known)))
        except DataUnfitError:
            return
        if len(fold.holdout) >= MIN_FOLD_ROWS:
            yield Fold(parts=fold, since=since, until=until)
            wanted -= 1


def _known_before(samples: Samples, at: int) -> Samples:
    return samples.where((samples.decided_at < at) & (samples.known_at < at))


def write_folds(
    folds: list[Fold],
    run_dir: Path,
    *,
    predict: Callable[[int, Fold], NDArray[np.float64]],
    group: ProcessGroup = ALONE,
) -> None:
    """Store the result of `predict` (number from 1, fold) for each fold in `run_dir/folds`, and nothing else.

    All processes of `group` take part in each fold; the first writes.
    """
    folder = run_dir / "folds"
    if group.is_first:
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    for number, fold in enumerate(folds, start=1):
        answers = predict(number, fold)
        if group.is_first:
            with durable_file.replacing(folder / f"{number}.npz") as file:
                np.savez(file, positions=fold.parts.holdout.positions, answers=answers, prior=fold.prior)


def read_folds(run_dir: Path) -> list[FoldAnswers]:
    """The folds of a run, newest first; empty if it has trained none."""
    found = []
    for path in sorted((run_dir / "folds").glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            found.append(FoldAnswers(positions=file["positions"], answers=file["answers"], prior=float(file["prior"])))
    return found
