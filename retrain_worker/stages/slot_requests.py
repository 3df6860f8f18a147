"""Orders: a roll-back that a person or a bad trial has written down is carried out, one step per tick.

The model to return to is looked up in the history of the slot, and verified in a worker process (hash, safe load,
canary) before the swap (stages/swap.py) begins. Every step is stored before the next one; recovery after a crash is:
carry out the order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from retrain_worker.domain import deployments, events, forced_promotion
from retrain_worker.domain.deployments import Target
from retrain_worker.domain.events import Event
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Run, Stage
from retrain_worker.domain.probation import evidence_of
from retrain_worker.domain.slot_request import SlotRequest, SlotRequestKind, SlotRequestState
from retrain_worker.domain.worker_protocol import Broken, OneOffTask, VerifyRequest, VerifyResult, Working
from retrain_worker.errors import ArtifactError, RefuseError, RetrainError, RetryLaterError, SlotError
from retrain_worker.stages import external_change, swap
from retrain_worker.stages.ports import StageContext


@dataclass(frozen=True, kw_only=True)
class SlotRequestStep:
    """One step of an order; `order` is the same object when nothing changed."""

    request: SlotRequest
    message: str
    deployment: Deployment | None = None
    events: tuple[Event, ...] = ()
    #: a run that the order has opened
    run: Run | None = None
    #: whether it was stored: something has moved, nobody only waited
    is_move: bool = False


def roll_back_id_of(run: Run) -> str:
    """The id of the one order that takes the promotion of `run` back."""
    return f"rollback_of_{run.run_id}"


def rollback_request_of(
    run: Run, deployment: Deployment, *, requested_by: str, reason: str, at: datetime
) -> SlotRequest:
    """The order that takes the promotion of `run` back, as long as the env line names its model.

    Where no model was there before, none is there afterwards.
    """
    arguments = {"only_from": deployment.model_path, "run_id": run.run_id}
    if not deployment.previous_model_path:
        arguments["to_none"] = "yes"
    return SlotRequest(
        request_id=roll_back_id_of(run),
        kind=SlotRequestKind.ROLLBACK,
        requested_by=requested_by,
        reason=reason,
        created_at=at,
        updated_at=at,
        answer="waiting for its turn",
        arguments=arguments,
    )


def carry_out(request: SlotRequest, context: StageContext) -> SlotRequestStep:
    """One tick of an order that is not answered. What changed is stored before the step is returned."""
    now = context.now()
    if request.not_before is not None and now < request.not_before:
        return SlotRequestStep(request=request, message=request.answer)
    try:
        step = _promote(request, context) if request.kind is SlotRequestKind.PROMOTE else _step(request, context)
    except RetryLaterError as error:
        step = _later(request, error, context)
    except RetrainError as error:
        step = _given_up(request, str(error), context)
    return _stored(request, step, context)


def abandon(request: SlotRequest, reason: str, context: StageContext) -> SlotRequestStep:
    """Give the order up, stored. What the env file says, counts."""
    return _stored(request, _given_up(request, reason, context), context)


def _stored(before: SlotRequest, step: SlotRequestStep, context: StageContext) -> SlotRequestStep:
    if step.request is before and step.deployment is None:
        return step
    context.store.record_slot_request(step.request, deployment=step.deployment, events=step.events, run=step.run)
    if step.request.is_answered:
        context.folders.remove_slot_request_dir(before.request_id)
    return replace(step, is_move=True)


def _given_up(request: SlotRequest, reason: str, context: StageContext) -> SlotRequestStep:
    deployment = context.store.deployment(request.request_id)
    if deployment is None:
        return _answered(request, SlotRequestState.REFUSED, f"nothing was changed: {reason}", context)
    left = swap.cut_short(deployment, reason, context)
    if left.state is DeploymentState.UNDONE:
        return _answered(request, SlotRequestState.REFUSED, f"nothing was changed: {reason}", context, deployment=left)
    raised = (_event(request, left, context),) if deployment.state is DeploymentState.INTENDED else ()
    told = f"PATCHTST_MODEL_PATH names {left.version if left.model_path else 'no model'}, but: {reason}"
    return _answered(request, SlotRequestState.FAILED, told, context, deployment=left, raised=raised)


def _step(request: SlotRequest, context: StageContext) -> SlotRequestStep:
    deployment = context.store.deployment(request.request_id)
    if deployment is None:
        return _intend(request, context)
    step = swap.take_step(deployment, context)
    moved = step.deployment
    if moved is deployment and moved.state not in swap.ENDED:
        return SlotRequestStep(request=request, message=f"{request.request_id}: {step.message}")
    match moved.state:
        case DeploymentState.UNDONE:
            told = f"nothing was changed: {moved.confirmation}"
            return _answered(request, SlotRequestState.REFUSED, told, context, deployment=moved)
        case DeploymentState.CONFIRMED | DeploymentState.NOT_CONFIRMED:
            return _answered(request, SlotRequestState.DONE, _told(moved), context, deployment=moved)
        case DeploymentState.SWAPPED:
            return _moving(request, step.message, context, deployment=moved, raised=(_event(request, moved, context),))
        case _:
            return _moving(request, step.message, context, deployment=moved)


def _promote(request: SlotRequest, context: StageContext) -> SlotRequestStep:
    """A run is opened at the promotion, once its candidate's file is verified. The order is answered with that.

    Raises RefuseError when a person may not do that, or when another run is at work.
    """
    judged = context.store.run(request.arguments["run_id"])
    if judged is None:
        raise RefuseError(
            f"there is no run {request.arguments['run_id']}", remedy="`retrain-worker history` lists them"
        )
    if why := forced_promotion.refusal(
        judged,
        is_forced=request.arguments.get("force") == "yes",
        accepted_contract=request.arguments.get("accept_contract", ""),
    ):
        raise RefuseError(why)
    if (working := context.store.unfinished_run()) is not None:
        raise RefuseError(f"run {working.run_id} is at {working.stage}", remedy="order again when it has ended")
    trained, current = judged.fact(Stage.TRAIN), context.slot.current_path()
    if current is not None and current.stem == trained["version"]:
        raise RefuseError(f"{trained['version']} is in the slot already")
    target = Target(version=trained["version"], model_path=trained["candidate_path"], sha256=trained["sha256"])
    verified = _verified(request, target, context)
    if isinstance(verified, SlotRequestStep):
        return verified
    run = _forced_run(request, judged, context)
    step = _answered(
        request,
        SlotRequestState.DONE,
        f"run {run.run_id} promotes {target.version}",
        context,
        raised=(events.started(run, at=run.created_at),),
    )
    opened = replace(step.request, arguments={**request.arguments, "opened": run.run_id})
    return replace(step, request=opened, run=run)


def _forced_run(request: SlotRequest, judged: Run, context: StageContext) -> Run:
    """The same candidate and the same verdict, and who takes the place of what is missing in it."""
    at, current = context.now(), context.slot.current_path()
    while context.store.run(run_id := f"{at.astimezone(UTC):%Y%m%d_%H%M%S}") is not None:
        at += timedelta(seconds=1)
    said = {
        "by": request.requested_by,
        "reason": request.reason,
        "of_run": judged.run_id,
        "undecided": forced_promotion.undecided_in(judged),
        "accepted_contract": request.arguments.get("accept_contract"),
    }
    return Run(
        run_id=run_id,
        requested_by=request.requested_by,
        request_reason=f"forced: {request.reason}",
        created_at=context.now(),
        updated_at=context.now(),
        stage=Stage.PROMOTE,
        facts={
            "train": {**judged.fact(Stage.TRAIN), "incumbent_path": str(current) if current else None},
            "gate": {
                **{name: found for name, found in judged.fact(Stage.GATE).items() if name != "spending"},
                "forced": said,
            },
        },
    )


def _intend(request: SlotRequest, context: StageContext) -> SlotRequestStep:
    named = _named(request, context)
    if external_change.unrecorded(context) is not None:
        # what was before it is known once it is part of the history, two looks from now
        return SlotRequestStep(
            request=request,
            message=f"{request.request_id}: PATCHTST_MODEL_PATH was just changed by hand, which is recorded first",
        )
    if request.arguments.get("to_none"):
        return _withdraw(request, named, context)
    target = _target(request, named, context)
    verified = _verified(request, target, context)
    if isinstance(verified, SlotRequestStep):
        return verified
    deployment = swap.intended(
        deployment_id=request.request_id,
        run_id=request.arguments.get("run_id"),
        kind=DeploymentKind.ROLLBACK,
        version=target.version,
        model=Path(target.model_path),
        sha256=verified.sha256,
        requested_by=request.requested_by,
        reason=request.reason,
        context=context,
    )
    canary = "it has no canary" if verified.canary_error is None else f"canary within {verified.canary_error:.1g}"
    return _moving(request, f"{target.version} is verified: {canary}", context, deployment=deployment)


def _withdraw(request: SlotRequest, named: str | None, context: StageContext) -> SlotRequestStep:
    """No model returns: the line goes, and the engine is as it was before the first model."""
    if named is None:
        raise SlotError("no model is named already", where="PATCHTST_MODEL_PATH")
    deployment = swap.intended(
        deployment_id=request.request_id,
        run_id=request.arguments.get("run_id"),
        kind=DeploymentKind.ROLLBACK,
        version="none",
        model=None,
        sha256="",
        requested_by=request.requested_by,
        reason=request.reason,
        context=context,
    )
    return _moving(request, f"{deployment.previous_version} leaves the slot", context, deployment=deployment)


def _named(request: SlotRequest, context: StageContext) -> str | None:
    """What the env line names. Raises SlotError when it is not what it was when the order was given."""
    current = context.slot.current_path()
    found, only_from = str(current) if current else None, request.arguments.get("only_from")
    if only_from not in (None, found):
        raise SlotError(
            f"it names {found or 'nothing'} now, no longer {only_from}",
            where="PATCHTST_MODEL_PATH",
            remedy="look at `retrain-worker deployments`, and order again if that is still wanted",
        )
    return found


def _target(request: SlotRequest, named: str | None, context: StageContext) -> Target:
    """The model that is wanted. Raises SlotError when there is none, or when it stands in the slot already."""
    history, version = context.store.reached_deployments(), request.arguments.get("version")
    target = (
        deployments.known_version(history, version)
        if version
        else deployments.roll_back_target(
            history, named, is_blocked=lambda sha256: context.store.blocked(sha256) is not None
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


def _verified(request: SlotRequest, target: Target, context: StageContext) -> SlotRequestStep | VerifyResult:
    """The worker's finding on the target's file; a step that waits for it. Raises the worker's error."""
    context.slot.check_ready(Path(target.model_path), expected_sha256=target.sha256)
    answer = context.verifier.result_of(
        OneOffTask.VERIFY,
        context.folders.slot_request_dir(request.request_id),
        VerifyRequest(
            request_id=request.request_id,
            model_path=target.model_path,
            expected_sha256=target.sha256,
            memory_limit_bytes=context.policies.worker_memory_bytes,
        ),
    )
    if isinstance(answer, Working):
        return SlotRequestStep(request=request, message=f"{request.request_id}: {target.version} is being verified")
    if isinstance(answer, Broken):
        raise answer.error
    verified: VerifyResult = answer.result
    if target.sha256 not in (None, verified.sha256):
        raise ArtifactError(f"its sha256 is {verified.sha256}, expected {target.sha256}", where=target.model_path)
    return verified


def _event(request: SlotRequest, deployment: Deployment, context: StageContext) -> Event:
    run = context.store.run(request.arguments["run_id"]) if "run_id" in request.arguments else None
    evidence = evidence_of(run.fact(Stage.PROBATION)) if run is not None and run.fact(Stage.PROBATION) else None
    return events.rolled_back(
        deployment, shadow_only=context.slot.is_shadow_only(), at=context.now(), evidence=evidence
    )


def _told(deployment: Deployment) -> str:
    before = f", instead of {deployment.previous_version}" if deployment.previous_version else ""
    how = deployment.confirmation
    if not deployment.model_path:
        return f"PATCHTST_MODEL_PATH names no model{before}; {how}"
    sure = how if deployment.state is DeploymentState.CONFIRMED else f"not confirmed: {how}"
    return f"PATCHTST_MODEL_PATH names {deployment.version}{before}; {sure}"


def _later(request: SlotRequest, error: RetryLaterError, context: StageContext) -> SlotRequestStep:
    if request.num_retries >= context.policies.max_retries:
        return _given_up(request, str(error), context)
    wait = timedelta(seconds=context.policies.retry_seconds * 2**request.num_retries)
    told = f"tries again in {wait.total_seconds():.0f} s: {error}"
    waiting = replace(request, num_retries=request.num_retries + 1, not_before=context.now() + wait, answer=told)
    return SlotRequestStep(request=waiting, message=f"{request.request_id} {told}")


def _moving(
    request: SlotRequest,
    message: str,
    context: StageContext,
    *,
    deployment: Deployment,
    raised: tuple[Event, ...] = (),
) -> SlotRequestStep:
    return SlotRequestStep(
        request=replace(request, answer=message, updated_at=context.now(), num_retries=0, not_before=None),
        message=f"{request.request_id}: {message}",
        deployment=deployment,
        events=raised,
    )


def _answered(
    request: SlotRequest,
    state: SlotRequestState,
    told: str,
    context: StageContext,
    *,
    deployment: Deployment | None = None,
    raised: tuple[Event, ...] = (),
) -> SlotRequestStep:
    return SlotRequestStep(
        request=request.answered(state, told, at=context.now()),
        message=f"{request.request_id} {state}: {told}",
        deployment=deployment,
        events=raised,
    )
