"""Whether a person may promote a candidate that its gate did not pass. Pure functions over what the run has stored.

A person may take the place of a measurement that could not be made, and may decide that the engine is to run another
contract, also where nobody knows which one it runs now. Nobody may waive what was measured and failed, nor the
soundness of the file (hash, safe load, canary, live inputs): a model that does not give its own recorded answers is not
the model that anybody judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retrain_worker.domain.gates import GateResult
from retrain_worker.domain.lifecycle import Run, Stage


def contract_name(contract: Mapping[str, Any]) -> str:
    """A contract as one word, to be typed by whoever accepts it: `preset:rows:transform:label:feature,feature`."""
    return ":".join(
        (
            str(contract["preset"]),
            str(contract["context_length"]),
            str(contract["input_transform"]),
            str(contract["label"]),
            ",".join(contract["feature_names"]),
        )
    )


def refusal(run: Run, *, is_forced: bool, accepted_contract: str) -> str:
    """Why the candidate of `run` is not promoted at a person's word; empty when it is."""
    if not run.fact(Stage.GATE).get("gates"):
        return f"run {run.run_id} has no candidate that came to the gate"
    if not run.is_finished or run.fact(Stage.PROMOTE):
        return f"the candidate of run {run.run_id} " + ("was promoted" if run.is_concluded else "is still under way")
    gates = verdict_of(run)["gates"]
    if why := _unsound(gates):
        return f"its file is never waived: {why}"
    failed = _named(gates, GateResult.FAIL)
    measured = [f"{name}: {message}" for name, message in failed.items() if name != "contract"]
    if measured:
        return f"what was measured and failed is never waived: {'; '.join(measured)}"
    return _missing_word(run, failed, is_forced=is_forced, accepted_contract=accepted_contract)


def _missing_word(run: Run, failed: Mapping[str, str], *, is_forced: bool, accepted_contract: str) -> str:
    """What the person has not said yet."""
    wanted = contract_name(run.fact(Stage.TRAIN)["contract"])
    undecided = undecided_in(run)
    if "contract" in failed and accepted_contract != wanted:
        return (
            f"the engine runs another contract ({failed['contract']}); if the change is meant, name the new one: "
            f"--accept-contract {wanted}"
        )
    if "contract" in undecided and accepted_contract != wanted:
        return (
            f"nobody knows what the engine runs ({_unknown_in(run)}); if it is to run the candidate's contract, "
            f"name that: --accept-contract {wanted}"
        )
    undecided = [name for name in undecided if name != "contract"]
    if undecided and not is_forced:
        return f"{', '.join(undecided)} could not be evaluated; --force takes their place"
    return ""


def verdict_of(run: Run) -> Mapping[str, Any]:
    """The newest verdict on the candidate: that of its trial, else that of its gate."""
    trial = run.fact(Stage.SHADOW)
    return trial if trial.get("gates") else run.fact(Stage.GATE)


def undecided_in(run: Run) -> list[str]:
    """The gates that a person takes the place of."""
    return list(_named(verdict_of(run)["gates"], GateResult.UNDECIDED))


def _unknown_in(run: Run) -> str:
    """Why the contract gate is undecided, once the file itself is known to be sound."""
    gates = verdict_of(run)["gates"]
    return str(next(gate["measurements"]["unknown"] for gate in gates if gate["name"] == "contract"))


def _named(gates: list[Mapping[str, Any]], result: GateResult) -> dict[str, str]:
    return {gate["name"]: gate["message"] for gate in gates if gate["counts"] and gate["result"] == result}


def _unsound(gates: list[Mapping[str, Any]]) -> str:
    """What is wrong with the file itself, whatever the engine runs."""
    contract = next((gate for gate in gates if gate["name"] == "contract"), None)
    if contract is None:
        return "the contract gate was not asked"
    measured, limits = contract["measurements"], contract["thresholds"]
    error, constant = measured.get("canary_max_error"), measured.get("constant_input_share")
    if error is None or constant is None:
        return "its canary or its inputs could not be replayed"
    if error > limits["canary_tolerance"] or constant > limits["max_constant_input_share"]:
        return str(contract["message"])
    return ""
