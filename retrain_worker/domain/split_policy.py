"""Splitting by time into train, validation and holdout, with purge and embargo.

An outcome that is not yet known when the next part begins would carry that part's prices into training
(Lopez de Prado, Advances in Financial Machine Learning, 2018, section 7.4): such samples are purged. The embargo keeps
the first hours after a boundary out of the later part, because neighbouring samples share most of their window.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, kw_only=True)
class SplitPolicy:
    """How the labelled samples of the training window are divided in time."""

    #: share of the newest samples, which only the gate uses
    holdout_share: float = 0.15
    #: share of the samples before the holdout, for the choice of the epoch and the calibration
    validation_share: float = 0.15
    #: hours after each boundary that belong to no part
    embargo_hours: float = 1.0
    #: number of earlier periods, each at most as long as the validation part
    backtest_folds: int = 3


@dataclass(frozen=True, kw_only=True)
class Window:
    """A half-open interval [start, end) of decision times, aware UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True, kw_only=True)
class Split:
    """Three windows in time order. Each later window starts after the boundary plus the embargo."""

    train: Window
    validation: Window
    holdout: Window


def split_in_time(
    *, start: datetime, validation_at: datetime, holdout_at: datetime, end: datetime, policy: SplitPolicy
) -> Split:
    """The windows for the two boundaries `validation_at` and `holdout_at`.

    The caller determines the boundaries (quantiles of the sample times); this function applies the embargo. A training
    sample belongs to its part only if its outcome was known before `validation_at`, a validation sample before
    `holdout_at`.
    """
    assert start <= validation_at <= holdout_at <= end, "the boundaries must be in time order"
    embargo = timedelta(hours=policy.embargo_hours)
    return Split(
        train=Window(start=start, end=validation_at),
        validation=Window(start=min(validation_at + embargo, holdout_at), end=holdout_at),
        holdout=Window(start=min(holdout_at + embargo, end), end=end),
    )
