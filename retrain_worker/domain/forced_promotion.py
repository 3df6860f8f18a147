"""Whether an operator may promote a candidate that its gates did not pass. Pure functions over the facts of its run.

An operator may replace a measurement that could not be made, and may decide that the engine is to run another contract,
also where it is not known which one it runs now. What was measured and failed is never waived, nor the soundness of the
file (hash, safe load, canary, live inputs): a model that does not reproduce its own recorded answers is not the model
that was judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.gates import GateOutcome, GateResult, Verdict
from retrain_worker.domain.gates.contract import CONTRACT, fault_of_file, unknown_engine
from retrain_worker.domain.lifecycle import Run


def contract_name(contract: ModelContract) -> str:
    """A contract as one word, typed by the operator who accepts it: `preset:rows:transform:label:feature,feature`."""
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
    contract = next((gate for gate in verdict.gates if gate.name == CONTRACT.name), None)
    fault = fault_of_file(contract, verdict.policy) if contract else "the contract gate has no result"
    if contract is None or fault:
        return f"its file is never waived: {fault}"
    failed = _messages(verdict.gates, GateOutcome.FAIL)
    measured = [f"{name}: {message}" for name, message in failed.items() if name != contract.name]
    if measured:
        return f"what was measured and failed is never waived: {'; '.join(measured)}"
    wanted = contract_name(run.facts.train.contract)
    if contract.result is not GateOutcome.PASS and accepted_contract != wanted:
        return _missing_consent(contract, wanted)
    others = ", ".join(name for name in undecided_in(run) if name != contract.name)
    return f"{others} could not be evaluated; --force replaces their result" if others and not is_forced else ""


def undecided_in(run: Run) -> tuple[str, ...]:
    """The gates whose result an operator replaces."""
    verdict = _newest_verdict(run)
    return tuple(_messages(verdict.gates, GateOutcome.UNDECIDED)) if verdict else ()


def _missing_consent(contract: GateResult, wanted: str) -> str:
    """What the operator has not agreed to: the contract that the engine is to run."""
    if contract.result is GateOutcome.FAIL:
        return (
            f"the engine runs another contract ({contract.message}); if the change is intended, name the new one: "
            f"--accept-contract {wanted}"
        )
    return (
        f"it is not known what the engine runs ({unknown_engine(contract)}); if it is to run the candidate's "
        f"contract, name that: --accept-contract {wanted}"
    )


def _newest_verdict(run: Run) -> Verdict | None:
    """That of the shadow trial, else that of the gate; None when the candidate did not come to the gate."""
    on_trial = run.facts.shadow.verdict if run.facts.shadow else None
    return on_trial or (run.facts.gate.verdict if run.facts.gate else None)


def _messages(gates: Iterable[GateResult], result: GateOutcome) -> Mapping[str, str]:
    return {gate.name: gate.message for gate in gates if gate.counts and gate.result is result}
