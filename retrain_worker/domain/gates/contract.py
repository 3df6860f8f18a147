"""Contract: the candidate's file fits what the engine runs now, reproduces its canary, and its inputs vary."""

from __future__ import annotations

from retrain_worker.domain.gates.check import Check
from retrain_worker.domain.gates.evidence import ContractCheck, Evidence
from retrain_worker.domain.gates.gate import Gate, Measured
from retrain_worker.domain.gates.policy import GatePolicy


def _measure(evidence: Evidence, policy: GatePolicy) -> Measured:
    found = evidence.contract
    is_known = bool(found.mismatches) or not found.unknown
    checks = (
        Check(
            name="num_mismatches",
            label="mismatches",
            value=len(found.mismatches) if is_known else None,
            high=0,
            format=".0f",
            scale=(0.0, 5.0),
        ),
        Check(
            name="canary_max_error",
            label="canary error",
            value=found.canary_max_error,
            high=policy.canary_tolerance,
            format=".0e",
            scale=(0.0, 2 * policy.canary_tolerance),
        ),
        Check(
            name="constant_input_share",
            label="constant inputs",
            value=found.constant_input_share,
            high=policy.max_constant_input_share,
            format=".0%",
        ),
    )
    # what is known to be wrong outweighs what is not known
    is_wrong = any(check.value is not None and not check.is_met for check in checks)
    return Measured(
        checks=tuple(check for check in checks if check.value is not None) if is_wrong else checks,
        detail="; ".join(found.mismatches),
        undecided="" if is_wrong else _unknown(found),
        others={
            "mismatches": list(found.mismatches),
            "unknown": found.unknown,
            "canary_max_error": found.canary_max_error,
            "constant_input_share": found.constant_input_share,
        },
    )


def _unknown(found: ContractCheck) -> str:
    """What could not be checked; empty when everything was."""
    if found.canary_max_error is None:
        return "the canary could not be replayed"
    if found.constant_input_share is None:
        return "no input window could be replayed through the serving preprocessor"
    if found.unknown:
        return (
            f"the engine's contract is unknown: {found.unknown}; correct PATCHTST_MODEL_PATH, roll back, or name the "
            "contract that it is to run: retrain-worker promote RUN --accept-contract CONTRACT"
        )
    return ""


CONTRACT = Gate(
    name="contract",
    requirement=(
        "the file fits what the engine runs, reproduces its own canary within {canary_tolerance:g}, and at most "
        "{max_constant_input_share:.0%} of its inputs are constant"
    ),
    failure="the engine cannot run this file as it was trained",
    thresholds=("canary_tolerance", "max_constant_input_share"),
    measure=_measure,
)
