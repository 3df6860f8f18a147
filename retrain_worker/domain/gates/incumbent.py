"""Incumbent: the candidate is not worse beyond a margin, and better as measured, on rows that neither has seen."""

from __future__ import annotations

from dataclasses import asdict

from retrain_worker.domain.gates.action_diversity import ACTION_DIVERSITY
from retrain_worker.domain.gates.calibration import CALIBRATION
from retrain_worker.domain.gates.check import Check, lower_bound
from retrain_worker.domain.gates.confidence_spread import CONFIDENCE_SPREAD
from retrain_worker.domain.gates.evidence import ContractCheck, Evidence, Scorecard
from retrain_worker.domain.gates.gate import Gate, GateOutcome, Measured
from retrain_worker.domain.gates.policy import GatePolicy


def _measure(evidence: Evidence, policy: GatePolicy) -> Measured:
    paired, incumbent = evidence.comparison, evidence.incumbent
    others = asdict(paired) if paired else {}
    if incumbent is None:
        why = evidence.incumbent_absence or "none is named"
        return Measured(exemption=f"no incumbent to compare with: {why}; the other gates decide", others=others)
    checks = (
        Check(
            name="log_loss_gain_low",
            label=lower_bound("log loss gain", policy.incumbent_alpha),
            value=paired.log_loss_gain_low if paired else None,
            low=-policy.incumbent_margin,
            format="+.3f",
            scale=(-0.15, 0.15),
        ),
        Check(
            name="log_loss_gain",
            label="log loss gain",
            value=paired.log_loss_gain if paired else None,
            low=policy.min_gain,
            format="+.3f",
            scale=(-0.15, 0.15),
        ),
    )
    if failed := _failed_gates(incumbent, policy):
        why = f"the incumbent fails {', '.join(failed)}; the other gates decide ({checks[0].measured})"
        return Measured(exemption=why, others=others)
    return Measured(num_rows=paired.n if paired else 0, checks=checks, others=others, detail=evidence.comparison_note)


def _failed_gates(incumbent: Scorecard, policy: GatePolicy) -> list[str]:
    """The gates that the incumbent fails. Its skill need not be significant; its point estimate must beat the prior."""
    alone = Evidence(
        candidate=incumbent, contract=ContractCheck(mismatches=(), canary_max_error=None, constant_input_share=None)
    )
    results = [gate.judge(alone, policy) for gate in (ACTION_DIVERSITY, CONFIDENCE_SPREAD, CALIBRATION)]
    failed = [result.name for result in results if result.result is GateOutcome.FAIL]
    is_useful = (
        incumbent.auc is None
        or incumbent.log_loss_gain is None
        or (incumbent.auc > 0.5 and incumbent.log_loss_gain > 0)
    )
    return failed if is_useful else [*failed, "skill"]


INCUMBENT = Gate(
    name="incumbent",
    requirement=(
        "not worse than the incumbent by more than {incumbent_margin:g} nats a row, and better by {min_gain:g} as "
        "measured, paired on the same rows, which neither was trained on"
    ),
    failure="it may be worse than the incumbent, or is hardly better",
    thresholds=("min_rows", "incumbent_margin", "incumbent_alpha", "min_gain"),
    measure=_measure,
)
