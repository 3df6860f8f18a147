"""PROMOTE with ROLLOUT: offer the model to some followers before the env line names it (domain/rollout.py).

The offer stands in the hash of the current model, where followers find it; the slot and every event stay as they are.
What is stored is the stage and when it began; the followers' acknowledgements are read again at each step.
"""

from __future__ import annotations

from dataclasses import replace

from retrain_worker.domain import rollout
from retrain_worker.domain.acknowledgement import named, newest_of_each
from retrain_worker.domain.artifact import url_of
from retrain_worker.domain.facts import RolloutFacts
from retrain_worker.domain.lifecycle import Deployment, DeploymentState, Outcome, Run, Stage
from retrain_worker.domain.rollout import Offer
from retrain_worker.errors import RetryLaterError
from retrain_worker.stages import swap
from retrain_worker.stages.ports import Policies, RunStore, StageContext
from retrain_worker.stages.step import Step


def step(run: Run, deployment: Deployment, context: StageContext) -> Step | None:
    """One step; None when the promotion goes on: without stages, after the last one, or when the slot has changed."""
    policy, facts = context.policies.rollout, _facts_of(run, deployment)
    is_over = deployment.state is not DeploymentState.INTENDED or (facts is not None and facts.has_passed)
    if not policy.stages or is_over or swap.named(context) != (deployment.previous_model_path or ""):
        return None
    return _begun(run, deployment, context) if facts is None else _continued(run, facts, deployment, context)


def _continued(run: Run, facts: RolloutFacts, deployment: Deployment, context: StageContext) -> Step:
    policy = context.policies.rollout
    now = context.now()
    try:
        found = rollout.judged(
            facts,
            policy,
            context.acknowledgements(facts.began_at),
            deployment,
            now=now,
            seconds=context.policies.engine_confirm_seconds,
        )
    except RetryLaterError as error:
        return Step(run=run, message=f"run {run.run_id}: rollout waits: {error.what}")
    if found.is_stopped:
        return _stopped(run, deployment, found.message, context)
    if not found.is_passed:
        return Step(run=run, message=f"run {run.run_id}: rollout: {found.message}")
    is_last = facts.stage + 1 >= len(policy.stages)  # ROLLOUT may have been shortened since
    moved = replace(facts, has_passed=True) if is_last else replace(facts, stage=facts.stage + 1, stage_began_at=now)
    then = "the promotion goes on" if is_last else f"offered to {len(rollout.offered(moved, policy))} followers"
    return Step(run=run.with_fact(moved), message=f"run {run.run_id}: rollout: {found.message}; {then}")


def offer_in(store: RunStore, policies: Policies) -> Offer | None:
    """The offer that stands now, until the event of the promotion replaces it."""
    run = store.unfinished_run() if policies.rollout.stages else None
    if run is None or run.stage is not Stage.PROMOTE or run.facts.rollout is None:
        return None
    deployment = store.deployment(run.run_id)
    if deployment is None or deployment.state in swap.ENDED or _facts_of(run, deployment) is None:
        return None
    url = url_of(policies.models_url, deployment.model_path)
    return rollout.offer_of(run.facts.rollout, policies.rollout, deployment, model_url=url)


def _facts_of(run: Run, deployment: Deployment) -> RolloutFacts | None:
    facts = run.facts.rollout
    return facts if facts is not None and facts.of_deployment_at == deployment.created_at else None


def _begun(run: Run, deployment: Deployment, context: StageContext) -> Step | None:
    if waiting := swap.uploading(deployment, context):
        return Step(run=run, message=f"run {run.run_id}: {waiting}")
    policy, now = context.policies.rollout, context.now()
    known = rollout.serving(newest_of_each(context.acknowledgements(None)), deployment.previous_sha256)
    facts = RolloutFacts(
        of_deployment_at=deployment.created_at,
        consumers=rollout.ordered(known, deployment.version),
        began_at=now,
        stage_began_at=now,
        has_passed=not known,
    )
    if not known:
        message = "no follower of the hash has acknowledged the incumbent, so that the model is offered to none"
    else:
        first = rollout.offered(facts, policy)
        message = f"{deployment.version} is offered to {len(first)} of {len(known)} followers: {named(first)}"
    return Step(run=run.with_fact(facts), message=f"run {run.run_id}: rollout: {message}")


def _stopped(run: Run, deployment: Deployment, why: str, context: StageContext) -> Step:
    """The offer is withdrawn, and its followers return to the model in the slot, which has not changed."""
    reason = f"rollout stopped: {why}; {deployment.version} is withdrawn"
    return Step(
        run=run.ended(Outcome.ROLLED_BACK, reason, at=context.now()),
        deployment=swap.cut_short(deployment, reason, context),
        message=f"run {run.run_id} rolled back: {reason}",
    )
