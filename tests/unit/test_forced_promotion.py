"""What an operator may replace: each answer of the check, exactly, and nothing that was measured and failed."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from retrain_worker.domain.facts import ShadowFacts
from retrain_worker.domain.forced_promotion import contract_name, refusal, undecided_in
from retrain_worker.domain.gates import Comparison, Evidence, GatePolicy, decide
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from tests.run_facts import CONTRACT, gate_facts, promote_facts, train_facts
from tests.unit.test_gates import GOOD

AT = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)
NAME = "paper:64:standardise:outcome:rsi"
POLICY = GatePolicy()
UNDECIDED = replace(GOOD, comparison=Comparison(n=10, auc_difference=None, log_loss_gain=None, log_loss_gain_low=None))


def judged(evidence: Evidence = UNDECIDED, *, outcome: Outcome | None = Outcome.REFUSED) -> Run:
    """A run whose candidate was judged on this evidence."""
    run = Run(run_id="r", requested_by="once", request_reason="", created_at=AT, updated_at=AT, stage=Stage.GATE)
    run = run.with_fact(train_facts()).with_fact(gate_facts(verdict=decide(evidence, POLICY)))
    return run if outcome is None else run.ended(outcome, "x", at=AT)


def with_contract(**changes: Any) -> Evidence:
    return replace(UNDECIDED, contract=replace(GOOD.contract, **changes))


def answer(run: Run, *, force: bool = False, accepted: str = "") -> str:
    return refusal(run, is_forced=force, accepted_contract=accepted)


def test_a_contract_is_written_as_one_word() -> None:
    assert contract_name(CONTRACT) == NAME
    assert contract_name(replace(CONTRACT, feature_names=("rsi", "ema"))) == "paper:64:standardise:outcome:rsi,ema"


def test_an_undecided_candidate_needs_force() -> None:
    assert answer(judged()) == "incumbent could not be evaluated; --force replaces their result"
    assert answer(judged(), accepted=NAME) == "incumbent could not be evaluated; --force replaces their result"
    assert answer(judged(), force=True) == ""
    two = replace(UNDECIDED, candidate=replace(GOOD.candidate, p_std=None))
    assert answer(judged(two)) == "confidence spread, incumbent could not be evaluated; --force replaces their result"


def test_a_candidate_that_every_gate_has_passed_needs_nothing() -> None:
    assert answer(judged(GOOD)) == ""


def test_an_advisory_gate_neither_refuses_nor_needs_force() -> None:
    assert answer(judged(replace(GOOD, candidate=replace(GOOD.candidate, agreement=None)))) == ""
    assert undecided_in(judged(replace(GOOD, candidate=replace(GOOD.candidate, agreement=None)))) == ()


def test_a_run_without_a_judged_candidate_has_none_to_promote() -> None:
    expected = "run r has no candidate that came to the gate"
    run = judged()

    assert answer(replace(run, facts=replace(run.facts, gate=None))) == expected
    assert answer(replace(run, facts=replace(run.facts, train=None))) == expected


def test_a_candidate_that_was_promoted_or_is_under_way_is_not_promoted_again() -> None:
    assert answer(judged(outcome=None), force=True) == "the candidate of run r is still under way"
    assert answer(judged().with_fact(promote_facts()), force=True) == "the candidate of run r was promoted"
    promoted = replace(judged(outcome=None), stage=Stage.PROMOTE).on_probation("seen", at=AT)
    assert answer(promoted, force=True) == "the candidate of run r was promoted"


@pytest.mark.parametrize(
    "contract",
    [
        with_contract(canary_max_error=None),
        with_contract(constant_input_share=None),
        with_contract(canary_max_error=None, mismatches=("rows",)),
    ],
)
def test_a_file_that_could_not_be_replayed_is_never_waived(contract: Evidence) -> None:
    assert answer(judged(contract), force=True, accepted=NAME) == (
        "its file is never waived: its canary or its inputs could not be replayed"
    )


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        (with_contract(canary_max_error=1.1e-5), "canary error 1e-05, required ≤ 1e-05"),
        (with_contract(constant_input_share=0.51), "constant inputs 51 %, required ≤ 50 %"),
        (
            with_contract(canary_max_error=0.5, mismatches=("rows",)),
            "mismatches 1, required ≤ 0; canary error 5e-01, required ≤ 1e-05; rows",
        ),
    ],
)
def test_a_damaged_file_is_never_waived(contract: Evidence, message: str) -> None:
    assert answer(judged(contract), force=True, accepted=NAME) == f"its file is never waived: {message}"


def test_a_file_exactly_at_its_limits_is_sound() -> None:
    assert answer(judged(with_contract(canary_max_error=1e-5, constant_input_share=0.5)), force=True) == ""


def test_a_verdict_without_the_contract_gate_is_not_replaced() -> None:
    run = judged()
    verdict = replace(run.facts.gate.verdict, gates=run.facts.gate.verdict.gates[1:])

    assert answer(run.with_fact(gate_facts(verdict=verdict)), force=True) == (
        "its file is never waived: the contract gate has no result"
    )


def test_what_was_measured_and_failed_is_never_waived() -> None:
    failed = replace(UNDECIDED, candidate=replace(GOOD.candidate, p_std=0.01, auc_low=0.4))

    assert answer(judged(failed), force=True, accepted=NAME) == (
        "what was measured and failed is never waived: confidence spread: std of P(WIN) 0.010, required ≥ 0.050; "
        "skill: AUC, 99.9 % lower confidence bound 0.400, required > 0.500"
    )


def test_another_contract_is_accepted_by_its_name_only() -> None:
    run = judged(replace(GOOD, contract=replace(GOOD.contract, mismatches=("context_length: the engine runs 128",))))
    expected = (
        "the engine runs another contract (mismatches 1, required ≤ 0; context_length: the engine runs 128); "
        f"if the change is intended, name the new one: --accept-contract {NAME}"
    )

    assert answer(run) == answer(run, force=True) == answer(run, force=True, accepted="paper:128") == expected
    assert answer(run, accepted=NAME) == ""


def test_an_unknown_contract_is_accepted_by_its_name_only_and_force_is_still_needed_for_the_others() -> None:
    run = judged(with_contract(unknown="/engine/old.pth: it cannot be read"))
    expected = (
        "it is not known what the engine runs (/engine/old.pth: it cannot be read); if it is to run the candidate's "
        f"contract, name that: --accept-contract {NAME}"
    )

    assert answer(run) == answer(run, force=True) == expected
    assert answer(run, accepted=NAME) == "incumbent could not be evaluated; --force replaces their result"
    assert answer(run, force=True, accepted=NAME) == ""
    assert undecided_in(run) == ("contract", "incumbent")


def test_the_verdict_of_the_trial_replaces_that_of_the_gate() -> None:
    trial = ShadowFacts(since=AT, prediction_log="p", evaluation_at=AT, verdict=decide(GOOD, POLICY))

    assert answer(judged().with_fact(trial)) == ""
    assert undecided_in(judged().with_fact(trial)) == ()
    unjudged = judged().with_fact(replace(trial, verdict=None))
    assert undecided_in(unjudged) == ("incumbent",)
    assert undecided_in(Run(run_id="r", requested_by="", request_reason="", created_at=AT, updated_at=AT)) == ()
