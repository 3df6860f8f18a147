"""What the gates decide on: measurements of candidate and incumbent, made by the worker (worker/scoring.py).

None: could not be measured. Bounds allow for the dependence of samples that are close in time: errors
are summed over blocks in time (worker/statistics.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Outcomes of the rows whose probability is in [low, high)."""

    low: float
    high: float
    n: int
    mean_probability: float | None
    hit_rate: float | None
    #: its 95 % interval; the design effect of the rows is applied
    hit_rate_low: float | None = None
    hit_rate_high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The candidate's action beside the ensemble's recorded one."""

    #: rows with a recorded action that is not a fallback
    n: int
    share: float
    share_low: float
    share_high: float
    #: BUY against SELL
    opposed: float
    #: Cohen's kappa: agreement beyond chance
    kappa: float | None
    #: rows left out because the recorded confidence is exactly 0.5, outside 0..1, or not a number
    fallbacks: int


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One symbol, or one half of the holdout in time."""

    name: str
    n: int
    auc: float | None
    #: upper bound of the AUC at slice_alpha: below 0.5, the sign is inverted
    auc_high: float | None
    actions: Mapping[str, float]
    p_std: float
    #: as the scorecard's
    above_prior: float | None = None
    #: upper bound at slice_alpha of its AUC minus that of all other rows (or of the other half)
    auc_lag_high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Scorecard:
    """One model on one window."""

    n: int
    num_win: int
    num_blocks: int
    #: BUY, SELL, HOLD -> share
    actions: Mapping[str, float]
    auc: float | None = None
    #: lower bound of the AUC at skill_alpha
    auc_low: float | None = None
    log_loss: float | None = None
    #: log loss of the constant prior of the training part
    prior_log_loss: float | None = None
    #: prior_log_loss - log_loss, and its lower bound at gain_alpha
    log_loss_gain: float | None = None
    log_loss_gain_low: float | None = None
    brier: float | None = None
    ece: float | None = None
    #: ECE that a perfectly calibrated model with these probabilities exceeds with probability calibration_alpha
    ece_limit: float | None = None
    accuracy: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1_score: float | None = None
    p_mean: float | None = None
    #: share of rows whose probability is above the prior of the training part
    above_prior: float | None = None
    p_std: float | None = None
    p10_p90: float | None = None
    #: slope of the outcomes' log odds on the candidate's (below 1: overconfident), its upper bound at slope_alpha
    calibration_slope: float | None = None
    calibration_slope_high: float | None = None
    buckets: tuple[Bucket, ...] = ()
    #: z of the largest drop of the hit rate from a bucket to the next higher one; None with fewer than two buckets
    monotonicity_z: float | None = None
    agreement: Agreement | None = None
    slices: tuple[Slice, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Fold:
    """A backtest fold: a stretch before the holdout, predicted by the same recipe trained on the rows before it."""

    #: ISO 8601 UTC, decision times of its first and last row
    first_at: str
    last_at: str
    n: int
    auc: float | None
    log_loss_gain: float | None


@dataclass(frozen=True, kw_only=True)
class PooledEstimate:
    """Over the holdout and the `num_folds` backtest folds next to it; AUC and gain are averages weighted by rows."""

    num_folds: int
    n: int
    num_blocks: int
    #: one-sided error probability of the bound on the AUC; that on the gain has gates.skill.gain_alpha
    alpha: float
    auc: float
    auc_low: float | None
    log_loss_gain: float
    log_loss_gain_low: float | None


@dataclass(frozen=True, kw_only=True)
class Skill:
    """The holdout and the backtest folds."""

    #: newest first
    folds: tuple[Fold, ...]
    #: most folds last; the error probabilities of all together stay below skill_alpha
    pooled: tuple[PooledEstimate, ...]
    #: lower bound of the AUC on the holdout alone, at holdout_alpha
    holdout_auc_low: float | None
    #: as the scorecard's, on the holdout and all backtest folds together; None without backtest folds
    calibration_slope: float | None = None
    calibration_slope_high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Candidate minus incumbent, paired on the same rows."""

    n: int
    auc_difference: float | None
    #: incumbent's log loss minus the candidate's: positive is better
    log_loss_gain: float | None
    #: lower bound at incumbent_alpha
    log_loss_gain_low: float | None


@dataclass(frozen=True, kw_only=True)
class ContractCheck:
    """Whether the candidate's file fits what the engine runs now, measured on the deployed bytes."""

    #: what does not fit; empty = fits
    mismatches: tuple[str, ...]
    #: largest |replayed - recorded| canary probability; None: could not be replayed
    canary_max_error: float | None
    #: share of holdout windows that the serving preprocessor turns into a constant
    constant_input_share: float | None
    #: the candidate's probability for a window that repeats one row; None: not measured
    constant_window_probability: float | None = None
    #: whether the engine, which prepares its windows itself, runs it
    is_engine_preset: bool = False
    #: why the engine's contract is unknown, though a model is named; empty = known, or no model is named
    unknown: str = ""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that a verdict is based on."""

    candidate: Scorecard
    contract: ContractCheck
    incumbent: Scorecard | None = None
    comparison: Comparison | None = None
    #: why there is no incumbent scorecard
    incumbent_absence: str = ""
    #: which rows the comparison leaves out; empty: none
    comparison_note: str = ""
    #: None: there are no rows but the scorecard's, and its own bounds decide
    skill: Skill | None = None
    #: what is known of whether the candidate was trained on these rows
    rows_note: str = ""
