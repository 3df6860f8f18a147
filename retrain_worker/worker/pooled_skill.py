"""Skill on the holdout pooled with the backtest folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrain_worker.domain.gates import Fold, GatePolicy, PooledEstimate, Skill
from retrain_worker.domain.gates.skill import pool_alphas
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

    AUC and gain are estimated within each stretch and averaged by rows, so that a drift of the hit rate or of the
    probabilities between stretches does not count as skill. The calibration slope is estimated on all of them together.
    """
    stretches = [_stretch(answered) for answered in (holdout, *folds)]
    alone = stretches[0]
    pooled = []
    for num_folds, alpha in zip(range(len(stretches)), pool_alphas(policy.skill_alpha, wanted), strict=False):
        together = [each for each in stretches[: num_folds + 1] if each is not None]
        if len(together) == num_folds + 1:
            pooled.append(_pooled(together, alpha))
    predictions = [each.predictions for each in stretches if each is not None]
    slope = statistics.calibration_slope(predictions) if len(predictions) > 1 else None
    return Skill(
        folds=tuple(_fold(answered, stretch) for answered, stretch in zip(folds, stretches[1:], strict=True)),
        pooled=tuple(pooled),
        holdout_auc_low=alone.area.low(policy.holdout_alpha) if alone else None,
        calibration_slope=slope.value if slope else None,
        calibration_slope_high=slope.high(policy.calibration_alpha) if slope else None,
    )


@dataclass(frozen=True, kw_only=True)
class _Stretch:
    """The holdout or one fold."""

    n: int
    area: statistics.Estimate
    gain: statistics.Estimate
    predictions: LabelledPredictions


def _stretch(answered: Answered) -> _Stretch | None:
    """None: no AUC can be estimated."""
    answers, rows = answered.answers, answered.rows
    if not len(answers) or not np.isfinite(answers).all():
        return None
    blocks = statistics.blocks_in_time(rows.decided_at, rows.known_at)
    area = statistics.auc(rows.labels, answers, blocks)
    prior_losses = statistics.log_losses(rows.labels, np.full(len(answers), answered.prior))
    gain = statistics.mean(prior_losses - statistics.log_losses(rows.labels, answers), blocks)
    predictions = LabelledPredictions(labels=rows.labels, probabilities=answers, blocks=blocks)
    return _Stretch(n=len(answers), area=area, gain=gain, predictions=predictions) if area else None


def _pooled(together: Sequence[_Stretch], alpha: float) -> PooledEstimate:
    num_rows = sum(each.n for each in together)
    weights = [each.n / num_rows for each in together]
    area = statistics.combined([each.area for each in together], weights)
    gain = statistics.combined([each.gain for each in together], weights)
    return PooledEstimate(
        num_folds=len(together) - 1,
        n=num_rows,
        num_blocks=gain.num_blocks,
        alpha=alpha,
        auc=area.value,
        auc_low=area.low(alpha),
        log_loss_gain=gain.value,
        log_loss_gain_low=gain.low(alpha),
    )


def _fold(answered: Answered, stretch: _Stretch | None) -> Fold:
    first, last = (to_datetime(int(answered.rows.decided_at[place])).isoformat() for place in (0, -1))
    return Fold(
        first_at=first,
        last_at=last,
        n=len(answered.answers),
        auc=stretch.area.value if stretch else None,
        log_loss_gain=stretch.gain.value if stretch else None,
    )
