"""A scorecard for any model on any rows with known outcomes; the gate, the shadow trial and the probation share it.

This module measures, `domain/gates` decides. What cannot be measured is None, never NaN and never an exception.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics

from retrain_worker.domain.gates import (
    Agreement,
    Bucket,
    Comparison,
    Fold,
    GatePolicy,
    PooledEstimate,
    Scorecard,
    Skill,
    Slice,
)
from retrain_worker.domain.gates.skill import pool_alphas
from retrain_worker.domain.labels import Thresholds
from retrain_worker.worker import statistics
from retrain_worker.worker.data.instants import to_datetime
from retrain_worker.worker.data.samples import Samples
from retrain_worker.worker.data.snapshot import Snapshot
from retrain_worker.worker.statistics import Judged

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: as the snapshot records the ensemble's action; anything else there is unknown
ACTIONS = {"BUY": 1, "SELL": -1, "HOLD": 0}
#: the ensemble answers this confidence when it has none
FALLBACK_CONFIDENCE = 0.5
WILSON_CONFIDENCE = 0.95
#: only the simulation inside the ECE limit is random; the same rows give the same limit
ECE_SEED = 20260110


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What is known, besides the features, about samples in time order; every array is (N,)."""

    labels: Ints
    #: microseconds since the epoch, UTC
    decided_at: Ints
    known_at: Ints
    symbols: NDArray[np.str_]
    #: 1 BUY, -1 SELL, 0 HOLD, anything else unknown: the ensemble's recorded action, and its confidence
    actions: NDArray[np.int8]
    confidences: NDArray[np.float32]

    def where(self, is_kept: Bools) -> Rows:
        """The rows where `is_kept` (N,) is true."""
        return Rows(**{name: values[is_kept] for name, values in vars(self).items()})


def rows_of(snapshot: Snapshot, samples: Samples) -> Rows:
    """The rows of the snapshot at which `samples` end."""
    return Rows(
        labels=samples.labels.astype(np.int64),
        decided_at=samples.decided_at,
        known_at=samples.known_at,
        symbols=np.asarray(snapshot.symbols, dtype=np.str_)[samples.symbol_codes],
        actions=np.asarray(snapshot.action[samples.positions]),
        confidences=np.asarray(snapshot.confidence[samples.positions]),
    )


# ---------------------------------------------------------------- one model


def scorecard(
    answers: Floats, rows: Rows, *, prior: float, policy: GatePolicy, thresholds: Thresholds | None = None
) -> Scorecard:
    """One model's probabilities (N,) on `rows`. Answers that are not finite count as no measurement at all."""
    thresholds = thresholds or Thresholds()
    num_rows, num_win = len(answers), int(rows.labels.sum())
    if not num_rows or not np.isfinite(answers).all():
        return _unmeasured(num_rows, num_win)
    labels, blocks = rows.labels, statistics.blocks_in_time(rows.decided_at, rows.known_at)
    area = statistics.auc(labels, answers, blocks)
    losses = statistics.log_losses(labels, answers)
    prior_losses = statistics.log_losses(labels, np.full(num_rows, prior))
    gain = statistics.mean(prior_losses - losses, blocks)
    effect = statistics.design_effect(labels, answers, blocks)
    slope = statistics.calibration_slope([Judged(labels=labels, probabilities=answers, blocks=blocks)])
    is_win = answers > 0.5
    return Scorecard(
        n=num_rows,
        num_win=num_win,
        num_blocks=len(np.unique(blocks)),
        auc=area.value if area else None,
        auc_low=area.low(policy.skill_alpha) if area else None,
        log_loss=float(losses.mean()),
        prior_log_loss=float(prior_losses.mean()),
        log_loss_gain=gain.value,
        log_loss_gain_low=gain.low(policy.skill_alpha),
        brier=float(np.mean((answers - labels) ** 2)),
        ece=statistics.ece(labels, answers),
        ece_limit=_ece_limit(labels, answers, blocks, alpha=policy.calibration_alpha),
        calibration_slope=slope.value if slope else None,
        calibration_slope_high=slope.high(policy.calibration_alpha) if slope else None,
        accuracy=float(metrics.accuracy_score(labels, is_win)),
        precision=float(metrics.precision_score(labels, is_win, zero_division=0.0)),
        recall=float(metrics.recall_score(labels, is_win, zero_division=0.0)),
        f1_score=float(metrics.f1_score(labels, is_win, zero_division=0.0)),
        actions=action_shares(answers, thresholds),
        p_mean=float(answers.mean()),
        p_std=float(answers.std()),
        p10_p90=float(np.quantile(answers, 0.9) - np.quantile(answers, 0.1)),
        buckets=_buckets(labels, answers, effect=effect),
        monotonicity_z=statistics.monotonicity_z(labels, answers, effect=effect),
        agreement=_agreement(answers, rows, thresholds),
        slices=_slices(answers, rows, blocks, policy, thresholds),
    )


def _ece_limit(labels: Ints, answers: Floats, blocks: Ints, *, alpha: float) -> float:
    """What independent rows allow, or, where neighbours share their luck, what that allows."""
    alone = statistics.ece_limit(answers, alpha=alpha, seed=ECE_SEED)
    shared = statistics.ece_limit_by_blocks(labels, answers, blocks, alpha=alpha, seed=ECE_SEED)
    return alone if shared is None else max(alone, shared)


def _unmeasured(num_rows: int, num_win: int) -> Scorecard:
    return Scorecard(
        n=num_rows,
        num_win=num_win,
        num_blocks=0,
        auc=None,
        auc_low=None,
        log_loss=None,
        prior_log_loss=None,
        log_loss_gain=None,
        log_loss_gain_low=None,
        brier=None,
        ece=None,
        ece_limit=None,
        accuracy=None,
        precision=None,
        recall=None,
        f1_score=None,
        actions=dict.fromkeys(ACTIONS, 0.0),
        p_mean=None,
        p_std=None,
        p10_p90=None,
    )


def _actions(answers: Floats, thresholds: Thresholds) -> NDArray[np.int8]:
    """domain.labels.action_of for every answer, as the snapshot writes actions."""
    return (answers > thresholds.buy).astype(np.int8) - (answers < thresholds.sell).astype(np.int8)


def action_shares(answers: Floats, thresholds: Thresholds) -> dict[str, float]:
    """The share of BUY, SELL and HOLD."""
    actions = _actions(answers, thresholds)
    return {name: float(np.mean(actions == code)) for name, code in ACTIONS.items()}


def _buckets(labels: Ints, answers: Floats, *, effect: float) -> tuple[Bucket, ...]:
    """Outcomes over the whole of 0..1; `effect` is the design effect of the rows."""
    bins = statistics.bins_of(answers)
    width = 1.0 / statistics.NUM_BINS
    found = []
    for index in range(statistics.NUM_BINS):
        inside = bins == index
        is_empty = not inside.any()
        low, high = statistics.hit_rate_interval(labels[inside], confidence=WILSON_CONFIDENCE, effect=effect)
        found.append(
            Bucket(
                low=index * width,
                high=(index + 1) * width,
                n=int(inside.sum()),
                mean_probability=None if is_empty else float(answers[inside].mean()),
                hit_rate=None if is_empty else float(labels[inside].mean()),
                hit_rate_low=low,
                hit_rate_high=high,
            )
        )
    return tuple(found)


def _agreement(answers: Floats, rows: Rows, thresholds: Thresholds) -> Agreement | None:
    """Beside the ensemble's recorded action; None where no row has one."""
    is_recorded = np.isin(rows.actions, list(ACTIONS.values()))
    # written so that NaN is a fallback
    is_sound = (rows.confidences >= 0.0) & (rows.confidences <= 1.0) & (rows.confidences != FALLBACK_CONFIDENCE)
    is_counted = is_recorded & is_sound
    num_rows = int(is_counted.sum())
    if not num_rows:
        return None
    ours, theirs = _actions(answers, thresholds)[is_counted], rows.actions[is_counted]
    num_same = int(np.sum(ours == theirs))
    interval = stats.binomtest(num_same, num_rows).proportion_ci(WILSON_CONFIDENCE, method="wilson")
    return Agreement(
        n=num_rows,
        share=num_same / num_rows,
        share_low=float(interval.low),
        share_high=float(interval.high),
        opposed=float(np.mean(ours * theirs == -1)),
        kappa=_kappa(ours, theirs),
        fallbacks=int(np.sum(is_recorded & ~is_sound)),
    )


def _kappa(ours: NDArray[np.int8], theirs: NDArray[np.int8]) -> float | None:
    """Agreement beyond chance; None when both always do the same one thing."""
    if len(np.unique(np.concatenate([ours, theirs]))) < 2:
        return None
    kappa = float(metrics.cohen_kappa_score(ours, theirs))
    return kappa if math.isfinite(kappa) else None


def _slices(answers: Floats, rows: Rows, blocks: Ints, policy: GatePolicy, thresholds: Thresholds) -> tuple[Slice, ...]:
    """Every symbol, then both halves in time."""
    is_early = np.arange(len(answers)) < len(answers) // 2
    masks = [(str(symbol), rows.symbols == symbol) for symbol in np.unique(rows.symbols)]
    masks += [("first half", is_early), ("second half", ~is_early)]
    found = []
    for name, inside in masks:
        if not inside.any():
            continue
        area, rest = (
            statistics.auc(rows.labels[mask], answers[mask], _dense(blocks[mask])) for mask in (inside, ~inside)
        )
        lag = statistics.combined((area, rest), (1.0, -1.0)) if area and rest else None
        found.append(
            Slice(
                name=name,
                n=int(inside.sum()),
                auc=area.value if area else None,
                auc_high=area.high(policy.slice_alpha) if area else None,
                actions=action_shares(answers[inside], thresholds),
                p_std=float(answers[inside].std()),
                auc_lag_high=lag.high(policy.slice_alpha) if lag else None,
            )
        )
    return tuple(found)


def _dense(blocks: Ints) -> Ints:
    """The same blocks numbered from 0 without holes."""
    numbers: Ints = np.unique(blocks, return_inverse=True)[1].astype(np.int64)
    return numbers


# ---------------------------------------------------------------- the same recipe on the past


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Probabilities (N,) of one model on rows that it has never seen; `prior` is P(label = 1) of its training part."""

    answers: Floats
    rows: Rows
    prior: float


def skill(holdout: Answered, folds: Sequence[Answered], *, wanted: int, policy: GatePolicy) -> Skill:
    """The holdout together with 0, 1, ... backtest folds (newest first), each pool at its own error probability.

    AUC and gain are taken inside each stretch and averaged by rows, so a drift of the hit rate or of the answers from
    one stretch to another is no skill. Whether the recipe's confidence is earned is told by all of them together.
    """
    stretches = [_stretch(answered) for answered in (holdout, *folds)]
    alone = stretches[0]
    levels = pool_alphas(policy.skill_alpha, wanted)
    pools = []
    for num_folds, alpha in zip(range(len(stretches)), levels, strict=False):
        together = [each for each in stretches[: num_folds + 1] if each is not None]
        if len(together) == num_folds + 1:
            pools.append(_pool(together, alpha))
    judged = [each.judged for each in stretches if each is not None]
    slope = statistics.calibration_slope(judged) if len(judged) > 1 else None
    return Skill(
        calibration_slope=slope.value if slope else None,
        calibration_slope_high=slope.high(policy.calibration_alpha) if slope else None,
        folds=tuple(_fold(answered, stretch) for answered, stretch in zip(folds, stretches[1:], strict=True)),
        pooled=tuple(pools),
        holdout_auc_low=alone.area.low(policy.holdout_alpha) if alone else None,
    )


@dataclass(frozen=True, kw_only=True)
class _Stretch:
    n: int
    area: statistics.Estimate
    gain: statistics.Estimate
    judged: Judged


def _stretch(answered: Answered) -> _Stretch | None:
    """None: no AUC can be told."""
    answers, rows = answered.answers, answered.rows
    if not len(answers) or not np.isfinite(answers).all():
        return None
    blocks = statistics.blocks_in_time(rows.decided_at, rows.known_at)
    area = statistics.auc(rows.labels, answers, blocks)
    prior_losses = statistics.log_losses(rows.labels, np.full(len(answers), answered.prior))
    gain = statistics.mean(prior_losses - statistics.log_losses(rows.labels, answers), blocks)
    judged = Judged(labels=rows.labels, probabilities=answers, blocks=blocks)
    return _Stretch(n=len(answers), area=area, gain=gain, judged=judged) if area else None


def _pool(together: Sequence[_Stretch], alpha: float) -> PooledEstimate:
    num_rows = sum(each.n for each in together)
    weights = [each.n / num_rows for each in together]
    area, gain = (
        statistics.combined(each, weights)
        for each in ([stretch.area for stretch in together], [stretch.gain for stretch in together])
    )
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


# ---------------------------------------------------------------- two models


def comparison(ours: Floats, theirs: Floats, rows: Rows, *, policy: GatePolicy) -> Comparison:
    """Two models' probabilities (N,) on the same rows, paired row by row."""
    if not len(ours) or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return Comparison(n=len(ours), auc_difference=None, log_loss_gain=None, log_loss_gain_low=None)
    blocks = statistics.blocks_in_time(rows.decided_at, rows.known_at)
    losses = [statistics.log_losses(rows.labels, answers) for answers in (ours, theirs)]
    gain = statistics.mean(losses[1] - losses[0], blocks)
    areas = [statistics.auc(rows.labels, answers, blocks) for answers in (ours, theirs)]
    return Comparison(
        n=len(ours),
        auc_difference=areas[0].value - areas[1].value if areas[0] and areas[1] else None,
        log_loss_gain=gain.value,
        log_loss_gain_low=gain.low(policy.incumbent_alpha),
    )
