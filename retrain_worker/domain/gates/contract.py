"""Contract: the candidate's file fits what the engine runs now, reproduces its canary, and its inputs vary."""

from __future__ import annotations

from collections.abc import Iterable

from retrain_worker.domain.gates.check import Check
from retrain_worker.domain.gates.evidence import ContractCheck, Evidence
from retrain_worker.domain.gates.gate import Gate, GateResult, Measured
from retrain_worker.domain.gates.policy import GatePolicy
from retrain_worker.domain.host_names import command
from retrain_worker.domain.labels import Thresholds

#: measurements of the result that `fault_of_file` and `unknown_engine` read
_CANARY, _CONSTANT, _UNKNOWN = "canary_max_error", "constant_input_share", "unknown"
#: name of the check, and of the measurement
CONSTANT_WINDOW = "constant_window_probability"


def fault_of_file(result: GateResult, policy: GatePolicy) -> str:
    """What is wrong with the file itself, whatever the engine runs; empty when it is sound."""
    error, constant = result.measurements.get(_CANARY), result.measurements.get(_CONSTANT)
    if error is None or constant is None:
        return "its canary or its inputs could not be replayed"
    has_opinion = any(check.name == CONSTANT_WINDOW and not check.is_met for check in result.checks)
    is_sound = error <= policy.canary_tolerance and constant <= policy.max_constant_input_share and not has_opinion
    return "" if is_sound else result.message


def constant_window_of(gates: Iterable[GateResult]) -> float | None:
    """P(WIN) of a window that repeats one row; None where it was not measured."""
    measured = (gate.measurements.get(CONSTANT_WINDOW) for gate in gates)
    return next((float(value) for value in measured if value is not None), None)


def unknown_engine(result: GateResult) -> str:
    """Why it is not known what the engine runs: the cause of an undecided result on a sound file."""
    return str(result.measurements[_UNKNOWN])


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
            name=_CANARY,
            label="canary error",
            value=found.canary_max_error,
            high=policy.canary_tolerance,
            format=".0e",
            scale=(0.0, 2 * policy.canary_tolerance),
        ),
        Check(
            name=_CONSTANT,
            label="constant inputs",
            value=found.constant_input_share,
            high=policy.max_constant_input_share,
            format=".0%",
        ),
        *_constant_window_check(found, policy),
    )
    # what is known to be wrong outweighs what is not known
    is_wrong = any(check.value is not None and not check.is_met for check in checks)
    return Measured(
        checks=tuple(check for check in checks if check.value is not None) if is_wrong else checks,
        detail="; ".join(found.mismatches),
        undecided="" if is_wrong else _unknown(found),
        others={
            "mismatches": list(found.mismatches),
            _UNKNOWN: found.unknown,
            _CANARY: found.canary_max_error,
            _CONSTANT: found.constant_input_share,
            CONSTANT_WINDOW: found.constant_window_probability,
        },
    )


def _constant_window_check(found: ContractCheck, policy: GatePolicy) -> tuple[Check, ...]:
    """The engine's agent fills its window with one price: a model must have no opinion of such a window."""
    if not found.is_engine_preset or not policy.hold_on_constant_window:
        return ()
    thresholds = Thresholds()
    return (
        Check(
            name=CONSTANT_WINDOW,
            label="P(WIN) of a constant window",
            value=found.constant_window_probability,
            low=thresholds.sell,
            high=thresholds.buy,
        ),
    )


def _unknown(found: ContractCheck) -> str:
    """What could not be checked; empty when everything was."""
    if found.canary_max_error is None:
        return "the canary could not be replayed"
    if found.constant_input_share is None:
        return "no input window could be replayed through the serving preprocessor"
    if found.is_engine_preset and found.constant_window_probability is None:
        return "its answer to a constant window is not a number"
    if found.unknown:
        return (
            f"the engine's contract is unknown: {found.unknown}; correct PATCHTST_MODEL_PATH, roll back, or name the "
            f'contract that it is to run: {command()} promote RUN --accept-contract CONTRACT --reason "…"'
        )
    return ""


CONTRACT = Gate(
    name="contract",
    requirement=(
        "the file fits what the engine runs, reproduces its own canary within {canary_tolerance:g}, at most "
        "{max_constant_input_share:.0%} of its inputs are constant, and with the engine preset its answer to a "
        "constant window is HOLD"
    ),
    failure="the engine cannot run this file as it was trained",
    thresholds=("canary_tolerance", "max_constant_input_share", "hold_on_constant_window"),
    measure=_measure,
)
