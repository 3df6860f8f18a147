"""Stability: no symbol with a single action, and no symbol or half of the holdout whose sign is inverted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from retrain_worker.domain.gates.check import Check, upper_bound
from retrain_worker.domain.gates.evidence import Evidence, Slice
from retrain_worker.domain.gates.gate import Gate, Measured
from retrain_worker.domain.gates.policy import GatePolicy, GateProfile


def _measure(evidence: Evidence, policy: GatePolicy) -> Measured:
    card = evidence.candidate
    judged = [part for part in card.slices if part.n >= policy.min_slice_rows]
    return Measured(
        num_rows=card.n,
        checks=tuple(_worst(judged, policy)),
        detail=f"{len(judged)} slices of at least {policy.min_slice_rows} rows",
        undecided="" if judged else f"no symbol and no half has {policy.min_slice_rows} rows",
        others={"slices": [asdict(part) for part in card.slices]},
    )


def _worst(judged: Sequence[Slice], policy: GatePolicy) -> Iterator[Check]:
    """Each check on the slice that is furthest off. A slice without an AUC has too few rows of a class for it."""
    alpha = policy.slice_alpha
    bounds = [(part.auc_high, part.name) for part in judged if part.auc is not None and part.auc_high is not None]
    if bounds:
        high, name = min(bounds)
        yield Check(name="slice_auc_high", label=upper_bound(f"AUC of {name}", alpha), value=high, low=0.5)
    behind = [
        (part.auc_lag_high, part.name)
        for part in judged
        if part.auc is not None and part.auc < 0.5 and part.auc_lag_high is not None
    ]
    if behind:
        lag, name = min(behind)
        label = upper_bound(f"AUC of {name} minus that of the other rows", alpha)
        yield Check(name="slice_auc_lag_high", label=label, value=lag, low=0.0, format="+.3f", scale=(-0.5, 0.5))
    if judged:
        share, name = max((_largest_share(part, policy.profile), part.name) for part in judged)
        label = f"one action in {name}"
        yield Check(name="slice_action_share", label=label, value=share, high=1.0, is_strict=True, format=".0%")


def _largest_share(part: Slice, profile: GateProfile) -> float:
    """The share of its most frequent action, or of the larger side of the prior with the calibrated profile."""
    if profile is GateProfile.CALIBRATED and part.above_prior is not None:
        return max(part.above_prior, 1.0 - part.above_prior)
    return max(part.actions.values(), default=0.0)


STABILITY = Gate(
    name="stability",
    requirement="no symbol with a single action, no symbol or half of the holdout with an inverted sign",
    failure="it fails on a part of the rows",
    thresholds=("profile", "min_rows", "min_slice_rows", "slice_alpha"),
    measure=_measure,
)
