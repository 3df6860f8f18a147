"""Backtest folds: the candidate's configuration on earlier periods, each trained only on what was known before it.

They extend the evidence of skill beyond one holdout. A fold is the split of domain/split_policy.py as of the time when
the outcome of its last row became known: its own training and validation part, purged and embargoed, and the fold in
place of the holdout. Its predictions are kept in `run_dir/folds/`, one file per fold, so that an interrupted training
resumes with the first missing fold.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain_worker import durable_file
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.errors import DataUnfitError, TrainingCollapsedError
from retrain_worker.worker.data.instants import to_microseconds
from retrain_worker.worker.data.samples import Parts, Samples, split_samples
from retrain_worker.worker.training import training_identity

#: fewest rows of a fold that is used
MIN_FOLD_ROWS = 100

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FoldAnswers:
    """The predictions on one backtest fold."""

    #: (M,) rows of the snapshot
    positions: NDArray[np.int64]
    #: (M,)
    answers: NDArray[np.float64]
    #: P(label = 1) of its training part
    prior: float


def past_parts(samples: Samples, parts: Parts, policy: SplitPolicy) -> Iterator[Parts]:
    """The folds before `parts.holdout`, newest first, until one has too few rows to train or to evaluate on."""
    # the end of the validation part, so that nothing is used from the embargo or that was not known by then
    seam = to_microseconds(parts.split.validation.end)
    past = samples.where((samples.decided_at < seam) & (samples.known_at < seam))
    size = int(len(past) * policy.validation_share)
    for number in range(policy.backtest_folds):
        until = past.where(np.arange(len(past) - number * size))
        if number:
            until = until.where(until.known_at < past.decided_at[len(until)])
        try:
            fold = split_samples(until, replace(policy, holdout_share=size / max(1, len(until))))
        except DataUnfitError:
            return
        if len(fold.holdout) < MIN_FOLD_ROWS:
            return
        yield fold


def train_folds(
    folds: list[Parts],
    run_dir: Path,
    *,
    identity: Mapping[str, Any],
    predict: Callable[[int, Parts], NDArray[np.float64]],
) -> None:
    """Store the result of `predict` (number from 1, parts) for each fold that is not in `run_dir` yet.

    `identity` is the identity of the training; predictions of another one are removed. If the training of a fold
    collapses, its predictions are its prior.
    """
    folder = run_dir / "folds"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if training_identity.difference(_identity_in(path), identity):
            path.unlink()
    for number, parts in enumerate(folds, start=1):
        path = folder / f"{number}.npz"
        if path.exists():
            continue
        prior = float(parts.train.labels.mean())
        try:
            answers = predict(number, parts)
        except TrainingCollapsedError as collapse:
            _log.warning("backtest fold %d: %s", number, collapse)
            answers = np.full(len(parts.holdout), prior)
        with durable_file.replacing(path) as file:
            np.savez(
                file,
                positions=parts.holdout.positions,
                answers=answers,
                prior=prior,
                identity=training_identity.as_json(identity),
            )


def read_folds(run_dir: Path) -> list[FoldAnswers]:
    """The folds of a run, newest first; empty if it has trained none."""
    found = []
    for path in sorted((run_dir / "folds").glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            found.append(FoldAnswers(positions=file["positions"], answers=file["answers"], prior=float(file["prior"])))
    return found


def _identity_in(path: Path) -> str:
    try:
        with np.load(path, allow_pickle=False) as file:
            return str(file["identity"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return ""
