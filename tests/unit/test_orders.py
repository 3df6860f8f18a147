"""An order is carried out by the same swap as a promotion: verified, told in the end, healed after every crash."""

from dataclasses import replace
from pathlib import Path

import pytest

from retrain_worker.domain.events import EventType
from retrain_worker.domain.handoff import Broken, Working
from retrain_worker.domain.lifecycle import Deployment, DeploymentState, Outcome, Stage
from retrain_worker.domain.orders import Order, OrderKind, OrderState
from retrain_worker.errors import ArtifactError, DiskFullError, SlotError
from retrain_worker.stages import hand_edit
from retrain_worker.stages.advance import advance
from retrain_worker.stages.orders import abandon, carry_out
from tests.fakes import NOW, FakeChildren, FakeClock, FakeConfirmations, FakeSlot, fake_world
from tests.unit import test_stages

A, B, C = "/engine/a.pth", "/engine/patchtst_v20260101_000000.pth", "/engine/patchtst_v20260102_000000.pth"


def promoted(model, before, *, state=DeploymentState.CONFIRMED, kind="promote", confirmation="seen", sha256="a" * 64):
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
def world(tmp_path):
    world = fake_world(tmp_path, clock=FakeClock(), slot=FakeSlot(named=Path(C)))
    for deployment in (promoted(B, A), promoted(C, B)):
        world.store.record_deployment(deployment)
    return world


def an_order(**arguments) -> Order:
    return Order(
        order_id="rollback_20260110_033000",
        kind=OrderKind.ROLLBACK,
        requested_by="ada",
        reason="it loses",
        created_at=NOW,
        updated_at=NOW,
        arguments=arguments,
    )


def carried_out(world, order=None, limit=20):
    order = order or an_order()
    while not order.is_answered and limit:
        order, limit = carry_out(order, world).order, limit - 1
    return order


def types_of(world):
    return [event.event_type for event in world.store.events]


def test_a_roll_back_returns_to_the_previous_model_verified_told_and_confirmed(world):
    order = carried_out(world)

    assert (order.state, world.slot.named) == (OrderState.DONE, Path(B))
    deployment = world.store.deployments[order.order_id]
    assert (deployment.kind, deployment.state) == ("rollback", DeploymentState.CONFIRMED)
    assert (deployment.requested_by, deployment.reason) == ("ada", "it loses")
    assert (deployment.model_path, deployment.previous_model_path) == (B, C)
    assert [request.model_path for _, request in world.verifier.requests] == [B]
    assert types_of(world) == [EventType.ROLLED_BACK]
    assert world.slot.triggered == [Path(B)]
    assert "patchtst_v20260101_000000, instead of patchtst_v20260102_000000" in order.answer


def test_a_hand_edit_that_nobody_has_recorded_yet_is_recorded_first_and_then_taken_back(world):
    world.slot.named = Path("/engine/by_hand.pth")
    step = carry_out(an_order(only_from="/engine/by_hand.pth"), world)
    assert "is recorded first" in step.sentence
    assert not step.is_move

    world.store.record_deployment(hand_edit.unrecorded(world))
    order = carried_out(world, step.order)
    assert (order.state, world.slot.named) == (OrderState.DONE, Path(C))


def test_a_second_roll_back_goes_further_back_and_never_to_what_was_taken_back(world):
    carried_out(world)
    order = carried_out(world, replace(an_order(), order_id="rollback_20260110_033500"))

    assert (order.state, world.slot.named) == (OrderState.DONE, Path(A))
    third = carried_out(world, replace(an_order(), order_id="rollback_20260110_034000"))
    assert third.state is OrderState.REFUSED
    assert "no earlier model" in third.answer


def test_where_nothing_was_before_a_person_can_take_the_model_out(world):
    world.store.deployments.clear()
    world.store.reached.clear()
    world.slot.named = Path(B)
    world.store.record_deployment(replace(promoted(B, A), previous_model_path=None, previous_version=None))
    refused = carried_out(world)
    assert (refused.state, world.slot.named) == (OrderState.REFUSED, Path(B))
    assert "--to-none" in refused.answer

    order = carried_out(world, replace(an_order(to_none="yes", only_from=B), order_id="rollback_20260110_033500"))
    assert (order.state, world.slot.named) == (OrderState.DONE, None)
    assert order.answer == (
        f"PATCHTST_MODEL_PATH names no model, instead of {Path(B).stem}; "
        "no model is named, so nobody can be seen serving it"
    )
    assert world.slot.triggered == [None]
    event = world.store.events[-1]
    assert (event.event_type, event.payload["model_path"]) == (EventType.ROLLED_BACK, "")
    assert (event.payload["old_version"], event.payload["new_version"]) == (Path(B).stem, "none")
    again = carried_out(world, replace(an_order(to_none="yes"), order_id="rollback_20260110_034000"))
    assert again.state is OrderState.REFUSED


@pytest.mark.parametrize("named", [None, Path(B)])
def test_a_withdrawal_that_died_at_the_line_is_finished_or_given_up(world, named):
    order = carry_out(an_order(to_none="yes"), world).order
    world.slot.named = named
    ended = abandon(order, "the disk is gone", world).order

    assert ended.state is (OrderState.FAILED if named is None else OrderState.REFUSED)
    assert len(types_of(world)) == (named is None)


def test_an_unconfirmed_first_model_leaves_the_slot_again(world, tmp_path):
    world.slot.named = None
    run = unconfirmed_run(world, tmp_path, "rollback")

    assert (run.outcome, world.slot.named) == (Outcome.ROLLED_BACK, None)
    assert types_of(world)[-2:] == [EventType.ROLLED_BACK, EventType.COMPLETED]


def test_a_model_that_was_taken_out_is_no_target_and_what_stood_before_it_is(world):
    carried_out(world, an_order(to_none="yes"))
    world.store.record_deployment(
        replace(promoted("/engine/patchtst_v20260103_000000.pth", A), previous_model_path=None, previous_version=None)
    )
    world.slot.named = Path("/engine/patchtst_v20260103_000000.pth")
    carried_out(world, replace(an_order(), order_id="rollback_20260110_033500"))

    assert world.slot.named == Path(B)


def awaiting_confirmation(world, tmp_path):
    """A run whose model stands in the slot, and that nobody has been seen serving yet; and its world."""
    answers = {
        Stage.PULL: test_stages.Done(result=test_stages.PULLED),
        Stage.AUDIT: test_stages.Done(result=test_stages.FIT),
        Stage.TRAIN: test_stages.Done(result=test_stages.trained_in(tmp_path)),
        Stage.GATE: test_stages.Done(result=test_stages.GateMeasured(evidence=test_stages.GOOD)),
    }
    world = replace(world, children=FakeChildren(answers=answers), confirmations=FakeConfirmations(seen=None))
    run = test_stages.a_run()
    while run.run_id not in world.store.deployments or world.store.deployments[run.run_id].state != "ANNOUNCED":
        run = advance(run, world).run
    return run, world


def test_a_person_who_takes_the_model_out_while_the_confirmation_is_awaited_ends_the_run_as_rolled_back(
    world, tmp_path
):
    world.slot.named = None
    run, world = awaiting_confirmation(world, tmp_path)
    assert carried_out(world, an_order(to_none="yes")).state is OrderState.DONE
    run = advance(run, world).run

    assert (run.outcome, world.slot.named) == (Outcome.ROLLED_BACK, None)


def test_a_named_version_is_what_returns(world):
    assert carried_out(world, an_order(version="a")).state is OrderState.DONE
    assert world.slot.named == Path(A)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"version": "patchtst_v20260102_000000"}, "is in the slot already"),
        ({"version": "patchtst_v20990101_000000"}, "never stood in the slot; known are patchtst_v20260102_000000"),
        ({"only_from": "/engine/other.pth"}, "no longer /engine/other.pth"),
    ],
)
def test_what_cannot_be_done_is_refused_and_never_called_done(world, arguments, told):
    order = carried_out(world, an_order(**arguments))

    assert order.state is OrderState.REFUSED
    assert order.answer.startswith("nothing was changed: ")
    assert told in order.answer
    assert (world.slot.named, types_of(world), world.verifier.requests) == (Path(C), [], [])


@pytest.mark.parametrize("found", [None, "b" * 64])
def test_a_deleted_or_changed_file_never_returns_to_the_slot(world, found):
    world.slot.hashes[B] = found
    order = carried_out(world)

    assert (order.state, world.slot.named, types_of(world)) == (OrderState.REFUSED, Path(C), [])


def test_a_model_that_does_not_reproduce_its_canary_never_returns_to_the_slot(world):
    world.verifier.answers["VERIFY"] = Broken(error=ArtifactError("its canary differs by 0.3"))
    order = carried_out(world)

    assert (order.state, world.slot.named) == (OrderState.REFUSED, Path(C))
    assert "canary differs" in order.answer


def test_an_engine_out_of_shadow_mode_is_left_alone(world):
    world.slot.shadow_only = False
    order = carried_out(world)

    assert (order.state, world.slot.named) == (OrderState.REFUSED, Path(C))
    assert "ALLOW_LIVE_SWAP" in order.answer


def test_while_the_child_verifies_nothing_is_stored_and_it_is_said(world):
    world.verifier.answers["VERIFY"] = Working(sentence="loading")
    step = carry_out(an_order(), world)

    assert step.sentence.endswith("is being verified")
    assert (step.is_move, world.store.orders) == (False, {})


@pytest.mark.parametrize("lost_after", range(1, 5))
def test_a_crash_between_any_two_steps_changes_nothing_of_the_end(world, lost_after):
    world.store.record_order(an_order())
    carried_out(world, limit=lost_after)
    left = world.store.waiting_order()
    order = carried_out(world, left) if left else world.store.order(an_order().order_id)

    assert (order.state, world.slot.named, types_of(world)) == (OrderState.DONE, Path(B), [EventType.ROLLED_BACK])


def test_a_crash_after_the_line_was_replaced_and_before_it_was_stored_is_found_in_the_env_file(world):
    world.store.record_order(an_order())
    order = carried_out(world, limit=1)
    world.slot.named = Path(B)

    assert carried_out(world, order).state is OrderState.DONE
    assert types_of(world) == [EventType.ROLLED_BACK]


def test_a_person_who_edits_the_line_meanwhile_is_respected(world):
    order = carried_out(world, limit=1)
    world.slot.named = Path("/engine/by_hand.pth")
    order = carried_out(world, order)

    assert (order.state, world.slot.named) == (OrderState.REFUSED, Path("/engine/by_hand.pth"))
    assert world.store.deployments[order.order_id].state is DeploymentState.UNDONE


def test_a_full_disk_is_waited_for_and_said(world):
    world.slot.fault = DiskFullError("no space")
    order = carried_out(world, limit=2)
    assert "tries again in 30 s" in order.answer
    world.slot.fault = None
    world.now.now = order.not_before

    assert carried_out(world, order).state is OrderState.DONE


def test_a_trigger_that_cannot_be_written_never_denies_the_swap(world):
    def broken(_):
        raise SlotError("the trigger file is a directory")

    world.slot.trigger = broken
    order = carried_out(world)

    assert (order.state, world.slot.named) == (OrderState.FAILED, Path(B))
    assert "names patchtst_v20260101_000000, but: the trigger file" in order.answer
    assert types_of(world) == [EventType.ROLLED_BACK]


def test_nobody_seen_serving_the_old_model_is_said(world):
    lonely = replace(world, confirmations=FakeConfirmations(seen=None))
    order = an_order()
    while not order.is_answered:
        order = carry_out(order, lonely).order
        lonely.now.forward(30)

    assert order.state is OrderState.DONE
    assert "not confirmed: nobody was seen" in order.answer
    assert world.store.deployments[order.order_id].state is DeploymentState.NOT_CONFIRMED


def unconfirmed_run(world, tmp_path, policy):
    answers = {
        Stage.PULL: test_stages.Done(result=test_stages.PULLED),
        Stage.AUDIT: test_stages.Done(result=test_stages.FIT),
        Stage.TRAIN: test_stages.Done(result=test_stages.trained_in(tmp_path)),
        Stage.GATE: test_stages.Done(result=test_stages.GateMeasured(evidence=test_stages.GOOD)),
    }
    world = replace(
        world,
        children=FakeChildren(answers=answers),
        confirmations=FakeConfirmations(seen=None),
        policies=replace(world.policies, unconfirmed=policy),
    )
    run = test_stages.a_run()
    for _ in range(60):
        if (order := world.store.waiting_order()) is not None:
            carry_out(order, world)
        run = advance(run, world).run
        world.now.forward(30)
        if run.is_finished:
            return run
    raise AssertionError(run)


def test_unconfirmed_keep_keeps_the_model_and_says_so(world, tmp_path):
    run = unconfirmed_run(world, tmp_path, "keep")

    assert (run.outcome, world.slot.named.stem) == (Outcome.PROMOTED, "patchtst_v20260110_033000")
    assert run.reasons[0].startswith("not confirmed")


def test_unconfirmed_rollback_takes_the_model_back_through_the_same_order(world, tmp_path):
    run = unconfirmed_run(world, tmp_path, "rollback")

    assert (run.outcome, world.slot.named) == (Outcome.ROLLED_BACK, Path(C))
    assert types_of(world) == [EventType.PROMOTED, EventType.ROLLED_BACK, EventType.COMPLETED]
    assert world.store.order(f"rollback_of_{run.run_id}").requested_by == "UNCONFIRMED=rollback"
    assert run.fact(Stage.PROMOTE)["confirmed"] is False


def test_a_model_that_cannot_be_taken_back_stays_and_both_are_said(world, tmp_path):
    world.slot.hashes[C] = None
    run = unconfirmed_run(world, tmp_path, "rollback")

    assert (run.outcome, world.slot.named.stem) == (Outcome.PROMOTED, "patchtst_v20260110_033000")
    assert "could not be taken back" in run.reasons[1]


def test_a_person_who_rolls_back_while_the_confirmation_is_awaited_ends_the_run_as_rolled_back(world, tmp_path):
    run, world = awaiting_confirmation(world, tmp_path)
    confirming = replace(world, confirmations=FakeConfirmations())
    assert carried_out(confirming).state is OrderState.DONE
    run = advance(run, world).run

    assert (run.outcome, world.slot.named) == (Outcome.ROLLED_BACK, Path(C))
    assert "taken back: ada: it loses" in run.reasons
