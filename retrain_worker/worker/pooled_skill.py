"""Skill on the holdout pooled with the backtest folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrain_worker.domain.gates import Fold, GatePolicy, PooledEstimate, Skill
from retrain_worker.domain.gates.skill import gain_alpha, pool_alphas
from retrain_worker.worker import statistics
from retrain_worker.worker.data.instants import to_datetime
from retrain_worker.worker.scoring import Floats, Rows
from retrain_worker.worker.statistics import LabelledPredictions


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Probabilities (N,) of a model on unseen rows; `prior` is P(label = 1) of its training part."""

    answers: Floats
    rows: Rows
    prior: float


def skill(holdout: Answered, folds: Sequence[Answered], *, wanted: int, policy: GatePolicy) -> Skill:
    """The holdout pooled with 0, 1, ... backtest folds (newest first), at most `wanted`, each at its own level.

    The AUC is estimated within each stretch and averaged by rows, so that a drift of the hit rate or of the
    probabilities between stretches does not count as skill. The calibration slope is estimated on all of them together.
    """
    stretches = [_stretch(answered) for answered in (holdout, *folds)]
    alone = stretches[0]
    pooled = []
    for num_folds, alpha in zip(range(len(stretches)), pool_alphas(policy.skill_alpha, wanted), strict=False):
        together = [each for each in stretches[: num_folds + 1] if each is not None]
        if len(together) == num_folds + 1:
            pooled.append(_pooled(together, alpha, policy))
    predictions = [each.predictions for each in reversed(stretches) if each is not None]
    slope = statistics.calibration_slope(predictions) if len(predictions) > 1 else None
    return Skill(
        folds=tuple(_fold(answered, stretch) for answered, stretch in zip(folds, stretches[1:], strict=True)),
        pooled=tuple(pooled),
        holdout_auc_low=alone.area.low(policy.holdout_alpha) if alone else None,
        calibration_slope=slope.value if slope else None,
        calibration_slope_high=slope.high(policy.slope_alpha) if slope else None,
    )


@dataclass(frozen=True, kw_only=True)
class _Stretch:
    """The holdout or one fold."""

    n: int
    area: statistics.Estimate
    #: (n,) log loss of the prior minus that of the model
    gains: Floats
    predictions: LabelledPredictions


def _stretch(answered: Answered) -> _Stretch | None:
    """None: no AUC can be estimated."""
    answers, rows = answered.answers, answered.rows
    if not len(answers) or not np.isfinite(answers).all():
        return None
    predictions = LabelledPredictions(labels=rows.labels, probabilities=answers)
    area = statistics.auc(predictions)
    prior_losses = statistics.log_losses(rows.labels, np.full(len(answers), answered.prior))
    gains = prior_losses - statistics.log_losses(rows.labels, answers)
    return _Stretch(n=len(answers), area=area, gains=gains, predictions=predictions) if area else None


def _pooled(together: Sequence[_Stretch], alpha: float, policy: GatePolicy) -> PooledEstimate:
    in_time = together[::-1]
    area = statistics.auc(*(each.predictions for each in in_time))
    gain = statistics.mean(np.concatenate([each.gains for each in in_time]))
    assert area is not None, "each stretch has an AUC"
    return PooledEstimate(
        num_folds=len(together) - 1,
        n=sum(each.n for each in together),
        num_blocks=min(area.num_blocks, gain.num_blocks),
        alpha=alpha,
        auc=area.value,
        auc_low=area.low(alpha),
        log_loss_gain=gain.value,
        log_loss_gain_low=gain.low(gain_alpha(alpha, policy)),
    )


def _fold(answered: Answered, stretch: _Stretch | None) -> Fold:
    first, last = (to_datetime(int(answered.rows.decided_at[place])).isoformat() for place in (0, -1))
    return Fold(
        first_at=first,
        last_at=last,
        n=len(answered.answers),
        auc=stretch.area.value if stretch else None,
        log_loss_gain=float(stretch.gains.mean()) if stretch else None,
    )
