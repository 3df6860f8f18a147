"""Agreement: the candidate's actions differ from the ensemble's, neither too little nor too much. Advisory by default.

Advisory, because the profit of a trade and the side of a trade are different questions, and a constant model can agree
by chance.
"""

from __future__ import annotations

from dataclasses import asdict

from retrain_worker.domain.gates.check import Check
from retrain_worker.domain.gates.evidence import Agreement, Evidence
from retrain_worker.domain.gates.gate import Gate, Measured
from retrain_worker.domain.gates.policy import GatePolicy


def _measure(evidence: Evidence, policy: GatePolicy) -> Measured:
    found = evidence.candidate.agreement
    if found is None:
        return Measured(num_rows=0)
    return Measured(
        num_rows=found.n,
        checks=(
            Check(
                name="share",
                label="same action",
                value=found.share,
                low=policy.min_agreement,
                high=policy.max_agreement,
                format=".0%",
            ),
            Check(
                name="opposed",
                label="opposed",
                value=found.opposed,
                high=policy.max_opposition,
                is_strict=True,
                format=".0%",
            ),
        ),
        detail=_detail(found, policy),
        others=asdict(found),
    )


def _detail(found: Agreement, policy: GatePolicy) -> str:
    kappa = "not defined" if found.kappa is None else f"{found.kappa:.2f}"
    borderline = "; borderline" if found.share > policy.borderline_agreement else ""
    return (
        f"95 % interval of the same action {found.share_low:.0%} to {found.share_high:.0%}; kappa {kappa}{borderline}"
    )


AGREEMENT = Gate(
    name="agreement",
    requirement=(
        "same action as the ensemble in {min_agreement:.0%} to {max_agreement:.0%} of the rows, opposed in under "
        "{max_opposition:.0%}"
    ),
    failure="its actions are too unlike the ensemble's, or too much like them",
    thresholds=(
        "min_rows",
        "agreement_required",
        "min_agreement",
        "max_agreement",
        "borderline_agreement",
        "max_opposition",
    ),
    measure=_measure,
    counts=lambda policy: policy.agreement_required,
)
