"""Scorecard and paired comparison of models on rows with known outcomes: for the gates, shadow trial and probation.

This module measures, domain/gates decides. What cannot be measured is None, never NaN and never an exception.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrain_worker.domain.gates import (
    Agreement,
    Bucket,
    Comparison,
    GatePolicy,
    Scorecard,
    Slice,
)
from retrain_worker.domain.labels import Thresholds
from retrain_worker.worker import statistics
from retrain_worker.worker.data.samples import Samples
from retrain_worker.worker.data.snapshot import Snapshot
from retrain_worker.worker.statistics import LabelledPredictions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: codes of the ensemble's action in the snapshot; any other code is unknown
ACTIONS = {"BUY": 1, "SELL": -1, "HOLD": 0}
#: the confidence that the ensemble records when it has none
FALLBACK_CONFIDENCE = 0.5
WILSON_CONFIDENCE = 0.95
#: seed of the simulation of the ECE limit: the same rows give the same limit
ECE_SEED = 20260110


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Labels, instants and recorded actions of samples in time order; every array is (N,)."""

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
    """The scorecard of probabilities (N,) on `rows`. If one of them is not finite, nothing is measured."""
    thresholds = thresholds or Thresholds()
    num_rows, num_win = len(answers), int(rows.labels.sum())
    if not num_rows or not np.isfinite(answers).all():
        return Scorecard(n=num_rows, num_win=num_win, num_blocks=0, actions=dict.fromkeys(ACTIONS, 0.0))
    labels = rows.labels
    predictions = LabelledPredictions(labels=labels, probabilities=answers)
    area = statistics.auc(predictions)
    losses = statistics.log_losses(labels, answers)
    prior_losses = statistics.log_losses(labels, np.full(num_rows, prior))
    gain = statistics.mean(prior_losses - losses)
    effect = statistics.design_effect(labels, answers)
    slope = statistics.calibration_slope([predictions])
    is_win = answers > 0.5
    hits, num_called = float(labels[is_win].sum()), float(is_win.sum())
    return Scorecard(
        n=num_rows,
        num_win=num_win,
        num_blocks=area.num_blocks if area else 0,
        auc=area.value if area else None,
        auc_low=area.low(policy.skill_alpha) if area else None,
        log_loss=float(losses.mean()),
        prior_log_loss=float(prior_losses.mean()),
        log_loss_gain=gain.value,
        log_loss_gain_low=gain.low(policy.gain_alpha),
        brier=float(np.mean((answers - labels) ** 2)),
        ece=statistics.ece(labels, answers),
        ece_limit=_ece_limit(labels, answers, alpha=policy.calibration_alpha),
        calibration_slope=slope.value if slope else None,
        calibration_slope_high=slope.high(policy.slope_alpha) if slope else None,
        accuracy=float(np.mean(is_win == labels)),
        precision=hits / max(1.0, num_called),
        recall=hits / max(1, num_win),
        f1_score=2.0 * hits / max(1.0, num_called + num_win),
        actions=action_shares(answers, thresholds),
        p_mean=float(answers.mean()),
        above_prior=float(np.mean(answers > prior)),
        p_std=float(answers.std()),
        p10_p90=float(np.quantile(answers, 0.9) - np.quantile(answers, 0.1)),
        buckets=_buckets(labels, answers, effect=effect),
        monotonicity_z=statistics.monotonicity_z(labels, answers, effect=effect),
        agreement=_agreement(answers, rows, thresholds),
        slices=_slices(predictions, rows, prior, policy, thresholds),
    )


def _ece_limit(labels: Ints, answers: Floats, *, alpha: float) -> float:
    """The limit for independent rows, or that for outcomes correlated in time, if it is larger."""
    return max(
        statistics.ece_limit(answers, alpha=alpha, seed=ECE_SEED),
        statistics.ece_limit_by_blocks(labels, answers, alpha=alpha, seed=ECE_SEED),
    )


def _actions(answers: Floats, thresholds: Thresholds) -> NDArray[np.int8]:
    """domain.labels.action_of for each probability, as the codes of the snapshot."""
    return (answers > thresholds.buy).astype(np.int8) - (answers < thresholds.sell).astype(np.int8)


def action_shares(answers: Floats, thresholds: Thresholds) -> dict[str, float]:
    """The share of BUY, SELL and HOLD."""
    actions = _actions(answers, thresholds)
    return {name: float(np.mean(actions == code)) for name, code in ACTIONS.items()}


def _buckets(labels: Ints, answers: Floats, *, effect: float) -> tuple[Bucket, ...]:
    """Outcomes by bin of the probability; `effect` is the design effect of the rows."""
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
    """Agreement with the ensemble's recorded actions; None without any."""
    is_recorded = np.isin(rows.actions, list(ACTIONS.values()))
    # written so that NaN is a fallback
    is_sound = (rows.confidences >= 0.0) & (rows.confidences <= 1.0) & (rows.confidences != FALLBACK_CONFIDENCE)
    is_counted = is_recorded & is_sound
    num_rows = int(is_counted.sum())
    if not num_rows:
        return None
    ours, theirs = _actions(answers, thresholds)[is_counted], rows.actions[is_counted]
    is_same = ours == theirs
    low, high = statistics.hit_rate_interval(is_same.astype(np.int64), confidence=WILSON_CONFIDENCE)
    return Agreement(
        n=num_rows,
        share=float(is_same.mean()),
        share_low=low or 0.0,
        share_high=high or 0.0,
        opposed=float(np.mean(ours * theirs == -1)),
        kappa=_kappa(ours, theirs),
        fallbacks=int(np.sum(is_recorded & ~is_sound)),
    )


def _kappa(ours: NDArray[np.int8], theirs: NDArray[np.int8]) -> float | None:
    """Cohen's kappa; None when both have a single action, the same one."""
    by_chance = float(sum(np.mean(ours == action) * np.mean(theirs == action) for action in ACTIONS.values()))
    return (float(np.mean(ours == theirs)) - by_chance) / (1.0 - by_chance) if by_chance < 1.0 else None


def _slices(
    predictions: LabelledPredictions, rows: Rows, prior: float, policy: GatePolicy, thresholds: Thresholds
) -> tuple[Slice, ...]:
    """Each symbol, then both halves in time."""
    answers = predictions.probabilities
    is_early = np.arange(len(answers)) < len(answers) // 2
    masks = [(str(symbol), rows.symbols == symbol) for symbol in np.unique(rows.symbols)]
    masks += [("first half", is_early), ("second half", ~is_early)]
    found = []
    for name, inside in masks:
        if not inside.any():
            continue
        area = statistics.auc(LabelledPredictions(labels=rows.labels[inside], probabilities=answers[inside]))
        high = area.high(policy.slice_alpha) if area else None
        lag = statistics.auc_difference(predictions, inside)
        found.append(
            Slice(
                name=name,
                n=int(inside.sum()),
                auc=area.value if area else None,
                auc_high=None if high is None else min(1.0, high),
                actions=action_shares(answers[inside], thresholds),
                p_std=float(answers[inside].std()),
                above_prior=float(np.mean(answers[inside] > prior)),
                auc_lag_high=lag.high(policy.slice_alpha) if lag else None,
            )
        )
    return tuple(found)


# ---------------------------------------------------------------- two models


def comparison(ours: Floats, theirs: Floats, rows: Rows, *, policy: GatePolicy) -> Comparison:
    """Two models' probabilities (N,) on the same rows, paired row by row."""
    if not len(ours) or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return Comparison(n=len(ours), auc_difference=None, log_loss_gain=None, log_loss_gain_low=None)
    losses = [statistics.log_losses(rows.labels, answers) for answers in (ours, theirs)]
    gain = statistics.mean(losses[1] - losses[0])
    areas = [
        statistics.auc(LabelledPredictions(labels=rows.labels, probabilities=answers)) for answers in (ours, theirs)
    ]
    return Comparison(
        n=len(ours),
        auc_difference=areas[0].value - areas[1].value if areas[0] and areas[1] else None,
        log_loss_gain=gain.value,
        log_loss_gain_low=gain.low(policy.incumbent_alpha),
    )
