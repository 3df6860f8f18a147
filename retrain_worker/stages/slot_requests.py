"""Slot requests: a stored rollback or forced promotion is carried out, one step at a time.

The model to return to is looked up in the history of the slot, and verified in a worker process (hash, safe load,
canary) before the swap (stages/swap.py) begins. Every step is stored before the next one; recovery after a crash is:
carry out the request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from retrain_worker.domain import deployments, events, forced_promotion
from retrain_worker.domain.deployments import Target
from retrain_worker.domain.events import Event
from retrain_worker.domain.facts import ForcedPromotion, GateFacts, RunFacts, TrainFacts
from retrain_worker.domain.host_names import command
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Run, Stage
from retrain_worker.domain.slot_request import SlotRequest, SlotRequestArguments, SlotRequestKind, SlotRequestState
from retrain_worker.domain.worker_protocol import Broken, OneOffTask, VerifyRequest, VerifyResult, Working
from retrain_worker.errors import (
    ArtifactError,
    RefuseError,
    RetrainError,
    RetryLaterError,
    SlotError,
    StoredValueError,
)
from retrain_worker.stages import external_change, swap
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.rolled_back_run import rolled_back_run


@dataclass(frozen=True, kw_only=True)
class SlotRequestStep:
    """One step of a request; `request` is the same object when nothing changed."""

    request: SlotRequest
    message: str
    deployment: Deployment | None = None
    events: tuple[Event, ...] = ()
    #: a run that the request has opened, or rolled back
    run: Run | None = None
    #: whether it was stored: something has changed
    is_move: bool = False


def roll_back_id_of(run: Run) -> str:
    """The id of the one request that takes the promotion of `run` back."""
    return f"rollback_of_{run.run_id}"


def rollback_request_of(
    run: Run, deployment: Deployment, *, requested_by: str, reason: str, at: datetime
) -> SlotRequest:
    """The request that takes the promotion of `run` back, as long as the env line names its model.

    Without a model before it, the slot is emptied.
    """
    return SlotRequest(
        request_id=roll_back_id_of(run),
        kind=SlotRequestKind.ROLLBACK,
        requested_by=requested_by,
        reason=reason,
        created_at=at,
        updated_at=at,
        answer="waiting for its turn",
        arguments=SlotRequestArguments(
            only_from=deployment.model_path, run_id=run.run_id, to_none=not deployment.previous_model_path
        ),
    )


def carry_out(request: SlotRequest, context: StageContext) -> SlotRequestStep:
    """One step of a request that is not answered. What changed is stored before the step is returned."""
    now = context.now()
    if request.not_before is not None and now < request.not_before:
        return SlotRequestStep(request=request, message=request.answer)
    try:
        if request.arguments.unreadable:
            raise StoredValueError(
                f"its stored arguments cannot be read: {request.arguments.unreadable}", remedy="request it again"
            )
        step = _promote(request, context) if request.kind is SlotRequestKind.PROMOTE else _step(request, context)
    except RetryLaterError as error:
        step = _later(request, error, context)
    except RetrainError as error:
        step = _given_up(request, str(error), context)
    return _stored(request, step, context)


def abandon(request: SlotRequest, reason: str, context: StageContext) -> SlotRequestStep:
    """Give the request up, stored. The env file decides what has become of the slot."""
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
    answer = f"{swap.env_line(left)}, but: {reason}"
    step = _answered(request, SlotRequestState.FAILED, answer, context, deployment=left)
    return _swapped(step, left, context) if deployment.state is DeploymentState.INTENDED else step


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
            answer = f"nothing was changed: {moved.confirmation}"
            return _answered(request, SlotRequestState.REFUSED, answer, context, deployment=moved)
        case DeploymentState.CONFIRMED | DeploymentState.NOT_CONFIRMED | DeploymentState.NOT_ASKED:
            return _answered(request, SlotRequestState.DONE, _result(moved), context, deployment=moved)
        case DeploymentState.SWAPPED:
            return _swapped(_moving(request, step.message, context, deployment=moved), moved, context)
        case _:
            return _moving(request, step.message, context, deployment=moved)


def _promote(request: SlotRequest, context: StageContext) -> SlotRequestStep:
    """A run is opened at the promotion, once its candidate's file is verified. The request is answered with that.

    Raises RefuseError when that is not allowed, or while another run is at work.
    """
    wanted = request.arguments
    judged = context.store.run(wanted.run_id)
    if judged is None:
        raise RefuseError(f"there is no run {wanted.run_id}", remedy=f"`{command()} history` lists them")
    if why := forced_promotion.refusal(judged, is_forced=wanted.is_forced, accepted_contract=wanted.accepted_contract):
        raise RefuseError(why)
    if (working := context.store.unfinished_run()) is not None:
        raise RefuseError(f"run {working.run_id} is at {working.stage}", remedy="request it again when it has ended")
    if pause := context.pause:
        raise RefuseError(pause.message, remedy=f"`{command()} resume` ends the pause")
    trained, current = judged.facts.require(TrainFacts), context.slot.current_path()
    if current is not None and current.stem == trained.version:
        raise RefuseError(f"{trained.version} is in the slot already")
    target = Target(version=trained.version, model_path=trained.candidate_path, sha256=trained.sha256)
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
    opened = replace(step.request, arguments=replace(wanted, opened_run_id=run.run_id))
    return replace(step, request=opened, run=run)


def _forced_run(request: SlotRequest, judged: Run, context: StageContext) -> Run:
    """The same candidate and the same verdict, and who replaced the results that are missing in it."""
    at, current = context.now(), context.slot.current_path()
    trained, gated = judged.facts.require(TrainFacts), judged.facts.require(GateFacts)
    while context.store.run(run_id := f"{at.astimezone(UTC):%Y%m%d_%H%M%S}") is not None:
        at += timedelta(seconds=1)
    forced = ForcedPromotion(
        by=request.requested_by,
        reason=request.reason,
        of_run=judged.run_id,
        undecided=forced_promotion.undecided_in(judged),
        accepted_contract=request.arguments.accepted_contract or None,
    )
    return Run(
        run_id=run_id,
        requested_by=request.requested_by,
        request_reason=f"forced: {request.reason}",
        created_at=context.now(),
        updated_at=context.now(),
        stage=Stage.PROMOTE,
        facts=RunFacts(
            train=replace(trained, incumbent_path=str(current) if current else None),
            gate=replace(gated, alpha_spending=None, forced=forced),
        ),
    )


def _intend(request: SlotRequest, context: StageContext) -> SlotRequestStep:
    named = _named(request, context)
    if external_change.unrecorded(context) is not None:
        # the rollback target depends on the history, which lacks that change until two checks of the slot agree
        return SlotRequestStep(
            request=request,
            message=f"{request.request_id}: PATCHTST_MODEL_PATH was changed externally, which is recorded first",
        )
    if request.arguments.to_none:
        return _withdraw(request, named, context)
    target = _target(request, named, context)
    verified = _verified(request, target, context)
    if isinstance(verified, SlotRequestStep):
        return verified
    context.check_signature(context.slot.located(Path(target.model_path)), verified.sha256)
    context.slot.restore(Path(target.model_path), expected_sha256=verified.sha256)
    deployment = swap.intended(
        deployment_id=request.request_id,
        run_id=_rolled_back_id(request, named, context),
        kind=DeploymentKind.ROLLBACK,
        version=target.version,
        model=Path(target.model_path),
        sha256=verified.sha256,
        requested_by=request.requested_by,
        reason=request.reason,
        context=context,
    )
    canary = "no canary" if verified.canary_error is None else f"canary within {verified.canary_error:.1g}"
    return _moving(request, f"{target.version} verified: {canary}", context, deployment=deployment)


def _withdraw(request: SlotRequest, named: str | None, context: StageContext) -> SlotRequestStep:
    """No model returns: the env line is removed, and the engine is as it was before the first model."""
    if named is None:
        raise SlotError("names no model already", where="PATCHTST_MODEL_PATH")
    deployment = swap.intended(
        deployment_id=request.request_id,
        run_id=_rolled_back_id(request, named, context),
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
    """What the env line names. Raises SlotError when it is not what the request was made for."""
    current = context.slot.current_path()
    found, only_from = str(current) if current else None, request.arguments.only_from
    if only_from not in (None, found):
        raise SlotError(
            f"names {found or 'nothing'} now, no longer {only_from}",
            where="PATCHTST_MODEL_PATH",
            remedy=f"see `{command()} deployments`, and request it again if it is still wanted",
        )
    return found


def _target(request: SlotRequest, named: str | None, context: StageContext) -> Target:
    """The model that is to return. Raises SlotError when there is none, or when it is in the slot already."""
    history, version = context.store.reached_deployments(), request.arguments.version
    target = (
        deployments.known_version(history, version)
        if version
        else deployments.roll_back_target(
            history, named, is_blocked=lambda sha256: context.store.blocked(sha256) is not None
        )
    )
    if target is None and version:
        known = ", ".join(deployments.known_versions(history)[:10]) or "none"
        raise SlotError(f"{version} was never in the slot; known versions: {known}")
    if target is None:
        empty = f"; `{command()} rollback --to-none` empties the slot" * bool(named)
        remedy = f"name a version that `{command()} deployments` lists (`rollback VERSION`){empty}"
        raise SlotError("no earlier model is known", remedy=remedy)
    if target.model_path == named:
        raise SlotError(f"{target.version} is in the slot already", where="PATCHTST_MODEL_PATH")
    return target


def _verified(request: SlotRequest, target: Target, context: StageContext) -> SlotRequestStep | VerifyResult:
    """The worker's finding on the target's file; a step that waits for it. Raises the worker's error."""
    path = context.slot.located(Path(target.model_path))
    if str(path) == target.model_path:
        context.slot.check_ready(path, expected_sha256=target.sha256)
    answer = context.verifier.result_of(
        OneOffTask.VERIFY,
        context.folders.slot_request_dir(request.request_id),
        VerifyRequest(
            request_id=request.request_id,
            model_path=str(path),
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


def _rolled_back_id(request: SlotRequest, named: str | None, context: StageContext) -> str | None:
    """The run whose model leaves the slot; None for a model of another origin."""
    promotion = deployments.promotion_of(context.store.reached_deployments(), named)
    return request.arguments.run_id or (promotion.run_id if promotion else None)


def _swapped(step: SlotRequestStep, deployment: Deployment, context: StageContext) -> SlotRequestStep:
    """The step with what follows from the new env line: the event, and the end of the run that is rolled back."""
    run = context.store.run(deployment.run_id)
    event = events.rolled_back(
        deployment,
        shadow_only=context.slot.is_shadow_only(),
        at=context.now(),
        models_url=context.policies.models_url,
        probation=run.facts.probation if run else None,
    )
    raised = events.with_aliases(event) if context.policies.event_aliases else (event,)
    return replace(step, events=raised, run=rolled_back_run(deployment, context))


def _result(deployment: Deployment) -> str:
    before = f" (was {deployment.previous_version})" if deployment.previous_version else ""
    then = swap.result_of(deployment) if deployment.model_path else swap.engine_restart(deployment)
    return f"{swap.env_line(deployment)}{before}; {then}"


def _later(request: SlotRequest, error: RetryLaterError, context: StageContext) -> SlotRequestStep:
    if request.num_retries >= context.policies.max_retries:
        return _given_up(request, str(error), context)
    wait = timedelta(seconds=context.policies.retry_seconds * 2**request.num_retries)
    answer = f"tries again in {wait.total_seconds():.0f} s: {error}"
    waiting = replace(request, num_retries=request.num_retries + 1, not_before=context.now() + wait, answer=answer)
    return SlotRequestStep(request=waiting, message=f"{request.request_id} {answer}")


def _moving(
    request: SlotRequest,
    message: str,
    context: StageContext,
    *,
    deployment: Deployment,
) -> SlotRequestStep:
    return SlotRequestStep(
        request=replace(request, answer=message, updated_at=context.now(), num_retries=0, not_before=None),
        message=f"{request.request_id}: {message}",
        deployment=deployment,
    )


def _answered(
    request: SlotRequest,
    state: SlotRequestState,
    answer: str,
    context: StageContext,
    *,
    deployment: Deployment | None = None,
    raised: tuple[Event, ...] = (),
) -> SlotRequestStep:
    return SlotRequestStep(
        request=request.answered(state, answer, at=context.now()),
        message=f"{request.request_id} {state}: {answer}",
        deployment=deployment,
        events=raised,
    )
