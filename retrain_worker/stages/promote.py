"""PROMOTE: put the candidate into the engine's slot (stages/swap.py) and wait for the confirmation.

Each tick takes one step, and each step is stored before the next one begins; recovery from a crash between two steps is
executing the stage again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from retrain_worker.domain import deployments, events
from retrain_worker.domain.confirmation import Unconfirmed
from retrain_worker.domain.facts import ForcedPromotion, PromoteFacts, TrainFacts
from retrain_worker.domain.host_names import command
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Requester, Run, Stage
from retrain_worker.domain.slot_request import SlotRequest, SlotRequestState
from retrain_worker.stages import rollout, slot_requests, swap
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.step import Step


def promote(run: Run, context: StageContext) -> Step:
    """One step of the promotion, according to the stored deployment."""
    deployment = context.store.deployment(run.run_id)
    if (pause := context.pause) and not _is_swapped(deployment, context):
        return _paused(run, deployment, pause.message, context)
    if deployment is None or deployment.state is DeploymentState.UNDONE:
        return _intend(run, context)
    if deployment.state in swap.ENDED:
        return _taken_back(run, deployment, context)
    if (offering := rollout.step(run, deployment, context)) is not None:
        return offering
    step = swap.take_step(deployment, context)
    moved = step.deployment
    if moved is deployment:
        return Step(run=run, message=f"run {run.run_id}: {step.message}")
    return _after(run, moved, step.message, context)


def _is_swapped(deployment: Deployment | None, context: StageContext) -> bool:
    """Whether the env line names the candidate, or has named it."""
    if deployment is None or deployment.state is DeploymentState.UNDONE:
        return False
    return deployment.state is not DeploymentState.INTENDED or swap.named(context) == deployment.model_path


def _paused(run: Run, deployment: Deployment | None, why: str, context: StageContext) -> Step:
    """The run ends without the watermark: its rows are new for the first run after the pause."""
    version = run.facts.require(TrainFacts).version
    reason = f'{why}; `{command()} promote {run.run_id} --reason "…"` promotes {version} after it'
    return Step(
        run=run.ended(Outcome.SKIPPED, reason, at=context.now()),
        message=f"run {run.run_id} skipped: {reason}",
        deployment=swap.cut_short(deployment, why, context) if deployment else None,
    )


def cut_short(run: Run, reason: str, context: StageContext) -> Step | Deployment | None:
    """The end of a promotion that cannot continue. The env file decides.

    A Step that ends the run as PROMOTED, not confirmed, when the env line names the candidate; otherwise the cancelled
    deployment, or None where none was begun.
    """
    deployment = context.store.deployment(run.run_id)
    if deployment is None or deployment.state is DeploymentState.UNDONE:
        return None
    left = swap.cut_short(deployment, reason, context)
    if left.state is DeploymentState.UNDONE:
        return left
    if deployment.state is DeploymentState.INTENDED:
        swapped = _swapped(run, left, context)
        return replace(_promoted(swapped.run, left, context), events=swapped.events)
    return _promoted(run, left, context)


def _after(run: Run, moved: Deployment, message: str, context: StageContext) -> Step:
    """The step of the run for a step of the swap."""
    match moved.state:
        case DeploymentState.UNDONE:
            return replace(_gate_again(run, swap.named(context) or None, context), deployment=moved)
        case DeploymentState.SWAPPED:
            return _swapped(run, moved, context)
        case DeploymentState.ANNOUNCED:
            return Step(run=run, deployment=moved, message=f"run {run.run_id}: {message}")
        case _:
            return _ended(run, moved, context)


def _gate_again(run: Run, current: str | None, context: StageContext) -> Step:
    """Return to GATE: the incumbent has changed since the comparison.

    A forced promotion ends as REFUSED: the operator's decision was about the former incumbent.
    """
    changed = f"PATCHTST_MODEL_PATH now names {current or 'nothing'}"
    if _forced(run) is not None:
        why = f"{changed}, no longer the incumbent that the promotion was requested for"
        return Step(run=run.ended(Outcome.REFUSED, why, at=context.now()), message=f"run {run.run_id} refused: {why}")
    known = run.with_fact(replace(run.facts.require(TrainFacts), incumbent_path=current))
    return Step(
        run=known.moved_to(Stage.GATE, at=context.now()),
        message=f"run {run.run_id}: {changed}; the gates compare with that model",
    )


def _intend(run: Run, context: StageContext) -> Step:
    trained = run.facts.require(TrainFacts)
    current = context.slot.current_path()
    if (str(current) if current else None) != trained.incumbent_path:
        return _gate_again(run, str(current) if current else None, context)
    if why := context.store.blocked(trained.sha256) or _probation_in_the_way(run, context):
        return Step(run=run.ended(Outcome.REFUSED, why, at=context.now()), message=f"run {run.run_id} refused: {why}")
    swap.check_shadow(context)
    published = context.slot.publish(Path(trained.candidate_path), expected_sha256=trained.sha256)
    deployment = swap.intended(
        deployment_id=run.run_id,
        run_id=run.run_id,
        kind=DeploymentKind.PROMOTE,
        version=trained.version,
        model=published,
        sha256=trained.sha256,
        requested_by=run.requested_by,
        reason=_why(run),
        context=context,
    )
    return Step(
        run=run,
        deployment=deployment,
        message=f"run {run.run_id}: {published.name} is in the engine's directory, verified",
    )


def _why(run: Run) -> str:
    """The reason of the promotion, for the history."""
    forced = _forced(run)
    return f"forced by {forced.by}: {forced.reason}" if forced else "every gate that counts has passed"


def _forced(run: Run) -> ForcedPromotion | None:
    return run.facts.gate.forced if run.facts.gate else None


def _probation_in_the_way(run: Run, context: StageContext) -> str:
    """Why a candidate must not replace a model on probation; empty when it may.

    It may when it is significantly better than that model on the same rows, or when it is forced; otherwise each day's
    candidate would end the probation of the day before.
    """
    serving = context.store.last_deployment()
    on_probation = {other.run_id for other in context.store.waiting_runs() if other.stage is Stage.PROBATION}
    if serving is None or serving.deployment_id not in on_probation or _forced(run) is not None:
        return ""
    judged = run.facts.shadow or run.facts.gate
    low = judged.comparison.log_loss_gain_low if judged and judged.comparison else None
    if low is not None and low > 0:
        return ""
    return (
        f"{serving.version} is on probation, and the candidate is not shown to be better: the lower confidence bound "
        f"of its log loss gain is {'not known' if low is None else format(low, '+.4f')}, required over 0"
    )


def _swapped(run: Run, swapped: Deployment, context: StageContext) -> Step:
    """The env line names the candidate: store it with the event."""
    now = context.now()
    known = run.with_fact(_facts(swapped))
    event = events.promoted(
        known, swapped, shadow_only=context.slot.is_shadow_only(), at=now, models_url=context.policies.models_url
    )
    return Step(
        run=known,
        deployment=swapped,
        events=(event,),
        message=f"run {run.run_id}: PATCHTST_MODEL_PATH names {swapped.version}",
    )


def _ended(run: Run, deployment: Deployment, context: StageContext) -> Step:
    """The swap has ended. With UNCONFIRMED=rollback an unconfirmed model is rolled back."""
    if deployments.is_confirmed(deployment) is not False:
        return _promoted(run, deployment, context)
    if swap.named(context) not in (deployment.model_path, None):
        return _overtaken(run, deployment, context)
    if context.policies.unconfirmed is not Unconfirmed.ROLLBACK:
        return _promoted(run, deployment, context)
    request = slot_requests.rollback_request_of(
        run, deployment, requested_by=Requester.UNCONFIRMED, reason=deployment.confirmation, at=context.now()
    )
    return Step(
        run=run,
        deployment=deployment,
        request=request,
        message=f"run {run.run_id}: {deployment.confirmation}; rollback requested",
    )


def _taken_back(run: Run, deployment: Deployment, context: StageContext) -> Step:
    """Wait for the rollback that UNCONFIRMED=rollback has requested."""
    request = context.store.request(slot_requests.roll_back_id_of(run))
    if request is None:
        return _ended(run, deployment, context)
    if not request.is_answered:
        return Step(run=run, message=f"run {run.run_id}: rollback of its model: {request.answer}")
    return _after_slot_request(run, deployment, request, context)


def _after_slot_request(run: Run, deployment: Deployment, request: SlotRequest, context: StageContext) -> Step:
    if request.state is SlotRequestState.DONE:
        return _rolled_back(run, deployment, request.answer, context)
    ended = _promoted(run, deployment, context)
    failure = f"rollback failed: {request.answer}"
    return replace(
        ended, run=replace(ended.run, reasons=(*ended.run.reasons, failure)), message=f"{ended.message}; {failure}"
    )


def _overtaken(run: Run, deployment: Deployment, context: StageContext) -> Step:
    """The env line names another model, by a rollback or an external change during the wait for the confirmation."""
    last = context.store.last_deployment()
    if last is not None and last.kind is DeploymentKind.ROLLBACK and last.deployment_id != deployment.deployment_id:
        return _rolled_back(run, deployment, f"{last.requested_by}: {last.reason}", context)
    return _promoted(run, deployment, context)


def _rolled_back(run: Run, deployment: Deployment, how: str, context: StageContext) -> Step:
    known = run.with_fact(_facts(deployment))
    reasons = (f"not confirmed: {deployment.confirmation}", f"rolled back: {how}")
    return Step(
        run=known.ended(Outcome.ROLLED_BACK, *reasons, at=context.now()),
        deployment=deployment,
        message=f"run {run.run_id}: {'; '.join(reasons)}",
    )


def _promoted(run: Run, deployment: Deployment, context: StageContext) -> Step:
    """The promotion is complete: the run ends, or its probation begins."""
    reason, probation = swap.result_of(deployment), context.policies.probation
    known, message = run.with_fact(_facts(deployment)), f"run {run.run_id} promoted {deployment.version}: {reason}"
    if probation.is_on:
        return Step(
            run=known.on_probation(reason, at=context.now()),
            deployment=deployment,
            message=f"{message}; on probation for {probation.hours:g} h",
        )
    return Step(run=known.ended(Outcome.PROMOTED, reason, at=context.now()), deployment=deployment, message=message)


def _facts(deployment: Deployment) -> PromoteFacts:
    return PromoteFacts(
        version=deployment.version,
        model_path=deployment.model_path,
        sha256=deployment.sha256,
        previous_version=deployment.previous_version,
        previous_model_path=deployment.previous_model_path,
        event_id=events.event_id_of(deployment.deployment_id, events.EventType.PROMOTED),
        confirmed=deployments.is_confirmed(deployment),
        confirmation=deployment.confirmation,
    )
