"""Whether an operator may promote a candidate that its gates did not pass. Pure functions over the facts of its run.

An operator may replace a measurement that could not be made, and may decide that the engine is to run another contract,
also where it is not known which one it runs now. What was measured and failed is never waived, nor the soundness of the
file (hash, safe load, canary, live inputs): a model that does not reproduce its own recorded answers is not the model
that was judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.facts import TrainFacts
from retrain_worker.domain.gates import GateOutcome, GateResult, Verdict
from retrain_worker.domain.lifecycle import Run


def contract_name(contract: ModelContract) -> str:
    """A contract as one word, to be typed by whoever accepts it: `preset:rows:transform:label:feature,feature`."""
    return ":".join(
        (
            contract.preset,
            str(contract.context_length),
            contract.input_transform,
            contract.label,
            ",".join(contract.feature_names),
        )
    )


def refusal(run: Run, *, is_forced: bool, accepted_contract: str) -> str:
    """Why the candidate of `run` is not promoted by an operator; empty when it is."""
    verdict = _newest_verdict(run)
    if verdict is None or run.facts.train is None:
        return f"run {run.run_id} has no candidate that came to the gate"
    if not run.is_finished or run.facts.promote is not None:
        return f"the candidate of run {run.run_id} " + ("was promoted" if run.is_concluded else "is still under way")
    if why := _unsound(verdict.gates):
        return f"its file is never waived: {why}"
    failed = _messages(verdict.gates, GateOutcome.FAIL)
    measured = [f"{name}: {message}" for name, message in failed.items() if name != "contract"]
    if measured:
        return f"what was measured and failed is never waived: {'; '.join(measured)}"
    return _missing_consent(run.facts.train, verdict, is_forced=is_forced, accepted_contract=accepted_contract)


def undecided_in(run: Run) -> tuple[str, ...]:
    """The gates whose result an operator replaces."""
    verdict = _newest_verdict(run)
    return tuple(_messages(verdict.gates, GateOutcome.UNDECIDED)) if verdict else ()


def _missing_consent(trained: TrainFacts, verdict: Verdict, *, is_forced: bool, accepted_contract: str) -> str:
    """What the operator has not agreed to yet."""
    wanted, has_consent = contract_name(trained.contract), accepted_contract == contract_name(trained.contract)
    failed, undecided = (_messages(verdict.gates, result) for result in (GateOutcome.FAIL, GateOutcome.UNDECIDED))
    if "contract" in failed and not has_consent:
        return (
            f"the engine runs another contract ({failed['contract']}); if the change is intended, name the new one: "
            f"--accept-contract {wanted}"
        )
    if "contract" in undecided and not has_consent:
        return (
            f"it is not known what the engine runs ({_unknown_in(verdict.gates)}); if it is to run the candidate's "
            f"contract, name that: --accept-contract {wanted}"
        )
    others = [name for name in undecided if name != "contract"]
    if others and not is_forced:
        return f"{', '.join(others)} could not be evaluated; --force replaces their result"
    return ""


def _newest_verdict(run: Run) -> Verdict | None:
    """That of the shadow trial, else that of the gate; None when the candidate did not come to the gate."""
    on_trial = run.facts.shadow.verdict if run.facts.shadow else None
    return on_trial or (run.facts.gate.verdict if run.facts.gate else None)


def _unknown_in(gates: Iterable[GateResult]) -> str:
    """Why the contract gate is undecided, once the file itself is known to be sound."""
    return str(next(gate.measurements["unknown"] for gate in gates if gate.name == "contract"))


def _messages(gates: Iterable[GateResult], result: GateOutcome) -> Mapping[str, str]:
    return {gate.name: gate.message for gate in gates if gate.counts and gate.result is result}


def _unsound(gates: Iterable[GateResult]) -> str:
    """What is wrong with the file itself, whatever the engine runs."""
    contract = next((gate for gate in gates if gate.name == "contract"), None)
    if contract is None:
        return "the contract gate has no result"
    measured, limits = contract.measurements, contract.thresholds
    error, constant = measured.get("canary_max_error"), measured.get("constant_input_share")
    if error is None or constant is None:
        return "its canary or its inputs could not be replayed"
    if error > limits["canary_tolerance"] or constant > limits["max_constant_input_share"]:
        return contract.message
    return ""
