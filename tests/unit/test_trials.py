"""Shadow trial and probation in a world of memory: what is decided, stored, said and sent."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from retrain_worker.daemon.trials import Trials
from retrain_worker.domain.events import EventType
from retrain_worker.domain.gates import Comparison
from retrain_worker.domain.handoff import GateMeasured, LookResult, VerifyResult
from retrain_worker.domain.lifecycle import Deployment, DeploymentState, Outcome, Run, Stage
from retrain_worker.domain.orders import Order, OrderKind, OrderState
from retrain_worker.domain.trial import (
    Look,
    ProbationPolicy,
    ShadowPolicy,
    Spread,
    alpha_of,
    degenerate,
    gives_way,
    outcomes_for,
    worse_than_replaced,
)
from retrain_worker.errors import ArtifactError, DatabaseBusyError
from retrain_worker.report.trials import trial_pairs
from retrain_worker.stages import orders
from retrain_worker.stages.advance import advance
from retrain_worker.stages.ports import Broken, Done
from tests.fakes import FakeChildren, FakeClock, fake_world
from tests.unit.test_gates import GOOD, with_card
from tests.unit.test_stages import FIT, PULLED, a_run, trained_in, types_of

LIVELY = Spread(n=300, not_finite=0, p_std=0.2, actions={"BUY": 0.5, "SELL": 0.3, "HOLD": 0.2})
POLICY = ProbationPolicy()
OLD = Path("/engine/patchtst_v20260109_233444.pth")


def compared(low: float | None, *, gain: float = 0.05, n: int = 120) -> Comparison:
    return Comparison(n=n, auc_difference=0.0, log_loss_gain=gain, log_loss_gain_low=low)


def a_look(**changes: object) -> Look:
    usual = {
        "observed": 300,
        "foreseen": 250,
        "known": 240,
        "evidence": GOOD,
        "worse": compared(-0.01),
        "model": LIVELY,
        "reference": LIVELY,
    }
    return Look(**{**usual, **changes})


def finding(look: Look) -> Done:
    return Done(result=LookResult(look=look))


@pytest.fixture
def world(tmp_path):
    answers = {
        Stage.PULL: Done(result=PULLED),
        Stage.AUDIT: Done(result=FIT),
        Stage.TRAIN: Done(result=trained_in(tmp_path)),
        Stage.GATE: Done(result=GateMeasured(evidence=GOOD)),
        Stage.SHADOW: finding(a_look()),
        Stage.PROBATION: finding(a_look()),
    }
    world = fake_world(
        tmp_path,
        children=FakeChildren(answers=answers),
        clock=FakeClock(),
        verifier=FakeChildren(answers={"VERIFY": Done(result=VerifyResult(sha256="a" * 64, canary_error=0.0))}),
    )
    return replace(
        world,
        policies=replace(world.policies, shadow=ShadowPolicy(min_outcomes=200), probation=ProbationPolicy(hours=48.0)),
    )


def without_trial(world):
    return replace(world, policies=replace(world.policies, shadow=ShadowPolicy()))


def until(run: Run, world, condition, limit: int = 40) -> Run:
    """Advance the run, carry out orders, and let the time of each look come, until the condition holds."""
    for _ in range(limit):
        if condition(run):
            return run
        while (order := world.store.waiting_order()) is not None:
            orders.carry_out(order, world)
        if run.not_before is not None:
            world.now.now = max(world.now(), run.not_before)
        run = advance(run, world).run
    pytest.fail(f"never came to it: {run}")


def stored_previous(world, path: Path = OLD) -> None:
    """The history of the slot begins with the model that the env line names."""
    now = world.now()
    world.store.record_deployment(
        Deployment(
            deployment_id="observed_1",
            run_id=None,
            kind="observed",
            version=path.stem,
            model_path=str(path),
            sha256="a" * 64,
            size_bytes=1,
            previous_version=None,
            previous_model_path=None,
            state=DeploymentState.NOT_CONFIRMED,
            created_at=now,
            updated_at=now,
            requested_by="a person",
            reason="first",
        )
    )


def on_probation(world) -> Run:
    stored_previous(world)
    return until(a_run(), without_trial(world), lambda run: bool(run.fact(Stage.PROBATION)))


def on_trial(world, run: Run | None = None) -> Run:
    return until(run or a_run(), world, lambda run: bool(run.fact(Stage.SHADOW)))


# ---------------------------------------------------------------- shadow trial


def test_a_candidate_that_keeps_its_promise_on_new_rows_is_promoted(world):
    stored_previous(world)
    run = until(on_trial(world), world, lambda run: run.outcome is not None)

    assert run.outcome is Outcome.PROMOTED
    promoted = next(event for event in world.store.events if event.event_type is EventType.PROMOTED)
    assert promoted.payload["trial"]["known"] == 240


def test_a_candidate_on_trial_lets_another_run_work(world):
    run = on_trial(world)

    assert (run.is_waiting, world.store.unfinished_run()) == (True, None)


def test_too_few_outcomes_decide_nothing_and_the_next_look_is_planned(world):
    world.children.answers[Stage.SHADOW] = finding(a_look(known=199))
    run = on_trial(world)
    run = advance(run, world).run

    assert (run.stage, run.outcome) == (Stage.SHADOW, None)
    assert run.not_before == world.now() + timedelta(minutes=10)
    asked = len(world.children.requests)
    assert "199 outcomes known" in advance(run, world).sentence
    assert len(world.children.requests) == asked, "no look before its time"


def test_a_candidate_that_fails_on_new_rows_is_refused_and_the_slot_is_as_it_was(world):
    world.children.answers[Stage.SHADOW] = finding(a_look(evidence=with_card(auc_low=0.48)))
    run = until(on_trial(world), world, lambda run: run.is_finished)

    assert run.outcome is Outcome.REFUSED
    assert run.reasons[0].startswith("skill")
    assert world.slot.named == OLD
    assert types_of(world.store) == [EventType.COMPLETED]


def test_a_trial_without_a_verdict_ends_in_time_as_a_refusal(world):
    world.children.answers[Stage.SHADOW] = finding(a_look(known=3))
    run = until(
        on_trial(world),
        replace(world, policies=replace(world.policies, shadow=ShadowPolicy(min_outcomes=200, max_hours=2.0))),
        lambda run: run.is_finished,
    )

    assert run.reasons == ("no verdict within 2 h: 3 outcomes are known",)


def test_a_database_that_cannot_be_read_delays_the_trial_and_its_limit_still_holds(world):
    world.children.answers[Stage.SHADOW] = Broken(error=DatabaseBusyError("is locked"))
    short = replace(world, policies=replace(world.policies, shadow=ShadowPolicy(min_outcomes=200, max_hours=1.0)))
    run = advance(on_trial(short), short).run
    assert (run.outcome, run.fact(Stage.SHADOW)["problem"]) == (None, "is locked")

    run = until(run, short, lambda run: run.is_finished)
    assert run.outcome is Outcome.REFUSED
    assert "is locked" in run.reasons[0]


def test_requests_of_one_look_are_identical_and_of_two_looks_are_not(world):
    world.children.answers[Stage.SHADOW] = finding(a_look(known=1))
    run = on_trial(world)
    for _ in range(2):
        advance(run, world)
    until(advance(run, world).run, world, lambda run: run.fact(Stage.SHADOW)["look"] == 3)
    asked = [request for stage, request in world.children.requests if stage is Stage.SHADOW]

    assert asked[0] == asked[1] == asked[2] != asked[3]


def test_a_hand_edit_begins_the_trial_anew_beside_that_model(world):
    world.children.answers[Stage.SHADOW] = finding(a_look(known=150))
    run = advance(on_trial(world), world).run
    world.slot.named = Path("/engine/by_hand.pth")
    book = run.fact(Stage.SHADOW)["book"]
    run = until(run, world, lambda run: run.fact(Stage.SHADOW)["book"] != book)
    fact = run.fact(Stage.SHADOW)

    assert (fact["known"], fact["observed"], fact["incumbent_path"]) == (0, 0, "/engine/by_hand.pth")
    assert fact["since"] == world.now().isoformat()
    world.children.answers[Stage.SHADOW] = finding(a_look())
    assert until(run, world, lambda run: run.outcome is not None).outcome is Outcome.PROMOTED
    assert world.children.requests[-1][1].reference_path == "/engine/by_hand.pth"


def books_of(world, stage: Stage) -> set[str]:
    return {request.book for asked, request in world.children.requests if asked is stage}


def test_the_probation_does_not_read_the_book_of_the_trial(world):
    stored_previous(world)
    until(a_run(), world, lambda run: run.stage is Stage.PROBATION and run.fact(Stage.PROBATION).get("known"))

    assert not books_of(world, Stage.SHADOW) & books_of(world, Stage.PROBATION)


def test_a_trial_that_is_repeated_after_the_gate_begins_a_new_book(world):
    stored_previous(world)
    run = until(on_trial(world), world, lambda run: run.stage is Stage.PROMOTE)
    before = books_of(world, Stage.SHADOW)
    world.now.now += timedelta(seconds=5)
    world.slot.named = Path("/engine/by_hand.pth")
    world.children.answers[Stage.SHADOW] = finding(a_look(known=3))
    run = until(run, world, lambda run: run.stage is Stage.SHADOW and bool(run.fact(Stage.SHADOW)))

    assert run.fact(Stage.SHADOW)["book"] not in before


def second_run() -> Run:
    return replace(a_run(), run_id="20260111_033000")


def test_a_newer_candidate_takes_the_place_of_one_that_trails(world):
    world.children.answers[Stage.SHADOW] = finding(
        a_look(known=60, evidence=replace(GOOD, comparison=compared(-0.1, gain=-0.02)))
    )
    older = advance(on_trial(world), world).run
    newer = on_trial(world, second_run())
    assert "waits until" in advance(newer, world).sentence
    older = until(older, world, lambda run: run.is_finished)

    assert older.outcome is Outcome.REFUSED
    assert older.reasons[0].startswith("superseded by patchtst_v")
    assert "rows recorded" in advance(newer, world).sentence


def test_a_newer_candidate_is_refused_beside_one_that_does_not_trail(world):
    world.children.answers[Stage.SHADOW] = finding(a_look(known=60))
    older = advance(on_trial(world), world).run
    newer = until(on_trial(world, second_run()), world, lambda run: run.is_finished)

    assert newer.outcome is Outcome.REFUSED
    assert "is on trial and does not trail" in newer.reasons[0]
    assert not older.is_finished


@given(st.integers(1, 10_000), st.integers(0, 10_000), st.none() | st.floats(-1, 1))
def test_a_trial_with_rows_gives_way_only_when_it_trails_on_enough_outcomes(observed, known, gain):
    gave_way = gives_way({"observed": observed, "known": known, "log_loss_gain": gain})

    assert gave_way == (gain is not None and gain < 0 and known >= 50)


def test_a_candidate_that_passed_waits_until_the_run_at_work_has_ended(world):
    run = on_trial(world)
    world.store.runs["20260111_033000"] = second_run()
    step = advance(run, world)
    assert "waits for the end of run 20260111_033000" in step.sentence
    step = advance(step.run, world)
    assert (step.run.stage, step.is_move) == (Stage.SHADOW, False)

    world.store.runs["20260111_033000"] = second_run().ended(Outcome.SKIPPED, "nothing new", at=world.now())
    assert advance(step.run, world).run.stage is Stage.PROMOTE


def test_a_gate_without_enough_rows_sends_the_candidate_on_trial(world):
    undecided = replace(GOOD, candidate=replace(GOOD.candidate, n=10), comparison=compared(None, n=10))
    world.children.answers[Stage.GATE] = Done(result=GateMeasured(evidence=undecided))

    run = on_trial(world)
    advance(run, world)

    assert run.fact(Stage.GATE)["decision"] == "UNDECIDED"
    asked = world.children.requests[-1][1].policy.skill_alpha
    assert asked == run.fact(Stage.GATE)["policy"]["skill_alpha"] < ShadowPolicy().skill_alpha


def test_a_candidate_that_has_passed_its_gate_is_asked_for_less_on_trial(world):
    advance(on_trial(world), world)

    assert world.children.requests[-1][1].policy.skill_alpha == ShadowPolicy().skill_alpha


def test_a_gate_that_failed_does_not(world):
    world.children.answers[Stage.GATE] = Done(result=GateMeasured(evidence=with_card(auc_low=0.4)))

    assert until(a_run(), world, lambda run: run.is_finished).outcome is Outcome.REFUSED


# ---------------------------------------------------------------- probation


def test_the_run_counts_as_promoted_from_the_swap_on(world):
    run = on_probation(world)

    assert run.outcome is Outcome.PROMOTED
    assert types_of(world.store) == [EventType.PROMOTED, EventType.COMPLETED]
    assert world.store.watermark == Path(PULLED.watermark_path)
    assert world.store.unfinished_run() is None


def test_a_model_that_is_not_worse_stays(world):
    run = until(on_probation(world), without_trial(world), lambda run: run.is_finished, limit=400)

    assert run.outcome is Outcome.PROMOTED
    assert "probation over after 48 h and 240 new outcomes" in run.reasons[-1]
    assert types_of(world.store) == [EventType.PROMOTED, EventType.COMPLETED], "said once"
    assert world.slot.named != OLD


def test_a_model_that_is_worse_is_taken_back_by_itself_with_the_evidence_in_the_event(world):
    world.children.answers[Stage.PROBATION] = finding(a_look(worse=compared(0.02, gain=0.07)))
    run = until(on_probation(world), without_trial(world), lambda run: run.is_finished)

    assert run.outcome is Outcome.ROLLED_BACK
    assert "worse than the model it replaced" in run.reasons[0]
    assert world.slot.named == OLD
    event = next(event for event in world.store.events if event.event_type is EventType.ROLLED_BACK)
    assert event.payload["evidence"]["worse_by"] == 0.07
    assert event.payload["rolled_back_by"] == "probation"
    assert event.correlation_id == run.run_id


def test_a_crash_between_any_two_ticks_of_a_roll_back_changes_nothing_of_its_end(world):
    world.children.answers[Stage.PROBATION] = finding(a_look(worse=compared(0.02)))
    run = on_probation(world)
    while not run.is_finished:
        run = advance(world.store.runs[run.run_id], without_trial(world)).run
        while (order := world.store.waiting_order()) is not None:
            orders.carry_out(order, world)

    assert run.outcome is Outcome.ROLLED_BACK
    assert types_of(world.store).count(EventType.ROLLED_BACK) == 1


def test_a_margin_is_not_worse(world):
    assert worse_than_replaced(a_look(worse=compared(0.01)), POLICY) == ""
    assert worse_than_replaced(a_look(worse=compared(0.0101)), POLICY) != ""


def test_looks_decide_only_when_the_outcomes_have_grown_by_half(world):
    run = advance(on_probation(world), without_trial(world)).run
    assert run.fact(Stage.PROBATION)["num_decided"] == 1
    world.children.answers[Stage.PROBATION] = finding(a_look(known=359, worse=compared(0.02)))
    world.now.now = run.not_before
    run = advance(run, without_trial(world)).run
    assert run.fact(Stage.PROBATION)["num_decided"] == 1, "359 is less than 240 and a half"

    world.children.answers[Stage.PROBATION] = finding(a_look(known=360, worse=compared(0.02)))
    world.now.now = run.not_before
    run = advance(run, without_trial(world)).run
    assert run.fact(Stage.PROBATION)["decision"] == "ROLL_BACK"
    alphas = [request.worse_alpha for stage, request in world.children.requests if stage is Stage.PROBATION]
    assert alphas == [alpha_of(0, POLICY), alpha_of(1, POLICY), alpha_of(1, POLICY)]


def test_all_decisions_together_spend_alpha():
    assert sum(alpha_of(k, POLICY) for k in range(100_000)) == pytest.approx(POLICY.alpha, rel=1e-4)
    assert outcomes_for(0, POLICY, last_known=0) == POLICY.min_outcomes


@pytest.mark.parametrize(
    ("look", "word"),
    [
        (a_look(model=replace(LIVELY, not_finite=1)), "no number"),
        (a_look(model=replace(LIVELY, p_std=0.001)), "collapsed"),
        (a_look(model=replace(LIVELY, actions={"BUY": 1.0, "SELL": 0.0, "HOLD": 0.0})), "BUY in 100%"),
        (a_look(model=replace(LIVELY, p_std=0.001), reference=None), "collapsed"),
    ],
)
def test_degenerate_answers_are_named(look, word):
    assert word in degenerate(look, POLICY)


@pytest.mark.parametrize(
    "spread",
    [
        replace(LIVELY, not_finite=3),
        replace(LIVELY, p_std=0.001),
        replace(LIVELY, actions={"BUY": 0.99, "SELL": 0.01, "HOLD": 0.0}),
    ],
)
def test_what_both_models_show_is_not_the_new_ones_fault(spread):
    assert degenerate(a_look(model=spread, reference=spread), POLICY) == ""


def test_few_rows_are_never_called_degenerate():
    assert degenerate(a_look(model=replace(LIVELY, n=99, p_std=0.0)), POLICY) == ""


def test_a_damaged_file_in_service_is_degenerate(world):
    run = on_probation(world)
    world.children.answers[Stage.PROBATION] = Broken(error=ArtifactError("its sha256 is another"))
    run = until(run, without_trial(world), lambda run: run.is_finished)

    assert run.outcome is Outcome.ROLLED_BACK
    assert "not sound" in run.reasons[0]


def test_one_read_that_fails_condemns_nobody(world):
    run = on_probation(world)
    world.children.answers[Stage.PROBATION] = Broken(error=ArtifactError("it cannot be read: Input/output error"))
    run = until(run, world, lambda run: run.fact(Stage.PROBATION)["problem"] != "")
    world.children.answers[Stage.PROBATION] = finding(a_look())
    run = until(run, world, lambda run: run.fact(Stage.PROBATION)["problem"] == "")
    world.children.answers[Stage.PROBATION] = Broken(error=ArtifactError("it cannot be read: Input/output error"))
    run = until(run, world, lambda run: run.fact(Stage.PROBATION)["problem"] != "")

    assert (run.outcome, world.store.condemned("a" * 64)) == (Outcome.PROMOTED, None)


def test_with_nothing_before_it_a_degenerate_model_leaves_the_env_line_as_it_was(world):
    world.slot.named = None
    world.children.answers[Stage.PROBATION] = finding(
        a_look(model=replace(LIVELY, p_std=0.0), reference=None, worse=None)
    )
    run = until(a_run(), without_trial(world), lambda run: run.is_finished)

    assert run.outcome is Outcome.ROLLED_BACK
    assert world.slot.named is None
    assert types_of(world.store)[-1] is EventType.ROLLED_BACK
    assert world.store.last_deployment().model_path == ""


def test_a_hand_edit_ends_the_probation_and_is_respected(world):
    run = on_probation(world)
    world.slot.named = Path("/engine/by_hand.pth")
    run = until(run, without_trial(world), lambda run: run.is_finished)

    assert run.outcome is Outcome.PROMOTED
    assert run.reasons[-1] == "probation ended early: PATCHTST_MODEL_PATH names /engine/by_hand.pth"
    assert world.slot.named == Path("/engine/by_hand.pth")


def test_bytes_that_a_probation_has_condemned_are_never_promoted_again(world):
    world.store.condemned_sha256s["a" * 64] = "its probation has condemned it"
    run = until(a_run(), without_trial(world), lambda run: run.is_finished)

    assert (run.outcome, run.reasons) == (Outcome.REFUSED, ("its probation has condemned it",))
    assert world.slot.named == OLD


@pytest.mark.parametrize(("low", "outcome"), [(-0.001, Outcome.REFUSED), (0.001, Outcome.PROMOTED)])
def test_a_newer_candidate_replaces_a_model_on_probation_only_when_it_is_surely_better(world, low, outcome):
    first = on_probation(world)
    better = replace(GOOD, comparison=compared(low, gain=0.03, n=900))
    world.children.answers[Stage.GATE] = Done(result=GateMeasured(evidence=better))
    newer = until(second_run(), without_trial(world), lambda run: run.outcome is not None)

    assert newer.outcome is outcome
    if outcome is Outcome.REFUSED:
        assert "is on probation" in newer.reasons[0]
        assert not world.store.runs[first.run_id].is_finished


def test_a_database_that_cannot_be_read_delays_a_probation_and_never_takes_a_model_back(world):
    run = on_probation(world)
    world.children.answers[Stage.PROBATION] = Broken(error=DatabaseBusyError("is locked"))
    run = until(run, without_trial(world), lambda run: run.is_finished, limit=400)

    assert run.outcome is Outcome.PROMOTED
    assert "too few to compare: is locked" in run.reasons[-1]


def test_a_roll_back_that_fails_is_said_and_not_called_one(world):
    world.children.answers[Stage.PROBATION] = finding(a_look(worse=compared(0.02)))
    run = on_probation(world)
    world.verifier.answers["VERIFY"] = Broken(error=ArtifactError("its canary differs"))
    run = until(run, without_trial(world), lambda run: run.is_finished)

    assert run.outcome is Outcome.PROMOTED
    assert "could not be taken back" in run.reasons[-1]
    assert [order.state for order in world.store.orders.values()] == [OrderState.REFUSED] * 5


def test_a_roll_back_that_fails_once_is_ordered_again(world):
    world.children.answers[Stage.PROBATION] = finding(a_look(worse=compared(0.02)))
    run = on_probation(world)
    sound = world.verifier.answers["VERIFY"]
    world.verifier.answers["VERIFY"] = Broken(error=ArtifactError("it cannot be read"))
    run = until(run, without_trial(world), lambda run: run.fact(Stage.PROBATION).get("tries") == 2)
    world.verifier.answers["VERIFY"] = sound
    run = until(run, without_trial(world), lambda run: run.is_finished)

    assert (run.outcome, world.slot.named) == (Outcome.ROLLED_BACK, OLD)


# ---------------------------------------------------------------- a person's word


def gated(world, evidence) -> Run:
    world.children.answers[Stage.GATE] = Done(result=GateMeasured(evidence=evidence))
    return until(a_run(), without_trial(world), lambda run: run.is_finished)


def ordered(world, judged: Run, **arguments: str):
    world.now.forward(60)
    order = Order(
        order_id="promote_1",
        kind=OrderKind.PROMOTE,
        arguments={"run_id": judged.run_id, **arguments},
        requested_by="anna",
        reason="the exchange changed its fees",
        created_at=world.now(),
        updated_at=world.now(),
    )
    world.store.record_order(order)
    for _ in range(5):
        order = orders.carry_out(order, world).order
        if order.is_answered:
            break
    return order


UNDECIDED = replace(GOOD, candidate=replace(GOOD.candidate, n=10), comparison=compared(None, n=10))
NEW_CONTRACT = "paper:64:standardise:outcome:rsi"
MISMATCH = replace(GOOD, contract=replace(GOOD.contract, mismatches=("context_length: the engine runs 128",)))


def test_a_candidate_that_could_not_be_judged_is_promoted_at_a_persons_word_and_everybody_can_see_it(world):
    judged = gated(world, UNDECIDED)
    order = ordered(world, judged, force="yes")
    opened = world.store.run(order.arguments["opened"])
    run = until(opened, without_trial(world), lambda run: run.outcome is not None)

    assert (order.state, run.outcome) == (OrderState.DONE, Outcome.PROMOTED)
    promoted = next(event for event in world.store.events if event.event_type is EventType.PROMOTED)
    assert promoted.payload["forced"]["by"] == "anna"
    assert "skill" in promoted.payload["forced"]["undecided"]
    assert world.store.deployments[run.run_id].reason == "forced by anna: the exchange changed its fees"
    assert dict(trial_pairs(run))["forced"].startswith("by anna, the candidate of run 20260110_033000")
    assert run.stage is Stage.PROBATION, "it is watched as any other"


def test_without_force_it_is_refused_and_says_what_would_do_it(world):
    order = ordered(world, gated(world, UNDECIDED))

    assert order.state is OrderState.REFUSED
    assert "--force takes their place" in order.answer


@pytest.mark.parametrize(
    "evidence",
    [
        with_card(auc_low=0.4),
        replace(UNDECIDED, candidate=replace(UNDECIDED.candidate, n=900, auc_low=0.4)),
        replace(GOOD, contract=replace(GOOD.contract, canary_max_error=0.5)),
        replace(GOOD, contract=replace(GOOD.contract, canary_max_error=None)),
        replace(GOOD, contract=replace(GOOD.contract, constant_input_share=1.0)),
        replace(MISMATCH, contract=replace(MISMATCH.contract, canary_max_error=0.5)),
        replace(MISMATCH, candidate=replace(GOOD.candidate, auc_low=0.4)),
    ],
)
def test_what_failed_and_what_is_not_sound_is_never_waived(world, evidence):
    order = ordered(world, gated(world, evidence), force="yes", accept_contract=NEW_CONTRACT)

    assert order.state is OrderState.REFUSED
    assert "never waived" in order.answer
    assert world.slot.named == OLD


def test_another_contract_is_accepted_by_its_name_alone(world):
    judged = gated(world, MISMATCH)
    unnamed = ordered(world, judged, force="yes")
    wrong = ordered(world, judged, accept_contract="paper:128:standardise:outcome:rsi")
    order = ordered(world, judged, accept_contract=NEW_CONTRACT)

    assert unnamed.state is wrong.state is OrderState.REFUSED
    assert f"--accept-contract {NEW_CONTRACT}" in unnamed.answer
    assert order.state is OrderState.DONE
    run = until(world.store.run(order.arguments["opened"]), without_trial(world), lambda run: run.outcome is not None)
    assert run.outcome is Outcome.PROMOTED


def test_where_nobody_knows_what_the_engine_runs_a_person_names_it_and_force_is_no_name(world):
    why = "/engine/old.pth: it cannot be read: No such file or directory"
    judged = gated(world, replace(GOOD, incumbent=None, comparison=None, contract=replace(GOOD.contract, unknown=why)))
    forced, wrong = ordered(world, judged, force="yes"), ordered(world, judged, accept_contract="engine:128:minmax")
    order = ordered(world, judged, accept_contract=NEW_CONTRACT)

    assert judged.outcome is Outcome.REFUSED
    assert forced.state is wrong.state is OrderState.REFUSED
    assert why in forced.answer
    assert f"--accept-contract {NEW_CONTRACT}" in forced.answer
    run = until(world.store.run(order.arguments["opened"]), without_trial(world), lambda run: run.outcome is not None)
    assert run.outcome is Outcome.PROMOTED
    promoted = next(event for event in world.store.events if event.event_type is EventType.PROMOTED)
    assert promoted.payload["forced"]["accepted_contract"] == NEW_CONTRACT
    assert promoted.payload["forced"]["undecided"] == ["contract"]


def test_a_named_contract_takes_the_place_of_no_other_gate(world):
    unknown = replace(UNDECIDED.contract, unknown="/engine/old.pth: it cannot be read")
    judged = gated(world, replace(UNDECIDED, contract=unknown))
    named = ordered(world, judged, accept_contract=NEW_CONTRACT)

    assert named.state is OrderState.REFUSED
    assert "skill" in named.answer
    assert "contract" not in named.answer
    assert ordered(world, judged, accept_contract=NEW_CONTRACT, force="yes").state is OrderState.DONE


def test_a_file_that_is_damaged_since_is_not_promoted(world):
    judged = gated(world, UNDECIDED)
    world.verifier.answers["VERIFY"] = Broken(error=ArtifactError("its canary differs"))

    assert ordered(world, judged, force="yes").state is OrderState.REFUSED
    assert world.store.unfinished_run() is None


def test_what_is_in_the_slot_already_is_not_promoted_again(world):
    judged = gated(world, UNDECIDED)
    order = ordered(world, judged, force="yes")
    until(world.store.run(order.arguments["opened"]), without_trial(world), lambda run: run.outcome is not None)
    again = replace(
        order, order_id="promote_2", arguments={"run_id": judged.run_id, "force": "yes"}, state=OrderState.WAITING
    )
    again = orders.carry_out(again, world).order

    assert again.state is OrderState.REFUSED
    assert "is in the slot already" in again.answer


def test_an_order_does_not_overtake_a_run_at_work(world):
    judged = gated(world, UNDECIDED)
    world.store.runs["20260111_033000"] = second_run()

    assert "run 20260111_033000 is at PULL" in ordered(world, judged, force="yes").answer


def test_an_order_is_not_carried_out_on_another_engine_than_it_was_given_for(world):
    order = ordered(world, gated(world, UNDECIDED), force="yes")
    world.slot.named = Path("/engine/by_hand.pth")
    run = until(world.store.run(order.arguments["opened"]), without_trial(world), lambda run: run.is_finished)

    assert run.outcome is Outcome.REFUSED
    assert world.slot.named == Path("/engine/by_hand.pth")


def test_a_promoted_candidate_and_an_unknown_run_cannot_be_ordered(world):
    stored_previous(world)
    promoted = until(a_run(), without_trial(world), lambda run: run.outcome is not None)

    assert "was promoted" in ordered(world, promoted, force="yes").answer
    assert "there is no run" in ordered(world, replace(promoted, run_id="20200101_000000"), force="yes").answer


# ---------------------------------------------------------------- beside a child at work


class _Busy:
    is_running = True


def test_while_another_child_works_no_look_begins_but_a_condemned_model_is_taken_back(world):
    trials = Trials(_Busy(), conclude=lambda _step: None, closed=lambda _run: None)
    run = on_probation(world)
    asked = len(world.children.requests)
    trials.advance(world)
    assert len(world.children.requests) == asked

    world.children.answers[Stage.PROBATION] = finding(a_look(known=400, worse=compared(0.2)))
    until(run, world, lambda run: run.fact(Stage.PROBATION).get("decision") == "ROLL_BACK")
    while (order := world.store.waiting_order()) is not None:
        orders.carry_out(order, world)
    trials.advance(world)
    assert world.store.run(run.run_id).outcome is Outcome.ROLLED_BACK


# ---------------------------------------------------------------- what is said of it


class _Idle:
    is_running = False


def test_the_journal_hears_of_a_trial_that_begins_and_of_what_is_in_its_way_but_not_of_each_look(world):
    trials = Trials(_Idle(), conclude=lambda _step: None, closed=lambda _run: None)
    stored_previous(world)
    run = until(a_run(), without_trial(world), lambda run: run.stage is Stage.PROBATION)
    busy = Broken(error=DatabaseBusyError("locked by another", where="trader.db", remedy="wait"))
    answers = (
        finding(a_look(known=0)),
        finding(a_look(known=0, observed=301)),
        busy,
        busy,
        finding(a_look(known=0, observed=302)),
    )
    with capture_logs() as said:
        trials.advance(world)
        for answer in answers:
            world.children.answers[Stage.PROBATION] = answer
            world.now.now = max(world.now(), world.store.run(run.run_id).not_before or world.now())
            trials.advance(world)

    assert [each["log_level"] for each in said] == ["info", "debug", "debug", "warning", "debug"]
    assert "is on probation for 48 h" in said[0]["message"]
    assert "locked by another" in said[3]["message"]
