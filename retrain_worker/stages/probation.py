"""Probation: the model that was just promoted is scored on new outcomes beside the one that it replaced.

Worse beyond its margin, or degenerate: it is taken back by an order (stages/slot_requests.py), and its bytes are never
promoted again. With nothing to return to, the env line is restored to naming no model. Whoever points the engine
elsewhere meanwhile ends the probation.
"""

from __future__ import annotations

from dataclasses import replace

from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, Outcome, Run, Stage
from retrain_worker.domain.probation import (
    ROLL_BACK,
    alpha_of,
    degenerate,
    is_decidable,
    outcomes_for,
    worse_than_replaced,
)
from retrain_worker.domain.slot_request import SlotRequest, SlotRequestState
from retrain_worker.domain.trial_evaluation import TrialEvaluation
from retrain_worker.errors import (
    ArtifactError,
    ContractError,
    DataUnfitError,
    RetryLaterError,
    SlotError,
    SourceUnfitError,
)
from retrain_worker.stages import slot_requests, swap, trial_evaluation
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.step import Step

REQUESTED_BY = "probation"
#: orders to take a model back, one a look, before a person is left to do it
MAX_TRIES = 5


def probation(run: Run, context: StageContext) -> Step:
    """PROMOTED for good when the hours are over, ROLLED_BACK as soon as the model is surely worse, or degenerate."""
    deployment = context.store.deployment(run.run_id)
    assert deployment is not None, "a run on probation was promoted"
    fact = run.fact(Stage.PROBATION)
    if not fact:
        return _begun(run, deployment, context)
    if fact.get("decision") == ROLL_BACK:
        return _taken_back(run, deployment, context)
    try:
        current = context.slot.current_path()
        if (str(current) if current else "") != deployment.model_path:
            return _overtaken(run, str(current) if current else "nothing", context)
        return _evaluate(run, deployment, context)
    except ArtifactError as error:
        return _unsound(run, deployment, f"its file is not sound: {error}", context)
    except (RetryLaterError, ContractError, SourceUnfitError, DataUnfitError, SlotError) as error:
        return _goes_on(trial_evaluation.problem(run, context, str(error)), context)


def _begun(run: Run, deployment: Deployment, context: StageContext) -> Step:
    return trial_evaluation.begun(
        run,
        context,
        {"since": deployment.created_at.isoformat(), "num_decided": 0, "last_known": 0},
        f"run {run.run_id}: {deployment.version} is on probation for {context.policies.probation.hours:g} h, beside "
        f"{deployment.previous_version or 'nothing: there was no model before it'}",
    )


def _evaluate(run: Run, deployment: Deployment, context: StageContext) -> Step:
    fact, policy = run.fact(Stage.PROBATION), context.policies.probation
    found = trial_evaluation.evaluate(
        run,
        context,
        model_path=deployment.model_path,
        reference_path=deployment.previous_model_path,
        policy=context.policies.gate,
        alpha=alpha_of(fact["num_decided"], policy),
    )
    if isinstance(found, Step):
        return found
    known = trial_evaluation.looked(run, context, {**trial_evaluation.counts_of(found), **_bound(found)})
    if why := degenerate(found, policy):
        return _blocked(known, deployment, why, context)
    asked = outcomes_for(fact["num_decided"], policy, last_known=fact["last_known"])
    if is_decidable(found) and (found.num_outcomes >= asked or _is_over(run, context)):
        known = known.with_fact(
            Stage.PROBATION,
            {**known.fact(Stage.PROBATION), "num_decided": fact["num_decided"] + 1, "last_known": found.num_outcomes},
        )
        if why := worse_than_replaced(found, policy):
            return _blocked(known, deployment, why, context)
    return _goes_on(known, context)


def _unsound(run: Run, deployment: Deployment, why: str, context: StageContext) -> Step:
    """Condemned when two looks running find it so: one read may fail by itself, and bytes are condemned for ever."""
    fact = run.fact(Stage.PROBATION)
    if fact.get("unsound"):
        return _blocked(run, deployment, f"degenerate: {why}", context)
    doubted = run.with_fact(Stage.PROBATION, {**fact, "unsound": True, "look": fact["look"] + 1})
    return _goes_on(trial_evaluation.problem(doubted, context, why), context)


def _bound(found: TrialEvaluation) -> dict[str, object]:
    worse = found.worse
    return {
        "worse_by": worse.log_loss_gain if worse else None,
        "worse_by_low": worse.log_loss_gain_low if worse else None,
    }


def _goes_on(run: Run, context: StageContext) -> Step:
    if not _is_over(run, context):
        return Step(run=run, message=trial_evaluation.standing(run))
    fact = run.fact(Stage.PROBATION)
    told = f"probation over after {context.policies.probation.hours:g} h and {fact['known']} new outcomes"
    if fact["num_decided"] == 0:
        told += f", which were too few to compare{': ' + fact['problem'] if fact['problem'] else ''}"
    return _ended(run, Outcome.PROMOTED, told, context)


def _overtaken(run: Run, named: str, context: StageContext) -> Step:
    """Somebody decided otherwise: a person, or a newer candidate. That is respected."""
    last = context.store.last_deployment()
    if last is not None and last.kind is DeploymentKind.ROLLBACK and last.run_id in (None, run.run_id):
        return _ended(
            run, Outcome.ROLLED_BACK, f"taken back during probation by {last.requested_by}: {last.reason}", context
        )
    return _ended(run, Outcome.PROMOTED, f"probation ended early: PATCHTST_MODEL_PATH names {named}", context)


def _blocked(run: Run, deployment: Deployment, why: str, context: StageContext) -> Step:
    """The decision and the order are stored together; what follows is waited for."""
    known = replace(run, not_before=None).with_fact(
        Stage.PROBATION, {**run.fact(Stage.PROBATION), "decision": ROLL_BACK, "reasons": [why]}
    )
    return Step(
        run=known,
        request=_slot_request(known, deployment, why, context),
        message=f"run {run.run_id}: {why}; it is taken back",
    )


def _slot_request(run: Run, deployment: Deployment, why: str, context: StageContext) -> SlotRequest:
    request = slot_requests.rollback_request_of(
        run, deployment, requested_by=REQUESTED_BY, reason=why, at=context.now()
    )
    return replace(request, request_id=_request_id(run))


def _request_id(run: Run) -> str:
    """Another than that of UNCONFIRMED=rollback, and than those of this probation that have failed before."""
    tries = run.fact(Stage.PROBATION).get("tries", 1)
    return f"rollback_in_probation_of_{run.run_id}" + (f"_{tries}" if tries > 1 else "")


def _taken_back(run: Run, deployment: Deployment, context: StageContext) -> Step:
    why = str(run.fact(Stage.PROBATION)["reasons"][0])
    request = context.store.request(_request_id(run))
    if request is None:
        return Step(
            run=run, request=_slot_request(run, deployment, why, context), message=f"run {run.run_id}: it is taken back"
        )
    if not request.is_answered:
        return Step(run=run, message=f"run {run.run_id}: its model is taken back; {request.answer}")
    if request.state is SlotRequestState.DONE:
        return _ended(run, Outcome.ROLLED_BACK, f"{why}; {request.answer}", context)
    if (named := swap.named(context)) not in (deployment.model_path, None):
        return _overtaken(run, named or "nothing", context)
    fact = run.fact(Stage.PROBATION)
    tries = fact.get("tries", 1)
    if tries < MAX_TRIES:
        again = run.with_fact(Stage.PROBATION, {**fact, "tries": tries + 1})
        return Step(
            run=trial_evaluation.problem(again, context, request.answer),
            message=f"run {run.run_id}: {why}; it could not be taken back and is tried again: {request.answer}",
        )
    return _ended(run, Outcome.PROMOTED, f"{why}; it could not be taken back: {request.answer}", context)


def _is_over(run: Run, context: StageContext) -> bool:
    return (
        trial_evaluation.hours_since(run.fact(Stage.PROBATION)["started_at"], context)
        >= context.policies.probation.hours
    )


def _ended(run: Run, outcome: Outcome, reason: str, context: StageContext) -> Step:
    """The confirmation is the first reason of a promotion that stands, and history of one that was taken back."""
    reasons = (
        (*run.reasons, reason)
        if outcome is Outcome.PROMOTED
        else (reason, *(f"when it was promoted: {told}" for told in run.reasons))
    )
    word = "stays promoted" if outcome is Outcome.PROMOTED else "rolled back"
    return Step(run=run.ended(outcome, *reasons, at=context.now()), message=f"run {run.run_id} {word}: {reason}")
