"""Action diversity: no action dominates, and at least two are used.

Where WIN is more frequent than LOSS, a calibrated model answers BUY more often: its limit is higher by as much as the
share of WIN exceeds one half, by five points at most, and that of SELL where LOSS is more frequent. Without that end,
20 % of the models that answer BUY to nearly everything pass in a market that rises (benchmarks/gates.py, (f)). The
calibrated profile compares the shares above and below the prior, because a weak model answers HOLD throughout.
"""

from __future__ import annotations

from retrain_worker.domain.gates.check import Check
from retrain_worker.domain.gates.evidence import Evidence, Scorecard
from retrain_worker.domain.gates.gate import Gate, Measured
from retrain_worker.domain.gates.policy import GatePolicy, GateProfile

#: of the limit above GATE_MAX_ACTION_SHARE, where the classes are not balanced
_MOST_EXCESS = 0.05


def _limits(card: Scorecard, policy: GatePolicy) -> dict[str, float]:
    """The largest share allowed, by action."""
    excess = card.num_win / card.n - 0.5 if card.n else 0.0
    highest = max(policy.max_action_share, 1.0 - policy.min_action_share)
    by_action = {"BUY": min(_MOST_EXCESS, max(0.0, excess)), "SELL": min(_MOST_EXCESS, max(0.0, -excess))}
    return {name: min(highest, policy.max_action_share + by_action.get(name, 0.0)) for name in card.actions}


def _measure(evidence: Evidence, policy: GatePolicy) -> Measured:
    card = evidence.candidate
    shares, limits = dict(card.actions), _limits(card, policy)
    if policy.profile is GateProfile.CALIBRATED and card.above_prior is not None:
        shares = {"above the prior": card.above_prior, "not above it": 1.0 - card.above_prior}
        limits = dict.fromkeys(shares, policy.max_action_share)
    largest = max(shares, key=lambda name: shares[name] - limits[name], default="")
    second = [*sorted(shares.values(), reverse=True), 0.0, 0.0][1]
    return Measured(
        num_rows=card.n,
        checks=(
            Check(
                name="largest_action_share",
                label="most frequent action",
                value=shares.get(largest, 0.0),
                high=limits.get(largest, policy.max_action_share),
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
        detail=", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items())),
        others={"actions": dict(card.actions)},
    )


ACTION_DIVERSITY = Gate(
    name="action diversity",
    requirement=(
        "no action over {max_action_share:.0%}, BUY (or SELL) by as much more as the share of WIN (or LOSS) exceeds "
        "50%, 5 points at most; at least two over {min_action_share:.0%}"
    ),
    failure="one action is nearly the only one",
    thresholds=("profile", "min_rows", "max_action_share", "min_action_share"),
    measure=_measure,
)
