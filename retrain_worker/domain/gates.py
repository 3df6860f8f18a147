"""The gate: scorecards and policy in, verdict and reasons out. Pure functions; no measurement is made here.

A gate passes, fails, or is UNDECIDED (not measured, or too few rows), which is not a pass. The verdict is PASS only
when every gate that counts passed; REFUSE when one failed; UNDECIDED otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from statistics import NormalDist
from typing import Any


@dataclass(frozen=True, kw_only=True)
class GatePolicy:
    """Every threshold of the gate. Printed at start, stored with each verdict."""

    #: holdout rows under which nothing is decided
    min_rows: int = 200
    #: largest share of one action
    max_action_share: float = 0.70
    #: an action counts as used over this share; two must be
    min_action_share: float = 0.10
    min_spread_std: float = 0.05
    min_spread_p10_p90: float = 0.12
    #: True: the agreement gate counts; False: it is shown
    agreement_required: bool = False
    min_agreement: float = 0.55
    max_agreement: float = 0.85
    #: over this, agreement is called borderline
    borderline_agreement: float = 0.75
    max_opposition: float = 0.25
    #: one-sided error probability of the skill bounds of one decision, at most; what earlier decisions have spent is
    #: taken off it (domain/alpha_spending.py)
    skill_alpha: float = 0.001
    #: false promotions for want of skill that daily asking may cause a year, at most; 0: every decision at skill_alpha
    false_promotions_per_year: float = 0.1
    #: one-sided error probability at which the newest holdout's AUC must be over chance by itself
    newest_alpha: float = 0.01
    #: one-sided error probability of the calibration limits
    calibration_alpha: float = 0.01
    #: ECE beyond sampling error that is still called calibrated: the calibration itself was fitted on a finite part
    ece_tolerance: float = 0.03
    #: confidence slope surely under which the candidate is overconfident (1: as sure as it is right)
    min_confidence_slope: float = 0.87
    #: log loss (nats per row) by which the candidate may trail the incumbent
    incumbent_margin: float = 0.01
    #: one-sided error probability of "worse than the incumbent"
    incumbent_alpha: float = 0.05
    #: rows under which a slice (symbol, half) is not judged
    min_slice_rows: int = 50
    #: one-sided error probability of "this slice's sign is flipped"
    slice_alpha: float = 0.005
    #: largest difference between a canary's probabilities and the replayed ones
    canary_tolerance: float = 1e-5
    #: largest share of windows that reach the network as a constant
    max_constant_input_share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Outcomes of the rows whose probability fell into [low, high)."""

    low: float
    high: float
    n: int
    mean_probability: float | None
    hit_rate: float | None
    #: its 95 % interval, with as many rows as their shared luck leaves them worth
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
    #: rows set apart because the recorded confidence is exactly 0.5, outside 0..1, or not a number
    fallbacks: int


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One symbol, or one half of the holdout in time."""

    name: str
    n: int
    auc: float | None
    #: upper bound of the AUC at slice_alpha: under 0.5, the sign is flipped
    auc_high: float | None
    actions: Mapping[str, float]
    p_std: float
    #: upper bound at slice_alpha of its AUC minus that of all other rows (or of the other half)
    auc_lag_high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Scorecard:
    """One model on one window. Bounds respect that samples close in time are not independent (blocks in time)."""

    n: int
    num_win: int
    num_blocks: int
    auc: float | None
    #: lower bound of the AUC at skill_alpha
    auc_low: float | None
    log_loss: float | None
    #: log loss of the constant prior of the training part
    prior_log_loss: float | None
    #: prior_log_loss - log_loss, and its lower bound at skill_alpha
    log_loss_gain: float | None
    log_loss_gain_low: float | None
    brier: float | None
    ece: float | None
    #: ECE that a perfectly calibrated model with these probabilities exceeds with calibration_alpha
    ece_limit: float | None
    accuracy: float | None
    precision: float | None
    recall: float | None
    f1_score: float | None
    #: BUY, SELL, HOLD -> share
    actions: Mapping[str, float]
    p_mean: float | None
    p_std: float | None
    p10_p90: float | None
    #: slope of the outcomes' log odds on the candidate's (under 1: overconfident), its upper bound at calibration_alpha
    confidence_slope: float | None = None
    confidence_slope_high: float | None = None
    buckets: tuple[Bucket, ...] = ()
    #: z of the worst fall of the hit rate from a lower to a higher bucket; None with fewer than two buckets
    worst_fall_z: float | None = None
    agreement: Agreement | None = None
    slices: tuple[Slice, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Fold:
    """What the same recipe, trained on the rows before, knew about a stretch of the past."""

    #: ISO 8601 UTC, decision times of its first and last row
    first_at: str
    last_at: str
    n: int
    auc: float | None
    log_loss_gain: float | None


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The newest holdout and the `num_folds` backtest folds next to it, taken together."""

    num_folds: int
    n: int
    num_blocks: int
    #: one-sided error probability of the bounds
    alpha: float
    auc: float
    auc_low: float | None
    log_loss_gain: float
    log_loss_gain_low: float | None


@dataclass(frozen=True, kw_only=True)
class Skill:
    """Backtest folds beside the newest holdout."""

    #: newest first
    folds: tuple[Fold, ...]
    folds_wanted: int
    #: most folds last; the errors of all pools together stay under skill_alpha
    pools: tuple[Pool, ...]
    #: lower bound of the AUC on the holdout alone, at newest_alpha
    newest_auc_low: float | None
    #: as the scorecard's, on the holdout and all backtest folds together; None without backtest folds
    confidence_slope: float | None = None
    confidence_slope_high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Candidate minus incumbent, paired on the same rows, bounds by blocks in time."""

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
    #: why nobody knows what the engine runs, though a model is named; empty = known, or none is named
    unknown: str = ""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that the verdict rests on."""

    candidate: Scorecard
    contract: ContractCheck
    incumbent: Scorecard | None = None
    comparison: Comparison | None = None
    #: why there is no incumbent scorecard
    incumbent_absence: str = ""
    #: None: there are no other rows than the scorecard's, whose own bounds decide
    skill: Skill | None = None
    #: what is known of whether the candidate has seen these rows
    rows_note: str = ""


class GateResult(StrEnum):
    """How one gate ended."""

    PASS = "PASS"  # noqa: S105 - not a password
    FAIL = "FAIL"
    UNDECIDED = "UNDECIDED"


class Decision(StrEnum):
    """What the verdict says."""

    PASS = "PASS"  # noqa: S105 - not a password
    REFUSE = "REFUSE"
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate's result, its measurements beside its thresholds, and one sentence."""

    name: str
    result: GateResult
    #: False: shown, does not count
    counts: bool
    message: str
    measurements: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """PASS, REFUSE or UNDECIDED, with the reasons and the policy that was applied."""

    decision: Decision
    gates: tuple[Gate, ...]
    policy: GatePolicy

    @property
    def reasons(self) -> tuple[str, ...]:
        """The sentences of the gates that count and did not pass: failures first, then the undecided."""
        stopped = [gate for gate in self.gates if gate.counts and gate.result is not GateResult.PASS]
        stopped.sort(key=lambda gate: gate.result is GateResult.UNDECIDED)
        return tuple(f"{gate.name}: {gate.message}" for gate in stopped)


def decide(evidence: Evidence, policy: GatePolicy) -> Verdict:
    """The verdict on a candidate."""
    gates = tuple(judge(evidence, policy) for judge in GATES)
    results = {gate.result for gate in gates if gate.counts}
    if results == {GateResult.PASS}:
        decision = Decision.PASS
    elif GateResult.FAIL in results:
        decision = Decision.REFUSE
    else:
        decision = Decision.UNDECIDED
    return Verdict(decision=decision, gates=gates, policy=policy)


def contract_gate(evidence: Evidence, policy: GatePolicy) -> Gate:
    """The candidate's bytes fit what the engine runs now and reproduce their canary; the inputs are alive."""
    check = evidence.contract
    gate = _gate(
        "contract",
        {
            "mismatches": list(check.mismatches),
            "unknown": check.unknown,
            "canary_max_error": check.canary_max_error,
            "constant_input_share": check.constant_input_share,
        },
        {"canary_tolerance": policy.canary_tolerance, "max_constant_input_share": policy.max_constant_input_share},
    )
    if why := _broken_contract(check, policy):
        return gate(GateResult.FAIL, why)
    if why := _doubtful_contract(check):
        return gate(GateResult.UNDECIDED, why)
    return gate(GateResult.PASS, f"fits the engine; canary reproduced within {check.canary_max_error:.1e}")


def _broken_contract(check: ContractCheck, policy: GatePolicy) -> str:
    """What was looked at and is wrong; empty when nothing is."""
    if check.mismatches:
        return "does not fit what the engine runs: " + "; ".join(check.mismatches)
    if check.canary_max_error is not None and not check.canary_max_error <= policy.canary_tolerance:
        return (
            f"the file answers its own canary with an error of {check.canary_max_error:.1e}, over "
            f"{policy.canary_tolerance:.0e}"
        )
    if check.constant_input_share is not None and not check.constant_input_share <= policy.max_constant_input_share:
        return f"{check.constant_input_share:.0%} of the windows reach the network as a constant"
    return ""


def _doubtful_contract(check: ContractCheck) -> str:
    """What could not be looked at; empty when all was."""
    if check.canary_max_error is None:
        return "the canary could not be replayed"
    if check.constant_input_share is None:
        return "no input window could be replayed through the serving preprocessor"
    if check.unknown:
        return (
            f"nobody knows what the engine runs: {check.unknown}; correct PATCHTST_MODEL_PATH, roll back, or name "
            "what it is to run: retrain-worker promote RUN --accept-contract CONTRACT"
        )
    return ""


def action_diversity_gate(evidence: Evidence, policy: GatePolicy) -> Gate:
    """No action dominates, at least two are used."""
    card = evidence.candidate
    gate = _gate(
        "action diversity",
        {"actions": dict(card.actions), "n": card.n},
        {"max_action_share": policy.max_action_share, "min_action_share": policy.min_action_share},
    )
    if card.n < policy.min_rows:
        return gate(GateResult.UNDECIDED, _too_few(card.n, policy))
    shown = ", ".join(f"{name} {share:.0%}" for name, share in sorted(card.actions.items()))
    used = sum(share > policy.min_action_share for share in card.actions.values())
    if max(card.actions.values()) > policy.max_action_share:
        return gate(GateResult.FAIL, f"one action over {policy.max_action_share:.0%}: {shown}")
    if used < 2:
        return gate(GateResult.FAIL, f"fewer than two actions over {policy.min_action_share:.0%}: {shown}")
    return gate(GateResult.PASS, shown)


def confidence_spread_gate(evidence: Evidence, policy: GatePolicy) -> Gate:
    """The probabilities differ from row to row."""
    card = evidence.candidate
    gate = _gate(
        "confidence spread",
        {"p_std": card.p_std, "p10_p90": card.p10_p90, "n": card.n},
        {"min_spread_std": policy.min_spread_std, "min_spread_p10_p90": policy.min_spread_p10_p90},
    )
    if card.n < policy.min_rows or card.p_std is None or card.p10_p90 is None:
        return gate(GateResult.UNDECIDED, _too_few(card.n, policy))
    shown = (
        f"std {card.p_std:.3f} (at least {policy.min_spread_std}), P90 - P10 {card.p10_p90:.3f} "
        f"(at least {policy.min_spread_p10_p90})"
    )
    enough = card.p_std >= policy.min_spread_std and card.p10_p90 >= policy.min_spread_p10_p90
    return gate(GateResult.PASS if enough else GateResult.FAIL, shown if enough else f"collapsed: {shown}")


def agreement_gate(evidence: Evidence, policy: GatePolicy) -> Gate:
    """The candidate acts like the ensemble, neither too little nor too much. Advisory by default."""
    found = evidence.candidate.agreement
    measurements = (
        {}
        if found is None
        else {
            "n": found.n,
            "share": found.share,
            "share_low": found.share_low,
            "share_high": found.share_high,
            "opposed": found.opposed,
            "kappa": found.kappa,
            "fallbacks": found.fallbacks,
        }
    )
    gate = _gate(
        "agreement",
        measurements,
        {
            "min": policy.min_agreement,
            "max": policy.max_agreement,
            "borderline": policy.borderline_agreement,
            "max_opposition": policy.max_opposition,
        },
        counts=policy.agreement_required,
    )
    if found is None or found.n < policy.min_rows:
        return gate(GateResult.UNDECIDED, _too_few(0 if found is None else found.n, policy))
    kappa = "not defined" if found.kappa is None else f"{found.kappa:.2f}"
    shown = (
        f"same action in {found.share:.0%} ({found.share_low:.0%}..{found.share_high:.0%}), "
        f"opposed in {found.opposed:.0%}, kappa {kappa}"
    )
    if not policy.min_agreement <= found.share <= policy.max_agreement or found.opposed >= policy.max_opposition:
        return gate(
            GateResult.FAIL,
            f"{shown}; asked {policy.min_agreement:.0%}..{policy.max_agreement:.0%} and "
            f"opposed under {policy.max_opposition:.0%}",
        )
    return gate(GateResult.PASS, shown + ("; borderline" if found.share > policy.borderline_agreement else ""))


def calibration_gate(evidence: Evidence, policy: GatePolicy) -> Gate:
    """The hit rate does not fall as confidence rises, confidence is earned, and the ECE is what sampling allows."""
    card, past = evidence.candidate, evidence.skill
    fall_limit = _normal_quantile(1 - policy.calibration_alpha)
    limit = None if card.ece_limit is None else card.ece_limit + policy.ece_tolerance
    gate = _gate(
        "calibration",
        {
            "ece": card.ece,
            "worst_fall_z": card.worst_fall_z,
            "confidence_slope": card.confidence_slope,
            "confidence_slope_high": card.confidence_slope_high,
            "pooled_confidence_slope": past.confidence_slope if past else None,
            "pooled_confidence_slope_high": past.confidence_slope_high if past else None,
            "n": card.n,
        },
        {"ece_limit": limit, "worst_fall_z": fall_limit, "min_confidence_slope": policy.min_confidence_slope},
    )
    if card.n < policy.min_rows or card.ece is None or limit is None:
        return gate(GateResult.UNDECIDED, _too_few(card.n, policy))
    if card.worst_fall_z is None:
        return gate(
            GateResult.UNDECIDED,
            "all probabilities fall into one bucket, so nothing says that more confidence means more hits",
        )
    if card.worst_fall_z > fall_limit:
        return gate(
            GateResult.FAIL,
            f"the hit rate falls as confidence rises (z {card.worst_fall_z:.1f}, at most {fall_limit:.1f})",
        )
    if why := _overconfidence(card, past, policy):
        return gate(GateResult.FAIL, f"overconfident: {why}")
    if card.ece > limit:
        return gate(
            GateResult.FAIL,
            f"ECE {card.ece:.3f} over {limit:.3f}, which is what {card.n} rows allow a "
            f"perfectly calibrated model and {policy.ece_tolerance:g} more",
        )
    return gate(GateResult.PASS, f"ECE {card.ece:.3f} (at most {limit:.3f}), hit rate does not fall with confidence")


def _overconfidence(card: Scorecard, past: Skill | None, policy: GatePolicy) -> str:
    """How little of the candidate's confidence is earned; empty where that is not sure.

    One holdout estimates it roughly; the backtest folds estimate it for the recipe. An old market has no veto: they
    count where the holdout's own estimate agrees.
    """
    least, alone = policy.min_confidence_slope, card.confidence_slope
    if alone is None or card.confidence_slope_high is None:
        return ""
    if card.confidence_slope_high < least:
        return f"{alone:.2f} of its log odds are earned, surely under {card.confidence_slope_high:.2f}"
    pooled, pooled_high = (past.confidence_slope, past.confidence_slope_high) if past else (None, None)
    if alone < least and pooled is not None and pooled_high is not None and pooled_high < least:
        return (
            f"{alone:.2f} of its log odds are earned, and with the backtest folds {pooled:.2f}, surely under "
            f"{pooled_high:.2f}"
        )
    return ""


def skill_gate(evidence: Evidence, policy: GatePolicy) -> Gate:
    """Skill beyond chance: in backtest folds and the newest holdout together, and in the latter alone.

    A change of the market makes old folds speak against a good model, so fewer of them may speak, at a price in error
    probability; the errors of all pools together stay under skill_alpha (Bonferroni).
    """
    if evidence.skill is None:
        return _skill_of_holdout(evidence.candidate, policy)
    found, card = evidence.skill, evidence.candidate
    carrying = max((pool for pool in found.pools if _is_skilled(pool)), key=lambda pool: pool.num_folds, default=None)
    pool = carrying or max(found.pools, key=lambda pool: pool.num_folds, default=None)
    gate = _gate(
        "skill",
        {
            "auc": card.auc,
            "log_loss": card.log_loss,
            "log_loss_gain": card.log_loss_gain,
            "n": card.n,
            "num_blocks": card.num_blocks,
            "pooled_n": pool.n if pool else None,
            "pooled_auc": pool.auc if pool else None,
            "auc_low": pool.auc_low if pool else None,
            "log_loss_gain_low": pool.log_loss_gain_low if pool else None,
            "alpha": pool.alpha if pool else None,
            "num_folds": pool.num_folds if pool else 0,
            "folds": [asdict(fold) for fold in found.folds],
            "newest_auc_low": found.newest_auc_low,
        },
        {
            "auc_low": 0.5,
            "log_loss_gain_low": 0.0,
            "skill_alpha": policy.skill_alpha,
            "newest_alpha": policy.newest_alpha,
            "folds_wanted": found.folds_wanted,
        },
    )
    if (
        card.n < policy.min_rows
        or pool is None
        or pool.auc_low is None
        or pool.log_loss_gain_low is None
        or found.newest_auc_low is None
        or card.log_loss_gain is None
    ):
        return gate(GateResult.UNDECIDED, _too_few(card.n, policy))
    shown = (
        f"AUC {pool.auc:.3f}, surely over {pool.auc_low:.3f}; log loss gain {pool.log_loss_gain:+.4f} over the "
        f"constant prior, surely over {pool.log_loss_gain_low:+.4f}, on {_rows_of(pool, found)}"
    )
    if found.newest_auc_low <= 0.5 or card.log_loss_gain <= 0:
        return gate(
            GateResult.FAIL,
            f"the newest holdout alone shows no skill: AUC surely over "
            f"{found.newest_auc_low:.3f} only, log loss gain {card.log_loss_gain:+.4f}",
        )
    return gate(
        GateResult.PASS if carrying else GateResult.FAIL, shown if carrying else f"no skill beyond luck: {shown}"
    )


def _skill_of_holdout(card: Scorecard, policy: GatePolicy) -> Gate:
    gate = _gate(
        "skill",
        {
            "auc": card.auc,
            "auc_low": card.auc_low,
            "log_loss": card.log_loss,
            "log_loss_gain": card.log_loss_gain,
            "log_loss_gain_low": card.log_loss_gain_low,
            "n": card.n,
            "num_blocks": card.num_blocks,
        },
        {"auc_low": 0.5, "log_loss_gain_low": 0.0, "skill_alpha": policy.skill_alpha},
    )
    if card.n < policy.min_rows or card.auc is None or card.auc_low is None or card.log_loss_gain_low is None:
        return gate(GateResult.UNDECIDED, _too_few(card.n, policy))
    shown = (
        f"AUC {card.auc:.3f}, surely over {card.auc_low:.3f}; log loss gain {card.log_loss_gain or 0.0:+.4f} over "
        f"the constant prior, surely over {card.log_loss_gain_low:+.4f}"
    )
    known = card.auc_low > 0.5 and card.log_loss_gain_low > 0
    return gate(GateResult.PASS if known else GateResult.FAIL, shown if known else f"no skill beyond luck: {shown}")


def pool_alphas(skill_alpha: float, folds_wanted: int) -> tuple[float, ...]:
    """The error probability of the pool with 0, 1, ... `folds_wanted` backtest folds: each fold less costs half."""
    return tuple(skill_alpha * 0.5 ** (folds_wanted - num_folds + 1) for num_folds in range(folds_wanted + 1))


def _is_skilled(pool: Pool) -> bool:
    return (
        pool.auc_low is not None
        and pool.auc_low > 0.5
        and pool.log_loss_gain_low is not None
        and pool.log_loss_gain_low > 0
    )


def _rows_of(pool: Pool, found: Skill) -> str:
    if pool.num_folds:
        left_out = len(found.folds) - pool.num_folds
        rest = f" (not the {left_out} older)" if left_out else ""
        return f"the holdout and {pool.num_folds} backtest folds{rest}, {pool.n} rows, error {pool.alpha:.1e}"
    why = "the backtest folds say otherwise" if found.folds else "there are no backtest folds"
    return f"the holdout alone, {pool.n} rows, error {pool.alpha:.1e} ({why})"


def incumbent_gate(evidence: Evidence, policy: GatePolicy) -> Gate:
    """Not worse than the incumbent beyond a margin, on the same rows. A bad incumbent protects nobody."""
    paired, incumbent = evidence.comparison, evidence.incumbent
    measurements = (
        {}
        if paired is None
        else {
            "n": paired.n,
            "auc_difference": paired.auc_difference,
            "log_loss_gain": paired.log_loss_gain,
            "log_loss_gain_low": paired.log_loss_gain_low,
        }
    )
    gate = _gate(
        "incumbent", measurements, {"margin": policy.incumbent_margin, "incumbent_alpha": policy.incumbent_alpha}
    )
    if incumbent is None:
        return gate(
            GateResult.PASS,
            f"no incumbent to compare with ({evidence.incumbent_absence or 'none named'}); the other gates decide",
        )
    failed = _faults_of(incumbent, policy)
    if failed:
        return gate(GateResult.PASS, f"the incumbent fails its own gates ({', '.join(failed)}); the other gates decide")
    if paired is None or paired.n < policy.min_rows or paired.log_loss_gain_low is None:
        return gate(GateResult.UNDECIDED, _too_few(0 if paired is None else paired.n, policy))
    shown = (
        f"log loss gain {paired.log_loss_gain or 0.0:+.4f} over the incumbent, surely over "
        f"{paired.log_loss_gain_low:+.4f} (at least {-policy.incumbent_margin:+.4f})"
    )
    better = paired.log_loss_gain_low >= -policy.incumbent_margin
    return gate(GateResult.PASS if better else GateResult.FAIL, shown if better else f"may be worse: {shown}")


def stability_gate(evidence: Evidence, policy: GatePolicy) -> Gate:
    """No symbol with a single action, no slice whose sign is flipped."""
    judged = [part for part in evidence.candidate.slices if part.n >= policy.min_slice_rows]
    gate = _gate(
        "stability",
        {
            part.name: {"n": part.n, "auc": part.auc, "auc_high": part.auc_high, "actions": dict(part.actions)}
            for part in evidence.candidate.slices
        },
        {"min_slice_rows": policy.min_slice_rows, "auc_high": 0.5, "slice_alpha": policy.slice_alpha},
    )
    if evidence.candidate.n < policy.min_rows or not judged:
        return gate(GateResult.UNDECIDED, _too_few(evidence.candidate.n, policy))
    faults = [
        f"{part.name} always says {max(part.actions, key=lambda name: part.actions[name])}"
        for part in judged
        if max(part.actions.values(), default=0.0) >= 1.0
    ]
    faults += [
        f"{part.name} is right less often than chance (AUC {part.auc:.3f}, surely under {part.auc_high:.3f})"
        for part in judged
        if part.auc is not None and part.auc_high is not None and part.auc_high < 0.5
    ]
    faults += [
        f"{part.name} falls surely behind the other rows, to less than chance (AUC {part.auc:.3f})"
        for part in judged
        if part.auc is not None
        and part.auc < 0.5 <= (part.auc_high or 0.5)
        and part.auc_lag_high is not None
        and part.auc_lag_high < 0
    ]
    if faults:
        return gate(GateResult.FAIL, "; ".join(faults))
    return gate(GateResult.PASS, f"{len(judged)} slices agree")


GATES: tuple[Callable[[Evidence, GatePolicy], Gate], ...] = (
    contract_gate,
    action_diversity_gate,
    confidence_spread_gate,
    agreement_gate,
    calibration_gate,
    skill_gate,
    incumbent_gate,
    stability_gate,
)


def _faults_of(incumbent: Scorecard, policy: GatePolicy) -> list[str]:
    """The gates that the incumbent fails. It need not prove its skill anew each day; it must not be a burden."""
    alone = Evidence(
        candidate=incumbent, contract=ContractCheck(mismatches=(), canary_max_error=None, constant_input_share=None)
    )
    own = (action_diversity_gate, confidence_spread_gate, calibration_gate)
    failed = [gate.name for gate in (judge(alone, policy) for judge in own) if gate.result is GateResult.FAIL]
    knows = (
        incumbent.auc is None
        or incumbent.log_loss_gain is None
        or (incumbent.auc > 0.5 and incumbent.log_loss_gain > 0)
    )
    return failed if knows else [*failed, "skill"]


def _gate(
    name: str, measurements: Mapping[str, Any], thresholds: Mapping[str, Any], *, counts: bool = True
) -> Callable[[GateResult, str], Gate]:
    def named(result: GateResult, message: str) -> Gate:
        return Gate(
            name=name, result=result, counts=counts, message=message, measurements=measurements, thresholds=thresholds
        )

    return named


def _too_few(n: int, policy: GatePolicy) -> str:
    if n >= policy.min_rows:
        return f"{n} rows are enough, but they span too few holding times of a trade for a bound"
    return f"{n} rows could be judged, {policy.min_rows} are needed"


def _normal_quantile(probability: float) -> float:
    return NormalDist().inv_cdf(probability)
