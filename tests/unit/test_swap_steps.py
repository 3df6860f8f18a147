"""The steps of a swap and of a promotion: what each does to the slot, what it stores, and its message."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.domain import events
from retrain_worker.domain.confirmation import Confirm, Unconfirmed
from retrain_worker.domain.current_model import named_by
from retrain_worker.domain.events import EventType
from retrain_worker.domain.facts import ShadowFacts
from retrain_worker.domain.gates import Comparison
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Run, Stage
from retrain_worker.domain.pause import Pause
from retrain_worker.domain.probation import ProbationPolicy
from retrain_worker.domain.slot_request import SlotRequest, SlotRequestArguments, SlotRequestKind, SlotRequestState
from retrain_worker.domain.upload_request import UploadResult
from retrain_worker.domain.worker_protocol import Broken, Done, OneOffTask, Working
from retrain_worker.errors import (
    ArtifactError,
    DiskFullError,
    RedisUnavailableError,
    RemoteUnavailableError,
    RetrainError,
    SlotError,
)
from retrain_worker.stages import swap
from retrain_worker.stages.advance import advance
from tests.fakes import NOW, FakeConfirmations, FakeContext, FakeSlot, FakeWorkers, fake_context
from tests.run_facts import forced_gate_facts, gate_facts, probation_facts, train_facts

OLD = Path("/engine/patchtst_v20260109_233444.pth")
NEW = Path("/runs/patchtst_v20260110_033000.pth")
OTHER = Path("/engine/by_hand.pth")
VERSION = NEW.stem


@dataclass
class RecordedSlot(FakeSlot):
    """Keeps each change with its arguments."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    withdrawal_fault: RetrainError | None = None

    def publish(self, candidate: Path, *, expected_sha256: str) -> Path:
        self.calls.append(("publish", candidate, expected_sha256))
        return super().publish(candidate, expected_sha256=expected_sha256)

    def check_ready(self, model: Path, *, expected_sha256: str | None) -> int:
        super().check_ready(model, expected_sha256=expected_sha256)
        return 9

    def point_to(self, model: Path, *, expected_sha256: str | None, replacing: Path | None) -> None:
        self.calls.append(("point_to", model, expected_sha256, replacing))
        super().point_to(model, expected_sha256=expected_sha256, replacing=replacing)

    def keep_only(self, model: Path | None) -> None:
        self.calls.append(("keep_only", model))
        if self.withdrawal_fault:
            raise self.withdrawal_fault

    def clear(self, *, replacing: Path | None) -> None:
        self.calls.append(("clear", replacing))
        super().clear(replacing=replacing)


@dataclass
class RecordedConfirmations(FakeConfirmations):
    """Keeps each question."""

    questions: list[dict[str, Any]] = field(default_factory=list)

    def seen_serving(self, **question: Any) -> str | None:
        self.questions.append(question)
        return self.seen


@pytest.fixture
def context(tmp_path: Path) -> FakeContext:
    slot = RecordedSlot(named=OLD, hashes={str(OLD): "b" * 64})
    return fake_context(tmp_path, slot=slot, confirmations=RecordedConfirmations())


def calls_of(context: FakeContext) -> list[tuple[Any, ...]]:
    assert isinstance(context.slot, RecordedSlot)
    return context.slot.calls


def intended(context: FakeContext, model: Path | None = NEW, **changes: Any) -> Deployment:
    usual: dict[str, Any] = {
        "deployment_id": "d",
        "run_id": "r",
        "kind": DeploymentKind.PROMOTE,
        "version": model.stem if model else "none",
        "sha256": "a" * 64 if model else "",
        "requested_by": "anna",
        "reason": "fees",
    }
    return swap.intended(model=model, context=context, **{**usual, **changes})


def stepped(context: FakeContext, deployment: Deployment) -> list[str]:
    """The messages of the remaining steps, ten seconds apart."""
    messages = []
    while deployment.state not in swap.ENDED:
        context.now.forward(10)
        step = swap.take_step(deployment, context)
        messages.append(step.message)
        deployment = step.deployment
    return messages


def test_an_intent_records_what_is_in_the_slot_and_what_replaces_it(context: FakeContext) -> None:
    assert intended(context) == Deployment(
        deployment_id="d",
        run_id="r",
        kind=DeploymentKind.PROMOTE,
        version=VERSION,
        model_path=str(NEW),
        sha256="a" * 64,
        size_bytes=9,
        previous_version=OLD.stem,
        previous_model_path=str(OLD),
        previous_sha256="b" * 64,
        state=DeploymentState.INTENDED,
        created_at=NOW,
        updated_at=NOW,
        requested_by="anna",
        reason="fees",
    )


def test_an_intent_to_empty_the_slot_has_no_file(context: FakeContext) -> None:
    made = intended(context, None)

    assert (made.model_path, made.size_bytes, made.previous_model_path) == ("", 0, str(OLD))


def test_an_intent_beside_an_empty_slot_or_an_unreadable_model_has_no_hash_of_it(context: FakeContext) -> None:
    class Unreadable(RecordedSlot):
        def sha256_of(self, model: Path) -> str | None:
            if model == OLD:
                raise ArtifactError("Input/output error", where=str(model))
            return super().sha256_of(model)

    context.slot.named = None
    made = intended(context)
    assert (made.previous_version, made.previous_model_path, made.previous_sha256) == (None, None, None)
    unreadable = intended(replace(context, slot=Unreadable(named=OLD)))
    assert (unreadable.previous_model_path, unreadable.previous_sha256) == (str(OLD), None)


def test_a_model_that_is_not_ready_is_not_intended(context: FakeContext) -> None:
    with pytest.raises(ArtifactError):
        intended(context, sha256="c" * 64)


def test_an_engine_that_is_not_in_shadow_mode_is_changed_only_with_permission(context: FakeContext) -> None:
    context.slot.shadow_only = False
    with pytest.raises(SlotError) as refused:
        intended(context)

    assert str(refused.value) == (
        "PATCHTST_SHADOW_ONLY: the engine is not in shadow mode, so its model is not replaced; "
        "set PATCHTST_SHADOW_ONLY=true in the engine's env file, or ALLOW_LIVE_SWAP=true here"
    )
    assert intended(replace(context, policies=replace(context.policies, allow_live_swap=True))).model_path == str(NEW)


def test_a_swap_takes_its_steps_one_at_a_time_and_dates_each(context: FakeContext) -> None:
    deployment, states = intended(context), []
    for _ in range(3):
        context.now.forward(10)
        deployment = swap.take_step(deployment, context).deployment
        states.append((deployment.state, (deployment.updated_at - NOW).total_seconds(), deployment.confirmation))

    assert states == [
        (DeploymentState.SWAPPED, 10.0, ""),
        (DeploymentState.ANNOUNCED, 20.0, ""),
        (DeploymentState.CONFIRMED, 30.0, "follower engine-1 answered with it"),
    ]
    assert calls_of(context) == [("point_to", NEW, "a" * 64, OLD)]
    assert (context.slot.named, context.slot.triggered) == (NEW, [NEW])
    step = swap.take_step(deployment, context)
    assert (step.deployment, step.message) == (deployment, "follower engine-1 answered with it")


@pytest.mark.parametrize(
    ("model", "messages"),
    [
        (
            NEW,
            [
                f"PATCHTST_MODEL_PATH names {VERSION}",
                f"engine restart requested for {VERSION}",
                "follower engine-1 answered with it",
            ],
        ),
        (
            None,
            [
                "PATCHTST_MODEL_PATH removed",
                "engine restart requested",
                "the slot names no model",
            ],
        ),
    ],
)
def test_each_step_of_a_swap_is_reported(context: FakeContext, model: Path | None, messages: list[str]) -> None:
    assert stepped(context, intended(context, model)) == messages


def test_an_emptied_slot_is_cleared_announced_and_not_confirmed(context: FakeContext) -> None:
    deployment = intended(context, None)
    for _ in range(3):
        deployment = swap.take_step(deployment, context).deployment

    assert calls_of(context) == [("clear", OLD)]
    assert (context.slot.named, context.slot.triggered) == (None, [None])
    assert deployment.state is DeploymentState.NOT_ASKED


def test_a_line_that_is_right_already_is_written_again_also_without_shadow_mode(context: FakeContext) -> None:
    deployment = intended(context)
    context.slot.named, context.slot.shadow_only = NEW, False

    assert swap.take_step(deployment, context).deployment.state is DeploymentState.SWAPPED
    assert calls_of(context) == [("point_to", NEW, "a" * 64, NEW)]


def test_an_engine_that_left_shadow_mode_since_the_intent_is_not_changed(context: FakeContext) -> None:
    deployment = intended(context)
    context.slot.shadow_only = False

    with pytest.raises(SlotError, match="not in shadow mode"):
        swap.take_step(deployment, context)


@pytest.mark.parametrize(("named", "shown"), [(OTHER, str(OTHER)), (None, "nothing")])
def test_a_line_that_was_changed_since_the_intent_is_kept(context: FakeContext, named: Path | None, shown: str) -> None:
    deployment = intended(context)
    context.slot.named = named
    context.now.forward(10)
    step = swap.take_step(deployment, context)

    message = f"PATCHTST_MODEL_PATH was changed externally; it names {shown} now"
    assert step.message == message
    assert step.deployment == replace(
        deployment, state=DeploymentState.UNDONE, updated_at=NOW + timedelta(seconds=10), confirmation=message
    )
    assert calls_of(context) == []


def test_an_intent_beside_an_empty_slot_begins_while_it_is_empty(context: FakeContext) -> None:
    context.slot.named = None
    deployment = intended(context)
    assert swap.take_step(deployment, context).deployment.state is DeploymentState.SWAPPED
    assert calls_of(context) == [("point_to", NEW, "a" * 64, None)]

    context.slot.named = OTHER
    assert swap.take_step(deployment, context).deployment.state is DeploymentState.UNDONE


@pytest.mark.parametrize("model", [NEW, None])
def test_a_rollback_withdraws_the_other_models_before_the_restart(context: FakeContext, model: Path | None) -> None:
    deployment = replace(intended(context, model, kind=DeploymentKind.ROLLBACK), state=DeploymentState.SWAPPED)
    swap.take_step(deployment, context)
    assert calls_of(context) == [("keep_only", model)]

    assert isinstance(context.slot, RecordedSlot)
    context.slot.withdrawal_fault = DiskFullError("no space left on device")
    step = swap.take_step(deployment, context)
    assert step.message == (
        f"engine restart requested{f' for {model.stem}' if model else ''}; withdrawn models are still in the "
        "engine's directory: no space left on device"
    )
    assert (step.deployment.state, context.slot.triggered) == (DeploymentState.ANNOUNCED, [model, model])


# ---------------------------------------------------------------- confirmation


def announced(context: FakeContext, **changes: Any) -> Deployment:
    """Intended now, announced twenty seconds later."""
    deployment = intended(context, **changes)
    for _ in range(2):
        context.now.forward(10)
        deployment = swap.take_step(deployment, context).deployment
    return deployment


def with_policies(context: FakeContext, **changes: Any) -> FakeContext:
    return replace(context, policies=replace(context.policies, **changes))


@pytest.mark.parametrize(
    ("by", "since"),
    [
        (Confirm.EVENT, NOW),
        (Confirm.ANSWERS, NOW),
        (Confirm.UNIT, NOW + timedelta(seconds=20)),
    ],
)
def test_a_confirmation_is_of_this_model_since_its_intent_or_for_a_unit_since_the_announcement(
    context: FakeContext, by: Confirm, since: datetime
) -> None:
    swap.take_step(announced(context), replace(context, confirm_by=lambda: by))
    assert isinstance(context.confirmations, RecordedConfirmations)

    assert context.confirmations.questions == [
        {"version": VERSION, "sha256": "a" * 64, "model_path": str(NEW), "since": since}
    ]


def test_without_a_required_confirmation_none_is_awaited(context: FakeContext) -> None:
    deployment = announced(context)
    context.now.forward(5)
    step = swap.take_step(deployment, replace(context, confirm_by=lambda: Confirm.NONE))

    message = "no confirmation expected: ENGINE_CONFIRM=none"
    assert step.message == message
    assert step.deployment == replace(
        deployment,
        state=DeploymentState.NOT_ASKED,
        updated_at=NOW + timedelta(seconds=25),
        confirmation=message,
    )


def test_a_confirmation_is_awaited_for_its_time_and_not_longer(context: FakeContext) -> None:
    assert isinstance(context.confirmations, RecordedConfirmations)
    context.confirmations.seen = None
    patient = with_policies(context, engine_confirm_seconds=90.0)
    deployment = announced(context)
    context.now.forward(89)
    waiting = swap.take_step(deployment, patient)
    assert waiting.message == f"waiting for the engine to serve {VERSION}, 1 s left"
    assert waiting.deployment is deployment

    context.now.forward(1)
    step = swap.take_step(deployment, patient)
    reason = f"{VERSION} was not seen in service within 90 s (confirmation by event)"
    assert step.message == f"not confirmed: {reason}"
    assert step.deployment == replace(
        deployment,
        state=DeploymentState.NOT_CONFIRMED,
        updated_at=NOW + timedelta(seconds=110),
        confirmation=reason,
    )


@pytest.mark.parametrize(("named", "shown"), [(OTHER, str(OTHER)), (None, "nothing")])
def test_a_line_that_names_another_model_ends_the_wait(context: FakeContext, named: Path | None, shown: str) -> None:
    deployment = announced(context)
    context.slot.named = named
    step = swap.take_step(deployment, context)

    assert step.message == f"not confirmed: PATCHTST_MODEL_PATH names {shown} now"
    assert (step.deployment.state, step.deployment.confirmation) == (
        DeploymentState.NOT_CONFIRMED,
        f"PATCHTST_MODEL_PATH names {shown} now",
    )


class Unreadable(RecordedSlot):
    """An env file that cannot be read."""

    def current_path(self) -> Path | None:
        raise SlotError("cannot be read")


def test_a_line_that_cannot_be_read_is_no_sign_of_another_model(context: FakeContext) -> None:
    deployment = announced(context)
    unreadable = replace(context, slot=Unreadable())

    assert swap.named(unreadable) is None
    assert swap.take_step(deployment, unreadable).deployment.state is DeploymentState.CONFIRMED
    assert swap.named(context) == str(NEW)
    context.slot.named = None
    assert swap.named(context) == ""


# ---------------------------------------------------------------- a swap that cannot continue


@pytest.mark.parametrize(
    ("state", "named", "expected"),
    [
        (DeploymentState.INTENDED, OLD, DeploymentState.UNDONE),
        (DeploymentState.INTENDED, None, DeploymentState.UNDONE),
        (DeploymentState.INTENDED, NEW, DeploymentState.NOT_CONFIRMED),
        (DeploymentState.SWAPPED, OLD, DeploymentState.NOT_CONFIRMED),
        (DeploymentState.ANNOUNCED, NEW, DeploymentState.NOT_CONFIRMED),
    ],
)
def test_a_swap_that_is_cut_short_is_undone_only_before_the_line_was_replaced(
    context: FakeContext, state: DeploymentState, named: Path | None, expected: DeploymentState
) -> None:
    deployment = replace(intended(context), state=state)
    context.slot.named = named
    context.now.forward(10)

    assert swap.cut_short(deployment, "the disk is full", context) == replace(
        deployment, state=expected, updated_at=NOW + timedelta(seconds=10), confirmation="the disk is full"
    )


@pytest.mark.parametrize("state", sorted(swap.ENDED))
def test_a_swap_that_has_ended_is_not_cut_short(context: FakeContext, state: DeploymentState) -> None:
    deployment = replace(intended(context), state=state)

    assert swap.cut_short(deployment, "the disk is full", context) is deployment


# ---------------------------------------------------------------- promotion


def a_run(**gate: Any) -> Run:
    run = Run(
        run_id="20260110_033000",
        requested_by="schedule",
        request_reason="every 24 h",
        created_at=NOW,
        updated_at=NOW,
        stage=Stage.PROMOTE,
    )
    run = run.with_fact(train_facts(candidate_path=str(NEW), version=VERSION, incumbent_path=str(OLD)))
    return run.with_fact(gate_facts(**gate))


def forced_run() -> Run:
    return a_run().with_fact(forced_gate_facts("20260101_033000"))


def advanced(context: FakeContext, steps: int, run: Run | None = None) -> Run:
    run = run or a_run()
    for _ in range(steps):
        run = advance(run, context).run
    return run


@pytest.mark.parametrize(("named", "shown"), [(OTHER, str(OTHER)), (None, "nothing")])
@pytest.mark.parametrize("steps", [0, 1])
def test_a_changed_incumbent_is_compared_again(
    context: FakeContext, named: Path | None, shown: str, steps: int
) -> None:
    run = advanced(context, steps)
    context.slot.named = named
    context.now.forward(9)
    step = advance(run, context)

    assert step.message == (
        f"run 20260110_033000: PATCHTST_MODEL_PATH now names {shown}; the gates compare with that model"
    )
    assert (step.run.stage, step.run.updated_at) == (Stage.GATE, NOW + timedelta(seconds=9))
    assert step.run.facts.train.incumbent_path == (str(named) if named else None)
    assert step.run.facts.train.version == VERSION
    assert [one.state for one in context.store.deployments(9)] == [DeploymentState.UNDONE] * steps


@pytest.mark.parametrize(("named", "shown"), [(OTHER, str(OTHER)), (None, "nothing")])
def test_a_changed_incumbent_ends_a_forced_promotion(context: FakeContext, named: Path | None, shown: str) -> None:
    context.slot.named = named
    context.now.forward(9)
    step = advance(forced_run(), context)

    why = f"PATCHTST_MODEL_PATH now names {shown}, no longer the incumbent that the promotion was requested for"
    assert step.message == f"run 20260110_033000 refused: {why}"
    assert (step.run.outcome, step.run.reasons) == (Outcome.REFUSED, (why,))
    assert step.run.finished_at == NOW + timedelta(seconds=9)


def test_an_undone_intent_is_made_again(context: FakeContext) -> None:
    run = advanced(context, 1)
    context.slot.named = OTHER
    run = advance(run, context).run
    context.slot.named = OLD
    again = replace(run, stage=Stage.PROMOTE).with_fact(train_facts(candidate_path=str(NEW), incumbent_path=str(OLD)))
    step = advance(again, context)

    assert step.message == f"run 20260110_033000: {VERSION}.pth is in the engine's directory, verified"
    assert step.deployment.state is DeploymentState.INTENDED


def test_the_file_is_published_with_its_hash_and_the_reason_is_recorded(context: FakeContext) -> None:
    advance(a_run(), context)
    assert calls_of(context) == [("publish", NEW, "a" * 64)]
    made = context.store.known_deployment("20260110_033000")
    assert (made.requested_by, made.reason) == ("schedule", "every gate that counts has passed")


def test_a_forced_promotion_records_who_forced_it_and_why(context: FakeContext) -> None:
    advance(forced_run(), context)

    assert context.store.known_deployment("20260110_033000").reason == "forced by anna: a test"


def stored_on_probation(context: FakeContext, *, rollback_reason: str = "") -> None:
    """The model in the slot is on probation in another run."""
    deployment = replace(
        intended(context, OLD, sha256="b" * 64, deployment_id="20260109_233444", run_id="20260109_233444"),
        state=DeploymentState.CONFIRMED,
    )
    run = replace(a_run(), run_id="20260109_233444").on_probation("seen", at=NOW)
    context.store.record(run.with_fact(probation_facts(rollback_reason=rollback_reason)), deployment=deployment)


def test_bytes_that_a_probation_has_rolled_back_are_refused(context: FakeContext) -> None:
    stored_on_probation(context, rollback_reason="worse")
    run = a_run().with_fact(train_facts(sha256="b" * 64, incumbent_path=str(OLD)))
    context.now.forward(9)
    step = advance(run, context)

    why = "blocked by its probation in run 20260109_233444: worse"
    assert (step.run.outcome, step.run.reasons) == (Outcome.REFUSED, (why,))
    assert step.message == f"run 20260110_033000 refused: {why}"
    assert step.run.finished_at == NOW + timedelta(seconds=9)


def compared(low: float | None) -> Comparison:
    return Comparison(n=9, auc_difference=None, log_loss_gain=0.1, log_loss_gain_low=low)


@pytest.mark.parametrize(
    ("comparison", "shown"),
    [
        (None, "not known"),
        (compared(None), "not known"),
        (compared(0.0), "+0.0000"),
        (compared(-0.01234), "-0.0123"),
    ],
)
def test_a_model_on_probation_is_not_replaced_by_a_candidate_that_is_not_shown_to_be_better(
    context: FakeContext, comparison: Comparison | None, shown: str
) -> None:
    stored_on_probation(context)
    step = advance(a_run(comparison=comparison), context)

    why = (
        "patchtst_v20260109_233444 is on probation, and the candidate is not shown to be better: the lower confidence "
        f"bound of its log loss gain is {shown}, required over 0"
    )
    assert (step.run.outcome, step.run.reasons) == (Outcome.REFUSED, (why,))


def test_a_model_on_probation_is_replaced_by_a_better_candidate_or_by_force(context: FakeContext) -> None:
    stored_on_probation(context)
    trial = ShadowFacts(since=NOW, prediction_log="p", evaluation_at=NOW, comparison=compared(0.001))
    for run in (
        a_run(comparison=compared(0.001)),
        a_run(comparison=compared(-0.1)).with_fact(trial),
        forced_run(),
    ):
        step = advance(run, context)
        assert step.deployment is not None, step.message
        context.store.record(
            run.ended(Outcome.FAILED, "test", at=NOW), deployment=replace(step.deployment, state=DeploymentState.UNDONE)
        )
    worse_on_trial = a_run(comparison=compared(0.1)).with_fact(replace(trial, comparison=compared(-0.1)))
    assert advance(worse_on_trial, context).run.outcome is Outcome.REFUSED


def test_a_probation_of_a_model_that_is_no_longer_in_the_slot_keeps_no_candidate_out(context: FakeContext) -> None:
    stored_on_probation(context)
    newer = replace(intended(context, OTHER, deployment_id="x", run_id=None), state=DeploymentState.CONFIRMED)
    context.store.record_deployment(newer)

    assert advance(a_run(), context).deployment is not None


class Unavailable:
    """Confirmations whose source cannot be read."""

    def seen_serving(self, **_: Any) -> str | None:
        raise RedisUnavailableError("Redis does not permit the command xrevrange")


def test_what_prevents_a_confirmation_is_stated_while_it_is_awaited_and_in_the_end(context: FakeContext) -> None:
    deployment = announced(context)
    unavailable = replace(context, confirmations=Unavailable())
    waiting = swap.take_step(deployment, unavailable)
    assert waiting.message.endswith(" s left; Redis does not permit the command xrevrange")

    context.now.forward(120)
    ended = swap.take_step(deployment, unavailable).deployment

    assert ended.state is DeploymentState.NOT_CONFIRMED
    assert ended.confirmation.endswith("(confirmation by event); Redis does not permit the command xrevrange")


def test_a_wait_for_the_confirmation_is_reported_and_stores_nothing(context: FakeContext) -> None:
    assert isinstance(context.confirmations, RecordedConfirmations)
    context.confirmations.seen = None
    run = advanced(context, 3)
    stored = len(context.store.records)
    step = advance(run, context)

    assert step.message == f"run 20260110_033000: waiting for the engine to serve {VERSION}, 120 s left"
    assert (step.is_move, len(context.store.records)) == (False, stored)


def unconfirmed(context: FakeContext, policy: Unconfirmed, **policies: Any) -> tuple[Run, FakeContext]:
    """A run that waits for a confirmation whose time is over."""
    context = with_policies(context, unconfirmed=policy, **policies)
    assert isinstance(context.confirmations, RecordedConfirmations)
    context.confirmations.seen = None
    run = advanced(context, 3)
    context.now.forward(120)
    return run, context


UNSEEN = f"{VERSION} was not seen in service within 120 s (confirmation by event)"


def test_an_unconfirmed_model_stays_by_default(context: FakeContext) -> None:
    step = advance(*unconfirmed(context, Unconfirmed.KEEP))

    assert step.message == f"run 20260110_033000 promoted {VERSION}: not confirmed: {UNSEEN}"
    assert (step.run.outcome, step.run.reasons) == (Outcome.PROMOTED, (f"not confirmed: {UNSEEN}",))
    assert step.run.finished_at == NOW + timedelta(seconds=120)
    assert (step.run.facts.promote.confirmed, step.run.facts.promote.confirmation) == (False, UNSEEN)


def test_an_unconfirmed_model_is_rolled_back_where_that_is_set(context: FakeContext) -> None:
    run, rolling = unconfirmed(context, Unconfirmed.ROLLBACK)
    step = advance(run, rolling)
    assert step.message == f"run 20260110_033000: {UNSEEN}; rollback requested"
    request = context.store.request("rollback_of_20260110_033000")
    assert request == SlotRequest(
        request_id="rollback_of_20260110_033000",
        kind=SlotRequestKind.ROLLBACK,
        arguments=SlotRequestArguments(only_from=str(NEW), run_id="20260110_033000"),
        requested_by="UNCONFIRMED=rollback",
        reason=UNSEEN,
        created_at=NOW + timedelta(seconds=120),
        updated_at=NOW + timedelta(seconds=120),
        answer="waiting for its turn",
    )

    waiting = advance(step.run, rolling)
    assert waiting.message == "run 20260110_033000: rollback of its model: waiting for its turn"
    assert waiting.is_move is False


@pytest.mark.parametrize("state", [DeploymentState.CONFIRMED, DeploymentState.NOT_ASKED])
def test_a_run_whose_swap_has_ended_already_ends_as_promoted(context: FakeContext, state: DeploymentState) -> None:
    run = advanced(context, 3)
    ended = replace(context.store.known_deployment(run.run_id), state=state, confirmation="seen before")
    context.store.record(run, deployment=ended)
    step = advance(run, context)

    assert step.message == f"run 20260110_033000 promoted {VERSION}: seen before"
    assert (step.run.outcome, step.deployment) == (Outcome.PROMOTED, ended)


def answered(context: FakeContext, state: SlotRequestState) -> Any:
    """The step of the run once its rollback has been answered."""
    run, rolling = unconfirmed(context, Unconfirmed.ROLLBACK)
    run = advance(run, rolling).run
    request = context.store.request("rollback_of_20260110_033000")
    assert request is not None
    context.store.record_slot_request(request.answered(state, "the answer", at=NOW))
    return advance(run, rolling)


def test_a_rollback_that_failed_leaves_the_model_and_both_reasons(context: FakeContext) -> None:
    step = answered(context, SlotRequestState.FAILED)

    assert step.run.outcome is Outcome.PROMOTED
    assert step.run.reasons == (f"not confirmed: {UNSEEN}", "rollback failed: the answer")
    assert step.message == (
        f"run 20260110_033000 promoted {VERSION}: not confirmed: {UNSEEN}; rollback failed: the answer"
    )


def test_a_rollback_that_is_done_ends_the_run_as_rolled_back(context: FakeContext) -> None:
    step = answered(context, SlotRequestState.DONE)

    reasons = (f"not confirmed: {UNSEEN}", "rolled back: the answer")
    assert (step.run.outcome, step.run.reasons) == (Outcome.ROLLED_BACK, reasons)
    assert step.message == f"run 20260110_033000: {'; '.join(reasons)}"
    assert step.run.finished_at == NOW + timedelta(seconds=120)
    assert step.run.facts.promote.confirmed is False


@pytest.mark.parametrize("policy", Unconfirmed)
def test_a_line_that_cannot_be_read_at_the_end_of_the_wait_is_no_sign_of_another_model(
    context: FakeContext, policy: Unconfirmed
) -> None:
    run, ended = unconfirmed(context, policy)
    step = advance(run, replace(ended, slot=Unreadable()))

    assert (step.request is not None) == (policy is Unconfirmed.ROLLBACK)


@pytest.mark.parametrize(
    ("kind", "is_later", "outcome"),
    [
        (DeploymentKind.ROLLBACK, True, Outcome.ROLLED_BACK),
        (DeploymentKind.EXTERNAL, True, Outcome.PROMOTED),
        (DeploymentKind.PROMOTE, True, Outcome.PROMOTED),
        (DeploymentKind.EXTERNAL, False, Outcome.PROMOTED),
    ],
)
def test_another_model_in_the_slot_at_the_end_of_the_wait_is_a_rollback_when_one_was_recorded(
    context: FakeContext, kind: DeploymentKind, is_later: bool, outcome: Outcome
) -> None:
    run, ended = unconfirmed(context, Unconfirmed.ROLLBACK)
    if is_later:
        change = replace(intended(context, OLD, sha256="b" * 64, deployment_id="x", run_id=None, kind=kind))
        context.store.record_deployment(replace(change, state=DeploymentState.CONFIRMED))
    context.slot.named = OLD
    step = advance(run, ended)

    changed = f"not confirmed: PATCHTST_MODEL_PATH names {OLD} now"
    assert step.run.outcome is outcome
    assert step.run.reasons == ((changed, "rolled back: anna: fees") if outcome is Outcome.ROLLED_BACK else (changed,))
    assert context.store.known_deployment(run.run_id).state is DeploymentState.NOT_CONFIRMED
    assert step.request is None


def test_a_fault_while_the_line_is_replaced_ends_by_what_the_line_names(context: FakeContext) -> None:
    class BreaksAfterwards(RecordedSlot):
        def point_to(self, model: Path, *, expected_sha256: str | None, replacing: Path | None) -> None:
            self.named = model
            raise SlotError("the directory could not be synchronised")

    run = advanced(context, 1)
    context.now.forward(9)
    step = advance(run, replace(context, slot=BreaksAfterwards(named=OLD, hashes={str(OLD): "b" * 64})))

    reason = "not confirmed: the directory could not be synchronised"
    assert step.message == f"run 20260110_033000 promoted {VERSION}: {reason}"
    assert (step.run.outcome, step.run.reasons) == (Outcome.PROMOTED, (reason,))
    assert [event.event_type for event in step.events] == [EventType.PROMOTED, EventType.COMPLETED]
    assert step.deployment.state is DeploymentState.NOT_CONFIRMED


def test_a_fault_before_the_line_is_replaced_ends_as_a_failure(context: FakeContext) -> None:
    run = advanced(context, 1)
    context.slot.fault = SlotError("read-only file system")
    step = advance(run, context)

    assert step.message == "run 20260110_033000 (promote) FAILED: read-only file system"
    assert step.deployment == context.store.known_deployment("20260110_033000")
    assert (step.deployment.state, step.deployment.confirmation) == (DeploymentState.UNDONE, "read-only file system")
    assert [event.event_type for event in step.events] == [EventType.FAILED]


@pytest.mark.parametrize("is_undone", [False, True])
def test_a_fault_before_any_intent_changes_no_deployment(context: FakeContext, is_undone: bool) -> None:
    run = advanced(context, 1)
    if is_undone:
        context.slot.named = OTHER
        run = replace(advance(run, context).run, stage=Stage.PROMOTE).with_fact(train_facts(incumbent_path=str(OTHER)))
    else:
        run = a_run()
        context = replace(context, store=fake_context(context.folders.path_of("20200101_000000")).store)
    context.slot.shadow_only = False
    step = advance(run, context)

    assert (step.run.outcome, step.deployment) == (Outcome.FAILED, None)


def test_a_fault_after_the_swap_leaves_a_promotion_that_is_not_confirmed(context: FakeContext) -> None:
    class Untriggered(RecordedSlot):
        def trigger(self, model: Path | None) -> None:
            raise SlotError("the trigger file is a directory")

    run = advanced(context, 2)
    watched = with_policies(context, probation=ProbationPolicy(hours=48.0))
    step = advance(run, replace(watched, slot=Untriggered(named=NEW)))

    reason = "not confirmed: the trigger file is a directory"
    assert step.message == f"run 20260110_033000 promoted {VERSION}: {reason}; on probation for 48 h"
    assert (step.run.stage, step.run.outcome, step.run.reasons) == (Stage.PROBATION, Outcome.PROMOTED, (reason,))
    assert [event.event_type for event in step.events] == [EventType.COMPLETED]


# ---------------------------------------------------------------- pause

PAUSE = Pause(by="ada", reason="fees", since=NOW, until=NOW + timedelta(hours=1))
PAUSED = "promotions are paused until 2026-01-10 04:30 UTC (ada: fees)"


@pytest.mark.parametrize("steps", [0, 1])
def test_a_pause_skips_a_promotion_before_its_swap(context: FakeContext, steps: int) -> None:
    run = advanced(context, steps)
    context.store.set_pause(PAUSE)
    context.now.forward(3599)
    step = advance(run, context)

    reason = f'{PAUSED}; `retrain-worker promote 20260110_033000 --reason "…"` promotes {VERSION} after it'
    assert step.message == f"run 20260110_033000 skipped: {reason}"
    assert (step.run.outcome, step.run.reasons) == (Outcome.SKIPPED, (reason,))
    assert step.run.finished_at == NOW + timedelta(seconds=3599)
    assert [(one.state, one.confirmation) for one in context.store.deployments(9)] == [
        (DeploymentState.UNDONE, PAUSED)
    ] * steps


def test_a_pause_that_is_over_holds_nothing(context: FakeContext) -> None:
    context.store.set_pause(PAUSE)
    context.now.forward(3600)

    assert advance(a_run(), context).deployment is not None


def test_a_swap_whose_line_was_replaced_goes_on_during_a_pause(context: FakeContext) -> None:
    run = advanced(context, 1)
    context.store.set_pause(PAUSE)
    context.slot.named = NEW  # the process died before the step was stored
    step = advance(run, context)

    assert step.deployment.state is DeploymentState.SWAPPED
    assert advanced(context, 2, step.run).outcome is Outcome.PROMOTED
    assert context.slot.triggered == [NEW], "otherwise the engine would keep the old model"


def test_a_pause_does_not_interrupt_a_swap(context: FakeContext) -> None:
    run = advanced(context, 2)
    context.store.set_pause(PAUSE)

    assert advance(run, context).message == f"run 20260110_033000: engine restart requested for {VERSION}"


def test_a_pause_after_an_undone_intent_skips_the_promotion(context: FakeContext) -> None:
    run = advanced(context, 1)
    context.slot.named = OTHER
    run = replace(advance(run, context).run, stage=Stage.PROMOTE)
    context.store.set_pause(PAUSE)
    step = advance(run, context)

    assert (step.run.outcome, step.deployment.state) == (Outcome.SKIPPED, DeploymentState.UNDONE)


# ---------------------------------------------------------------- MODELS_URL


def with_uploads(context: FakeContext, *answers: Any) -> tuple[Any, FakeWorkers]:
    given = iter(answers)
    uploader = FakeWorkers({OneOffTask.UPLOAD: lambda _: next(given)})
    policies = replace(context.policies, models_url="s3://models/btc")
    return replace(context, uploader=uploader, policies=policies), uploader


def test_the_env_line_changes_when_model_and_incumbent_have_been_copied(context: FakeContext) -> None:
    there, uploader = with_uploads(context, Working(message="x"), Done(result=UploadResult(urls=())))
    deployment = intended(there, deployment_id="20260110_033000")

    waiting = swap.take_step(deployment, there)
    assert (waiting.deployment, waiting.message) == (deployment, f"{VERSION} is being copied to s3://models/btc")
    assert there.slot.current_path() == OLD
    step = swap.take_step(deployment, there)

    assert step.deployment.state is DeploymentState.SWAPPED
    assert there.slot.current_path() == NEW
    asked = uploader.requests[0][1]
    assert asked.models == ((str(NEW), "a" * 64), (str(OLD), "b" * 64))


def test_what_cannot_be_copied_is_not_promoted(context: FakeContext) -> None:
    there, _ = with_uploads(context, Broken(error=RemoteUnavailableError("no answer", where="s3://models/btc")))
    with pytest.raises(RemoteUnavailableError):
        swap.take_step(intended(there, deployment_id="20260110_033000"), there)
    assert there.slot.current_path() == OLD


def test_a_rollback_waits_for_no_copy(context: FakeContext) -> None:
    there, uploader = with_uploads(context)
    assert swap.take_step(intended(there, kind=DeploymentKind.ROLLBACK), there).deployment.state is (
        DeploymentState.SWAPPED
    )
    assert uploader.requests == []


def test_the_events_name_the_url(context: FakeContext) -> None:
    deployment = intended(context)
    run = Run(run_id="r", requested_by="x", request_reason="", created_at=NOW, updated_at=NOW)
    event = events.promoted(run, deployment, shadow_only=True, at=NOW, models_url="s3://models/btc/")
    assert event.payload["model_url"] == f"s3://models/btc/{NEW.name}"
    back = events.rolled_back(deployment, shadow_only=True, at=NOW, models_url="s3://models/btc")
    assert back.payload["model_url"] == f"s3://models/btc/{NEW.name}"
    assert named_by(EventType.ROLLED_BACK, "e", back.payload).model_url == f"s3://models/btc/{NEW.name}"
    assert "model_url" not in events.promoted(run, deployment, shadow_only=True, at=NOW).payload
