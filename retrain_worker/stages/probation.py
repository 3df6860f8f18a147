"""PROBATION: the promoted model is evaluated on new outcomes beside the one that it replaced.

A model that is worse beyond the margin, or degenerate, is rolled back by a slot request (stages/slot_requests.py) and
blocked. Without a previous model the slot is emptied. A slot that names another model ends the probation.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from retrain_worker.domain.facts import ProbationFacts
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, Outcome, Requester, Run
from retrain_worker.domain.probation import (
    alpha_of,
    degenerate,
    is_decidable,
    is_settled,
    outcomes_for,
    worse_than_replaced,
)
from retrain_worker.domain.slot_request import SlotRequest, SlotRequestState
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

#: rollback requests, one per evaluation, before it is left to the operator
MAX_ROLLBACK_REQUESTS = 5


def probation(run: Run, context: StageContext) -> Step:
    """PROMOTED when the hours are over and it is settled, ROLLED_BACK when the model is worse or degenerate."""
    deployment = context.store.deployment(run.run_id)
    assert deployment is not None, "a run on probation was promoted"
    facts = run.facts.probation
    if facts is None:
        return _begun(run, deployment, context)
    if facts.rollback_reason:
        return _taken_back(run, facts, deployment, context)
    try:
        current = context.slot.current_path()
        if current != Path(deployment.model_path):
            return _overtaken(run, str(current) if current else "nothing", context)
        return _evaluate(run, facts, deployment, context)
    except ArtifactError as error:
        return _unsound(run, facts, deployment, f"its file is not sound: {error}", context)
    except (RetryLaterError, ContractError, SourceUnfitError, DataUnfitError, SlotError) as error:
        return _goes_on(run, replace(facts, problem=str(error)), context)


def given_up(run: Run, cause: str, context: StageContext) -> Step:
    """End the probation; the model stays in the slot."""
    return _ended(run, Outcome.PROMOTED, f"probation cancelled: {cause}", context)


def _begun(run: Run, deployment: Deployment, context: StageContext) -> Step:
    now = context.now()
    facts = ProbationFacts(
        since=max(deployment.created_at, trial_evaluation.newest_used(run, now) or deployment.created_at),
        prediction_log=trial_evaluation.new_prediction_log(run, now),
        evaluation_at=now,
        problem=trial_evaluation.restart_note(run),
    )
    if facts.problem and trial_evaluation.is_over(run, context):
        return _goes_on(run, facts, context)
    note = f"; {facts.problem}" if facts.problem else ""
    return Step(
        run=run.with_fact(facts),
        message=f"run {run.run_id}: {deployment.version} is on probation for {context.policies.probation.hours:g} h, "
        f"beside {deployment.previous_version or 'no model: there was none before it'}{note}",
    )


def _evaluate(run: Run, facts: ProbationFacts, deployment: Deployment, context: StageContext) -> Step:
    policy = context.policies.probation
    found = trial_evaluation.evaluate(
        run,
        facts,
        context,
        model_path=deployment.model_path,
        reference_path=deployment.previous_model_path,
        policy=context.policies.gate,
        alpha=alpha_of(facts.num_analyses, policy),
    )
    if isinstance(found, Step):
        return found
    required = outcomes_for(policy, last_known=facts.num_outcomes_analysed)
    facts = replace(
        trial_evaluation.evaluated(facts, found),
        worse=found.worse,
        is_file_suspect=False,
        engine_finding=context.engine_says(),
    )
    if why := degenerate(found, policy):
        return _blocked(run, facts, deployment, why, context)
    if is_decidable(found) and (found.num_outcomes >= required or _is_over(run, facts, context)):
        facts = replace(facts, num_analyses=facts.num_analyses + 1, num_outcomes_analysed=found.num_outcomes)
        if why := worse_than_replaced(found, policy):
            return _blocked(run, facts, deployment, why, context)
    return _goes_on(run, facts, context)


def _unsound(run: Run, facts: ProbationFacts, deployment: Deployment, why: str, context: StageContext) -> Step:
    """Roll back after two consecutive evaluations with an unsound file: one read may fail, and a block is final."""
    if facts.is_file_suspect:
        return _blocked(run, facts, deployment, f"degenerate: {why}", context)
    return _goes_on(run, replace(facts, is_file_suspect=True, evaluation=facts.evaluation + 1, problem=why), context)


def _goes_on(run: Run, facts: ProbationFacts, context: StageContext) -> Step:
    known = trial_evaluation.planned(run, facts, context)
    if not _is_over(run, facts, context):
        return Step(run=known, message=trial_evaluation.standing(known), is_evaluation=True)
    hours = trial_evaluation.hours_at_stage(run, context)
    message = f"probation over after {hours:.0f} h and {facts.num_outcomes} new outcomes"
    if facts.num_analyses == 0:
        message += f", which were too few to compare{f': {facts.problem}' if facts.problem else ''}"
    return _ended(known, Outcome.PROMOTED, message, context)


def _is_over(run: Run, facts: ProbationFacts, context: StageContext) -> bool:
    """Whether the hours are over, and there is nothing to compare with or the comparison is settled, or the limit."""
    policy = context.policies.probation
    can_end = bool(facts.reference_absence) or is_settled(facts.worse, policy)
    return trial_evaluation.hours_at_stage(run, context) >= (policy.hours if can_end else policy.limit_hours)


def _overtaken(run: Run, named: str, context: StageContext) -> Step:
    """End the probation because the slot names another model, by an operator or a newer candidate."""
    last = context.store.last_deployment()
    if last is not None and last.kind is DeploymentKind.ROLLBACK and last.run_id in (None, run.run_id):
        return _ended(run, Outcome.ROLLED_BACK, f"rolled back by {last.requested_by}: {last.reason}", context)
    return given_up(run, f"PATCHTST_MODEL_PATH names {named}", context)


def _blocked(run: Run, facts: ProbationFacts, deployment: Deployment, why: str, context: StageContext) -> Step:
    """Store the decision with the slot request; the run then waits for the request."""
    facts = replace(facts, rollback_reason=why)
    return Step(
        run=replace(run, not_before=None).with_fact(facts),
        request=_slot_request(run, facts, deployment, context),
        message=f"run {run.run_id}: {why}; rollback requested",
    )


def _slot_request(run: Run, facts: ProbationFacts, deployment: Deployment, context: StageContext) -> SlotRequest:
    request = slot_requests.rollback_request_of(
        run, deployment, requested_by=Requester.PROBATION, reason=facts.rollback_reason, at=context.now()
    )
    return replace(request, request_id=_request_id(run, facts))


def _request_id(run: Run, facts: ProbationFacts) -> str:
    """An id distinct from that of UNCONFIRMED=rollback and from those of earlier failed requests."""
    number = facts.num_rollback_requests
    return f"rollback_in_probation_of_{run.run_id}" + (f"_{number}" if number > 1 else "")


def _taken_back(run: Run, facts: ProbationFacts, deployment: Deployment, context: StageContext) -> Step:
    why = facts.rollback_reason
    request = context.store.request(_request_id(run, facts))
    if request is None:
        request = _slot_request(run, facts, deployment, context)
        return Step(run=run, request=request, message=f"run {run.run_id}: rollback requested")
    if not request.is_answered:
        return Step(run=run, message=f"run {run.run_id}: rollback of its model: {request.answer}")
    named = swap.named(context)
    if request.state is SlotRequestState.DONE or named not in (deployment.model_path, None):
        return _overtaken(run, named or "nothing", context)
    if facts.num_rollback_requests < MAX_ROLLBACK_REQUESTS:
        again = replace(facts, num_rollback_requests=facts.num_rollback_requests + 1, problem=request.answer)
        return Step(
            run=trial_evaluation.planned(run, again, context),
            message=f"run {run.run_id}: {why}; rollback failed; retrying: {request.answer}",
        )
    return _ended(run, Outcome.PROMOTED, f"{why}; rollback failed: {request.answer}", context)


def _ended(run: Run, outcome: Outcome, reason: str, context: StageContext) -> Step:
    """The confirmation is the first reason of a lasting promotion, and the last one of a rolled-back promotion."""
    reasons = (
        (*run.reasons, reason)
        if outcome is Outcome.PROMOTED
        else (reason, *(f"when it was promoted: {confirmation}" for confirmation in run.reasons))
    )
    return Step(run=run.ended(outcome, *reasons, at=context.now()), message=f"run {run.run_id} {outcome}: {reason}")
