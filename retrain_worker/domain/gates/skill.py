"""Skill: the candidate predicts better than chance, and better than a constant, beyond sampling error."""

from __future__ import annotations

from dataclasses import asdict

from retrain_worker.domain.gates.check import Check, lower_bound
from retrain_worker.domain.gates.evidence import Evidence, PooledEstimate, Skill
from retrain_worker.domain.gates.gate import Gate, Measured
from retrain_worker.domain.gates.policy import GatePolicy

_AUC_SCALE, _GAIN_SCALE = (0.3, 1.0), (-0.15, 0.15)


def pool_alphas(skill_alpha: float, num_folds: int) -> tuple[float, ...]:
    """The error probability of the pooled estimate with 0, 1, ... `num_folds` backtest folds.

    Each fold fewer halves it; all together stay below `skill_alpha` (Bonferroni).
    """
    return tuple(skill_alpha * 0.5 ** (num_folds - used + 1) for used in range(num_folds + 1))


def gain_alpha(alpha: float, policy: GatePolicy) -> float:
    """The error probability of the bound on the log loss gain beside that of the AUC at `alpha`."""
    return alpha * policy.gain_alpha / policy.skill_alpha


def _measure(evidence: Evidence, policy: GatePolicy) -> Measured:
    card, found = evidence.candidate, evidence.skill
    others = {
        "auc": card.auc,
        "log_loss": card.log_loss,
        "log_loss_gain": card.log_loss_gain,
        "num_blocks": card.num_blocks,
    }
    if found is None:
        return Measured(
            num_rows=card.n,
            checks=_bounds(card.auc_low, card.log_loss_gain_low, policy.skill_alpha, policy),
            undecided="no AUC could be estimated" if card.auc is None else "",
            others=others,
        )
    pooled = _deciding(found, policy)
    if pooled is None:
        return Measured(num_rows=card.n, undecided="no AUC could be estimated on the holdout", others=others)
    left_out = len(found.folds) - pooled.num_folds
    data = f"{pooled.n} rows of the holdout and {pooled.num_folds} backtest folds"
    return Measured(
        num_rows=card.n,
        checks=(
            Check(
                name="holdout_auc_low",
                label=lower_bound("AUC, holdout alone", policy.holdout_alpha),
                value=found.holdout_auc_low,
                low=0.5,
                is_strict=True,
                scale=_AUC_SCALE,
            ),
            Check(
                name="log_loss_gain",
                label="log loss gain, holdout alone",
                value=card.log_loss_gain,
                low=0.0,
                is_strict=True,
                format="+.3f",
                scale=_GAIN_SCALE,
            ),
            *_bounds(pooled.auc_low, pooled.log_loss_gain_low, pooled.alpha, policy),
        ),
        detail=f"pooled over {data}" + (f" (not the {left_out} older)" if left_out else ""),
        others={**others, "pooled": asdict(pooled), "folds": [asdict(fold) for fold in found.folds]},
    )


def _bounds(auc_low: float | None, gain_low: float | None, alpha: float, policy: GatePolicy) -> tuple[Check, Check]:
    return (
        Check(
            name="auc_low",
            label=lower_bound("AUC", alpha),
            value=auc_low,
            low=0.5,
            is_strict=True,
            scale=_AUC_SCALE,
        ),
        Check(
            name="log_loss_gain_low",
            label=lower_bound("log loss gain", gain_alpha(alpha, policy)),
            value=gain_low,
            low=0.0,
            is_strict=True,
            format="+.3f",
            scale=_GAIN_SCALE,
        ),
    )


def _deciding(found: Skill, policy: GatePolicy) -> PooledEstimate | None:
    """The pooled estimate with the most folds that shows skill; else the one with the most folds.

    After a change of the market, old folds count against a good model, so fewer of them may decide, at a smaller error
    probability.
    """
    with_skill = [
        pooled
        for pooled in found.pooled
        if all(check.is_met for check in _bounds(pooled.auc_low, pooled.log_loss_gain_low, pooled.alpha, policy))
    ]
    return max(with_skill or found.pooled, key=lambda pooled: pooled.num_folds, default=None)


SKILL = Gate(
    name="skill",
    requirement=(
        "the lower confidence bound of the AUC is > 0.5, and that of the log loss gain over the constant prior > 0, "
        "pooled over the holdout and the backtest folds; the holdout alone agrees"
    ),
    failure="it predicts no better than chance",
    thresholds=("min_rows", "skill_alpha", "false_promotions_per_year", "holdout_alpha", "gain_alpha"),
    measure=_measure,
)
