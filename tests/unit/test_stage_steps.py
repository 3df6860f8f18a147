"""Each stage exactly: what it requests of the worker, what it stores, and the message of every step."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.domain import events
from retrain_worker.domain.alpha_spending import AlphaSpending
from retrain_worker.domain.audit_findings import Finding, Severity, judge
from retrain_worker.domain.events import EventType
from retrain_worker.domain.facts import (
    AuditFacts,
    GateFacts,
    PromoteFacts,
    PullFacts,
    RequestFacts,
    RowCounts,
    RunFacts,
    TrainFacts,
    TrainingPolicies,
)
from retrain_worker.domain.gates import Fold, Skill, decide
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Run, Stage
from retrain_worker.domain.probation import ProbationPolicy
from retrain_worker.domain.shadow_trial import ShadowPolicy
from retrain_worker.domain.worker_protocol import (
    AuditRequest,
    AuditResult,
    Broken,
    Done,
    EmptySlot,
    GateMeasured,
    GateRequest,
    PullRequest,
    TrainRequest,
    Working,
)
from retrain_worker.errors import (
    ArtifactError,
    DatabaseBusyError,
    SettingsError,
    SlotError,
    SourceUnfitError,
    StateError,
    WorkerInterruptedError,
)
from retrain_worker.stages.advance import advance, interrupt, resume
from tests.fakes import NOW, FakeContext, FakeWorkers, fake_context
from tests.run_facts import CONTRACT, forced_gate_facts
from tests.unit.test_gates import GOOD, with_card
from tests.unit.test_stages import FIT, PULLED, trained_in

VERSION = "patchtst_v20260110_033000"
OLD = Path("/engine/patchtst_v20260109_233444.pth")
RUN = Run(run_id="20260110_033000", requested_by="once", request_reason="test", created_at=NOW, updated_at=NOW)
#: of the decision of the first run, and what it leaves
ALPHA: Any = pytest.approx(0.001)
LEFT: Any = pytest.approx(0.009)


@dataclass
class RecordedWorkers(FakeWorkers):
    """Keeps the folder of each request as well."""

    folders: set[tuple[str, Path]] = field(default_factory=set)

    def result_of(self, stage: str, run_dir: Path, request: Any) -> Any:
        self.folders.add((stage, run_dir))
        return super().result_of(stage, run_dir, request)


@pytest.fixture
def context(tmp_path: Path) -> FakeContext:
    answers: dict[str, Any] = {
        Stage.PULL: Done(result=PULLED),
        Stage.AUDIT: Done(result=FIT),
        Stage.TRAIN: Done(result=trained_in(tmp_path)),
        Stage.GATE: Done(result=GateMeasured(evidence=GOOD, engine_contract=CONTRACT)),
    }
    context = fake_context(tmp_path, workers=RecordedWorkers(answers=answers))
    return replace(context, policies=replace(context.policies, worker_memory_bytes=7, needs_known_contract=True))


def at(context: FakeContext, stage: Stage) -> Run:
    """The run with this stage due."""
    run = RUN
    while run.stage is not stage:
        run = advance(run, context).run
    return run


def messages(context: FakeContext, run: Run = RUN, *, seconds: float = 1.0) -> list[str]:
    """The message of each step until the run ends or waits."""
    found = []
    while not (run.is_finished or run.is_waiting):
        context.now.forward(seconds)
        step = advance(run, context)
        found.append(step.message)
        run = step.run
    return found


def test_each_step_of_a_promotion_is_reported(context: FakeContext) -> None:
    assert messages(context) == [
        "run 20260110_033000 pulled 6060 rows, 5975 labelled (3500 WIN, 2475 LOSS), 5975 of them new",
        "run 20260110_033000 audited: fit to train on",
        f"run 20260110_033000 trained {VERSION}: best of 9 epochs is 6, validation log loss 0.5500",
        "run 20260110_033000: every gate that counts has passed",
        f"run 20260110_033000: {VERSION}.pth is in the engine's directory, verified",
        f"run 20260110_033000: PATCHTST_MODEL_PATH names {VERSION}",
        f"run 20260110_033000: engine restart requested for {VERSION}",
        f"run 20260110_033000 promoted {VERSION}: follower engine-1 answered with it",
    ]


def test_each_stage_requests_its_work_with_the_policies_and_the_findings_before_it(
    context: FakeContext, tmp_path: Path
) -> None:
    messages(context)
    run_dir, policies = str(tmp_path / "runs" / RUN.run_id), context.policies

    assert context.workers.requests == [
        (
            Stage.PULL,
            PullRequest(
                run_id=RUN.run_id,
                run_dir=run_dir,
                policy=policies.data,
                watermark_path=None,
                now=NOW.isoformat(),
                memory_limit_bytes=7,
            ),
        ),
        (
            Stage.AUDIT,
            AuditRequest(
                run_id=RUN.run_id,
                run_dir=run_dir,
                policy=policies.data,
                now=NOW.isoformat(),
                reference_dir=None,
                memory_limit_bytes=7,
            ),
        ),
        (
            Stage.TRAIN,
            TrainRequest(
                run_id=RUN.run_id,
                run_dir=run_dir,
                version=VERSION,
                data=policies.data,
                split=policies.split,
                recipe=policies.recipe,
                checkpoint_dir=str(tmp_path / "checkpoints/runs" / RUN.run_id),
                folds_dir=str(tmp_path / "checkpoints/runs/folds"),
                incumbent_path=str(OLD),
                memory_limit_bytes=7,
            ),
        ),
        (
            Stage.GATE,
            GateRequest(
                run_id=RUN.run_id,
                run_dir=run_dir,
                candidate_path=str(tmp_path / f"{VERSION}.pth"),
                incumbent_path=str(OLD),
                data=policies.data,
                split=policies.split,
                recipe=policies.recipe,
                policy=replace(policies.gate, skill_alpha=ALPHA),
                memory_limit_bytes=7,
            ),
        ),
    ]
    assert isinstance(context.workers, RecordedWorkers)
    assert context.workers.folders == {
        (stage, Path(run_dir)) for stage in (Stage.PULL, Stage.AUDIT, Stage.TRAIN, Stage.GATE)
    }


def test_the_findings_of_each_stage_are_stored(context: FakeContext, tmp_path: Path) -> None:
    messages(context)
    result, policies = trained_in(tmp_path), context.policies
    verdict = decide(GOOD, replace(policies.gate, skill_alpha=0.1 * (10.0 * 0.001)))

    assert context.store.known_run(RUN.run_id).facts == RunFacts(
        pull=PullFacts(
            rows=RowCounts(
                loaded=6060,
                labelled=5975,
                win=3500,
                loss=2475,
                neutral=0,
                open=60,
                new_labelled=5975,
                quarantined={},
                contradictions=25,
            ),
            symbols={"BTCUSDT": 6060},
            feature_names=("rsi",),
            first_at=datetime.fromisoformat("2025-12-01T00:00:00+00:00"),
            last_at=datetime.fromisoformat("2025-12-30T00:00:00+00:00"),
            data_sha256="d" * 64,
            watermark_path="/runs/x/fingerprints.npy",
        ),
        audit=AuditFacts(findings=FIT.verdict.findings, incumbent_path=str(OLD)),
        train=TrainFacts(
            candidate_path=result.model_path,
            version=VERSION,
            sha256="a" * 64,
            contract=CONTRACT,
            incumbent_path=str(OLD),
            policies=TrainingPolicies(data=policies.data, split=policies.split, recipe=policies.recipe),
            epochs=9,
            best_epoch=6,
            final_loss=0.5,
            validation_log_loss=0.55,
            parts={"train": {"win": 5, "loss": 4}},
            left_out={"purged": 3},
        ),
        gate=GateFacts(
            verdict=verdict,
            candidate=GOOD.candidate,
            incumbent=GOOD.incumbent,
            comparison=GOOD.comparison,
            alpha_spending=AlphaSpending(alpha=ALPHA, left=LEFT, num_decisions=1, at=NOW, since=NOW),
            engine_contract=CONTRACT,
        ),
        promote=PromoteFacts(
            version=VERSION,
            model_path=result.model_path,
            sha256="a" * 64,
            previous_version="patchtst_v20260109_233444",
            previous_model_path=str(OLD),
            event_id=events.event_id_of(RUN.run_id, EventType.PROMOTED),
            confirmed=True,
            confirmation="follower engine-1 answered with it",
        ),
    )


def test_the_swap_is_stored_in_the_history_with_its_requester_and_reason(context: FakeContext, tmp_path: Path) -> None:
    messages(context)

    assert context.store.known_deployment(RUN.run_id) == Deployment(
        deployment_id=RUN.run_id,
        run_id=RUN.run_id,
        kind=DeploymentKind.PROMOTE,
        version=VERSION,
        model_path=str(tmp_path / f"{VERSION}.pth"),
        sha256="a" * 64,
        size_bytes=1,
        previous_version="patchtst_v20260109_233444",
        previous_model_path=str(OLD),
        previous_sha256="a" * 64,
        state=DeploymentState.CONFIRMED,
        created_at=NOW + timedelta(seconds=5),
        updated_at=NOW + timedelta(seconds=8),
        requested_by="once",
        reason="every gate that counts has passed",
        confirmation="follower engine-1 answered with it",
    )
    stored = [record.deployment.state for record in context.store.records if record.deployment]
    assert stored == [
        DeploymentState.INTENDED,
        DeploymentState.SWAPPED,
        DeploymentState.ANNOUNCED,
        DeploymentState.CONFIRMED,
    ]


def test_a_swap_is_announced_with_the_instant_and_the_mode_of_the_engine(context: FakeContext) -> None:
    context.slot.shadow_only = False
    messages(replace(context, policies=replace(context.policies, allow_live_swap=True)))
    promoted, completed = context.store.events

    assert (promoted.payload["shadow_only"], promoted.timestamp) == (False, NOW + timedelta(seconds=6))
    assert (completed.event_type, completed.timestamp) == (EventType.COMPLETED, NOW + timedelta(seconds=8))


def test_without_any_model_in_the_slot_the_run_has_no_incumbent(context: FakeContext) -> None:
    context.slot.named = None
    messages(context)
    facts = context.store.known_run(RUN.run_id).facts

    assert (facts.audit.incumbent_path, facts.train.incumbent_path) == (None, None)
    requests = [request for _, request in context.workers.requests[2:]]
    assert [request.incumbent_path for request in requests] == [None, None]
    assert [request.empty_slot for request in requests] == [EmptySlot(is_contract_required=True)] * 2
    deployment = context.store.known_deployment(RUN.run_id)
    assert (deployment.previous_version, deployment.previous_model_path, deployment.previous_sha256) == (None,) * 3


def test_a_shadow_trial_is_announced(context: FakeContext) -> None:
    trial = replace(context, policies=replace(context.policies, shadow=ShadowPolicy(min_outcomes=200)))
    assert messages(trial)[-1] == "run 20260110_033000: gate PASS; the candidate goes on trial"


def test_a_probation_is_announced_with_its_length(context: FakeContext) -> None:
    watched = replace(context, policies=replace(context.policies, probation=ProbationPolicy(hours=1.5)))
    assert messages(watched)[-1] == (
        f"run 20260110_033000 promoted {VERSION}: follower engine-1 answered with it; on probation for 1.5 h"
    )


# ---------------------------------------------------------------- pull and audit


@pytest.mark.parametrize(("new", "stage"), [(99, Stage.PULL), (100, Stage.AUDIT)])
def test_a_run_is_skipped_below_the_required_number_of_new_rows(context: FakeContext, new: int, stage: Stage) -> None:
    earlier = replace(RUN, run_id="20260109_033000").ended(Outcome.FAILED, "test", at=NOW)
    context.store.record(earlier, watermark_path=Path("/runs/old/fingerprints.npy"))
    context.workers.answers[Stage.PULL] = Done(result=replace(PULLED, new_labelled=new, first_at=None, last_at=""))
    step = advance(RUN, context)

    assert step.run.stage is stage
    assert context.workers.requests[0][1].watermark_path == "/runs/old/fingerprints.npy"
    assert (step.run.facts.pull.first_at, step.run.facts.pull.last_at) == (None, None)
    if stage is Stage.PULL:
        reason = "99 newly labelled rows since the last run, MIN_NEW_SAMPLES is 100"
        assert (step.run.reasons, step.message) == ((reason,), f"run 20260110_033000 skipped: {reason}")
        assert step.run.finished_at == step.run.updated_at == NOW


def test_the_first_run_needs_no_new_rows(context: FakeContext) -> None:
    context.workers.answers[Stage.PULL] = Done(result=replace(PULLED, new_labelled=0))

    assert advance(RUN, context).run.stage is Stage.AUDIT


def test_a_forced_run_needs_no_new_rows(context: FakeContext) -> None:
    earlier = replace(RUN, run_id="20260109_033000").ended(Outcome.FAILED, "test", at=NOW)
    context.store.record(earlier, watermark_path=Path("/runs/old/fingerprints.npy"))
    context.workers.answers[Stage.PULL] = Done(result=replace(PULLED, new_labelled=0))
    stages = [
        advance(RUN.with_fact(RequestFacts(is_forced=is_forced)), context).run.stage for is_forced in (False, True)
    ]

    assert stages == [Stage.PULL, Stage.AUDIT]


def test_data_that_is_not_fit_is_refused_with_each_reason(context: FakeContext) -> None:
    findings = [Finding(name=name, severity=Severity.REFUSAL, message=name) for name in ("one class", "too old")]
    verdict = judge((Finding(name="w", severity=Severity.WARNING, message="w"), *findings))
    context.workers.answers[Stage.AUDIT] = Done(result=AuditResult(verdict=verdict))
    context.now.forward(9)
    step = advance(at(context, Stage.AUDIT), context)

    assert step.message == "run 20260110_033000 refused: the data is not fit to train on: one class; too old"
    assert step.run.reasons == ("one class", "too old")
    assert step.run.facts.audit == AuditFacts(findings=verdict.findings)
    assert step.run.finished_at == NOW + timedelta(seconds=9)


@pytest.mark.parametrize(
    ("warnings", "shown"),
    [
        ((), ""),
        (("old",), "; warning: old"),
        (("old", "few"), "; warning: old, and 1 more (retrain-worker audit)"),
        (("old", "few", "odd"), "; warning: old, and 2 more (retrain-worker audit)"),
    ],
)
def test_the_first_warning_of_the_audit_is_shown_with_the_number_of_the_others(
    context: FakeContext, warnings: tuple[str, ...], shown: str
) -> None:
    found = tuple(Finding(name="w", severity=Severity.WARNING, message=message) for message in warnings)
    verdict = judge((*found, *FIT.verdict.findings))
    context.workers.answers[Stage.AUDIT] = Done(result=AuditResult(verdict=verdict))
    step = advance(at(context, Stage.AUDIT), context)

    assert step.message == f"run 20260110_033000 audited: fit to train on{shown}"
    assert step.run.facts.audit.findings == verdict.findings


def promoted_run(run_id: str, gate: GateFacts | None) -> tuple[Run, Deployment]:
    """A finished run and the promotion that it made."""
    run = replace(RUN, run_id=run_id, stage=Stage.PROMOTE)
    if gate is not None:
        run = run.with_fact(gate)
    deployment = Deployment(
        deployment_id=run_id,
        run_id=run_id,
        kind=DeploymentKind.PROMOTE,
        version=f"patchtst_v{run_id}",
        model_path=f"/engine/patchtst_v{run_id}.pth",
        sha256="c" * 64,
        size_bytes=1,
        previous_version=None,
        previous_model_path=None,
        state=DeploymentState.CONFIRMED,
        created_at=NOW,
        updated_at=NOW,
        requested_by="once",
        reason="test",
    )
    return run.ended(Outcome.PROMOTED, "seen", at=NOW), deployment


@pytest.mark.parametrize("is_known", [True, False])
def test_the_reference_of_a_forced_promotion_is_the_run_that_was_judged(
    context: FakeContext, tmp_path: Path, is_known: bool
) -> None:
    """Also where the row of that run is no longer stored."""
    judged = replace(RUN, run_id="20260101_033000").with_fact(replace(forced_gate_facts("x"), forced=None))
    if is_known:
        context.store.record(judged.ended(Outcome.FAILED, "test", at=NOW))
    for run_id, of_run in (("20260102_033000", "20260101_033000"), ("20260103_033000", "20260102_033000")):
        run, deployment = promoted_run(run_id, forced_gate_facts(of_run))
        context.store.record(run, deployment=deployment)
    advance(at(context, Stage.AUDIT), context)

    assert context.workers.requests[-1][1].reference_dir == str(tmp_path / "runs/20260101_033000")


# ---------------------------------------------------------------- gate


def test_a_refused_candidate_is_reported_with_the_decision_and_each_reason(context: FakeContext) -> None:
    evidence = replace(
        with_card(auc_low=0.4, p_std=0.01),
        incumbent=None,
        comparison=None,
        incumbent_absence="it cannot be read",
        skill=None,
    )
    context.workers.answers[Stage.GATE] = Done(result=GateMeasured(evidence=evidence))
    context.now.forward(9)
    step = advance(at(context, Stage.GATE), context)

    assert step.run.reasons == (
        "confidence spread: the probabilities hardly differ from row to row: std of P(WIN) 0.010, required ≥ 0.050",
        "skill: it predicts no better than chance: AUC, 99.9 % lower confidence bound 0.400, required > 0.500",
    )
    assert step.message == f"run 20260110_033000 refused at the gate (REFUSE): {'; '.join(step.run.reasons)}"
    assert step.run.facts.gate.incumbent_absence == "it cannot be read"
    assert step.run.finished_at == NOW + timedelta(seconds=9)


def test_the_backtest_folds_are_stored_with_the_verdict(context: FakeContext) -> None:
    fold = Fold(first_at="a", last_at="b", n=1, auc=0.7, log_loss_gain=0.1)
    evidence = replace(GOOD, skill=Skill(folds=(fold,), pooled=(), holdout_auc_low=None))
    context.workers.answers[Stage.GATE] = Done(result=GateMeasured(evidence=evidence))

    assert advance(at(context, Stage.GATE), context).run.facts.gate.folds == (fold,)


@pytest.mark.parametrize("changed", ["data", "split", "recipe"])
def test_changed_settings_of_the_training_train_again(context: FakeContext, changed: str) -> None:
    run = at(context, Stage.GATE)
    other: dict[str, Any] = {
        "data": replace(context.policies.data, min_samples=7),
        "split": replace(context.policies.split, holdout_share=0.5),
        "recipe": replace(context.policies.recipe, seed=7),
    }
    policies = replace(context.policies, **{changed: other[changed]})
    context.now.forward(9)
    step = advance(run, replace(context, policies=policies))

    assert step.run.stage is Stage.TRAIN
    assert step.run.updated_at == NOW + timedelta(seconds=9)
    assert step.message == "run 20260110_033000: the settings changed since the training; it is trained again"


# ---------------------------------------------------------------- errors, retries, resumption


def test_a_waiting_worker_is_reported_and_nothing_is_stored(context: FakeContext) -> None:
    for stage in (Stage.PULL, Stage.AUDIT, Stage.TRAIN, Stage.GATE):
        run = at(context, stage)
        stored, answer = len(context.store.records), context.workers.answers[stage]
        context.workers.answers[stage] = Working(message="at work")
        step = advance(run, context)
        context.workers.answers[stage] = answer
        assert (step.message, step.run, step.is_move, step.is_end) == ("at work", run, False, False)
        assert len(context.store.records) == stored


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (SourceUnfitError("is empty", where="/q.db"), Outcome.REFUSED, "/q.db: is empty"),
        (SettingsError(("A is wrong",)), Outcome.FAILED, "A is wrong"),
    ],
)
def test_an_error_ends_the_run_with_its_text(
    context: FakeContext, error: Exception, outcome: Outcome, reason: str
) -> None:
    context.workers.answers[Stage.PULL] = Broken(error=error)  # type: ignore[arg-type]
    context.now.forward(9)
    step = advance(RUN, context)

    assert step.message == f"run 20260110_033000 (pull) {outcome}: {reason}"
    assert (step.run.outcome, step.run.reasons, step.is_end) == (outcome, (reason,), True)
    assert step.run.finished_at == NOW + timedelta(seconds=9)
    assert step.run.seconds == {"pull": 9.0}


def test_an_error_of_the_state_database_concerns_every_run(context: FakeContext) -> None:
    context.workers.answers[Stage.PULL] = Broken(error=StateError("is damaged"))

    with pytest.raises(StateError, match=r"^is damaged$"):
        advance(RUN, context)
    assert context.store.records == []


def test_a_temporary_error_is_retried_after_a_growing_pause(context: FakeContext) -> None:
    context.workers.answers[Stage.PULL] = Broken(error=DatabaseBusyError("is locked"))
    run, found = RUN, []
    while not run.is_finished:
        step = advance(run, context)
        found.append(step.message)
        run = step.run
        if run.not_before:
            context.now.now = run.not_before - timedelta(seconds=2)
            waiting = advance(run, context)
            assert (waiting.run, waiting.is_move) == (run, False)
            assert waiting.message == "pull 20260110_033000: next try in 2 s"
            context.now.now = run.not_before

    assert found == [
        "run 20260110_033000 (pull) tries again in 30 s: is locked",
        "run 20260110_033000 (pull) tries again in 60 s: is locked",
        "run 20260110_033000 (pull) tries again in 120 s: is locked",
        "run 20260110_033000 (pull) FAILED: is locked",
    ]
    assert (run.num_retries, run.finished_at) == (3, NOW + timedelta(seconds=210))


def test_an_interrupted_worker_and_a_stop_leave_a_run_that_is_resumed_at_its_stage(context: FakeContext) -> None:
    context.workers.answers[Stage.PULL] = Broken(error=WorkerInterruptedError("was stopped"))
    context.now.forward(5)
    interrupted = advance(RUN, context)
    assert interrupted.message == "run 20260110_033000 (pull) interrupted"
    assert interrupted.run == replace(
        RUN, outcome=Outcome.INTERRUPTED, reasons=("was stopped",), updated_at=NOW + timedelta(seconds=5)
    )

    context.now.forward(5)
    resumed = resume(interrupted.run, context)
    assert resumed.message == "run 20260110_033000 (pull) resumed"
    assert resumed.run == replace(RUN, updated_at=NOW + timedelta(seconds=10))
    assert resumed.run == context.store.known_run(RUN.run_id)

    stopped = interrupt(resumed.run, context)
    assert stopped.message == "run 20260110_033000 (pull) interrupted"
    assert stopped.run == replace(
        resumed.run, outcome=Outcome.INTERRUPTED, reasons=("stopped at pull; the next start goes on there",)
    )
    assert stopped.run == context.store.known_run(RUN.run_id)


def test_a_run_that_died_too_often_is_abandoned(context: FakeContext) -> None:
    context.now.forward(5)
    second = resume(replace(RUN, num_deaths=1), context)
    assert (second.run.num_deaths, second.run.outcome) == (2, None)
    third = resume(second.run, context)

    reason = "run 20260110_033000 (pull) died 3 times in the same stage"
    assert third.message == f"run 20260110_033000 (pull) ABANDONED: {reason}"
    assert (third.run.outcome, third.run.reasons) == (Outcome.ABANDONED, (reason,))
    assert third.run.finished_at == NOW + timedelta(seconds=5)


def test_the_seconds_of_a_stage_are_added_when_it_is_repeated(context: FakeContext) -> None:
    run = replace(at(context, Stage.GATE), seconds={"gate": 1.5, "train": 4.0})
    context.now.forward(2.0006)

    assert advance(run, context).run.seconds == {"gate": 3.501, "train": 4.0}


@pytest.mark.parametrize(
    ("outcome", "has_gate", "has_watermark", "is_committed"),
    [
        (Outcome.REFUSED, True, True, True),
        (Outcome.REFUSED, True, False, False),
        (Outcome.REFUSED, False, True, False),
        (Outcome.FAILED, True, True, False),
    ],
)
def test_the_rows_of_a_run_are_covered_once_its_candidate_was_judged(
    context: FakeContext, outcome: Outcome, has_gate: bool, has_watermark: bool, is_committed: bool
) -> None:
    run = replace(RUN, stage=Stage.TRAIN).with_fact(AuditFacts())
    run = run.with_fact(PullFacts(watermark_path="/new.npy" if has_watermark else ""))
    if has_gate:
        run = run.with_fact(replace(forced_gate_facts("x"), forced=None))
    error = ArtifactError("x") if outcome is Outcome.REFUSED else SlotError("x")
    context.workers.answers[Stage.TRAIN] = Broken(error=error)
    step = advance(run, context)

    assert step.run.outcome is outcome
    assert step.watermark_path == context.store.watermark_path() == (Path("/new.npy") if is_committed else None)
