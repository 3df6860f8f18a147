"""Action diversity: no action dominates, and at least two are used."""

from __future__ import annotations

from retrain_worker.domain.gates.check import Check
from retrain_worker.domain.gates.evidence import Evidence
from retrain_worker.domain.gates.gate import Gate, Measured
from retrain_worker.domain.gates.policy import GatePolicy


def _measure(evidence: Evidence, policy: GatePolicy) -> Measured:
    card = evidence.candidate
    first, second = [*sorted(card.actions.values(), reverse=True), 0.0, 0.0][:2]
    return Measured(
        num_rows=card.n,
        checks=(
            Check(
                name="largest_action_share",
                label="most frequent action",
                value=first,
                high=policy.max_action_share,
                format=".0%",
            ),
            Check(
                name="second_action_share",
                label="second most frequent",
                value=second,
                low=policy.min_action_share,
                is_strict=True,
                format=".0%",
            ),
        ),
        detail=", ".join(f"{name} {share:.0%}" for name, share in sorted(card.actions.items())),
        others={"actions": dict(card.actions)},
    )


ACTION_DIVERSITY = Gate(
    name="action diversity",
    requirement="no action over {max_action_share:.0%}, at least two over {min_action_share:.0%}",
    failure="one action is nearly the only one",
    thresholds=("min_rows", "max_action_share", "min_action_share"),
    measure=_measure,
)
