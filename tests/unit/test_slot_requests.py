"""An order is carried out by the same swap as a promotion: verified, told in the end, healed after every crash."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.domain.confirmation import Unconfirmed
from retrain_worker.domain.events import EventType
from retrain_worker.domain.facts import TrainFacts
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Stage
from retrain_worker.domain.pause import Pause
from retrain_worker.domain.slot_request import SlotRequest, SlotRequestArguments, SlotRequestKind, SlotRequestState
from retrain_worker.domain.worker_protocol import Broken, Done, EmptySlot, GateMeasured, Working
from retrain_worker.errors import ArtifactError, DiskFullError, SlotError
from retrain_worker.stages import external_change
from retrain_worker.stages.advance import advance
from retrain_worker.stages.slot_requests import abandon, carry_out
from tests.fakes import NOW, FakeClock, FakeConfirmations, FakeContext, FakeSlot, FakeWorkers, fake_context
from tests.known import known
from tests.run_facts import CONTRACT
from tests.unit import test_stages
from tests.unit.test_gates import GOOD

A, B, C = "/engine/a.pth", "/engine/patchtst_v20260101_000000.pth", "/engine/patchtst_v20260102_000000.pth"


def promoted(
    model: Any,
    before: Any,
    *,
    state: Any = DeploymentState.CONFIRMED,
    kind: Any = DeploymentKind.PROMOTE,
    confirmation: str = "seen",
    sha256: Any = "a" * 64,
) -> Deployment:
    return Deployment(
        deployment_id=f"{kind}_{Path(model).stem}_from_{Path(before).stem}",
        run_id=None,
        kind=kind,
        version=Path(model).stem,
        model_path=model,
        sha256=sha256,
        size_bytes=1,
        previous_version=Path(before).stem,
        previous_model_path=before,
        previous_sha256="a" * 64,
        state=state,
        created_at=NOW,
        updated_at=NOW,
        requested_by="schedule",
        reason="",
        confirmation=confirmation,
    )


@pytest.fixture
def context(tmp_path: Path) -> FakeContext:
    context = fake_context(tmp_path, clock=FakeClock(), slot=FakeSlot(named=Path(C)))
    for deployment in (promoted(B, A), promoted(C, B)):
        context.store.record_deployment(deployment)
    return context


def a_slot_request(**arguments: Any) -> SlotRequest:
    return SlotRequest(
        request_id="rollback_20260110_033000",
        kind=SlotRequestKind.ROLLBACK,
        requested_by="ada",
        reason="it loses",
        created_at=NOW,
        updated_at=NOW,
        arguments=SlotRequestArguments(**arguments),
    )


def carried_out(context: FakeContext, request: Any = None, limit: int = 20) -> Any:
    request = request or a_slot_request()
    while not request.is_answered and limit:
        request, limit = carry_out(request, context).request, limit - 1
    return request


def types_of(context: FakeContext) -> list[Any]:
    return [event.event_type for event in context.store.events]


def test_a_roll_back_returns_to_the_previous_model_verified_told_and_confirmed(context: FakeContext) -> None:
    request = carried_out(context)

    assert (request.state, context.slot.named) == (SlotRequestState.DONE, Path(B))
    deployment = context.store.known_deployment(request.request_id)
    assert (deployment.kind, deployment.state) == ("rollback", DeploymentState.CONFIRMED)
    assert (deployment.requested_by, deployment.reason) == ("ada", "it loses")
    assert (deployment.model_path, deployment.previous_model_path) == (B, C)
    assert [request.model_path for _, request in context.verifier.requests] == [B]
    assert types_of(context) == [EventType.ROLLED_BACK]
    assert context.slot.triggered == [Path(B)]
    assert "patchtst_v20260101_000000 (was patchtst_v20260102_000000)" in request.answer


def test_a_hand_edit_that_nobody_has_recorded_yet_is_recorded_first_and_then_taken_back(context: FakeContext) -> None:
    context.slot.named = Path("/engine/by_hand.pth")
    step = carry_out(a_slot_request(only_from="/engine/by_hand.pth"), context)
    assert "is recorded first" in step.message
    assert not step.is_move

    context.store.record_deployment(known(external_change.unrecorded(context)))
    request = carried_out(context, step.request)
    assert (request.state, context.slot.named) == (SlotRequestState.DONE, Path(C))


def test_a_second_roll_back_goes_further_back_and_never_to_what_was_taken_back(context: FakeContext) -> None:
    carried_out(context)
    request = carried_out(context, replace(a_slot_request(), request_id="rollback_20260110_033500"))

    assert (request.state, context.slot.named) == (SlotRequestState.DONE, Path(A))
    third = carried_out(context, replace(a_slot_request(), request_id="rollback_20260110_034000"))
    assert third.state is SlotRequestState.REFUSED
    assert "no earlier model" in third.answer


def test_where_nothing_was_before_a_person_can_take_the_model_out(tmp_path: Path) -> None:
    context = fake_context(tmp_path / "empty", clock=FakeClock(), slot=FakeSlot(named=Path(B)))
    context.store.record_deployment(replace(promoted(B, A), previous_model_path=None, previous_version=None))
    refused = carried_out(context)
    assert (refused.state, context.slot.named) == (SlotRequestState.REFUSED, Path(B))
    assert "--to-none" in refused.answer

    request = carried_out(
        context, replace(a_slot_request(to_none="yes", only_from=B), request_id="rollback_20260110_033500")
    )
    assert (request.state, context.slot.named) == (SlotRequestState.DONE, None)
    assert request.answer == f"PATCHTST_MODEL_PATH removed (was {Path(B).stem}); engine restart requested"
    assert context.slot.triggered == [None]
    event = context.store.events[-1]
    assert (event.event_type, event.payload["model_path"]) == (EventType.ROLLED_BACK, "")
    assert (event.payload["old_version"], event.payload["new_version"]) == (Path(B).stem, "none")
    again = carried_out(context, replace(a_slot_request(to_none="yes"), request_id="rollback_20260110_034000"))
    assert again.state is SlotRequestState.REFUSED


@pytest.mark.parametrize("named", [None, Path(B)])
def test_a_withdrawal_that_died_at_the_line_is_finished_or_given_up(context: FakeContext, named: Path | None) -> None:
    request = carry_out(a_slot_request(to_none="yes"), context).request
    context.slot.named = named
    ended = abandon(request, "the disk is gone", context).request

    assert ended.state is (SlotRequestState.FAILED if named is None else SlotRequestState.REFUSED)
    assert len(types_of(context)) == (named is None)


def test_an_unconfirmed_first_model_leaves_the_slot_again(context: FakeContext, tmp_path: Path) -> None:
    context.slot.named = None
    run = unconfirmed_run(context, tmp_path, Unconfirmed.ROLLBACK)

    assert (run.outcome, context.slot.named) == (Outcome.ROLLED_BACK, None)
    assert types_of(context)[-2:] == [EventType.ROLLED_BACK, EventType.COMPLETED]


def test_a_model_that_was_taken_out_is_no_target_and_what_stood_before_it_is(context: FakeContext) -> None:
    carried_out(context, a_slot_request(to_none="yes"))
    context.store.record_deployment(
        replace(promoted("/engine/patchtst_v20260103_000000.pth", A), previous_model_path=None, previous_version=None)
    )
    context.slot.named = Path("/engine/patchtst_v20260103_000000.pth")
    carried_out(context, replace(a_slot_request(), request_id="rollback_20260110_033500"))

    assert context.slot.named == Path(B)


def awaiting_confirmation(context: FakeContext, tmp_path: Path) -> tuple[Any, FakeContext]:
    """A run whose model stands in the slot, and that nobody has been seen serving yet; and its world."""
    answers: dict[str, Any] = {
        Stage.PULL: Done(result=test_stages.PULLED),
        Stage.AUDIT: Done(result=test_stages.FIT),
        Stage.TRAIN: Done(result=test_stages.trained_in(tmp_path)),
        Stage.GATE: Done(result=GateMeasured(evidence=GOOD)),
    }
    context = replace(context, workers=FakeWorkers(answers=answers), confirmations=FakeConfirmations(seen=None))
    run = test_stages.a_run()
    while (found := context.store.deployment(run.run_id)) is None or found.state != "ANNOUNCED":
        run = advance(run, context).run
    return run, context


def test_a_person_who_takes_the_model_out_while_the_confirmation_is_awaited_ends_the_run_as_rolled_back(
    context: FakeContext,
    tmp_path: Path,
) -> None:
    context.slot.named = None
    run, context = awaiting_confirmation(context, tmp_path)
    assert carried_out(context, a_slot_request(to_none="yes")).state is SlotRequestState.DONE
    run = advance(run, context).run

    assert (run.outcome, context.slot.named) == (Outcome.ROLLED_BACK, None)


def trained_for(context: FakeContext, root: Path) -> Any:
    """What the training and the gate of the next run know of the engine."""
    answers: dict[str, Any] = {
        Stage.PULL: Done(result=test_stages.PULLED),
        Stage.AUDIT: Done(result=test_stages.FIT),
        Stage.TRAIN: Done(result=test_stages.trained_in(root)),
        Stage.GATE: Working(message="measuring"),
    }
    context.workers.answers.update(answers)
    run = replace(test_stages.a_run(), run_id="20260111_033000")
    for _ in range(4):
        run = advance(run, context).run
    assert run.stage is Stage.GATE
    requests = [request for stage, request in context.workers.requests if stage in (Stage.TRAIN, Stage.GATE)][-2:]
    assert requests[0].empty_slot == requests[1].empty_slot
    return requests[0].empty_slot


def audited_length(context: FakeContext) -> int | None:
    """The rows per window for which the newest audit divides the samples."""
    length: int | None = [r for stage, r in context.workers.requests if stage is Stage.AUDIT][-1].seq_len
    return length


def test_after_a_rollback_to_none_the_next_run_knows_what_the_engine_runs(context: FakeContext, tmp_path: Path) -> None:
    context = replace(context, policies=replace(context.policies, needs_known_contract=True))
    run, context = awaiting_confirmation(replace(context, confirmations=FakeConfirmations()), tmp_path)
    assert carried_out(context, a_slot_request(to_none="yes")).state is SlotRequestState.DONE
    advance(run, context)
    contract = context.store.known_run(run.run_id).facts.require(TrainFacts).contract

    assert trained_for(context, tmp_path) == EmptySlot(contract=contract, is_contract_required=True)
    assert audited_length(context) == contract.context_length


@pytest.mark.parametrize("is_host", [True, False])
def test_what_an_engine_without_any_known_model_runs_is_not_known(tmp_path: Path, is_host: bool) -> None:
    context = fake_context(tmp_path / "fresh", slot=FakeSlot(named=None))
    context = replace(context, policies=replace(context.policies, needs_known_contract=is_host))

    assert trained_for(context, tmp_path) == EmptySlot(is_contract_required=is_host)
    assert audited_length(context) == context.policies.recipe.seq_len


def test_the_contract_of_an_external_model_that_was_measured_is_known(context: FakeContext, tmp_path: Path) -> None:
    measured = GateMeasured(evidence=replace(GOOD, comparison=None), engine_contract=CONTRACT)
    answers: dict[str, Any] = {
        Stage.PULL: Done(result=test_stages.PULLED),
        Stage.AUDIT: Done(result=test_stages.FIT),
        Stage.TRAIN: Done(result=test_stages.trained_in(tmp_path)),
        Stage.GATE: Done(result=measured),
    }
    context.workers.answers.update(answers)
    run = test_stages.a_run()
    while not run.is_finished:
        run = advance(run, context).run
    assert run.outcome is Outcome.REFUSED
    assert audited_length(context) is None
    trained_for(context, tmp_path)
    assert audited_length(context) == CONTRACT.context_length
    context.slot.named = None

    assert trained_for(context, tmp_path).contract == CONTRACT


def test_a_pause_holds_a_forced_promotion_and_no_rollback(context: FakeContext, tmp_path: Path) -> None:
    context.store.set_pause(Pause(by="ada", reason="fees change", since=NOW))
    context.workers.answers.update(
        {
            Stage.PULL: Done(result=test_stages.PULLED),
            Stage.AUDIT: Done(result=test_stages.FIT),
            Stage.TRAIN: Done(result=test_stages.trained_in(tmp_path)),
            Stage.GATE: Done(result=GateMeasured(evidence=GOOD)),
        }
    )
    run = test_stages.to_the_end(context)[-1].run
    promote = replace(a_slot_request(run_id=run.run_id), kind=SlotRequestKind.PROMOTE, request_id="promote_1")
    refused = carried_out(context, promote)
    assert (refused.state, run.outcome) == (SlotRequestState.REFUSED, Outcome.SKIPPED)
    assert "`retrain-worker resume`" in refused.answer
    assert carried_out(context).state is SlotRequestState.DONE

    context.store.set_pause(None)
    promoted = carried_out(context, replace(promote, request_id="promote_2"))
    assert promoted.state is SlotRequestState.DONE
    assert promoted.arguments.opened_run_id is not None


def test_a_named_version_is_what_returns(context: FakeContext) -> None:
    assert carried_out(context, a_slot_request(version="a")).state is SlotRequestState.DONE
    assert context.slot.named == Path(A)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"version": "patchtst_v20260102_000000"}, "is in the slot already"),
        ({"version": "patchtst_v20990101_000000"}, "was never in the slot; known versions: patchtst_v20260102_000000"),
        ({"only_from": "/engine/other.pth"}, "no longer /engine/other.pth"),
    ],
)
def test_what_cannot_be_done_is_refused_and_never_called_done(
    context: FakeContext,
    arguments: dict[str, str],
    told: str,
) -> None:
    request = carried_out(context, a_slot_request(**arguments))

    assert request.state is SlotRequestState.REFUSED
    assert request.answer.startswith("nothing was changed: ")
    assert told in request.answer
    assert (context.slot.named, types_of(context), context.verifier.requests) == (Path(C), [], [])


@pytest.mark.parametrize("found", [None, "b" * 64])
def test_a_deleted_or_changed_file_never_returns_to_the_slot(context: FakeContext, found: Any) -> None:
    context.slot.hashes[B] = found
    request = carried_out(context)

    assert (request.state, context.slot.named, types_of(context)) == (SlotRequestState.REFUSED, Path(C), [])


def test_a_model_that_does_not_reproduce_its_canary_never_returns_to_the_slot(context: FakeContext) -> None:
    context.verifier.answers["VERIFY"] = Broken(error=ArtifactError("its canary differs by 0.3"))
    request = carried_out(context)

    assert (request.state, context.slot.named) == (SlotRequestState.REFUSED, Path(C))
    assert "canary differs" in request.answer


def test_an_engine_out_of_shadow_mode_is_left_alone(context: FakeContext) -> None:
    context.slot.shadow_only = False
    request = carried_out(context)

    assert (request.state, context.slot.named) == (SlotRequestState.REFUSED, Path(C))
    assert "ALLOW_LIVE_SWAP" in request.answer


def test_while_the_child_verifies_nothing_is_stored_and_it_is_said(context: FakeContext) -> None:
    context.verifier.answers["VERIFY"] = Working(message="loading")
    step = carry_out(a_slot_request(), context)

    assert step.message.endswith("is being verified")
    assert (step.is_move, context.store.slot_requests) == (False, [])


@pytest.mark.parametrize("lost_after", range(1, 5))
def test_a_crash_between_any_two_steps_changes_nothing_of_the_end(context: FakeContext, lost_after: int) -> None:
    context.store.record_slot_request(a_slot_request())
    carried_out(context, limit=lost_after)
    left = context.store.waiting_slot_request()
    request = carried_out(context, left) if left else context.store.request(a_slot_request().request_id)

    assert (request.state, context.slot.named, types_of(context)) == (
        SlotRequestState.DONE,
        Path(B),
        [EventType.ROLLED_BACK],
    )


def test_a_crash_after_the_line_was_replaced_and_before_it_was_stored_is_found_in_the_env_file(
    context: FakeContext,
) -> None:
    context.store.record_slot_request(a_slot_request())
    request = carried_out(context, limit=1)
    context.slot.named = Path(B)

    assert carried_out(context, request).state is SlotRequestState.DONE
    assert types_of(context) == [EventType.ROLLED_BACK]


def test_a_person_who_edits_the_line_meanwhile_is_respected(context: FakeContext) -> None:
    request = carried_out(context, limit=1)
    context.slot.named = Path("/engine/by_hand.pth")
    request = carried_out(context, request)

    assert (request.state, context.slot.named) == (SlotRequestState.REFUSED, Path("/engine/by_hand.pth"))
    assert context.store.known_deployment(request.request_id).state is DeploymentState.UNDONE


def test_a_full_disk_is_waited_for_and_said(context: FakeContext) -> None:
    context.slot.fault = DiskFullError("no space")
    request = carried_out(context, limit=2)
    assert "tries again in 30 s" in request.answer
    context.slot.fault = None
    context.now.now = request.not_before

    assert carried_out(context, request).state is SlotRequestState.DONE


def test_a_trigger_that_cannot_be_written_never_denies_the_swap(
    context: FakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> None:
        raise SlotError("the trigger file is a directory")

    monkeypatch.setattr(context.slot, "trigger", broken)
    request = carried_out(context)

    assert (request.state, context.slot.named) == (SlotRequestState.FAILED, Path(B))
    assert "names patchtst_v20260101_000000, but: the trigger file" in request.answer
    assert types_of(context) == [EventType.ROLLED_BACK]


def test_nobody_seen_serving_the_old_model_is_said(context: FakeContext) -> None:
    lonely = replace(context, confirmations=FakeConfirmations(seen=None))
    request = a_slot_request()
    while not request.is_answered:
        request = carry_out(request, lonely).request
        lonely.now.forward(30)

    assert request.state is SlotRequestState.DONE
    assert "not confirmed: patchtst_v" in request.answer
    assert context.store.known_deployment(request.request_id).state is DeploymentState.NOT_CONFIRMED


def unconfirmed_run(context: FakeContext, tmp_path: Path, policy: Any) -> Any:
    answers: dict[str, Any] = {
        Stage.PULL: Done(result=test_stages.PULLED),
        Stage.AUDIT: Done(result=test_stages.FIT),
        Stage.TRAIN: Done(result=test_stages.trained_in(tmp_path)),
        Stage.GATE: Done(result=GateMeasured(evidence=GOOD)),
    }
    context = replace(
        context,
        workers=FakeWorkers(answers=answers),
        confirmations=FakeConfirmations(seen=None),
        policies=replace(context.policies, unconfirmed=Unconfirmed(policy)),
    )
    run = test_stages.a_run()
    for _ in range(60):
        if (request := context.store.waiting_slot_request()) is not None:
            carry_out(request, context)
        run = advance(run, context).run
        context.now.forward(30)
        if run.is_finished:
            return run
    raise AssertionError(run)


def test_unconfirmed_keep_keeps_the_model_and_says_so(context: FakeContext, tmp_path: Path) -> None:
    run = unconfirmed_run(context, tmp_path, Unconfirmed.KEEP)

    assert (run.outcome, context.slot.named.stem) == (Outcome.PROMOTED, "patchtst_v20260110_033000")
    assert run.reasons[0].startswith("not confirmed")


def test_unconfirmed_rollback_takes_the_model_back_through_the_same_order(
    context: FakeContext,
    tmp_path: Path,
) -> None:
    run = unconfirmed_run(context, tmp_path, Unconfirmed.ROLLBACK)

    assert (run.outcome, context.slot.named) == (Outcome.ROLLED_BACK, Path(C))
    assert types_of(context) == [EventType.PROMOTED, EventType.ROLLED_BACK, EventType.COMPLETED]
    assert context.store.request(f"rollback_of_{run.run_id}").requested_by == "UNCONFIRMED=rollback"
    assert run.facts.promote.confirmed is False


def test_a_model_that_cannot_be_taken_back_stays_and_both_are_said(context: FakeContext, tmp_path: Path) -> None:
    context.slot.hashes[C] = None
    run = unconfirmed_run(context, tmp_path, Unconfirmed.ROLLBACK)

    assert (run.outcome, context.slot.named.stem) == (Outcome.PROMOTED, "patchtst_v20260110_033000")
    assert "rollback failed" in run.reasons[1]


def test_a_person_who_rolls_back_while_the_confirmation_is_awaited_ends_the_run_as_rolled_back(
    context: FakeContext,
    tmp_path: Path,
) -> None:
    run, context = awaiting_confirmation(context, tmp_path)
    confirming = replace(context, confirmations=FakeConfirmations())
    assert carried_out(confirming).state is SlotRequestState.DONE
    run = advance(run, context).run

    assert (run.outcome, context.slot.named) == (Outcome.ROLLED_BACK, Path(C))
    assert "rolled back: ada: it loses" in run.reasons
