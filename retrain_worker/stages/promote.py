"""Promote: the candidate goes into the engine's slot, and the engine is seen serving it.

Each tick takes one step, and each step is written down before the next one begins; a crash between two of them is
healed by running the stage again:

    files durable and verified → INTENDED → env line replaced → SWAPPED, with the event → trigger file → ANNOUNCED
    → seen serving, or not within the time allowed → CONFIRMED | NOT_CONFIRMED
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from retrain_worker.domain import events
from retrain_worker.domain.lifecycle import Deployment, DeploymentState, Outcome, Run, Stage
from retrain_worker.errors import SlotError
from retrain_worker.stages.ports import World
from retrain_worker.stages.step import Step


def promote(run: Run, world: World) -> Step:
    """One step of the promotion; which one, the stored deployment says."""
    deployment = world.store.deployment(run.run_id)
    if deployment is None or deployment.state is DeploymentState.UNDONE:
        return _intend(run, world)
    match deployment.state:
        case DeploymentState.INTENDED:
            return _swap(run, deployment, world)
        case DeploymentState.SWAPPED:
            return _announce(run, deployment, world)
        case _:
            return _confirm(run, deployment, world)


def cut_short(run: Run, reason: str, world: World) -> Step | Deployment | None:
    """What becomes of a promotion that cannot go on. What the env file says, counts.

    A Step that ends the run as PROMOTED, not confirmed, when the env line names the candidate: the engine takes it at
    its next start, whatever else failed. Otherwise the deployment that was given up, or None where none was begun.
    """
    deployment = world.store.deployment(run.run_id)
    if deployment is None or deployment.state is DeploymentState.UNDONE:
        return None
    if deployment.state is not DeploymentState.INTENDED:
        return _promoted(run, deployment, confirmed=False, how=reason, world=world)
    if _named(world) == deployment.model_path:
        swapped = _swapped(run, deployment, world)
        assert swapped.deployment is not None
        ended = _promoted(swapped.run, swapped.deployment, confirmed=False, how=reason, world=world)
        return replace(ended, events=swapped.events)
    return replace(deployment, state=DeploymentState.UNDONE, updated_at=world.now(), confirmation=reason)


def _named(world: World) -> str | None:
    """What the env line names; None also when it cannot be read."""
    try:
        current = world.slot.current_path()
    except SlotError:
        return None
    return str(current) if current else None


def _check_shadow(world: World) -> None:
    if not world.policies.allow_live_swap and not world.slot.is_shadow_only():
        raise SlotError("the engine is not in shadow mode, so its model is not replaced", where="PATCHTST_SHADOW_ONLY",
                        remedy="set PATCHTST_SHADOW_ONLY=true in the engine's env file, or ALLOW_LIVE_SWAP=true here")


def _gate_again(run: Run, current: str | None, world: World) -> Step:
    """Somebody pointed the engine elsewhere since the gate: the comparison was with another incumbent."""
    known = run.with_fact(Stage.TRAIN, {**run.fact(Stage.TRAIN), "incumbent_path": current})
    return Step(run=known.moved_to(Stage.GATE, at=world.now()),
                sentence=f"run {run.run_id}: PATCHTST_MODEL_PATH now names {current}; compared with that one again")


def _intend(run: Run, world: World) -> Step:
    trained = run.fact(Stage.TRAIN)
    current = world.slot.current_path()
    if (str(current) if current else None) != trained["incumbent_path"]:
        return _gate_again(run, str(current) if current else None, world)
    _check_shadow(world)
    published = world.slot.publish(Path(trained["candidate_path"]), expected_sha256=trained["sha256"])
    now = world.now()
    deployment = Deployment(
        deployment_id=run.run_id, run_id=run.run_id, kind="promote", version=trained["version"],
        model_path=str(published), sha256=trained["sha256"], size_bytes=published.stat().st_size,
        previous_version=current.stem if current else None, previous_model_path=str(current) if current else None,
        state=DeploymentState.INTENDED, created_at=now, updated_at=now, requested_by=run.requested_by,
        reason="every gate that counts has passed",
    )
    return Step(run=run, deployment=deployment,
                sentence=f"run {run.run_id}: {published.name} stands in the engine's directory, verified")


def _swap(run: Run, deployment: Deployment, world: World) -> Step:
    """The env line is replaced, unless the world has changed since the intent: it may be hours old."""
    current = world.slot.current_path()
    named = str(current) if current else None
    if named != deployment.model_path:
        if named != deployment.previous_model_path:
            undone = replace(deployment, state=DeploymentState.UNDONE, updated_at=world.now(),
                             confirmation="somebody else changed PATCHTST_MODEL_PATH")
            return replace(_gate_again(run, named, world), deployment=undone)
        _check_shadow(world)
        world.slot.point_to(Path(deployment.model_path), expected_sha256=deployment.sha256)
    return _swapped(run, deployment, world)


def _swapped(run: Run, deployment: Deployment, world: World) -> Step:
    """The env line names the candidate: say so."""
    now = world.now()
    swapped = replace(deployment, state=DeploymentState.SWAPPED, updated_at=now)
    known = run.with_fact(Stage.PROMOTE, {
        "model_path": swapped.model_path, "sha256": swapped.sha256, "version": swapped.version,
        "previous_model_path": swapped.previous_model_path, "previous_version": swapped.previous_version,
        "event_id": events.event_id_of(run.run_id, events.EventType.PROMOTED), "confirmed": None,
    })
    event = events.promoted(known, swapped, shadow_only=world.slot.is_shadow_only(), at=now)
    return Step(run=known, deployment=swapped, events=(event,),
                sentence=f"run {run.run_id}: PATCHTST_MODEL_PATH names {swapped.version}")


def _announce(run: Run, deployment: Deployment, world: World) -> Step:
    world.slot.trigger(Path(deployment.model_path))
    return Step(run=run, deployment=replace(deployment, state=DeploymentState.ANNOUNCED, updated_at=world.now()),
                sentence=f"run {run.run_id}: the engine was told to take {deployment.version}")


def _confirm(run: Run, deployment: Deployment, world: World) -> Step:
    now, policies = world.now(), world.policies
    if policies.engine_confirm == "none":
        return _promoted(run, deployment, confirmed=None, how="ENGINE_CONFIRM=none: nobody was asked", world=world)
    seen = world.confirmations.seen_serving(
        version=deployment.version, sha256=deployment.sha256, model_path=deployment.model_path,
        since=deployment.created_at)
    if seen:
        return _promoted(run, deployment, confirmed=True, how=seen, world=world)
    waited = (now - deployment.updated_at).total_seconds()
    if waited < policies.engine_confirm_seconds:
        return Step(run=run, sentence=f"run {run.run_id}: waiting to see the engine serve {deployment.version}, "
                                      f"{policies.engine_confirm_seconds - waited:.0f} s left")
    how = f"nobody was seen serving {deployment.version} within {policies.engine_confirm_seconds:.0f} s"
    return _promoted(run, deployment, confirmed=False, how=how, world=world)


def _promoted(run: Run, deployment: Deployment, *, confirmed: bool | None, how: str, world: World) -> Step:
    now = world.now()
    state = DeploymentState.CONFIRMED if confirmed else DeploymentState.NOT_CONFIRMED
    known = run.with_fact(Stage.PROMOTE, {**run.fact(Stage.PROMOTE), "confirmed": confirmed, "confirmation": how})
    said = how if confirmed else f"not confirmed: {how}"
    return Step(run=known.ended(Outcome.PROMOTED, said, at=now),
                deployment=replace(deployment, state=state, confirmation=how, updated_at=now),
                sentence=f"run {run.run_id} promoted {deployment.version}: {said}")
