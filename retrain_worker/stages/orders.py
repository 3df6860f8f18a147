"""Orders: a roll-back that a person or a bad trial has written down is carried out, one step per tick.

The model to return to is looked up in the history of the slot, and verified in a child process (hash, safe load,
canary) before the swap (stages/swap.py) begins. Every step is stored before the next one; recovery after a crash is:
carry out the order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from retrain_worker.domain import deployments, events, forced
from retrain_worker.domain.deployments import Target
from retrain_worker.domain.events import Event
from retrain_worker.domain.handoff import Broken, Errand, VerifyRequest, VerifyResult, Working
from retrain_worker.domain.lifecycle import Deployment, DeploymentState, Run, Stage
from retrain_worker.domain.orders import Order, OrderKind, OrderState
from retrain_worker.domain.trial import evidence_of
from retrain_worker.errors import ArtifactError, RefuseError, RetrainError, RetryLaterError, SlotError
from retrain_worker.stages import hand_edit, swap
from retrain_worker.stages.ports import World


@dataclass(frozen=True, kw_only=True)
class OrderStep:
    """One step of an order; `order` is the same object when nothing changed."""

    order: Order
    sentence: str
    deployment: Deployment | None = None
    events: tuple[Event, ...] = ()
    #: a run that the order has opened
    run: Run | None = None
    #: whether it was stored: something has moved, nobody only waited
    is_move: bool = False


def roll_back_id_of(run: Run) -> str:
    """The id of the one order that takes the promotion of `run` back."""
    return f"rollback_of_{run.run_id}"


def order_of_roll_back(run: Run, deployment: Deployment, *, requested_by: str, reason: str, at: datetime) -> Order:
    """The order that takes the promotion of `run` back, as long as the env line names its model.

    Where no model was there before, none is there afterwards.
    """
    arguments = {"only_from": deployment.model_path, "run_id": run.run_id}
    if not deployment.previous_model_path:
        arguments["to_none"] = "yes"
    return Order(
        order_id=roll_back_id_of(run),
        kind=OrderKind.ROLLBACK,
        requested_by=requested_by,
        reason=reason,
        created_at=at,
        updated_at=at,
        answer="waiting for its turn",
        arguments=arguments,
    )


def carry_out(order: Order, world: World) -> OrderStep:
    """One tick of an order that is not answered. What changed is stored before the step is returned."""
    now = world.now()
    if order.not_before is not None and now < order.not_before:
        return OrderStep(order=order, sentence=order.answer)
    try:
        step = _promote(order, world) if order.kind is OrderKind.PROMOTE else _step(order, world)
    except RetryLaterError as error:
        step = _later(order, error, world)
    except RetrainError as error:
        step = _given_up(order, str(error), world)
    return _stored(order, step, world)


def abandon(order: Order, reason: str, world: World) -> OrderStep:
    """Give the order up, stored. What the env file says, counts."""
    return _stored(order, _given_up(order, reason, world), world)


def _stored(before: Order, step: OrderStep, world: World) -> OrderStep:
    if step.order is before and step.deployment is None:
        return step
    world.store.record_order(step.order, deployment=step.deployment, events=step.events, run=step.run)
    if step.order.is_answered:
        world.folders.remove_order_dir(before.order_id)
    return replace(step, is_move=True)


def _given_up(order: Order, reason: str, world: World) -> OrderStep:
    deployment = world.store.deployment(order.order_id)
    if deployment is None:
        return _answered(order, OrderState.REFUSED, f"nothing was changed: {reason}", world)
    left = swap.cut_short(deployment, reason, world)
    if left.state is DeploymentState.UNDONE:
        return _answered(order, OrderState.REFUSED, f"nothing was changed: {reason}", world, deployment=left)
    raised = (_event(order, left, world),) if deployment.state is DeploymentState.INTENDED else ()
    told = f"PATCHTST_MODEL_PATH names {left.version if left.model_path else 'no model'}, but: {reason}"
    return _answered(order, OrderState.FAILED, told, world, deployment=left, raised=raised)


def _step(order: Order, world: World) -> OrderStep:
    deployment = world.store.deployment(order.order_id)
    if deployment is None:
        return _intend(order, world)
    step = swap.take_step(deployment, world)
    moved = step.deployment
    if moved is deployment and moved.state not in swap.ENDED:
        return OrderStep(order=order, sentence=f"{order.order_id}: {step.sentence}")
    match moved.state:
        case DeploymentState.UNDONE:
            told = f"nothing was changed: {moved.confirmation}"
            return _answered(order, OrderState.REFUSED, told, world, deployment=moved)
        case DeploymentState.CONFIRMED | DeploymentState.NOT_CONFIRMED:
            return _answered(order, OrderState.DONE, _told(moved), world, deployment=moved)
        case DeploymentState.SWAPPED:
            return _moving(order, step.sentence, world, deployment=moved, raised=(_event(order, moved, world),))
        case _:
            return _moving(order, step.sentence, world, deployment=moved)


def _promote(order: Order, world: World) -> OrderStep:
    """A run is opened at the promotion, once its candidate's file is verified. The order is answered with that.

    Raises RefuseError when a person may not do that, or when another run is at work.
    """
    judged = world.store.run(order.arguments["run_id"])
    if judged is None:
        raise RefuseError(f"there is no run {order.arguments['run_id']}", remedy="`retrain-worker history` lists them")
    if why := forced.refusal(
        judged,
        is_forced=order.arguments.get("force") == "yes",
        accepted_contract=order.arguments.get("accept_contract", ""),
    ):
        raise RefuseError(why)
    if (working := world.store.unfinished_run()) is not None:
        raise RefuseError(f"run {working.run_id} is at {working.stage}", remedy="order again when it has ended")
    trained, current = judged.fact(Stage.TRAIN), world.slot.current_path()
    if current is not None and current.stem == trained["version"]:
        raise RefuseError(f"{trained['version']} is in the slot already")
    target = Target(version=trained["version"], model_path=trained["candidate_path"], sha256=trained["sha256"])
    verified = _verified(order, target, world)
    if isinstance(verified, OrderStep):
        return verified
    run = _forced_run(order, judged, world)
    step = _answered(
        order,
        OrderState.DONE,
        f"run {run.run_id} promotes {target.version}",
        world,
        raised=(events.started(run, at=run.created_at),),
    )
    opened = replace(step.order, arguments={**order.arguments, "opened": run.run_id})
    return replace(step, order=opened, run=run)


def _forced_run(order: Order, judged: Run, world: World) -> Run:
    """The same candidate and the same verdict, and who takes the place of what is missing in it."""
    at, current = world.now(), world.slot.current_path()
    while world.store.run(run_id := f"{at.astimezone(UTC):%Y%m%d_%H%M%S}") is not None:
        at += timedelta(seconds=1)
    said = {
        "by": order.requested_by,
        "reason": order.reason,
        "of_run": judged.run_id,
        "undecided": forced.undecided_in(judged),
        "accepted_contract": order.arguments.get("accept_contract"),
    }
    return Run(
        run_id=run_id,
        requested_by=order.requested_by,
        request_reason=f"forced: {order.reason}",
        created_at=world.now(),
        updated_at=world.now(),
        stage=Stage.PROMOTE,
        facts={
            "train": {**judged.fact(Stage.TRAIN), "incumbent_path": str(current) if current else None},
            "gate": {
                **{name: found for name, found in judged.fact(Stage.GATE).items() if name != "spending"},
                "forced": said,
            },
        },
    )


def _intend(order: Order, world: World) -> OrderStep:
    named = _named(order, world)
    if hand_edit.unrecorded(world) is not None:
        # what was before it is known once it is part of the history, two looks from now
        return OrderStep(
            order=order,
            sentence=f"{order.order_id}: PATCHTST_MODEL_PATH was just changed by hand, which is recorded first",
        )
    if order.arguments.get("to_none"):
        return _withdraw(order, named, world)
    target = _target(order, named, world)
    verified = _verified(order, target, world)
    if isinstance(verified, OrderStep):
        return verified
    deployment = swap.intended(
        deployment_id=order.order_id,
        run_id=order.arguments.get("run_id"),
        kind=deployments.ROLLBACK,
        version=target.version,
        model=Path(target.model_path),
        sha256=verified.sha256,
        requested_by=order.requested_by,
        reason=order.reason,
        world=world,
    )
    canary = "it has no canary" if verified.canary_error is None else f"canary within {verified.canary_error:.1g}"
    return _moving(order, f"{target.version} is verified: {canary}", world, deployment=deployment)


def _withdraw(order: Order, named: str | None, world: World) -> OrderStep:
    """No model returns: the line goes, and the engine is as it was before the first model."""
    if named is None:
        raise SlotError("no model is named already", where="PATCHTST_MODEL_PATH")
    deployment = swap.intended(
        deployment_id=order.order_id,
        run_id=order.arguments.get("run_id"),
        kind=deployments.ROLLBACK,
        version="none",
        model=None,
        sha256="",
        requested_by=order.requested_by,
        reason=order.reason,
        world=world,
    )
    return _moving(order, f"{deployment.previous_version} leaves the slot", world, deployment=deployment)


def _named(order: Order, world: World) -> str | None:
    """What the env line names. Raises SlotError when it is not what it was when the order was given."""
    current = world.slot.current_path()
    found, only_from = str(current) if current else None, order.arguments.get("only_from")
    if only_from not in (None, found):
        raise SlotError(
            f"it names {found or 'nothing'} now, no longer {only_from}",
            where="PATCHTST_MODEL_PATH",
            remedy="look at `retrain-worker deployments`, and order again if that is still wanted",
        )
    return found


def _target(order: Order, named: str | None, world: World) -> Target:
    """The model that is wanted. Raises SlotError when there is none, or when it stands in the slot already."""
    history, version = world.store.reached_deployments(), order.arguments.get("version")
    target = (
        deployments.known_version(history, version)
        if version
        else deployments.roll_back_target(
            history, named, is_condemned=lambda sha256: world.store.condemned(sha256) is not None
        )
    )
    if target is None and version:
        known = ", ".join(deployments.known_versions(history)[:10]) or "none"
        raise SlotError(f"{version} never stood in the slot; known are {known}")
    if target is None:
        remedy = (
            "`retrain-worker rollback --to-none` takes the model out, as before the first one"
            if named
            else ("name a version: `retrain-worker deployments` lists them")
        )
        raise SlotError("no earlier model is known that could return to the slot", remedy=remedy)
    if target.model_path == named:
        raise SlotError(f"{target.version} is in the slot already", where="PATCHTST_MODEL_PATH")
    return target


def _verified(order: Order, target: Target, world: World) -> OrderStep | VerifyResult:
    """The child's finding on the target's file; a step that waits for it. Raises the child's error."""
    world.slot.check_ready(Path(target.model_path), expected_sha256=target.sha256)
    answer = world.verifier.result_of(
        Errand.VERIFY,
        world.folders.order_dir(order.order_id),
        VerifyRequest(
            order_id=order.order_id,
            model_path=target.model_path,
            expected_sha256=target.sha256,
            memory_limit_bytes=world.policies.child_memory_bytes,
        ),
    )
    if isinstance(answer, Working):
        return OrderStep(order=order, sentence=f"{order.order_id}: {target.version} is being verified")
    if isinstance(answer, Broken):
        raise answer.error
    verified: VerifyResult = answer.result
    if target.sha256 not in (None, verified.sha256):
        raise ArtifactError(f"its sha256 is {verified.sha256}, expected {target.sha256}", where=target.model_path)
    return verified


def _event(order: Order, deployment: Deployment, world: World) -> Event:
    run = world.store.run(order.arguments["run_id"]) if "run_id" in order.arguments else None
    evidence = evidence_of(run.fact(Stage.PROBATION)) if run is not None and run.fact(Stage.PROBATION) else None
    return events.rolled_back(deployment, shadow_only=world.slot.is_shadow_only(), at=world.now(), evidence=evidence)


def _told(deployment: Deployment) -> str:
    before = f", instead of {deployment.previous_version}" if deployment.previous_version else ""
    how = deployment.confirmation
    if not deployment.model_path:
        return f"PATCHTST_MODEL_PATH names no model{before}; {how}"
    sure = how if deployment.state is DeploymentState.CONFIRMED else f"not confirmed: {how}"
    return f"PATCHTST_MODEL_PATH names {deployment.version}{before}; {sure}"


def _later(order: Order, error: RetryLaterError, world: World) -> OrderStep:
    if order.num_retries >= world.policies.max_retries:
        return _given_up(order, str(error), world)
    wait = timedelta(seconds=world.policies.retry_seconds * 2**order.num_retries)
    told = f"tries again in {wait.total_seconds():.0f} s: {error}"
    waiting = replace(order, num_retries=order.num_retries + 1, not_before=world.now() + wait, answer=told)
    return OrderStep(order=waiting, sentence=f"{order.order_id} {told}")


def _moving(
    order: Order,
    sentence: str,
    world: World,
    *,
    deployment: Deployment,
    raised: tuple[Event, ...] = (),
) -> OrderStep:
    return OrderStep(
        order=replace(order, answer=sentence, updated_at=world.now(), num_retries=0, not_before=None),
        sentence=f"{order.order_id}: {sentence}",
        deployment=deployment,
        events=raised,
    )


def _answered(
    order: Order,
    state: OrderState,
    told: str,
    world: World,
    *,
    deployment: Deployment | None = None,
    raised: tuple[Event, ...] = (),
) -> OrderStep:
    return OrderStep(
        order=order.answered(state, told, at=world.now()),
        sentence=f"{order.order_id} {state}: {told}",
        deployment=deployment,
        events=raised,
    )
