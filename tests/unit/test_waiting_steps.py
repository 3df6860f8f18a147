"""Runs on trial and on probation: each request, each stored finding, each message, and the limits of the wait."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.domain.facts import ProbationFacts, PullFacts, ShadowFacts
from retrain_worker.domain.gates import Decision, GatePolicy, Verdict, decide
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Run, Stage
from retrain_worker.domain.pause import Pause
from retrain_worker.domain.probation import (
    ProbationPolicy,
    alpha_of,
    degenerate,
    is_decidable,
    outcomes_for,
    worse_than_replaced,
)
from retrain_worker.domain.shadow_trial import ShadowPolicy, gives_way, judge_shadow, may_go_on_trial, trial_policy
from retrain_worker.domain.slot_request import SlotRequest, SlotRequestArguments, SlotRequestKind, SlotRequestState
from retrain_worker.domain.trial_evaluation import Answer, AnswerDistribution
from retrain_worker.domain.worker_protocol import Broken, TrialEvaluationRequest, Working
from retrain_worker.errors import (
    ArtifactError,
    ContractError,
    DatabaseBusyError,
    DataUnfitError,
    RetrainError,
    SettingsError,
    SlotError,
    SourceUnfitError,
    WorkerInterruptedError,
)
from retrain_worker.stages.advance import MAX_EVALUATION_ERRORS, advance, postpone
from tests.fakes import NOW, FakeContext, fake_context
from tests.run_facts import gate_facts, train_facts
from tests.unit.test_gates import GOOD, with_card
from tests.unit.test_trials import LIVELY, an_evaluation, compared, finding

OLD = Path("/engine/patchtst_v20260109_233444.pth")
NEW = Path("/engine/patchtst_v20260110_033000.pth")
VERSION = NEW.stem
RUN_ID = "20260110_033000"
HOUR = timedelta(hours=1)
POLICY = ProbationPolicy()
PASSED = Verdict(decision=Decision.PASS, gates=(), policy=GatePolicy())
ANSWER = Answer(symbol="BTCUSDT", decided_at=1, probability=0.7)
#: an evaluation that differs from the defaults in everything
EVALUATION = an_evaluation(
    model=replace(LIVELY, n=301),
    reference=replace(LIVELY, n=302),
    absence="none",
    answers=(ANSWER,),
    worse=compared(-0.01, n=119),
)
#: what is stored of it
MEASURED: dict[str, Any] = {
    "num_predictions": 300,
    "num_early_predictions": 250,
    "num_outcomes": 240,
    "auc": 0.78,
    "log_loss": 0.55,
    "comparison": GOOD.comparison,
    "model": replace(LIVELY, n=301),
    "reference": replace(LIVELY, n=302),
    "reference_absence": "none",
    "answers": (ANSWER,),
}


def a_run(stage: Stage, run_id: str = RUN_ID, **changes: Any) -> Run:
    run = Run(
        run_id=run_id,
        requested_by="schedule",
        request_reason="every 24 h",
        created_at=NOW - HOUR,
        updated_at=NOW,
        stage=stage,
        outcome=Outcome.PROMOTED if stage is Stage.PROBATION else None,
        reasons=("seen serving",) if stage is Stage.PROBATION else (),
    )
    trained = train_facts(
        candidate_path=f"/runs/patchtst_v{run_id}.pth",
        version=f"patchtst_v{run_id}",
        incumbent_path=str(OLD),
        parts={"train": {"win": 3, "loss": 1}},
    )
    return replace(run.with_fact(trained).with_fact(gate_facts()), **changes)


def stored(context: FakeContext, run: Run, *, previous: Path | None = OLD) -> Run:
    """The run in the state database; one on probation with its deployment."""
    deployment = None
    if run.stage is Stage.PROBATION:
        deployment = Deployment(
            deployment_id=run.run_id,
            run_id=run.run_id,
            kind=DeploymentKind.PROMOTE,
            version=VERSION,
            model_path=str(NEW),
            sha256="a" * 64,
            size_bytes=1,
            previous_version=previous.stem if previous else None,
            previous_model_path=str(previous) if previous else None,
            previous_sha256="b" * 64 if previous else None,
            state=DeploymentState.CONFIRMED,
            created_at=NOW - HOUR / 2,
            updated_at=NOW,
            requested_by="schedule",
            reason="every gate that counts has passed",
        )
    context.store.record(run, deployment=deployment)
    return run


@pytest.fixture
def context(tmp_path: Path) -> FakeContext:
    context = fake_context(tmp_path, engine_says=lambda: "the engine answers")
    context.slot.hashes[str(OLD)] = "b" * 64
    return replace(
        context,
        policies=replace(
            context.policies,
            shadow=ShadowPolicy(min_outcomes=200, max_hours=3.0),
            probation=ProbationPolicy(hours=2.0, max_hours=2.0),
            recipe=replace(context.policies.recipe, threads=3),
            worker_memory_bytes=7,
        ),
    )


def begun(context: FakeContext, stage: Stage, **facts: Any) -> Run:
    """A run whose first evaluation is due."""
    usual: dict[str, Any] = {"since": NOW, "prediction_log": "predictions_1", "evaluation_at": NOW, **facts}
    run = a_run(stage)
    if stage is Stage.SHADOW:
        context.slot.named = OLD
        return stored(context, run.with_fact(ShadowFacts(incumbent_path=str(OLD), **usual)))
    context.slot.named = NEW
    return stored(context, run.with_fact(ProbationFacts(**usual)))


def evaluated(context: FakeContext, run: Run, answer: Any) -> Any:
    """The step of an evaluation with this answer of the worker."""
    context.workers.answers[run.stage] = answer
    return advance(run, context)


WAITING = [Stage.SHADOW, Stage.PROBATION]
STATE = {
    Stage.SHADOW: f"run {RUN_ID}: {VERSION} is on trial",
    Stage.PROBATION: f"run {RUN_ID}: {VERSION} is on probation",
}


# ---------------------------------------------------------------- beginning


def test_a_trial_begins_after_the_newest_row_of_the_training(context: FakeContext) -> None:
    run = stored(context, a_run(Stage.SHADOW).with_fact(PullFacts(last_at=NOW - 2 * HOUR)))
    step = advance(run, context)

    assert step.message == (f"run {RUN_ID}: {VERSION} is on trial beside the incumbent until 200 outcomes are known")
    assert step.run.facts.shadow == ShadowFacts(
        since=NOW - 2 * HOUR,
        prediction_log="predictions_shadow_20260110_033000_000000",
        evaluation_at=NOW,
        incumbent_path=str(OLD),
    )


@pytest.mark.parametrize("pulled", [None, PullFacts()])
def test_a_trial_whose_newest_row_is_not_known_begins_at_the_start_of_the_run(
    context: FakeContext, pulled: PullFacts | None
) -> None:
    run = a_run(Stage.SHADOW)
    step = advance(stored(context, run.with_fact(pulled) if pulled else run), context)

    assert step.run.facts.shadow.since == NOW - HOUR


@pytest.mark.parametrize(
    ("previous", "beside"),
    [(OLD, "patchtst_v20260109_233444"), (None, "no model: there was none before it")],
)
def test_a_probation_begins_at_the_swap(context: FakeContext, previous: Path | None, beside: str) -> None:
    step = advance(stored(context, a_run(Stage.PROBATION), previous=previous), context)

    assert step.message == f"run {RUN_ID}: {VERSION} is on probation for 2 h, beside {beside}"
    assert step.run.facts.probation == ProbationFacts(
        since=NOW - HOUR / 2, prediction_log="predictions_probation_20260110_033000_000000", evaluation_at=NOW
    )


@pytest.mark.parametrize("stage", WAITING)
def test_evaluations_whose_facts_cannot_be_read_begin_again_with_the_reason(context: FakeContext, stage: Stage) -> None:
    run = a_run(stage)
    run = stored(context, replace(run, facts=replace(run.facts, unreadable={stage.lower(): "no number"})))
    step = advance(run, context)

    note = "the stored facts cannot be read (no number); the evaluations begin again, the time limit stays"
    assert step.message.endswith(f"; {note}")
    facts = step.run.facts.shadow or step.run.facts.probation
    assert (facts.problem, step.run.updated_at, step.run.outcome) == (note, NOW, run.outcome)


def test_a_probation_that_begins_late_begins_all_the_same(context: FakeContext) -> None:
    run = stored(context, a_run(Stage.PROBATION))
    context.now.forward(3 * 3600)
    step = advance(run, context)

    assert step.message == f"run {RUN_ID}: {VERSION} is on probation for 2 h, beside {OLD.stem}"
    assert not step.run.is_finished


def test_a_probation_has_a_deployment(context: FakeContext) -> None:
    with pytest.raises(AssertionError, match=r"^a run on probation was promoted$"):
        advance(a_run(Stage.PROBATION), context)


def test_a_probation_whose_facts_cannot_be_read_ends_at_its_limit(context: FakeContext) -> None:
    run = a_run(Stage.PROBATION)
    run = stored(context, replace(run, facts=replace(run.facts, unreadable={"probation": "no number"})))
    context.now.forward(2 * 3600)
    step = advance(run, context)

    assert (step.run.outcome, step.run.is_finished) == (Outcome.PROMOTED, True)
    assert step.message == (
        f"run {RUN_ID} PROMOTED: probation over after 2 h and 0 new outcomes, which were too few to compare: "
        "the stored facts cannot be read (no number); the evaluations begin again, the time limit stays"
    )


# ---------------------------------------------------------------- one evaluation


@pytest.mark.parametrize(
    ("stage", "model", "alpha", "policy"),
    [
        (Stage.SHADOW, f"/runs/{VERSION}.pth", 0.05, replace(GatePolicy(), skill_alpha=0.05, gain_alpha=0.05)),
        (Stage.PROBATION, str(NEW), 0.025, GatePolicy()),
    ],
)
def test_an_evaluation_is_requested_of_both_models_on_the_rows_since_the_stage_began(
    context: FakeContext, tmp_path: Path, stage: Stage, model: str, alpha: float, policy: GatePolicy
) -> None:
    run = begun(context, stage, evaluation=4, since=NOW - HOUR)
    context.now.forward(60)
    evaluated(context, run, Working(message="scoring"))
    run_dir = str(tmp_path / "runs" / RUN_ID)

    assert context.workers.requests == [
        (
            stage,
            TrialEvaluationRequest(
                run_id=RUN_ID,
                run_dir=run_dir,
                number=4,
                model_path=model,
                reference_path=str(OLD),
                since=(NOW - HOUR).isoformat(),
                snapshot_dir="/",
                prediction_log="predictions_1",
                now=NOW.isoformat(),
                data=context.policies.data,
                policy=policy,
                prior=0.75,
                worse_alpha=alpha,
                threads=3,
                memory_limit_bytes=7,
            ),
        )
    ]


def test_a_model_whose_training_is_not_known_is_evaluated_with_an_even_prior(context: FakeContext) -> None:
    run = begun(context, Stage.PROBATION)
    evaluated(context, replace(run, facts=replace(run.facts, train=None)), Working(message="scoring"))

    assert context.workers.requests[0][1].prior == 0.5


@pytest.mark.parametrize("stage", WAITING)
@pytest.mark.parametrize("answer", [Working(message="scoring"), Broken(error=WorkerInterruptedError("stopped"))])
def test_a_worker_at_work_and_one_that_was_stopped_change_nothing(
    context: FakeContext, stage: Stage, answer: Any
) -> None:
    step = evaluated(context, begun(context, stage), answer)

    assert step.message == f"{STATE[stage]}: 0 predictions logged, 0 outcomes known"
    assert (step.is_move, step.is_evaluation) == (False, False)


def test_an_evaluation_of_a_trial_is_stored_and_the_next_one_is_planned(context: FakeContext) -> None:
    run = begun(context, Stage.SHADOW, problem="is locked")
    few = replace(EVALUATION, num_outcomes=199)
    step = evaluated(context, run, finding(few))

    assert step.message == (
        f"{STATE[Stage.SHADOW]}: 300 predictions logged, 199 outcomes known, log loss gain +0.0100 over the incumbent"
    )
    assert (step.is_evaluation, step.is_move, step.is_end) == (True, True, False)
    policy = replace(GatePolicy(), skill_alpha=0.05, gain_alpha=0.05)
    assert step.run == replace(run, not_before=NOW + timedelta(minutes=10)).with_fact(
        ShadowFacts(
            since=NOW,
            prediction_log="predictions_1",
            evaluation=2,
            evaluation_at=NOW + timedelta(minutes=10),
            incumbent_path=str(OLD),
            verdict=replace(decide(GOOD, policy), decision=Decision.UNDECIDED),
            candidate=GOOD.candidate,
            incumbent=GOOD.incumbent,
            **{**MEASURED, "num_outcomes": 199},
        )
    )


def test_an_evaluation_of_a_probation_is_stored_and_the_next_one_is_planned(context: FakeContext) -> None:
    run = begun(context, Stage.PROBATION, problem="is locked", is_file_suspect=True)
    step = evaluated(context, run, finding(EVALUATION))

    assert step.message == (
        f"{STATE[Stage.PROBATION]}: 300 predictions logged, 240 outcomes known, "
        "log loss gain +0.0100 over the model it replaced"
    )
    assert (step.is_evaluation, step.is_move, step.is_end) == (True, True, False)
    assert step.run == replace(run, not_before=NOW + timedelta(minutes=10)).with_fact(
        ProbationFacts(
            since=NOW,
            prediction_log="predictions_1",
            evaluation=2,
            evaluation_at=NOW + timedelta(minutes=10),
            num_analyses=1,
            num_outcomes_analysed=240,
            worse=compared(-0.01, n=119),
            engine_finding="the engine answers",
            **MEASURED,
        )
    )


@pytest.mark.parametrize("stage", WAITING)
def test_an_evaluation_begins_when_it_is_due_and_not_before(context: FakeContext, stage: Stage) -> None:
    run = replace(begun(context, stage, problem="is locked"), not_before=NOW + timedelta(minutes=10))
    step = advance(run, context)
    assert step.message == f"{STATE[stage]}: 0 predictions logged, 0 outcomes known; is locked"
    assert (step.run, step.is_move, context.workers.requests) == (run, False, [])

    context.workers.answers[stage] = Working(message="scoring")
    for planned in (NOW, NOW + timedelta(minutes=10, microseconds=1)):  # due; planned by a clock that was ahead
        context.workers.requests.clear()
        advance(replace(run, not_before=planned), context)
        assert len(context.workers.requests) == 1


def test_the_state_of_a_run_whose_evaluations_have_not_begun_is_its_stage(context: FakeContext) -> None:
    run = stored(context, a_run(Stage.PROBATION, not_before=NOW + timedelta(minutes=5)))

    assert advance(run, context).message == STATE[Stage.PROBATION]
    unknown = replace(run, facts=replace(run.facts, train=None))
    assert advance(unknown, context).message == f"run {RUN_ID}: its model is on probation"


@pytest.mark.parametrize("stage", WAITING)
@pytest.mark.parametrize(
    "error",
    [
        DatabaseBusyError("is locked"),
        ContractError("is locked"),
        SourceUnfitError("is locked"),
        DataUnfitError("is locked"),
        SlotError("is locked"),
    ],
)
def test_what_prevents_an_evaluation_is_stored_and_reported_and_decides_nothing(
    context: FakeContext, stage: Stage, error: RetrainError
) -> None:
    run = begun(context, stage)
    step = evaluated(context, run, Broken(error=error))

    assert step.message == f"{STATE[stage]}: 0 predictions logged, 0 outcomes known; is locked"
    assert (step.run.outcome, step.is_evaluation) == (run.outcome, True)
    assert step.run.not_before == NOW + timedelta(minutes=10)
    facts = step.run.facts.shadow or step.run.facts.probation
    assert (facts.problem, facts.evaluation, facts.evaluation_at) == ("is locked", 1, NOW + timedelta(minutes=10))


# ---------------------------------------------------------------- limits of the wait


@pytest.mark.parametrize("stage", WAITING)
def test_a_waiting_run_ends_at_its_tenth_unforeseen_error_in_a_row(context: FakeContext, stage: Stage) -> None:
    run, found = begun(context, stage), []
    while not run.is_finished:
        step = postpone(run, "a defect", context)
        found.append(step.message)
        run = step.run
        context.now.forward(60)

    name = f"run {RUN_ID} ({stage.lower()})"
    last = "10 errors in a row, the last: a defect"
    assert MAX_EVALUATION_ERRORS == 10
    assert found[:9] == [f"{name}: a defect"] * 9
    assert len(found) == 10
    if stage is Stage.SHADOW:
        assert (found[9], run.outcome, run.reasons) == (f"{name} FAILED: {last}", Outcome.FAILED, (last,))
    else:
        reason = f"probation cancelled: {last}"
        assert found[9] == f"run {RUN_ID} PROMOTED: {reason}"
        assert (run.outcome, run.reasons) == (Outcome.PROMOTED, ("seen serving", reason))


@pytest.mark.parametrize("stage", WAITING)
def test_an_unforeseen_error_is_stored_and_the_next_evaluation_is_planned(context: FakeContext, stage: Stage) -> None:
    run = begun(context, stage)
    step = postpone(run, "a defect", context)
    facts = step.run.facts.shadow or step.run.facts.probation
    due = NOW + timedelta(minutes=10)
    assert (facts.problem, facts.evaluation_at, step.run.not_before, step.run.num_deaths) == ("a defect", due, due, 1)
    assert step.run == context.store.known_run(RUN_ID)

    context.workers.answers[stage] = finding(replace(EVALUATION, num_outcomes=1))
    context.now.forward(600)
    assert advance(step.run, context).run.num_deaths == 0, "an evaluation that succeeds ends the row of errors"


def test_an_unforeseen_error_before_the_first_evaluation_is_counted_and_tried_again(context: FakeContext) -> None:
    run = stored(context, a_run(Stage.PROBATION))
    step = postpone(run, "a defect", context)

    assert step.run == replace(run, num_deaths=1, not_before=NOW + timedelta(minutes=10))


@pytest.mark.parametrize(("stage", "hours"), [(Stage.SHADOW, 3.0), (Stage.PROBATION, 2.0)])
def test_an_unforeseen_error_at_the_time_limit_ends_the_run(context: FakeContext, stage: Stage, hours: float) -> None:
    run = begun(context, stage)
    context.now.forward(hours * 3600 - 1)
    assert not postpone(run, "a defect", context).run.is_finished
    context.now.forward(1)
    ended = postpone(run, "a defect", context).run

    assert ended.is_finished
    assert ended.reasons[-1].endswith("1 errors in a row, the last: a defect")
    assert ended.finished_at == NOW + hours * HOUR


@pytest.mark.parametrize(("stage", "hours"), [(Stage.SHADOW, 3.0), (Stage.PROBATION, 2.0)])
def test_a_clock_that_goes_back_extends_no_time_limit(context: FakeContext, stage: Stage, hours: float) -> None:
    run = begun(context, stage)
    context.now.now = NOW - 5 * HOUR
    run = evaluated(context, run, finding(replace(EVALUATION, num_outcomes=1, worse=None))).run
    assert run.updated_at == NOW - 5 * HOUR
    assert run == context.store.known_run(RUN_ID)

    context.now.forward(hours * 3600)
    assert evaluated(context, run, finding(replace(EVALUATION, num_outcomes=1, worse=None))).run.is_finished


@pytest.mark.parametrize(
    ("stage", "error", "outcome", "reason"),
    [
        (Stage.SHADOW, SettingsError(("A is wrong",)), Outcome.FAILED, "A is wrong"),
        (Stage.SHADOW, ArtifactError("damaged"), Outcome.REFUSED, "damaged"),
        (Stage.PROBATION, SettingsError(("A is wrong",)), Outcome.PROMOTED, "probation cancelled: A is wrong"),
    ],
)
def test_an_error_that_no_later_evaluation_can_mend_ends_the_wait(
    context: FakeContext, stage: Stage, error: RetrainError, outcome: Outcome, reason: str
) -> None:
    step = evaluated(context, begun(context, stage), Broken(error=error))

    assert (step.run.outcome, step.run.reasons[-1]) == (outcome, reason)
    assert step.run.is_finished


# ---------------------------------------------------------------- the end of a trial


def test_a_trial_passes_with_its_evidence(context: FakeContext) -> None:
    context.now.forward(60)
    step = evaluated(context, begun(context, Stage.SHADOW), finding(EVALUATION))

    assert step.message == f"run {RUN_ID}: {VERSION} has passed its trial on 240 new outcomes"
    assert (step.run.stage, step.run.updated_at) == (Stage.PROMOTE, NOW + timedelta(seconds=60))
    assert step.run.facts.shadow.verdict.decision is Decision.PASS
    assert (step.run.facts.shadow.num_outcomes, step.run.facts.shadow.evaluation) == (240, 2)


def test_a_trial_that_fails_is_refused_with_its_evidence(context: FakeContext) -> None:
    context.now.forward(60)
    refused = replace(EVALUATION, evidence=with_card(p_std=0.01, auc_low=0.4))
    step = evaluated(context, begun(context, Stage.SHADOW), finding(refused))

    assert step.message == f"run {RUN_ID} refused on trial: {'; '.join(step.run.reasons)}"
    assert [reason.partition(":")[0] for reason in step.run.reasons] == ["confidence spread", "skill"]
    assert step.run.facts.shadow.verdict.decision is Decision.REFUSE
    assert step.run.facts.shadow.candidate.auc_low == 0.4
    assert (step.run.outcome, step.run.finished_at) == (Outcome.REFUSED, NOW + timedelta(seconds=60))


UNDECIDED = with_card(p_std=None, n=900, ece=None)


@pytest.mark.parametrize(
    ("evaluation", "cause"),
    [
        (finding(replace(EVALUATION, num_outcomes=3)), ""),
        (
            finding(replace(EVALUATION, num_outcomes=3, evidence=UNDECIDED)),
            f"; {'; '.join(decide(UNDECIDED, GatePolicy()).reasons)}",
        ),
        (Broken(error=DatabaseBusyError("is locked")), "; is locked"),
    ],
)
def test_a_trial_without_a_verdict_is_refused_at_its_limit_with_the_cause(
    context: FakeContext, evaluation: Any, cause: str
) -> None:
    run = begun(context, Stage.SHADOW, num_outcomes=3)
    context.now.forward(3 * 3600 - 1)
    assert not evaluated(context, run, evaluation).run.is_finished
    context.now.forward(1)
    step = evaluated(context, run, evaluation)

    assert step.run.outcome is Outcome.REFUSED
    assert step.run.reasons == (f"no verdict within 3 h: 3 outcomes are known{cause}",)


@pytest.mark.parametrize("named", [Path("/engine/by_hand.pth"), None])
def test_another_incumbent_restarts_the_trial_beside_that_model(context: FakeContext, named: Path | None) -> None:
    run = begun(context, Stage.SHADOW, evaluation=3, num_outcomes=9)
    context.slot.named = named
    context.now.forward(61)
    step = advance(run, context)

    at = NOW + timedelta(seconds=61)
    path = str(named) if named else None
    assert step.message == (f"run {RUN_ID}: PATCHTST_MODEL_PATH now names {path or 'nothing'}; the trial begins again")
    assert step.run.facts.shadow == ShadowFacts(
        since=at,
        prediction_log="predictions_shadow_20260110_033101_000000",
        evaluation=4,
        evaluation_at=at,
        incumbent_path=path,
    )
    assert step.run.facts.train.incumbent_path == path
    assert step.run.updated_at == NOW, "its time limit continues"


def test_a_candidate_that_passed_waits_for_the_run_at_work(context: FakeContext) -> None:
    run = begun(context, Stage.SHADOW, verdict=PASSED, num_outcomes=240)
    context.store.record(a_run(Stage.PULL, "20260111_033000"))
    step = advance(run, context)
    assert step.message == (f"run {RUN_ID} has passed its trial and waits for the end of run 20260111_033000")
    assert step.is_move is False
    evaluation = evaluated(context, replace(begun(context, Stage.SHADOW), not_before=NOW), finding(EVALUATION))
    assert (evaluation.message, evaluation.run.not_before) == (step.message, None)

    context.store.record(a_run(Stage.PULL, "20260111_033000").ended(Outcome.SKIPPED, "x", at=NOW))
    unknown = replace(run, facts=replace(run.facts, train=None))
    assert advance(unknown, context).message == (
        f"run {RUN_ID}: the candidate of run {RUN_ID} has passed its trial on 240 new outcomes"
    )


def test_a_candidate_that_passed_waits_for_the_end_of_a_pause(context: FakeContext) -> None:
    run = begun(context, Stage.SHADOW, verdict=PASSED)
    context.store.set_pause(Pause(by="ada", reason="fees", since=NOW))
    step = advance(run, context)

    assert step.message == (
        f"run {RUN_ID} has passed its trial and waits: promotions are paused until `retrain-worker resume` (ada: fees)"
    )
    assert step.is_move is False


# ---------------------------------------------------------------- two candidates on trial


def older_trial(context: FakeContext, run_id: str = "20260109_033000", **facts: Any) -> Run:
    usual: dict[str, Any] = {"since": NOW, "prediction_log": "p", "evaluation_at": NOW}
    run = a_run(Stage.SHADOW, run_id)
    return stored(context, run.with_fact(ShadowFacts(**{**usual, **facts})))


def test_a_newer_candidate_is_refused_beside_one_that_does_not_trail(context: FakeContext) -> None:
    older_trial(context, num_predictions=1, num_outcomes=60)
    context.now.forward(9)
    step = advance(begun(context, Stage.SHADOW), context)

    reason = "patchtst_v20260109_033000 is on trial and does not trail: 60 outcomes are known"
    assert (step.run.outcome, step.run.reasons) == (Outcome.REFUSED, (reason,))
    assert step.message == f"run {RUN_ID} refused on trial: {reason}"
    assert step.run.finished_at == NOW + timedelta(seconds=9)


def test_a_newer_candidate_waits_until_one_that_gives_way_has_ended(context: FakeContext) -> None:
    older = older_trial(context)
    step = advance(begun(context, Stage.SHADOW), context)
    assert step.message == f"run {RUN_ID}: waits until the trial of run 20260109_033000 has ended"
    assert step.is_move is False

    context.slot.named = OLD
    gone = advance(older, context)
    assert gone.run.reasons == (f"superseded by {VERSION}",)


def test_one_of_two_older_candidates_that_does_not_trail_is_enough(context: FakeContext) -> None:
    older_trial(context)
    older_trial(context, "20260109_043000", num_predictions=1, num_outcomes=7)
    run = begun(context, Stage.SHADOW)
    stored(context, a_run(Stage.PROBATION, "20260101_033000"))

    assert advance(run, context).run.reasons == (
        "patchtst_v20260109_043000 is on trial and does not trail: 7 outcomes are known",
    )


def test_a_candidate_that_does_not_trail_stays_on_trial_beside_a_newer_one(context: FakeContext) -> None:
    older = older_trial(context, num_predictions=1, incumbent_path=str(OLD))
    begun(context, Stage.SHADOW)

    assert evaluated(context, older, Working(message="scoring")).run.outcome is None


# ---------------------------------------------------------------- the end of a probation


@pytest.mark.parametrize(
    ("facts", "evaluation", "reason"),
    [
        ({}, finding(EVALUATION), "and 240 new outcomes"),
        (
            {},
            finding(replace(EVALUATION, worse=None, num_outcomes=49)),
            "and 49 new outcomes, which were too few to compare",
        ),
        (
            {"num_outcomes": 3},
            Broken(error=DatabaseBusyError("is locked")),
            "and 3 new outcomes, which were too few to compare: is locked",
        ),
        (
            {"num_outcomes": 300, "num_analyses": 1},
            Broken(error=DatabaseBusyError("is locked")),
            "and 300 new outcomes",
        ),
    ],
)
def test_a_model_that_is_not_worse_stays_when_the_hours_are_over(
    context: FakeContext, facts: dict[str, Any], evaluation: Any, reason: str
) -> None:
    run = begun(context, Stage.PROBATION, **facts)
    context.now.forward(2 * 3600)
    step = evaluated(context, run, evaluation)

    reason = f"probation over after 2 h {reason}"
    assert (step.run.outcome, step.run.reasons) == (Outcome.PROMOTED, ("seen serving", reason))
    assert step.message == f"run {RUN_ID} PROMOTED: {reason}"
    assert step.run.finished_at == NOW + 2 * HOUR


@pytest.mark.parametrize(
    ("hours", "evaluation", "is_over"),
    [
        (2, {}, False),
        (6, {}, True),
        (2, {"worse": compared(0.0, gain=0.05)}, True),
        (2, {"worse": compared(-0.01, gain=0.05)}, False),
        (2, {"worse": compared(None)}, False),
        (2, {"worse": None}, False),
        (2, {"worse": None, "absence": "there was no model before it"}, True),
        (1, {"worse": compared(0.0, gain=0.05)}, False),
    ],
)
def test_a_probation_lasts_until_it_can_decide(
    context: FakeContext, hours: int, evaluation: dict[str, Any], is_over: bool
) -> None:
    policy = replace(context.policies.probation, max_hours=6.0)
    context = replace(context, policies=replace(context.policies, probation=policy))
    run = begun(context, Stage.PROBATION)
    context.now.forward(hours * 3600)
    step = evaluated(
        context, run, finding(replace(EVALUATION, **{"worse": compared(-0.2), "absence": "", **evaluation}))
    )

    assert step.run.is_finished is is_over


def test_an_analysis_is_made_on_enough_outcomes_or_at_the_limit(context: FakeContext) -> None:
    run = begun(context, Stage.PROBATION)
    for outcomes, analyses in ((49, 0), (50, 1)):
        step = evaluated(context, run, finding(replace(EVALUATION, num_outcomes=outcomes)))
        assert step.run.facts.probation.num_analyses == analyses
        assert step.run.facts.probation.num_outcomes_analysed == outcomes * analyses
    undecidable = evaluated(context, run, finding(replace(EVALUATION, worse=compared(None))))
    assert undecidable.run.facts.probation.num_analyses == 0
    context.now.forward(2 * 3600)
    last = evaluated(context, run, finding(replace(EVALUATION, num_outcomes=1)))
    assert last.run.facts.probation.num_analyses == 1


def blocked_request(number: int = 1, reason: str = "") -> SlotRequest:
    return SlotRequest(
        request_id=f"rollback_in_probation_of_{RUN_ID}" + (f"_{number}" if number > 1 else ""),
        kind=SlotRequestKind.ROLLBACK,
        arguments=SlotRequestArguments(only_from=str(NEW), run_id=RUN_ID),
        requested_by="probation",
        reason=reason,
        created_at=NOW,
        updated_at=NOW,
        answer="waiting for its turn",
    )


WORSE = (
    "worse than the model it replaced: log loss higher by 0.0700 on 120 new outcomes, lower confidence bound 0.0200 "
    "(allowed 0.01)"
)


@pytest.mark.parametrize(
    ("evaluation", "why", "analyses"),
    [
        (replace(EVALUATION, worse=compared(0.02, gain=0.07)), WORSE, 1),
        (
            replace(EVALUATION, model=replace(LIVELY, p_std=0.001)),
            "degenerate: its 300 answers have collapsed (std 0.0010)",
            0,
        ),
    ],
)
def test_a_worse_or_degenerate_model_is_rolled_back_by_a_request(
    context: FakeContext, evaluation: Any, why: str, analyses: int
) -> None:
    run = replace(begun(context, Stage.PROBATION), not_before=NOW)
    step = evaluated(context, run, finding(evaluation))

    assert step.message == f"run {RUN_ID}: {why}; rollback requested"
    assert (step.run.facts.probation.rollback_reason, step.run.not_before) == (why, None)
    assert (step.run.facts.probation.num_analyses, step.run.facts.probation.num_outcomes) == (analyses, 240)
    assert context.store.slot_requests == [blocked_request(reason=why)]
    assert step.run.outcome is Outcome.PROMOTED


def test_a_file_that_is_not_sound_twice_in_a_row_is_rolled_back(context: FakeContext) -> None:
    damaged = Broken(error=ArtifactError("another sha256"))
    first = evaluated(context, begun(context, Stage.PROBATION), damaged)
    why = "its file is not sound: another sha256"
    assert first.message == f"{STATE[Stage.PROBATION]}: 0 predictions logged, 0 outcomes known; {why}"
    facts = first.run.facts.probation
    assert (facts.is_file_suspect, facts.evaluation, facts.problem) == (True, 2, why)

    context.now.forward(600)
    second = evaluated(context, first.run, damaged)
    assert second.message == f"run {RUN_ID}: degenerate: {why}; rollback requested"
    assert second.run.facts.probation.rollback_reason == f"degenerate: {why}"


def test_a_rollback_request_is_made_again_when_it_was_lost(context: FakeContext) -> None:
    run = begun(context, Stage.PROBATION, rollback_reason="worse", num_rollback_requests=2)
    step = advance(run, context)
    assert step.message == f"run {RUN_ID}: rollback requested"
    assert context.store.slot_requests == [blocked_request(2, reason="worse")]

    waiting = advance(step.run, context)
    assert waiting.message == f"run {RUN_ID}: rollback of its model: waiting for its turn"
    assert waiting.is_move is False


def with_answer(context: FakeContext, state: SlotRequestState, *, number: int = 1) -> Run:
    """A run whose rollback request has been answered."""
    run = begun(context, Stage.PROBATION, rollback_reason="worse", num_rollback_requests=number)
    context.store.record_slot_request(blocked_request(number).answered(state, "the answer", at=NOW))
    return run


@pytest.mark.parametrize("number", [1, 4])
def test_a_rollback_that_failed_is_tried_again(context: FakeContext, number: int) -> None:
    step = advance(with_answer(context, SlotRequestState.FAILED, number=number), context)

    assert step.message == f"run {RUN_ID}: worse; rollback failed; retrying: the answer"
    facts = step.run.facts.probation
    assert (facts.num_rollback_requests, facts.problem) == (number + 1, "the answer")
    assert step.run.not_before == NOW + timedelta(minutes=10)


def test_a_rollback_that_failed_five_times_is_left_to_the_operator(context: FakeContext) -> None:
    step = advance(with_answer(context, SlotRequestState.FAILED, number=5), context)

    reason = "worse; rollback failed: the answer"
    assert (step.run.outcome, step.run.reasons) == (Outcome.PROMOTED, ("seen serving", reason))
    assert step.message == f"run {RUN_ID} PROMOTED: {reason}"
    assert step.run.finished_at == NOW


def test_a_line_that_cannot_be_read_does_not_end_a_rollback_that_failed(context: FakeContext) -> None:
    run = with_answer(context, SlotRequestState.FAILED)
    context.slot.current_path = cannot_be_read  # type: ignore[method-assign]

    assert "retrying" in advance(run, context).message


def cannot_be_read() -> Path | None:
    raise SlotError("cannot be read")


def recorded_change(context: FakeContext, kind: DeploymentKind, run_id: str | None) -> None:
    context.store.record_deployment(
        replace(
            context.store.known_deployment(RUN_ID),
            deployment_id="x",
            run_id=run_id,
            kind=kind,
            model_path=str(OLD),
            requested_by="anna",
            reason="it loses",
        )
    )
    context.slot.named = OLD


@pytest.mark.parametrize(
    ("kind", "run_id", "outcome"),
    [
        (DeploymentKind.ROLLBACK, None, Outcome.ROLLED_BACK),
        (DeploymentKind.ROLLBACK, RUN_ID, Outcome.ROLLED_BACK),
        (DeploymentKind.ROLLBACK, "20260101_033000", Outcome.PROMOTED),
        (DeploymentKind.EXTERNAL, None, Outcome.PROMOTED),
    ],
)
@pytest.mark.parametrize("answer", [None, SlotRequestState.DONE, SlotRequestState.REFUSED])
def test_another_model_in_the_slot_ends_a_probation_as_what_was_recorded(
    context: FakeContext, kind: DeploymentKind, run_id: str | None, outcome: Outcome, answer: SlotRequestState | None
) -> None:
    run = with_answer(context, answer) if answer else begun(context, Stage.PROBATION)
    if run_id not in (None, RUN_ID):
        stored(context, a_run(Stage.SHADOW, str(run_id)))
    recorded_change(context, kind, run_id)
    context.now.forward(9)
    step = advance(run, context)

    assert (step.run.outcome, step.run.finished_at) == (outcome, NOW + timedelta(seconds=9))
    if outcome is Outcome.ROLLED_BACK:
        assert step.run.reasons == ("rolled back by anna: it loses", "when it was promoted: seen serving")
        assert step.message == f"run {RUN_ID} ROLLED_BACK: rolled back by anna: it loses"
    else:
        reason = f"probation cancelled: PATCHTST_MODEL_PATH names {OLD}"
        assert step.run.reasons == ("seen serving", reason)
        assert step.message == f"run {RUN_ID} PROMOTED: {reason}"


@pytest.mark.parametrize("answer", [None, SlotRequestState.REFUSED])
def test_an_emptied_line_ends_a_probation(context: FakeContext, answer: SlotRequestState | None) -> None:
    run = with_answer(context, answer) if answer else begun(context, Stage.PROBATION)
    context.slot.named = None

    assert advance(run, context).run.reasons[-1] == "probation cancelled: PATCHTST_MODEL_PATH names nothing"


# ---------------------------------------------------------------- the rules


@pytest.mark.parametrize(("last", "required"), [(0, 50), (240, 360), (33, 50), (50, 75), (241, 361)])
def test_the_outcomes_grow_by_half_between_two_analyses(last: int, required: int) -> None:
    assert outcomes_for(POLICY, last_known=last) == required


def test_the_error_probability_of_an_analysis_falls_with_its_number() -> None:
    assert [alpha_of(number, POLICY) for number in range(3)] == [0.05 / 2, 0.05 / 6, 0.05 / 12]


@pytest.mark.parametrize(
    ("worse", "decidable", "why"),
    [
        (None, False, ""),
        (compared(None), False, ""),
        (compared(0.01), True, ""),
        (compared(0.02, gain=0.07), True, WORSE),
        (replace(compared(0.02), log_loss_gain=None), True, ""),
    ],
)
def test_a_model_is_worse_only_beyond_the_margin(worse: Any, decidable: bool, why: str) -> None:
    evaluation = an_evaluation(worse=worse)

    assert is_decidable(evaluation) is decidable
    assert worse_than_replaced(evaluation, POLICY) == why


FLAT = AnswerDistribution(n=100, not_finite=0, p_std=0.0199, actions={"BUY": 0.5, "SELL": 0.3, "HOLD": 0.2})
ONE_ACTION = replace(LIVELY, actions={"BUY": 0.96, "SELL": 0.04, "HOLD": 0.0})


@pytest.mark.parametrize(
    ("model", "reference", "why"),
    [
        (replace(LIVELY, not_finite=1), LIVELY, "degenerate: 1 of 300 answers are not finite numbers"),
        (replace(LIVELY, not_finite=1), None, "degenerate: 1 of 300 answers are not finite numbers"),
        (replace(LIVELY, n=9, not_finite=2), LIVELY, "degenerate: 2 of 9 answers are not finite numbers"),
        (replace(LIVELY, not_finite=1), replace(LIVELY, not_finite=1), ""),
        (FLAT, LIVELY, "degenerate: its 100 answers have collapsed (std 0.0199)"),
        (FLAT, None, "degenerate: its 100 answers have collapsed (std 0.0199)"),
        (replace(FLAT, p_std=None), LIVELY, "degenerate: its 100 answers have collapsed (std 0.0000)"),
        (FLAT, replace(LIVELY, p_std=None), ""),
        (replace(FLAT, n=99), LIVELY, ""),
        (replace(FLAT, p_std=0.02), LIVELY, ""),
        (ONE_ACTION, LIVELY, "degenerate: BUY in 96% of 300 rows"),
        (ONE_ACTION, None, "degenerate: BUY in 96% of 300 rows"),
        (ONE_ACTION, ONE_ACTION, ""),
        (ONE_ACTION, replace(LIVELY, actions={"BUY": 0.95}), "degenerate: BUY in 96% of 300 rows"),
        (ONE_ACTION, replace(LIVELY, actions={"SELL": 0.99}), "degenerate: BUY in 96% of 300 rows"),
        (replace(LIVELY, actions={"BUY": 0.95, "SELL": 0.05}), LIVELY, ""),
    ],
)
def test_answers_are_degenerate_beyond_their_limits_unless_the_reference_shows_the_same(
    model: AnswerDistribution, reference: AnswerDistribution | None, why: str
) -> None:
    assert degenerate(an_evaluation(model=model, reference=reference), POLICY) == why


@pytest.mark.parametrize(("hours", "is_on"), [(0.0, False), (0.1, True)])
def test_a_probation_is_on_when_it_lasts(hours: float, is_on: bool) -> None:
    assert ProbationPolicy(hours=hours).is_on is is_on


@pytest.mark.parametrize(
    ("outcomes", "hours", "is_on"), [(0, 0.0, False), (1, 0.0, True), (0, 0.1, True), (200, 24.0, True)]
)
def test_trials_are_on_when_they_count_outcomes_or_hours(outcomes: int, hours: float, is_on: bool) -> None:
    assert ShadowPolicy(min_outcomes=outcomes, hours=hours).is_on is is_on


@pytest.mark.parametrize(
    ("outcomes", "hours", "is_decided"),
    [(300, 5.0, True), (299, 5.0, False), (300, 4.9, False), (299, 4.9, False)],
)
def test_a_trial_is_decided_on_enough_outcomes_after_enough_hours(
    outcomes: int, hours: float, is_decided: bool
) -> None:
    verdict = judge_shadow(
        an_evaluation(num_outcomes=outcomes),
        policy=GatePolicy(),
        shadow=ShadowPolicy(min_outcomes=300, hours=5.0),
        hours=hours,
    )
    assert verdict == replace(decide(GOOD, GatePolicy()), decision=Decision.PASS if is_decided else Decision.UNDECIDED)


def test_a_trial_needs_the_rows_of_a_gate_whatever_it_requires() -> None:
    few = {count: an_evaluation(num_outcomes=count) for count in (199, 200)}
    decisions = [
        judge_shadow(few[count], policy=GatePolicy(), shadow=ShadowPolicy(min_outcomes=1), hours=0.0).decision
        for count in (199, 200)
    ]

    assert decisions == [Decision.UNDECIDED, Decision.PASS]


@pytest.mark.parametrize(
    ("decision", "alpha", "gain_alpha"),
    [(Decision.PASS, 0.05, 0.05), (Decision.UNDECIDED, 0.0007, 0.007), (Decision.REFUSE, 0.0007, 0.007)],
)
def test_a_candidate_that_passed_its_gate_has_the_error_probability_of_the_trial(
    decision: Decision, alpha: float, gain_alpha: float
) -> None:
    verdict = Verdict(decision=decision, gates=(), policy=replace(GatePolicy(), skill_alpha=0.0007, gain_alpha=0.007))
    gate = replace(GatePolicy(), min_rows=7)

    assert trial_policy(gate, ShadowPolicy(), verdict) == replace(gate, skill_alpha=alpha, gain_alpha=gain_alpha)


@pytest.mark.parametrize(
    ("evidence", "may"),
    [
        (GOOD, True),
        (with_card(n=10), True),
        (with_card(agreement=None), True),
        (with_card(auc_low=0.4), False),
        (with_card(agreement=replace(GOOD.candidate.agreement, share=0.1)), True),  # type: ignore[type-var]
        (replace(GOOD, contract=replace(GOOD.contract, canary_max_error=None)), False),
        (replace(GOOD, contract=replace(GOOD.contract, mismatches=("rows",))), False),
    ],
)
def test_a_trial_follows_unless_a_gate_that_counts_failed_or_the_file_is_not_known_to_fit(
    evidence: Any, may: bool
) -> None:
    assert may_go_on_trial(decide(evidence, GatePolicy())) is may


@pytest.mark.parametrize(
    ("facts", "gives"),
    [
        ({}, True),
        ({"num_predictions": 1}, False),
        ({"num_predictions": 1, "num_outcomes": 50, "comparison": compared(None, gain=-0.001)}, True),
        ({"num_predictions": 1, "num_outcomes": 49, "comparison": compared(None, gain=-0.001)}, False),
        ({"num_predictions": 1, "num_outcomes": 50, "comparison": compared(None, gain=0.0)}, False),
        ({"num_predictions": 1, "num_outcomes": 50}, False),
    ],
)
def test_a_trial_gives_way_before_its_first_row_or_when_it_trails(facts: dict[str, Any], gives: bool) -> None:
    assert gives_way(ShadowFacts(since=NOW, prediction_log="p", evaluation_at=NOW, **facts)) is gives
    assert gives_way(None) is True
