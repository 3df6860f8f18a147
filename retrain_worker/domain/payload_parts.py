"""Types within the payloads of events: row counts, scorecards, gates, trials.

They mirror the stored values of `domain` field by field; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

from retrain_worker.domain.gates import Decision, GateOutcome
from retrain_worker.domain.labels import Label
from retrain_worker.domain.payload_fields import Auc, Described, Instant, LogLoss, Metric, RunId
from retrain_worker.domain.recipe import InputTransform, Preset

_Rows = Annotated[int, Described("rows", 900)]
_Shares = Annotated[
    Mapping[str, float], Described("BUY, SELL, HOLD: share of the rows", {"BUY": 0.4, "SELL": 0.35, "HOLD": 0.25})
]
_Bound = Annotated[float | None, Described("null: not measured", 0.031)]


class RowCounts(TypedDict, total=False):
    """Rows of the training window. Empty: the run ended before it read them."""

    loaded: Annotated[int, Described("read", 6060)]
    labelled: Annotated[int, Described("with a usable label", 5988)]
    win: Annotated[int, Described("WIN", 3637)]
    loss: Annotated[int, Described("LOSS", 2351)]
    neutral: Annotated[int, Described("NEUTRAL", 0)]
    open: Annotated[int, Described("without an outcome yet", 72)]
    new_labelled: Annotated[int, Described("labelled since the watermark", 412)]
    quarantined: Annotated[Mapping[str, int], Described("reason: rows left out", {"feature not finite": 3})]
    contradictions: Annotated[int, Described("rows whose class contradicts the sign of realized_pnl", 12)]


class Bucket(TypedDict):
    """Outcomes of the rows whose probability is in [low, high)."""

    low: Annotated[float, Described("lowest probability", 0.6)]
    high: Annotated[float, Described("end of the interval", 0.7)]
    n: _Rows
    mean_probability: Annotated[Metric, Described("mean of P(WIN)")]
    hit_rate: Annotated[Metric, Described("share of WIN")]
    hit_rate_low: Annotated[Metric, Described("lower end of its 95 % interval", 0.61)]
    hit_rate_high: Annotated[Metric, Described("upper end of its 95 % interval", 0.71)]


class Agreement(TypedDict):
    """The candidate's action beside the ensemble's recorded one."""

    n: Annotated[int, Described("rows with a recorded action that is not a fallback", 850)]
    share: Annotated[float, Described("share of equal actions", 0.61)]
    share_low: Annotated[float, Described("lower end of its interval", 0.57)]
    share_high: Annotated[float, Described("upper end of its interval", 0.65)]
    opposed: Annotated[float, Described("share of BUY against SELL", 0.12)]
    kappa: Annotated[float | None, Described("Cohen's kappa: agreement beyond chance", 0.33)]
    fallbacks: Annotated[int, Described("rows left out: the recorded confidence is a fallback value", 4)]


class Slice(TypedDict):
    """One symbol, or one half of the holdout in time."""

    name: Annotated[str, Described("the symbol or the half", "BTCUSDT")]
    n: _Rows
    auc: Auc
    auc_high: Annotated[Metric, Described("upper confidence bound of the AUC", 0.78)]
    actions: _Shares
    p_std: Annotated[float, Described("standard deviation of P(WIN)", 0.21)]
    above_prior: Annotated[Metric, Described("share of rows above the prior of the training part", 0.52)]
    auc_lag_high: Annotated[_Bound, Described("upper confidence bound of its AUC minus that of all other rows")]


class Scorecard(TypedDict):
    """One model on the holdout."""

    n: _Rows
    num_win: Annotated[int, Described("rows with WIN", 540)]
    num_blocks: Annotated[int, Described("blocks in time, over which the bounds are computed", 48)]
    actions: _Shares
    auc: Auc
    auc_low: Annotated[Auc, Described("lower confidence bound of the AUC", 0.655)]
    log_loss: LogLoss
    prior_log_loss: Annotated[LogLoss, Described("log loss of the constant prior of the training part", 0.673)]
    log_loss_gain: Annotated[LogLoss, Described("prior_log_loss - log_loss", 0.062)]
    log_loss_gain_low: Annotated[LogLoss, Described("lower confidence bound of the gain", 0.021)]
    brier: Annotated[Metric, Described("Brier score", 0.205)]
    ece: Annotated[Metric, Described("expected calibration error", 0.034)]
    ece_limit: Annotated[Metric, Described("the ECE that a calibrated model exceeds by chance only", 0.06)]
    accuracy: Annotated[Metric, Described("share of correct classes")]
    precision: Annotated[Metric, Described("share of WIN among predicted WIN", 0.68)]
    recall: Annotated[Metric, Described("share of WIN that were predicted", 0.71)]
    f1_score: Annotated[Metric, Described("harmonic mean of precision and recall", 0.695)]
    p_mean: Annotated[Metric, Described("mean of P(WIN)", 0.58)]
    above_prior: Annotated[Metric, Described("share of rows above the prior of the training part", 0.52)]
    p_std: Annotated[Metric, Described("standard deviation of P(WIN)", 0.22)]
    p10_p90: Annotated[Metric, Described("P90 - P10 of P(WIN)", 0.55)]
    calibration_slope: Annotated[Metric, Described("below 1: overconfident", 0.97)]
    calibration_slope_high: Annotated[Metric, Described("its upper confidence bound", 1.12)]
    buckets: Annotated[list[Bucket], Described("hit rates by probability")]
    monotonicity_z: Annotated[Metric, Described("z of the largest drop of the hit rate between buckets", 0.4)]
    agreement: Annotated[Agreement | None, Described("null: no recorded actions")]
    slices: Annotated[list[Slice], Described("by symbol and by half")]


class PerformanceMetrics(TypedDict):
    """More metrics of the candidate on the holdout."""

    log_loss: LogLoss
    brier: Annotated[Metric, Described("Brier score", 0.205)]
    ece: Annotated[Metric, Described("expected calibration error", 0.034)]
    p_std: Annotated[Metric, Described("standard deviation of P(WIN)", 0.22)]
    p10_p90: Annotated[Metric, Described("P90 - P10 of P(WIN)", 0.55)]
    n: Annotated[float | None, Described("rows of the holdout", 900)]


class Check(TypedDict):
    """One number that must lie within its limits."""

    name: Annotated[str, Described("stable, also in the measurements of the gate", "auc_low")]
    label: Annotated[str, Described("for people", "AUC, 99.9 % lower confidence bound")]
    value: Annotated[float | None, Described("null: not measured", 0.655)]
    low: Annotated[float | None, Described("null: no such limit", 0.5)]
    high: Annotated[float | None, Described("null: no such limit", None)]
    is_strict: Annotated[bool, Described("a value equal to a limit does not meet it", True)]
    format: Annotated[str, Described("format of the numbers, as in Python and D3", ".3f")]
    scale: Annotated[list[float], Described("ends of the axis on which the numbers are drawn", [0.3, 1.0])]
    is_met: Annotated[bool, Described("false also for what is not measured", True)]


class GateResult(TypedDict):
    """The result of one gate."""

    name: Annotated[str, Described("the gate", "skill")]
    result: Annotated[str, Described("UNDECIDED: not measured, or on too few rows", "PASS", values=tuple(GateOutcome))]
    counts: Annotated[bool, Described("false: advisory", True)]
    message: Annotated[str, Described("why it ended so", "AUC, 99.9 % lower confidence bound 0.655")]
    failure: Annotated[str, Described("what a failure of this gate means", "no better than chance")]
    checks: Annotated[list[Check], Described("the numbers and their limits")]
    measurements: Annotated[Mapping[str, Any], Described("everything measured, by name", {"n": 900, "auc_low": 0.655})]
    thresholds: Annotated[Mapping[str, Any], Described("the settings applied, by name", {"min_auc": 0.5})]


class Forced(TypedDict):
    """Who promoted a candidate that its gates did not pass, and why."""

    by: Annotated[str, Described("the operator", "anna")]
    reason: Annotated[str, Described("the operator's reason", "fees changed")]
    of_run: Annotated[RunId, Described("the run that trained and judged the candidate")]
    undecided: Annotated[list[str], Described("the gates whose result was replaced", ["agreement"])]
    accepted_contract: Annotated[str | None, Described("the contract that the engine is to run from now on", None)]


class Contract(TypedDict):
    """What an engine must agree with to run the model."""

    preset: Annotated[str, Described("the network", "engine", values=tuple(Preset))]
    context_length: Annotated[int, Described("rows per window", 128)]
    feature_names: Annotated[list[str], Described("in the order of the input", ["rsi", "ma_cross"])]
    input_transform: Annotated[
        str, Described("how raw windows become network input", "minmax", values=tuple(InputTransform))
    ]
    label: Annotated[str, Described("what the probability is of", "outcome", values=tuple(Label))]


class Trial(TypedDict):
    """The result of a shadow trial."""

    decision: Annotated[str | None, Described("null: not evaluated yet", "PASS", values=tuple(Decision))]
    reasons: Annotated[list[str], Described("why", ["every gate that counts has passed on new rows"])]
    since: Annotated[Instant, Described("rows decided after it count")]
    num_predictions: Annotated[int, Described("predictions logged", 300)]
    num_early_predictions: Annotated[int, Described("logged before the outcome of their row was known", 250)]
    num_outcomes: Annotated[int, Described("outcomes known", 240)]
    auc: Auc
    log_loss: LogLoss
    log_loss_gain: Annotated[LogLoss, Described("over the incumbent: positive is better", 0.04)]


class AnswerDistribution(TypedDict):
    """A model's answers on all recorded rows, whether or not their outcome is known."""

    n: _Rows
    not_finite: Annotated[int, Described("answers that are not a finite number", 0)]
    p_std: Annotated[float | None, Described("standard deviation of P(WIN)", 0.21)]
    actions: _Shares


class ProbationEvidence(TypedDict):
    """The findings of the probation of a model that was rolled back."""

    reason: Annotated[str, Described("why the probation rolled it back; empty: an operator did", "log loss is worse")]
    since: Annotated[Instant, Described("rows decided after it count")]
    num_predictions: Annotated[int, Described("predictions logged", 300)]
    num_early_predictions: Annotated[int, Described("logged before the outcome of their row was known", 250)]
    num_outcomes: Annotated[int, Described("outcomes known", 240)]
    num_analyses: Annotated[int, Described("interim analyses", 3)]
    auc: Auc
    log_loss: LogLoss
    worse_by: Annotated[LogLoss, Described("log loss over that of the replaced model", 0.05)]
    worse_by_low: Annotated[LogLoss, Described("its lower confidence bound", 0.01)]
    model: Annotated[AnswerDistribution | None, Described("the answers of the model")]
    reference: Annotated[AnswerDistribution | None, Described("those of the replaced model")]
    reference_absence: Annotated[str, Described("why there is no reference", "")]
