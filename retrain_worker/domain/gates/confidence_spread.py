"""Confidence spread: the probabilities differ from row to row."""

from __future__ import annotations

from retrain_worker.domain.gates.check import Check
from retrain_worker.domain.gates.evidence import Evidence
from retrain_worker.domain.gates.gate import Gate, Measured
from retrain_worker.domain.gates.policy import GatePolicy


def _measure(evidence: Evidence, policy: GatePolicy) -> Measured:
    card = evidence.candidate
    return Measured(
        num_rows=card.n,
        checks=(
            Check(name="p_std", label="std of P(WIN)", value=card.p_std, low=policy.min_std, scale=(0.0, 0.5)),
            Check(name="p10_p90", label="P90 - P10 of P(WIN)", value=card.p10_p90, low=policy.min_p10_p90),
        ),
    )


CONFIDENCE_SPREAD = Gate(
    name="confidence spread",
    requirement="std of P(WIN) ≥ {min_std:g} and P90 - P10 ≥ {min_p10_p90:g}",
    failure="the probabilities hardly differ from row to row",
    thresholds=("profile", "min_rows", "min_std", "min_p10_p90"),
    measure=_measure,
)
