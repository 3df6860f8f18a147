"""One run, stage by stage, in a world of memory: what is stored, said and sent."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.domain.artifact import Manifest, ModelContract
from retrain_worker.domain.audit_findings import Finding, Severity, judge
from retrain_worker.domain.confirmation import Confirm
from retrain_worker.domain.events import EventType
from retrain_worker.domain.facts import RequestFacts
from retrain_worker.domain.labels import Thresholds
from retrain_worker.domain.lifecycle import DeploymentState, Outcome, Run, Stage
from retrain_worker.domain.pause import Pause
from retrain_worker.domain.recipe import InputTransform, Preset
from retrain_worker.domain.worker_protocol import (
    AuditResult,
    Broken,
    Done,
    GateMeasured,
    PullResult,
    TrainResult,
    Working,
)
from retrain_worker.errors import (
    DatabaseBusyError,
    DiskFullError,
    SlotError,
    SourceUnfitError,
    WorkerFailedError,
    WorkerInterruptedError,
)
from retrain_worker.stages.advance import advance, interrupt, resume
from tests.fakes import (
    NOW,
    FakeClock,
    FakeConfirmations,
    FakeContext,
    FakeSlot,
    FakeWorkers,
    RecordedState,
    fake_context,
)
from tests.known import known
from tests.unit.test_gates import GOOD, with_card

PULLED = PullResult(
    loaded=6060,
    labelled=5975,
    win=3500,
    loss=2475,
    neutral=0,
    open=60,
    new_labelled=5975,
    quarantined={},
    contradictions=25,
    symbols={"BTCUSDT": 6060},
    feature_names=("rsi",),
    first_at="2025-12-01T00:00:00+00:00",
    last_at="2025-12-30T00:00:00+00:00",
    data_sha256="d" * 64,
    watermark_path="/runs/x/fingerprints.npy",
)
FIT = AuditResult(verdict=judge((Finding(name="rows.labelled", severity=Severity.OK, message="enough"),)))


def trained_in(root: Path) -> TrainResult:
    model = root / "patchtst_v20260110_033000.pth"
    model.write_bytes(b"weights")
    manifest = Manifest(
        format="patchtst/1",
        version="patchtst_v20260110_033000",
        created_at=NOW,
        file=model.name,
        sha256="a" * 64,
        size_bytes=7,
        config={},
        thresholds=Thresholds(),
        contract=ModelContract(
            preset=Preset.PAPER, context_length=64, feature_names=("rsi",), input_transform=InputTransform.STANDARDISE
        ),
    )
    return TrainResult(
        model_path=str(model),
        manifest=manifest,
        epochs=9,
        best_epoch=6,
        final_loss=0.5,
        validation_log_loss=0.55,
        parts={"train": {"win": 5, "loss": 4}},
        left_out={"purged": 3},
    )


@pytest.fixture
def context(tmp_path: Path) -> FakeContext:
    answers: dict[str, Any] = {
        Stage.PULL: Done(result=PULLED),
        Stage.AUDIT: Done(result=FIT),
        Stage.TRAIN: Done(result=trained_in(tmp_path)),
        Stage.GATE: Done(result=GateMeasured(evidence=GOOD)),
    }
    return fake_context(tmp_path, workers=FakeWorkers(answers=answers), clock=FakeClock())


def a_run() -> Run:
    return Run(run_id="20260110_033000", requested_by="once", request_reason="test", created_at=NOW, updated_at=NOW)


def to_the_end(context: FakeContext, run: Run | None = None, limit: int = 30) -> list[Any]:
    steps = [advance(run or a_run(), context)]
    while not steps[-1].run.is_finished and len(steps) < limit:
        steps.append(advance(steps[-1].run, context))
    return steps


def types_of(store: RecordedState) -> list[EventType]:
    return [event.event_type for event in store.events]


def test_a_good_candidate_is_promoted_confirmed_and_announced(context: FakeContext) -> None:
    last = to_the_end(context)[-1].run

    assert last.outcome is Outcome.PROMOTED
    assert types_of(context.store) == [EventType.PROMOTED, EventType.COMPLETED]
    assert context.slot.named == Path(context.store.known_deployment(last.run_id).model_path)
    assert context.slot.triggered == [context.slot.named]
    assert context.store.known_deployment(last.run_id).state is DeploymentState.CONFIRMED
    assert context.store.watermark_path() == Path(PULLED.watermark_path)


def test_state_event_and_deployment_of_the_swap_are_stored_together(context: FakeContext) -> None:
    to_the_end(context)

    swapped = next(
        record for record in context.store.records if record.deployment and record.deployment.state == "SWAPPED"
    )
    assert [event.event_type for event in swapped.events] == [EventType.PROMOTED]


@pytest.mark.parametrize("lost_after", range(1, 9))
def test_a_crash_between_any_two_ticks_changes_nothing_of_the_end(context: FakeContext, lost_after: int) -> None:
    steps = to_the_end(context, limit=lost_after)
    last = (
        resume(known(context.store.unfinished_run()), context).run if not steps[-1].run.is_finished else steps[-1].run
    )
    if not last.is_finished:
        last = to_the_end(context, last)[-1].run

    assert last.outcome is Outcome.PROMOTED
    assert types_of(context.store) == [EventType.PROMOTED, EventType.COMPLETED]
    assert len(set(context.slot.published)) == 1


def test_waiting_for_a_child_stores_nothing_and_says_what_it_does(context: FakeContext) -> None:
    context.workers.answers[Stage.PULL] = Working(message="pulling: 3,000 rows")
    step = advance(a_run(), context)

    assert step.message == "pulling: 3,000 rows"
    assert context.store.records == []


def test_too_few_new_rows_skip_the_run_and_keep_the_watermark(context: FakeContext) -> None:
    earlier = Run(run_id="20260109_033000", requested_by="once", request_reason="", created_at=NOW, updated_at=NOW)
    context.store.record(
        earlier.ended(Outcome.FAILED, "test", at=NOW), watermark_path=Path("/runs/old/fingerprints.npy")
    )
    context.workers.answers[Stage.PULL] = Done(result=replace(PULLED, new_labelled=99))
    last = to_the_end(context)[-1].run

    assert last.outcome is Outcome.SKIPPED
    assert "99 newly labelled rows" in last.reasons[0]
    assert types_of(context.store) == [EventType.SKIPPED]
    assert context.store.watermark_path() == Path("/runs/old/fingerprints.npy")


def test_unfit_data_is_refused_before_training_and_never_called_completed(context: FakeContext) -> None:
    refusal = Finding(name="classes.balance", severity=Severity.REFUSAL, message="one class only")
    context.workers.answers[Stage.AUDIT] = Done(result=AuditResult(verdict=judge((refusal,))))
    last = to_the_end(context)[-1].run

    assert (last.outcome, last.reasons) == (Outcome.REFUSED, ("one class only",))
    assert types_of(context.store) == [EventType.FAILED]
    assert context.store.watermark_path() is None


def test_a_refused_candidate_leaves_the_slot_alone_and_moves_the_watermark(context: FakeContext) -> None:
    before = context.slot.named
    context.workers.answers[Stage.GATE] = Done(result=GateMeasured(evidence=with_card(auc_low=0.49)))
    last = to_the_end(context)[-1].run

    assert last.outcome is Outcome.REFUSED
    assert last.reasons[0].startswith("skill")
    assert (context.slot.named, context.slot.published) == (before, [])
    assert types_of(context.store) == [EventType.COMPLETED]
    assert context.store.events[0].payload["outcome"] == Outcome.REFUSED
    assert context.store.watermark_path() == Path(PULLED.watermark_path)


def test_an_undecided_gate_is_not_a_pass(context: FakeContext) -> None:
    context.workers.answers[Stage.GATE] = Done(result=GateMeasured(evidence=with_card(n=10)))

    assert to_the_end(context)[-1].run.outcome is Outcome.REFUSED


def test_a_source_that_is_no_database_is_refused(context: FakeContext) -> None:
    context.workers.answers[Stage.PULL] = Broken(
        error=SourceUnfitError("is empty (0 bytes)", where="/home/qt/quantum.db")
    )
    last = to_the_end(context)[-1].run

    assert last.outcome is Outcome.REFUSED
    assert "/home/qt/quantum.db" in last.reasons[0]


def test_a_busy_database_is_tried_again_with_growing_pauses_and_then_given_up(context: FakeContext) -> None:
    context.workers.answers[Stage.PULL] = Broken(error=DatabaseBusyError("is locked"))
    run, pauses = a_run(), []
    while not run.is_finished:
        run = advance(run, context).run
        if run.not_before:
            pauses.append((run.not_before - context.now()).total_seconds())
            asked = len(context.workers.requests)
            advance(run, context)
            assert len(context.workers.requests) == asked, "nothing is started before its time"
            context.now.now = known(run.not_before)

    assert pauses == [30.0, 60.0, 120.0]
    assert run.outcome is Outcome.FAILED
    assert types_of(context.store) == [EventType.FAILED]


def test_an_interrupted_child_leaves_a_run_that_can_go_on(context: FakeContext) -> None:
    context.workers.answers[Stage.TRAIN] = Broken(error=WorkerInterruptedError("stopped"))
    run = a_run()
    while run.outcome is None:
        run = advance(run, context).run

    assert (run.outcome, run.stage, run.is_finished) == (Outcome.INTERRUPTED, Stage.TRAIN, False)
    assert types_of(context.store) == []


def test_a_stop_keeps_the_run_and_does_not_count_as_a_death(context: FakeContext) -> None:
    run = interrupt(advance(a_run(), context).run, context).run
    for _ in range(10):
        run = interrupt(resume(run, context).run, context).run

    assert (run.outcome, run.num_deaths) == (Outcome.INTERRUPTED, 0)


def test_a_run_that_dies_again_and_again_is_abandoned(context: FakeContext) -> None:
    run = advance(a_run(), context).run
    deaths = 0
    while not run.is_finished:
        run = resume(run, context).run
        deaths += 1

    assert (run.outcome, deaths) == (Outcome.ABANDONED, 3)
    assert types_of(context.store) == [EventType.FAILED]


def test_the_engine_out_of_shadow_mode_is_left_alone(context: FakeContext) -> None:
    context.slot.shadow_only = False
    last = to_the_end(context)[-1].run

    assert last.outcome is Outcome.FAILED
    assert "ALLOW_LIVE_SWAP" in last.reasons[0]
    assert context.slot.published == []


def test_allow_live_swap_lets_it_pass(context: FakeContext) -> None:
    context.slot.shadow_only = False
    allowed = replace(context, policies=replace(context.policies, allow_live_swap=True))

    assert to_the_end(allowed)[-1].run.outcome is Outcome.PROMOTED


def test_a_hand_edit_during_the_run_sends_the_candidate_back_to_the_gate(context: FakeContext) -> None:
    run = a_run()
    while run.stage is not Stage.PROMOTE:
        run = advance(run, context).run
    context.slot.named = Path("/engine/by_hand.pth")
    last = to_the_end(context, run)[-1].run

    compared = [request.incumbent_path for stage, request in context.workers.requests if stage is Stage.GATE]
    assert compared[-1] == "/engine/by_hand.pth"
    assert last.outcome is Outcome.PROMOTED
    assert context.store.known_deployment(last.run_id).previous_model_path == "/engine/by_hand.pth"


def test_a_slot_that_breaks_leaves_no_open_intent(context: FakeContext) -> None:
    run = a_run()
    while not context.store.deployments(1):
        run = advance(run, context).run
    context.slot.fault = SlotError("is a mount point")
    last = to_the_end(context, run)[-1].run

    assert last.outcome is Outcome.FAILED
    assert context.store.known_deployment(last.run_id).state is DeploymentState.UNDONE
    assert EventType.PROMOTED not in types_of(context.store)


def test_a_full_disk_is_waited_for(context: FakeContext) -> None:
    run = a_run()
    while run.stage is not Stage.PROMOTE:
        run = advance(run, context).run
    context.slot.fault = DiskFullError("no space")
    run = advance(run, context).run
    context.slot.fault = None
    context.now.now = known(run.not_before)

    assert to_the_end(context, run)[-1].run.outcome is Outcome.PROMOTED


def test_nobody_seen_serving_is_said_and_never_called_confirmed(context: FakeContext) -> None:
    lonely = replace(context, confirmations=FakeConfirmations(seen=None))
    run = a_run()
    while not run.is_finished:
        run = advance(run, lonely).run
        lonely.now.forward(10)

    assert run.outcome is Outcome.PROMOTED
    assert run.reasons[0].startswith("not confirmed")
    assert run.facts.promote.confirmed is False
    assert context.store.known_deployment(run.run_id).state is DeploymentState.NOT_CONFIRMED


def test_a_crashed_child_is_not_called_a_refusal(context: FakeContext) -> None:
    context.workers.answers[Stage.TRAIN] = Broken(error=WorkerFailedError("killed: out of memory"))
    no_retries = replace(context, policies=replace(context.policies, max_retries=0))
    last = to_the_end(no_retries)[-1].run

    assert last.outcome is Outcome.FAILED
    assert "memory" in last.reasons[0]


def test_seconds_are_kept_by_stage(context: FakeContext) -> None:
    run = a_run()
    while not run.is_finished:
        context.now.forward(2)
        run = advance(run, context).run

    assert run.seconds == {"pull": 2.0, "audit": 2.0, "train": 2.0, "gate": 2.0, "promote": 8.0}
    assert known(run.finished_at) - run.created_at == timedelta(seconds=16)


def test_no_slot_means_no_training(context: FakeContext) -> None:
    class Unusable(FakeSlot):
        def current_path(self) -> None:
            raise SlotError("is missing", where="/etc/quantum/ai-engine.env")

    last = to_the_end(replace(context, slot=Unusable()))[-1].run

    assert last.outcome is Outcome.FAILED
    assert [stage for stage, _ in context.workers.requests] == [Stage.PULL]


def intended(context: FakeContext) -> Run:
    """A run whose candidate stands in the engine's directory, and no more."""
    run = a_run()
    while not context.store.deployments(1):
        run = advance(run, context).run
    return run


def test_an_intent_of_yesterday_does_not_swap_an_engine_that_went_live(context: FakeContext) -> None:
    run = intended(context)
    before, context.slot.shadow_only = context.slot.named, False
    last = to_the_end(context, run)[-1].run

    assert last.outcome is Outcome.FAILED
    assert context.slot.named == before
    assert context.store.known_deployment(last.run_id).state is DeploymentState.UNDONE
    assert EventType.PROMOTED not in types_of(context.store)


class UnitStarts:
    """Confirmations by the engine's unit: what counts is when it was started."""

    def __init__(self, started_at: Any) -> None:
        self.started_at = started_at

    def seen_serving(self, *, since: Any, **_: Any) -> str | None:
        return "the unit was started with it" if self.started_at >= since else None


@pytest.mark.parametrize(
    ("restarts", "state"),
    [
        (False, DeploymentState.NOT_CONFIRMED),
        (True, DeploymentState.CONFIRMED),
    ],
)
def test_a_unit_that_started_between_an_old_intent_and_its_swap_has_the_old_model(
    monkeypatch: pytest.MonkeyPatch,
    context: FakeContext,
    restarts: bool,
    state: Any,
) -> None:
    run, unit = intended(context), UnitStarts(context.now())
    context.now.forward(3600)
    context = replace(context, confirmations=unit, confirm_by=lambda: Confirm.UNIT)
    if restarts:
        monkeypatch.setattr(context.slot, "trigger", lambda _: setattr(unit, "started_at", context.now()))
    while not run.is_finished:
        run = advance(run, context).run
        context.now.forward(10)

    assert run.outcome is Outcome.PROMOTED
    assert context.store.known_deployment(run.run_id).state is state


def test_an_intent_of_yesterday_does_not_override_a_persons_choice(context: FakeContext) -> None:
    run = intended(context)
    context.slot.named = Path("/engine/by_hand.pth")
    step = advance(run, context)

    assert step.run.stage is Stage.GATE
    assert context.slot.named == Path("/engine/by_hand.pth")
    last = to_the_end(context, step.run)[-1].run
    assert last.outcome is Outcome.PROMOTED
    assert context.store.known_deployment(last.run_id).previous_model_path == "/engine/by_hand.pth"


def test_a_fault_after_the_env_line_was_replaced_is_a_promotion_that_nobody_confirmed(context: FakeContext) -> None:
    class BreaksAfterwards(FakeSlot):
        def point_to(self, model: Any, *, expected_sha256: Any, replacing: Any) -> None:
            self.named = model
            raise SlotError("the directory could not be synchronised")

    broken = replace(context, slot=BreaksAfterwards())
    last = to_the_end(broken)[-1].run

    assert last.outcome is Outcome.PROMOTED
    assert last.reasons[0].startswith("not confirmed")
    assert types_of(context.store) == [EventType.PROMOTED, EventType.COMPLETED]
    assert context.store.known_deployment(last.run_id).state is DeploymentState.NOT_CONFIRMED


def test_deaths_after_the_env_line_was_replaced_end_as_what_the_env_file_says(context: FakeContext) -> None:
    run = intended(context)
    context.slot.named = Path(context.store.known_deployment(run.run_id).model_path)
    while not run.is_finished:
        run = resume(run, context).run

    assert run.outcome is Outcome.PROMOTED
    assert types_of(context.store) == [EventType.PROMOTED, EventType.COMPLETED]


def test_a_trigger_that_cannot_be_written_never_denies_the_swap(context: FakeContext) -> None:
    class Untriggered(FakeSlot):
        def trigger(self, model: Any) -> None:
            raise SlotError("the trigger file is a directory")

    last = to_the_end(replace(context, slot=Untriggered()))[-1].run

    assert last.outcome is Outcome.PROMOTED
    assert "trigger file" in last.reasons[0]
    assert context.store.known_deployment(last.run_id).state is DeploymentState.NOT_CONFIRMED


def test_settings_changed_after_the_training_train_again_before_the_gate(context: FakeContext) -> None:
    run = a_run()
    while run.stage is not Stage.GATE:
        run = advance(run, context).run
    split = replace(context.policies.split, holdout_share=0.5)
    changed = replace(context, policies=replace(context.policies, split=split))
    step = advance(run, changed)

    assert step.run.stage is Stage.TRAIN
    assert to_the_end(changed, step.run)[-1].run.outcome is Outcome.PROMOTED
    assert [request.split for stage, request in context.workers.requests if stage is Stage.GATE] == [split]


def test_retries_are_no_deaths(context: FakeContext) -> None:
    context.workers.answers[Stage.PULL] = Broken(error=DatabaseBusyError("is locked"))
    run = a_run()
    for _ in range(3):
        run = advance(run, context).run
        context.now.now = known(run.not_before)
    run = resume(interrupt(run, context).run, context).run

    assert (run.outcome, run.num_retries, run.num_deaths) == (None, 3, 0)


def test_the_audit_is_told_the_last_promoted_run_and_asks_the_same_at_every_tick(context: FakeContext) -> None:
    first = to_the_end(context)[-1].run
    context.workers.requests.clear()
    audited = context.workers.answers[Stage.AUDIT]
    context.workers.answers[Stage.AUDIT] = Working(message="auditing")
    step = advance(replace(a_run(), run_id="20260111_033000"), context)
    for _ in range(3):
        step = advance(step.run, context)
    requests = [request for stage, request in context.workers.requests if stage == Stage.AUDIT]
    context.workers.answers[Stage.AUDIT] = audited

    assert {request.reference_dir for request in requests} == {str(context.folders.path_of(first.run_id))}
    assert len(requests) == 3
    assert len(set(map(repr, requests))) == 1


def test_without_a_promoted_run_the_audit_has_no_reference(context: FakeContext) -> None:
    to_the_end(context, limit=2)

    assert [request.reference_dir for stage, request in context.workers.requests if stage == Stage.AUDIT][:1] == [None]


def test_an_earlier_decision_leaves_less_error_to_this_one_and_the_request_stays_the_same(
    context: FakeContext,
) -> None:
    earlier = replace(a_run(), run_id="20260109_033000", created_at=NOW - timedelta(days=1))
    to_the_end(context, earlier)
    context.workers.requests.clear()
    context.workers.answers[Stage.GATE] = Working(message="measuring")
    run = to_the_end(context, limit=10)[-1].run
    context.now.forward(3600)
    advance(run, context)
    asked = [request.policy.skill_alpha for stage, request in context.workers.requests if stage is Stage.GATE]

    assert len(asked) > 2
    assert len(set(asked)) == 1
    assert asked[0] == pytest.approx((0.009 + 0.1 / 365.25) / 10)

    context.workers.answers[Stage.GATE] = Done(result=GateMeasured(evidence=GOOD))
    found = advance(run, context).run.facts.gate
    assert found.verdict.policy.skill_alpha == found.alpha_spending.alpha == asked[0]
    assert found.alpha_spending.num_decisions == 2


PAUSE = Pause(by="ada", reason="fees change", since=NOW)


def test_a_pause_ends_a_run_before_its_promotion_and_its_rows_stay_new(context: FakeContext) -> None:
    before = context.slot.named
    context.store.set_pause(PAUSE)
    last = to_the_end(context)[-1].run

    assert (last.outcome, last.stage) == (Outcome.SKIPPED, Stage.PROMOTE)
    assert "paused until `retrain-worker resume` (ada: fees change)" in last.reasons[0]
    assert f"retrain-worker promote {last.run_id}" in last.reasons[0]
    assert (context.slot.named, context.slot.published) == (before, [])
    assert context.store.watermark_path() is None
    assert types_of(context.store) == [EventType.SKIPPED]


def test_a_pause_of_another_time_holds_nothing(context: FakeContext) -> None:
    context.store.set_pause(replace(PAUSE, until=NOW))

    assert to_the_end(context)[-1].run.outcome is Outcome.PROMOTED


@pytest.mark.parametrize("is_swapped", [False, True])
def test_a_pause_cancels_a_swap_that_has_not_changed_the_env_line(context: FakeContext, is_swapped: bool) -> None:
    steps = [advance(a_run(), context)]
    while context.store.deployment(steps[-1].run.run_id) is None:
        steps.append(advance(steps[-1].run, context))
    deployment = context.store.known_deployment(steps[-1].run.run_id)
    assert deployment.state is DeploymentState.INTENDED
    if is_swapped:  # and the process died before it stored that
        context.slot.named = Path(deployment.model_path)
    context.store.set_pause(PAUSE)
    last = to_the_end(context, steps[-1].run)[-1].run

    assert last.outcome is (Outcome.PROMOTED if is_swapped else Outcome.SKIPPED)
    state = context.store.known_deployment(last.run_id).state
    assert state is (DeploymentState.CONFIRMED if is_swapped else DeploymentState.UNDONE)


def test_a_forced_run_takes_place_although_nothing_is_new(context: FakeContext) -> None:
    to_the_end(context)
    context.workers.answers[Stage.PULL] = Done(result=replace(PULLED, new_labelled=0))
    again = replace(a_run(), run_id="20260111_033000")

    assert advance(again, context).run.outcome is Outcome.SKIPPED
    forced = advance(again.with_fact(RequestFacts(is_forced=True)), context).run
    assert forced.stage is Stage.AUDIT
    assert forced.facts.request == RequestFacts(is_forced=True)


def test_where_nothing_can_confirm_no_confirmation_is_waited_for(context: FakeContext) -> None:
    context = replace(context, confirm_by=lambda: Confirm.NONE, unconfirmable="there is no follower")
    last = to_the_end(context)[-1].run

    deployment = context.store.known_deployment(last.run_id)
    assert deployment.state is DeploymentState.NOT_ASKED
    assert deployment.confirmation == "no confirmation expected: there is no follower"
