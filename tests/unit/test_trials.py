"""Shadow trial and probation in a world of memory: what is decided, stored, said and sent."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.daemon.jobs.slot_watch import SlotWatch
from retrain_worker.daemon.jobs.waiting_runs import WaitingRuns
from retrain_worker.domain.events import EventType
from retrain_worker.domain.facts import TrialFacts
from retrain_worker.domain.gates import Comparison, Decision
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Run, Stage
from retrain_worker.domain.pause import Pause
from retrain_worker.domain.probation import ProbationPolicy, alpha_of, degenerate, outcomes_for, worse_than_replaced
from retrain_worker.domain.shadow_trial import ShadowPolicy, gives_way
from retrain_worker.domain.slot_request import SlotRequest, SlotRequestArguments, SlotRequestKind, SlotRequestState
from retrain_worker.domain.trial_evaluation import AnswerDistribution, TrialEvaluation
from retrain_worker.domain.worker_protocol import Broken, Done, GateMeasured, TrialEvaluationResult
from retrain_worker.errors import ArtifactError, DatabaseBusyError
from retrain_worker.report.live_evaluation import trial_pairs
from retrain_worker.stages import slot_requests
from retrain_worker.stages.advance import advance
from tests.fakes import NOW, FakeClock, FakeContext, FakeSlot, FakeWorkers, fake_context
from tests.known import known
from tests.unit.test_gates import GOOD, with_card
from tests.unit.test_stages import FIT, PULLED, a_run, trained_in, types_of

LIVELY = AnswerDistribution(n=300, not_finite=0, p_std=0.2, actions={"BUY": 0.5, "SELL": 0.3, "HOLD": 0.2})
POLICY = ProbationPolicy()
OLD = Path("/engine/patchtst_v20260109_233444.pth")
OLD_SHA256 = "b" * 64


def compared(low: float | None, *, gain: float = 0.05, n: int = 120) -> Comparison:
    return Comparison(n=n, auc_difference=0.0, log_loss_gain=gain, log_loss_gain_low=low)


def an_evaluation(**changes: Any) -> TrialEvaluation:
    usual: dict[str, Any] = {
        "num_predictions": 300,
        "num_early_predictions": 250,
        "num_outcomes": 240,
        "evidence": GOOD,
        "worse": compared(-0.01),
        "model": LIVELY,
        "reference": LIVELY,
    }
    return TrialEvaluation(**{**usual, **changes})


def finding(look: TrialEvaluation) -> Done:
    return Done(result=TrialEvaluationResult(evaluation=look))


@pytest.fixture
def context(tmp_path: Path) -> FakeContext:
    answers: dict[str, Any] = {
        Stage.PULL: Done(result=PULLED),
        Stage.AUDIT: Done(result=FIT),
        Stage.TRAIN: Done(result=trained_in(tmp_path)),
        Stage.GATE: Done(result=GateMeasured(evidence=GOOD)),
        Stage.SHADOW: finding(an_evaluation()),
        Stage.PROBATION: finding(an_evaluation()),
    }
    context = fake_context(
        tmp_path,
        workers=FakeWorkers(answers=answers),
        clock=FakeClock(),
        slot=FakeSlot(named=OLD, hashes={str(OLD): OLD_SHA256}),
    )
    return replace(
        context,
        policies=replace(
            context.policies,
            shadow=ShadowPolicy(min_outcomes=200),
            probation=ProbationPolicy(hours=48.0, max_hours=48.0),
        ),
    )


def without_trial(context: FakeContext) -> FakeContext:
    return replace(context, policies=replace(context.policies, shadow=ShadowPolicy()))


def until(run: Run, context: FakeContext, condition: Callable[..., Any], limit: int = 40) -> Run:
    """Advance the run, carry out orders, and let the time of each look come, until the condition holds."""
    for _ in range(limit):
        if condition(run):
            return run
        while (request := context.store.waiting_slot_request()) is not None:
            slot_requests.carry_out(request, context)
        if run.not_before is not None:
            context.now.now = max(context.now(), run.not_before)
        run = advance(run, context).run
    pytest.fail(f"never came to it: {run}")


def stored_previous(context: FakeContext, path: Path = OLD) -> None:
    """The history of the slot begins with the model that the env line names."""
    now = context.now()
    context.store.record_deployment(
        Deployment(
            deployment_id="external_1",
            run_id=None,
            kind=DeploymentKind.EXTERNAL,
            version=path.stem,
            model_path=str(path),
            sha256=OLD_SHA256,
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


def on_probation(context: FakeContext) -> Run:
    stored_previous(context)
    return until(a_run(), without_trial(context), lambda run: run.facts.probation is not None)


def on_trial(context: FakeContext, run: Run | None = None) -> Run:
    return until(run or a_run(), context, lambda run: run.facts.shadow is not None)


# ---------------------------------------------------------------- shadow trial


def test_a_candidate_that_keeps_its_promise_on_new_rows_is_promoted(context: FakeContext) -> None:
    stored_previous(context)
    run = until(on_trial(context), context, lambda run: run.outcome is not None)

    assert run.outcome is Outcome.PROMOTED
    promoted = next(event for event in context.store.events if event.event_type is EventType.PROMOTED)
    assert promoted.payload["trial"]["num_outcomes"] == 240


def test_a_candidate_on_trial_lets_another_run_work(context: FakeContext) -> None:
    run = on_trial(context)

    assert (run.is_waiting, context.store.unfinished_run()) == (True, None)


def test_too_few_outcomes_decide_nothing_and_the_next_look_is_planned(context: FakeContext) -> None:
    context.workers.answers[Stage.SHADOW] = finding(an_evaluation(num_outcomes=199))
    run = on_trial(context)
    run = advance(run, context).run

    assert (run.stage, run.outcome) == (Stage.SHADOW, None)
    assert run.not_before == context.now() + timedelta(minutes=10)
    asked = len(context.workers.requests)
    assert "199 outcomes known" in advance(run, context).message
    assert len(context.workers.requests) == asked, "no look before its time"


def test_a_candidate_that_fails_on_new_rows_is_refused_and_the_slot_is_as_it_was(context: FakeContext) -> None:
    context.workers.answers[Stage.SHADOW] = finding(an_evaluation(evidence=with_card(auc_low=0.48)))
    run = until(on_trial(context), context, lambda run: run.is_finished)

    assert run.outcome is Outcome.REFUSED
    assert run.reasons[0].startswith("skill")
    assert context.slot.named == OLD
    assert types_of(context.store) == [EventType.COMPLETED]


def test_a_trial_without_a_verdict_ends_in_time_as_a_refusal(context: FakeContext) -> None:
    context.workers.answers[Stage.SHADOW] = finding(an_evaluation(num_outcomes=3))
    run = until(
        on_trial(context),
        replace(context, policies=replace(context.policies, shadow=ShadowPolicy(min_outcomes=200, max_hours=2.0))),
        lambda run: run.is_finished,
    )

    assert run.reasons == ("no verdict within 2 h: 3 outcomes are known",)


def test_a_database_that_cannot_be_read_delays_the_trial_and_its_limit_still_holds(context: FakeContext) -> None:
    context.workers.answers[Stage.SHADOW] = Broken(error=DatabaseBusyError("is locked"))
    short = replace(context, policies=replace(context.policies, shadow=ShadowPolicy(min_outcomes=200, max_hours=1.0)))
    run = advance(on_trial(short), short).run
    assert (run.outcome, run.facts.shadow.problem) == (None, "is locked")

    run = until(run, short, lambda run: run.is_finished)
    assert run.outcome is Outcome.REFUSED
    assert "is locked" in run.reasons[0]


def test_requests_of_one_look_are_identical_and_of_two_looks_are_not(context: FakeContext) -> None:
    context.workers.answers[Stage.SHADOW] = finding(an_evaluation(num_outcomes=1))
    run = on_trial(context)
    for _ in range(2):
        advance(run, context)
    until(advance(run, context).run, context, lambda run: run.facts.shadow.evaluation == 3)
    asked = [request for stage, request in context.workers.requests if stage is Stage.SHADOW]

    assert asked[0] == asked[1] == asked[2] != asked[3]


def test_a_hand_edit_begins_the_trial_anew_beside_that_model(context: FakeContext) -> None:
    context.workers.answers[Stage.SHADOW] = finding(an_evaluation(num_outcomes=150))
    run = advance(on_trial(context), context).run
    context.slot.named = Path("/engine/by_hand.pth")
    prediction_log = run.facts.shadow.prediction_log
    run = until(run, context, lambda run: run.facts.shadow.prediction_log != prediction_log)
    fact = run.facts.shadow

    assert (fact.num_outcomes, fact.num_predictions, fact.incumbent_path) == (0, 0, "/engine/by_hand.pth")
    assert fact.since == context.now()
    context.workers.answers[Stage.SHADOW] = finding(an_evaluation())
    assert until(run, context, lambda run: run.outcome is not None).outcome is Outcome.PROMOTED
    assert context.workers.requests[-1][1].reference_path == "/engine/by_hand.pth"


@pytest.mark.parametrize("newest_hours", [-5.0, 0.5, 23.0])
def test_a_trial_begins_at_the_newest_row_of_the_snapshot_but_never_ahead_of_the_clock(
    context: FakeContext, newest_hours: float
) -> None:
    newest = NOW + timedelta(hours=newest_hours)
    context.workers.answers[Stage.PULL] = Done(result=replace(PULLED, last_at=newest.isoformat()))
    run = on_trial(context)
    advance(run, context)

    assert run.facts.shadow.since == min(newest, context.now())
    assert context.workers.requests[-1][1].snapshot_dir == str(Path(run.facts.train.candidate_path).parent.parent)


@pytest.mark.parametrize("newest_hours", [-5.0, 23.0])
def test_a_probation_begins_at_the_swap_even_if_a_row_is_stamped_later(
    context: FakeContext, newest_hours: float
) -> None:
    newest = NOW + timedelta(hours=newest_hours)
    context.workers.answers[Stage.PULL] = Done(result=replace(PULLED, last_at=newest.isoformat()))
    run = on_probation(context)

    swapped = context.store.known_deployment(run.run_id).created_at
    assert run.facts.probation.since == max(swapped, min(newest, context.now()))
    assert swapped <= run.facts.probation.since <= context.now()


def prediction_logs_of(context: FakeContext, stage: Stage) -> set[str]:
    return {request.prediction_log for asked, request in context.workers.requests if asked is stage}


def test_the_probation_does_not_read_the_book_of_the_trial(context: FakeContext) -> None:
    stored_previous(context)
    until(a_run(), context, lambda run: run.facts.probation is not None and run.facts.probation.num_outcomes > 0)

    assert not prediction_logs_of(context, Stage.SHADOW) & prediction_logs_of(context, Stage.PROBATION)


def test_a_trial_that_is_repeated_after_the_gate_begins_a_new_book(context: FakeContext) -> None:
    stored_previous(context)
    run = until(on_trial(context), context, lambda run: run.stage is Stage.PROMOTE)
    before = prediction_logs_of(context, Stage.SHADOW)
    context.now.now += timedelta(seconds=5)
    context.slot.named = Path("/engine/by_hand.pth")
    context.workers.answers[Stage.SHADOW] = finding(an_evaluation(num_outcomes=3))
    run = until(run, context, lambda run: run.stage is Stage.SHADOW and run.facts.shadow is not None)

    assert run.facts.shadow.prediction_log not in before


def second_run() -> Run:
    return replace(a_run(), run_id="20260111_033000")


def test_a_newer_candidate_takes_the_place_of_one_that_trails(context: FakeContext) -> None:
    context.workers.answers[Stage.SHADOW] = finding(
        an_evaluation(num_outcomes=60, evidence=replace(GOOD, comparison=compared(-0.1, gain=-0.02)))
    )
    older = advance(on_trial(context), context).run
    newer = on_trial(context, second_run())
    assert "waits until" in advance(newer, context).message
    older = until(older, context, lambda run: run.is_finished)

    assert older.outcome is Outcome.REFUSED
    assert older.reasons[0].startswith("superseded by patchtst_v")
    assert "predictions logged" in advance(newer, context).message


def test_a_newer_candidate_is_refused_beside_one_that_does_not_trail(context: FakeContext) -> None:
    context.workers.answers[Stage.SHADOW] = finding(an_evaluation(num_outcomes=60))
    older = advance(on_trial(context), context).run
    newer = until(on_trial(context, second_run()), context, lambda run: run.is_finished)

    assert newer.outcome is Outcome.REFUSED
    assert "is on trial and does not trail" in newer.reasons[0]
    assert not older.is_finished


@given(st.integers(1, 10_000), st.integers(0, 10_000), st.none() | st.floats(-1, 1))
def test_a_trial_with_rows_gives_way_only_when_it_trails_on_enough_outcomes(
    predictions: Any,
    outcomes: Any,
    gain: Any,
) -> None:
    trial = TrialFacts(
        since=NOW,
        prediction_log="",
        evaluation_at=NOW,
        num_predictions=predictions,
        num_outcomes=outcomes,
        comparison=None if gain is None else compared(None, gain=gain),
    )
    gave_way = gives_way(trial)

    assert gave_way == (gain is not None and gain < 0 and outcomes >= 50)


def test_a_candidate_that_passed_waits_until_the_run_at_work_has_ended(context: FakeContext) -> None:
    run = on_trial(context)
    context.store.record(second_run())
    step = advance(run, context)
    assert "waits for the end of run 20260111_033000" in step.message
    step = advance(step.run, context)
    assert (step.run.stage, step.is_move) == (Stage.SHADOW, False)

    context.store.record(second_run().ended(Outcome.SKIPPED, "nothing new", at=context.now()))
    assert advance(step.run, context).run.stage is Stage.PROMOTE


def test_a_candidate_that_passed_waits_until_a_pause_is_over(context: FakeContext) -> None:
    run = on_trial(context)
    context.store.set_pause(Pause(by="ada", reason="fees change", since=NOW))
    for _ in range(3):
        step = advance(run, context)
        run = step.run
    assert "has passed its trial and waits: promotions are paused" in step.message
    assert (run.stage, step.is_move) == (Stage.SHADOW, False)

    context.store.set_pause(None)
    assert advance(run, context).run.stage is Stage.PROMOTE


def test_a_gate_without_enough_rows_sends_the_candidate_on_trial(context: FakeContext) -> None:
    undecided = replace(GOOD, candidate=replace(GOOD.candidate, n=10), comparison=compared(None, n=10))
    context.workers.answers[Stage.GATE] = Done(result=GateMeasured(evidence=undecided))

    run = on_trial(context)
    advance(run, context)

    assert run.facts.gate.verdict.decision is Decision.UNDECIDED
    asked, required = context.workers.requests[-1][1].policy, run.facts.gate.verdict.policy
    assert asked.skill_alpha == required.skill_alpha < ShadowPolicy().skill_alpha
    assert asked.gain_alpha == required.gain_alpha < ShadowPolicy().skill_alpha


def test_a_candidate_that_has_passed_its_gate_is_asked_for_less_on_trial(context: FakeContext) -> None:
    advance(on_trial(context), context)

    asked = context.workers.requests[-1][1].policy
    assert asked.skill_alpha == asked.gain_alpha == ShadowPolicy().skill_alpha


def test_a_gate_that_failed_does_not(context: FakeContext) -> None:
    context.workers.answers[Stage.GATE] = Done(result=GateMeasured(evidence=with_card(auc_low=0.4)))

    assert until(a_run(), context, lambda run: run.is_finished).outcome is Outcome.REFUSED


# ---------------------------------------------------------------- probation


def test_the_run_counts_as_promoted_from_the_swap_on(context: FakeContext) -> None:
    run = on_probation(context)

    assert run.outcome is Outcome.PROMOTED
    assert types_of(context.store) == [EventType.PROMOTED, EventType.COMPLETED]
    assert context.store.watermark_path() == Path(PULLED.watermark_path)
    assert context.store.unfinished_run() is None


def test_a_model_that_is_not_worse_stays(context: FakeContext) -> None:
    run = until(on_probation(context), without_trial(context), lambda run: run.is_finished, limit=400)

    assert run.outcome is Outcome.PROMOTED
    assert "probation over after 48 h and 240 new outcomes" in run.reasons[-1]
    assert types_of(context.store) == [EventType.PROMOTED, EventType.COMPLETED], "said once"
    assert context.slot.named != OLD


def test_a_model_that_is_worse_is_taken_back_by_itself_with_the_evidence_in_the_event(context: FakeContext) -> None:
    context.workers.answers[Stage.PROBATION] = finding(an_evaluation(worse=compared(0.02, gain=0.07)))
    run = until(on_probation(context), without_trial(context), lambda run: run.is_finished)

    assert run.outcome is Outcome.ROLLED_BACK
    assert "worse than the model it replaced" in run.reasons[0]
    assert context.slot.named == OLD
    event = next(event for event in context.store.events if event.event_type is EventType.ROLLED_BACK)
    assert event.payload["evidence"]["worse_by"] == 0.07
    assert event.payload["rolled_back_by"] == "probation"
    assert event.correlation_id == run.run_id


def test_a_crash_between_any_two_ticks_of_a_roll_back_changes_nothing_of_its_end(context: FakeContext) -> None:
    context.workers.answers[Stage.PROBATION] = finding(an_evaluation(worse=compared(0.02)))
    run = on_probation(context)
    while not run.is_finished:
        run = advance(context.store.known_run(run.run_id), without_trial(context)).run
        while (request := context.store.waiting_slot_request()) is not None:
            slot_requests.carry_out(request, context)

    assert run.outcome is Outcome.ROLLED_BACK
    assert types_of(context.store).count(EventType.ROLLED_BACK) == 1


def rolled_back_by_ada(context: FakeContext) -> None:
    request = SlotRequest(
        request_id="rollback_1",
        kind=SlotRequestKind.ROLLBACK,
        requested_by="ada",
        reason="loses money",
        created_at=context.now(),
        updated_at=context.now(),
    )
    while not request.is_answered:
        request = slot_requests.carry_out(request, context).request


@pytest.mark.parametrize("is_over", [False, True], ids=["on probation", "long over"])
def test_an_operator_s_rollback_ends_the_run_of_the_model_at_once(context: FakeContext, is_over: bool) -> None:
    context.workers.answers[Stage.PROBATION] = finding(an_evaluation())
    run = on_probation(context)
    if is_over:
        run = until(run, without_trial(context), lambda run: run.is_finished, limit=400)
        context.now.forward(86_400)
    rolled_back_by_ada(context)

    stored = context.store.known_run(run.run_id)
    assert (stored.outcome, stored.reasons[0]) == (Outcome.ROLLED_BACK, "rolled back by ada: loses money")
    assert stored.reasons[1].startswith("when it was promoted: ")
    assert context.store.waiting_runs() == []
    assert (stored.finished_at == run.finished_at) is is_over
    event = context.store.events[-1]
    assert (event.event_type, event.correlation_id) == (EventType.ROLLED_BACK, run.run_id)
    assert event.payload["run_id"] == run.run_id


@pytest.mark.parametrize(
    ("named", "outcome"),
    [(OLD, Outcome.ROLLED_BACK), (None, Outcome.ROLLED_BACK), (Path("/engine/other.pth"), Outcome.PROMOTED)],
)
def test_an_external_change_to_the_model_before_or_to_none_is_a_rollback(
    context: FakeContext, named: Path | None, outcome: Outcome
) -> None:
    run = on_probation(context)
    context.slot.named = named
    changed: list[Any] = []
    rolled_back: list[Run] = []
    watch = SlotWatch(rolled_back.append)
    for _ in range(3):
        watch.check(context)
        changed = [event for event in context.store.events if event.event_type is EventType.CHANGED_EXTERNALLY]

    assert context.store.known_run(run.run_id).outcome is outcome
    assert len(rolled_back) == (outcome is Outcome.ROLLED_BACK)
    assert [event.payload["run_id"] for event in changed] == [run.run_id]


def test_a_margin_is_not_worse(context: FakeContext) -> None:
    assert worse_than_replaced(an_evaluation(worse=compared(0.01)), POLICY) == ""
    assert worse_than_replaced(an_evaluation(worse=compared(0.0101)), POLICY) != ""


def test_looks_decide_only_when_the_outcomes_have_grown_by_half(context: FakeContext) -> None:
    run = advance(on_probation(context), without_trial(context)).run
    assert run.facts.probation.num_analyses == 1
    context.workers.answers[Stage.PROBATION] = finding(an_evaluation(num_outcomes=359, worse=compared(0.02)))
    context.now.now = known(run.not_before)
    run = advance(run, without_trial(context)).run
    assert run.facts.probation.num_analyses == 1, "359 is less than 240 and a half"

    context.workers.answers[Stage.PROBATION] = finding(an_evaluation(num_outcomes=360, worse=compared(0.02)))
    context.now.now = known(run.not_before)
    run = advance(run, without_trial(context)).run
    assert run.facts.probation.rollback_reason.startswith("worse")
    alphas = [request.worse_alpha for stage, request in context.workers.requests if stage is Stage.PROBATION]
    assert alphas == [alpha_of(0, POLICY), alpha_of(1, POLICY), alpha_of(1, POLICY)]


def test_all_decisions_together_spend_alpha() -> None:
    assert sum(alpha_of(k, POLICY) for k in range(100_000)) == pytest.approx(POLICY.alpha, rel=1e-4)
    assert outcomes_for(POLICY, last_known=0) == POLICY.min_outcomes


@pytest.mark.parametrize(
    ("look", "word"),
    [
        (an_evaluation(model=replace(LIVELY, not_finite=1)), "not finite"),
        (an_evaluation(model=replace(LIVELY, p_std=0.001)), "collapsed"),
        (an_evaluation(model=replace(LIVELY, actions={"BUY": 1.0, "SELL": 0.0, "HOLD": 0.0})), "BUY in 100%"),
        (an_evaluation(model=replace(LIVELY, p_std=0.001), reference=None), "collapsed"),
    ],
)
def test_degenerate_answers_are_named(look: TrialEvaluation, word: str) -> None:
    assert word in degenerate(look, POLICY)


@pytest.mark.parametrize(
    "spread",
    [
        replace(LIVELY, not_finite=3),
        replace(LIVELY, p_std=0.001),
        replace(LIVELY, actions={"BUY": 0.99, "SELL": 0.01, "HOLD": 0.0}),
    ],
)
def test_what_both_models_show_is_not_the_new_ones_fault(spread: AnswerDistribution) -> None:
    assert degenerate(an_evaluation(model=spread, reference=spread), POLICY) == ""


def test_few_rows_are_never_called_degenerate() -> None:
    assert degenerate(an_evaluation(model=replace(LIVELY, n=99, p_std=0.0)), POLICY) == ""


def test_a_damaged_file_in_service_is_degenerate(context: FakeContext) -> None:
    run = on_probation(context)
    context.workers.answers[Stage.PROBATION] = Broken(error=ArtifactError("its sha256 is another"))
    run = until(run, without_trial(context), lambda run: run.is_finished)

    assert run.outcome is Outcome.ROLLED_BACK
    assert "not sound" in run.reasons[0]


def test_one_read_that_fails_condemns_nobody(context: FakeContext) -> None:
    run = on_probation(context)
    context.workers.answers[Stage.PROBATION] = Broken(error=ArtifactError("it cannot be read: Input/output error"))
    run = until(run, context, lambda run: run.facts.probation.problem != "")
    context.workers.answers[Stage.PROBATION] = finding(an_evaluation())
    run = until(run, context, lambda run: run.facts.probation.problem == "")
    context.workers.answers[Stage.PROBATION] = Broken(error=ArtifactError("it cannot be read: Input/output error"))
    run = until(run, context, lambda run: run.facts.probation.problem != "")

    assert (run.outcome, context.store.blocked("a" * 64)) == (Outcome.PROMOTED, None)


def test_with_nothing_before_it_a_degenerate_model_leaves_the_env_line_as_it_was(context: FakeContext) -> None:
    context.slot.named = None
    context.workers.answers[Stage.PROBATION] = finding(
        an_evaluation(model=replace(LIVELY, p_std=0.0), reference=None, worse=None)
    )
    run = until(a_run(), without_trial(context), lambda run: run.is_finished)

    assert run.outcome is Outcome.ROLLED_BACK
    assert context.slot.named is None
    assert types_of(context.store)[-1] is EventType.ROLLED_BACK
    assert context.store.last_deployment().model_path == ""


def test_a_hand_edit_ends_the_probation_and_is_respected(context: FakeContext) -> None:
    run = on_probation(context)
    context.slot.named = Path("/engine/by_hand.pth")
    run = until(run, without_trial(context), lambda run: run.is_finished)

    assert run.outcome is Outcome.PROMOTED
    assert run.reasons[-1] == "probation cancelled: PATCHTST_MODEL_PATH names /engine/by_hand.pth"
    assert context.slot.named == Path("/engine/by_hand.pth")


def test_bytes_that_a_probation_has_condemned_are_never_promoted_again(context: FakeContext) -> None:
    context.workers.answers[Stage.PROBATION] = finding(an_evaluation(worse=compared(0.02)))
    first = until(on_probation(context), without_trial(context), lambda run: run.is_finished)
    again = until(second_run(), without_trial(context), lambda run: run.is_finished)

    assert (first.outcome, again.outcome) == (Outcome.ROLLED_BACK, Outcome.REFUSED)
    assert f"probation in run {first.run_id}" in again.reasons[0]
    assert context.slot.named == OLD


@pytest.mark.parametrize(("low", "outcome"), [(-0.001, Outcome.REFUSED), (0.001, Outcome.PROMOTED)])
def test_a_newer_candidate_replaces_a_model_on_probation_only_when_it_is_surely_better(
    context: FakeContext,
    low: float,
    outcome: Any,
) -> None:
    first = on_probation(context)
    better = replace(GOOD, comparison=compared(low, gain=0.03, n=900))
    context.workers.answers[Stage.GATE] = Done(result=GateMeasured(evidence=better))
    newer = until(second_run(), without_trial(context), lambda run: run.outcome is not None)

    assert newer.outcome is outcome
    if outcome is Outcome.REFUSED:
        assert "is on probation" in newer.reasons[0]
        assert not context.store.known_run(first.run_id).is_finished


def test_a_database_that_cannot_be_read_delays_a_probation_and_never_takes_a_model_back(context: FakeContext) -> None:
    run = on_probation(context)
    context.workers.answers[Stage.PROBATION] = Broken(error=DatabaseBusyError("is locked"))
    run = until(run, without_trial(context), lambda run: run.is_finished, limit=400)

    assert run.outcome is Outcome.PROMOTED
    assert "too few to compare: is locked" in run.reasons[-1]


def test_a_roll_back_that_fails_is_said_and_not_called_one(context: FakeContext) -> None:
    context.workers.answers[Stage.PROBATION] = finding(an_evaluation(worse=compared(0.02)))
    run = on_probation(context)
    context.verifier.answers["VERIFY"] = Broken(error=ArtifactError("its canary differs"))
    run = until(run, without_trial(context), lambda run: run.is_finished)

    assert run.outcome is Outcome.PROMOTED
    assert "rollback failed" in run.reasons[-1]
    assert [request.state for request in context.store.slot_requests] == [SlotRequestState.REFUSED] * 5


def test_a_roll_back_that_fails_once_is_ordered_again(context: FakeContext) -> None:
    context.workers.answers[Stage.PROBATION] = finding(an_evaluation(worse=compared(0.02)))
    run = on_probation(context)
    sound = context.verifier.answers["VERIFY"]
    context.verifier.answers["VERIFY"] = Broken(error=ArtifactError("it cannot be read"))
    run = until(run, without_trial(context), lambda run: run.facts.probation.num_rollback_requests == 2)
    context.verifier.answers["VERIFY"] = sound
    run = until(run, without_trial(context), lambda run: run.is_finished)

    assert (run.outcome, context.slot.named) == (Outcome.ROLLED_BACK, OLD)


# ---------------------------------------------------------------- a person's word


def gated(context: FakeContext, evidence: Any) -> Run:
    context.workers.answers[Stage.GATE] = Done(result=GateMeasured(evidence=evidence))
    return until(a_run(), without_trial(context), lambda run: run.is_finished)


def ordered(context: FakeContext, judged: Run, **arguments: Any) -> Any:
    context.now.forward(60)
    request = SlotRequest(
        request_id="promote_1",
        kind=SlotRequestKind.PROMOTE,
        arguments=SlotRequestArguments(run_id=judged.run_id, **arguments),
        requested_by="anna",
        reason="the exchange changed its fees",
        created_at=context.now(),
        updated_at=context.now(),
    )
    context.store.record_slot_request(request)
    for _ in range(5):
        request = slot_requests.carry_out(request, context).request
        if request.is_answered:
            break
    return request


UNDECIDED = replace(GOOD, candidate=replace(GOOD.candidate, n=10), comparison=compared(None, n=10))
NEW_CONTRACT = "paper:64:standardise:outcome:rsi"
MISMATCH = replace(GOOD, contract=replace(GOOD.contract, mismatches=("context_length: the engine runs 128",)))


def test_a_candidate_that_could_not_be_judged_is_promoted_at_a_persons_word_and_everybody_can_see_it(
    context: FakeContext,
) -> None:
    judged = gated(context, UNDECIDED)
    request = ordered(context, judged, is_forced=True)
    opened = context.store.run(request.arguments.opened_run_id)
    run = until(known(opened), without_trial(context), lambda run: run.outcome is not None)

    assert (request.state, run.outcome) == (SlotRequestState.DONE, Outcome.PROMOTED)
    promoted = next(event for event in context.store.events if event.event_type is EventType.PROMOTED)
    assert promoted.payload["forced"]["by"] == "anna"
    assert "skill" in promoted.payload["forced"]["undecided"]
    assert context.store.known_deployment(run.run_id).reason == "forced by anna: the exchange changed its fees"
    assert dict(trial_pairs(run))["forced"].startswith("by anna, candidate of run 20260110_033000")
    assert run.stage is Stage.PROBATION, "it is watched as any other"


def test_without_force_it_is_refused_and_says_what_would_do_it(context: FakeContext) -> None:
    request = ordered(context, gated(context, UNDECIDED))

    assert request.state is SlotRequestState.REFUSED
    assert "--force replaces their result" in request.answer


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
def test_what_failed_and_what_is_not_sound_is_never_waived(context: FakeContext, evidence: Any) -> None:
    request = ordered(context, gated(context, evidence), is_forced=True, accepted_contract=NEW_CONTRACT)

    assert request.state is SlotRequestState.REFUSED
    assert "never waived" in request.answer
    assert context.slot.named == OLD


def test_another_contract_is_accepted_by_its_name_alone(context: FakeContext) -> None:
    judged = gated(context, MISMATCH)
    unnamed = ordered(context, judged, is_forced=True)
    wrong = ordered(context, judged, accepted_contract="paper:128:standardise:outcome:rsi")
    request = ordered(context, judged, accepted_contract=NEW_CONTRACT)

    assert unnamed.state is wrong.state is SlotRequestState.REFUSED
    assert f"--accept-contract {NEW_CONTRACT}" in unnamed.answer
    assert request.state is SlotRequestState.DONE
    run = until(
        known(context.store.run(request.arguments.opened_run_id)),
        without_trial(context),
        lambda run: run.outcome is not None,
    )
    assert run.outcome is Outcome.PROMOTED


def test_where_nobody_knows_what_the_engine_runs_a_person_names_it_and_force_is_no_name(context: FakeContext) -> None:
    why = "/engine/old.pth: it cannot be read: No such file or directory"
    judged = gated(
        context, replace(GOOD, incumbent=None, comparison=None, contract=replace(GOOD.contract, unknown=why))
    )
    forced, wrong = (
        ordered(context, judged, is_forced=True),
        ordered(context, judged, accepted_contract="engine:128:minmax"),
    )
    request = ordered(context, judged, accepted_contract=NEW_CONTRACT)

    assert judged.outcome is Outcome.REFUSED
    assert forced.state is wrong.state is SlotRequestState.REFUSED
    assert why in forced.answer
    assert f"--accept-contract {NEW_CONTRACT}" in forced.answer
    run = until(
        known(context.store.run(request.arguments.opened_run_id)),
        without_trial(context),
        lambda run: run.outcome is not None,
    )
    assert run.outcome is Outcome.PROMOTED
    promoted = next(event for event in context.store.events if event.event_type is EventType.PROMOTED)
    assert promoted.payload["forced"]["accepted_contract"] == NEW_CONTRACT
    assert promoted.payload["forced"]["undecided"] == ["contract"]


def test_a_named_contract_takes_the_place_of_no_other_gate(context: FakeContext) -> None:
    unknown = replace(UNDECIDED.contract, unknown="/engine/old.pth: it cannot be read")
    judged = gated(context, replace(UNDECIDED, contract=unknown))
    named = ordered(context, judged, accepted_contract=NEW_CONTRACT)

    assert named.state is SlotRequestState.REFUSED
    assert "skill" in named.answer
    assert "contract" not in named.answer
    assert ordered(context, judged, accepted_contract=NEW_CONTRACT, is_forced=True).state is SlotRequestState.DONE


def test_a_file_that_is_damaged_since_is_not_promoted(context: FakeContext) -> None:
    judged = gated(context, UNDECIDED)
    context.verifier.answers["VERIFY"] = Broken(error=ArtifactError("its canary differs"))

    assert ordered(context, judged, is_forced=True).state is SlotRequestState.REFUSED
    assert context.store.unfinished_run() is None


def test_what_is_in_the_slot_already_is_not_promoted_again(context: FakeContext) -> None:
    judged = gated(context, UNDECIDED)
    request = ordered(context, judged, is_forced=True)
    until(
        known(context.store.run(request.arguments.opened_run_id)),
        without_trial(context),
        lambda run: run.outcome is not None,
    )
    again = replace(
        request,
        request_id="promote_2",
        arguments=SlotRequestArguments(run_id=judged.run_id, is_forced=True),
        state=SlotRequestState.WAITING,
    )
    again = slot_requests.carry_out(again, context).request

    assert again.state is SlotRequestState.REFUSED
    assert "is in the slot already" in again.answer


def test_an_order_does_not_overtake_a_run_at_work(context: FakeContext) -> None:
    judged = gated(context, UNDECIDED)
    context.store.record(second_run())

    assert "run 20260111_033000 is at PULL" in ordered(context, judged, is_forced=True).answer


def test_an_order_is_not_carried_out_on_another_engine_than_it_was_given_for(context: FakeContext) -> None:
    request = ordered(context, gated(context, UNDECIDED), is_forced=True)
    context.slot.named = Path("/engine/by_hand.pth")
    run = until(
        known(context.store.run(request.arguments.opened_run_id)), without_trial(context), lambda run: run.is_finished
    )

    assert run.outcome is Outcome.REFUSED
    assert context.slot.named == Path("/engine/by_hand.pth")


def test_a_promoted_candidate_and_an_unknown_run_cannot_be_ordered(context: FakeContext) -> None:
    stored_previous(context)
    promoted = until(a_run(), without_trial(context), lambda run: run.outcome is not None)

    assert "was promoted" in ordered(context, promoted, is_forced=True).answer
    assert "there is no run" in ordered(context, replace(promoted, run_id="20200101_000000"), is_forced=True).answer


# ---------------------------------------------------------------- beside a worker at work


class _Busy:
    is_running = True


def test_while_another_child_works_no_look_begins_but_a_condemned_model_is_taken_back(context: FakeContext) -> None:
    trials = WaitingRuns(cast(WorkerProcesses, _Busy()), on_end=lambda _run: None)
    run = on_probation(context)
    asked = len(context.workers.requests)
    trials.advance(context)
    assert len(context.workers.requests) == asked

    context.workers.answers[Stage.PROBATION] = finding(an_evaluation(num_outcomes=400, worse=compared(0.2)))
    until(run, context, lambda run: run.facts.probation.rollback_reason != "")
    while (request := context.store.waiting_slot_request()) is not None:
        slot_requests.carry_out(request, context)
    trials.advance(context)
    assert context.store.run(run.run_id).outcome is Outcome.ROLLED_BACK


# ---------------------------------------------------------------- what is said of it


class _Idle:
    is_running = False


def test_the_journal_hears_of_a_trial_that_begins_and_of_what_is_in_its_way_but_not_of_each_look(
    context: FakeContext,
) -> None:
    trials = WaitingRuns(cast(WorkerProcesses, _Idle()), on_end=lambda _run: None)
    stored_previous(context)
    run = until(a_run(), without_trial(context), lambda run: run.stage is Stage.PROBATION)
    busy = Broken(error=DatabaseBusyError("locked by another", where="trader.db", remedy="wait"))
    answers = (
        finding(an_evaluation(num_outcomes=0)),
        finding(an_evaluation(num_outcomes=0, num_predictions=301)),
        busy,
        busy,
        finding(an_evaluation(num_outcomes=0, num_predictions=302)),
    )
    with capture_logs() as said:
        trials.advance(context)
        for answer in answers:
            context.workers.answers[Stage.PROBATION] = answer
            context.now.now = max(context.now(), context.store.run(run.run_id).not_before or context.now())
            trials.advance(context)

    assert [each["log_level"] for each in said] == ["info", "debug", "debug", "warning", "debug"]
    assert "is on probation for 48 h" in said[0]["message"]
    assert "locked by another" in said[3]["message"]
