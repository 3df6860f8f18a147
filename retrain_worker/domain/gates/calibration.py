"""Calibration: the hit rate does not fall as P(WIN) rises, the candidate is not overconfident, the ECE is small."""

from __future__ import annotations

from statistics import NormalDist

from retrain_worker.domain.gates.check import Check, upper_bound
from retrain_worker.domain.gates.evidence import Evidence
from retrain_worker.domain.gates.gate import Gate, Measured
from retrain_worker.domain.gates.policy import GatePolicy

_SLOPE_SCALE = (0.0, 2.0)


def _measure(evidence: Evidence, policy: GatePolicy) -> Measured:
    card, skill = evidence.candidate, evidence.skill
    limit = None if card.ece_limit is None else card.ece_limit + policy.ece_tolerance
    return Measured(
        num_rows=card.n,
        checks=(
            Check(name="ece", label="ECE", value=None if limit is None else card.ece, high=limit, scale=(0.0, 0.2)),
            Check(
                name="monotonicity_z",
                label="largest drop of the hit rate, z",
                value=card.monotonicity_z,
                high=NormalDist().inv_cdf(1 - policy.calibration_alpha),
                format=".1f",
                scale=(-4.0, 4.0),
            ),
            *_slopes(evidence, policy),
        ),
        others={
            "ece_limit": card.ece_limit,
            "calibration_slope": card.calibration_slope,
            "calibration_slope_high": card.calibration_slope_high,
            "pooled_calibration_slope": skill.calibration_slope if skill else None,
            "pooled_calibration_slope_high": skill.calibration_slope_high if skill else None,
        },
    )


def _slopes(evidence: Evidence, policy: GatePolicy) -> tuple[Check, ...]:
    """Upper bounds of the calibration slope, where there are any.

    One holdout estimates the slope roughly; the backtest folds estimate it for the recipe. They count where the
    holdout's own estimate agrees, so that a past market cannot fail the candidate by itself.
    """
    card, least = evidence.candidate, policy.min_calibration_slope
    alone, high = card.calibration_slope, card.calibration_slope_high
    if alone is None or high is None:
        return ()
    label = upper_bound("calibration slope", policy.slope_alpha)
    found = [Check(name="calibration_slope_high", label=label, value=high, low=least, scale=_SLOPE_SCALE)]
    pooled = evidence.skill.calibration_slope_high if evidence.skill else None
    if alone < least and pooled is not None:
        label = upper_bound("calibration slope with backtest folds", policy.slope_alpha)
        found.append(
            Check(name="pooled_calibration_slope_high", label=label, value=pooled, low=least, scale=_SLOPE_SCALE)
        )
    return tuple(found)


CALIBRATION = Gate(
    name="calibration",
    requirement=(
        "the hit rate does not fall as P(WIN) rises; the ECE is within sampling error plus {ece_tolerance:g}; the "
        "upper confidence bound of the calibration slope is ≥ {min_calibration_slope:g}"
    ),
    failure="its probabilities are not calibrated",
    thresholds=("min_rows", "calibration_alpha", "ece_tolerance", "slope_alpha", "min_calibration_slope"),
    measure=_measure,
)
