"""One evaluation of a model on trial or on probation: a worker scores the new rows, and the next evaluation is planned.

An evaluation is due TRIAL_INTERVAL_MIN after the previous one; what the previous one found is in the facts of the run.
A problem (the database is busy, a file cannot be read) is no verdict: it is stored, and the next evaluation tries
again.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from retrain_worker.domain.facts import ProbationFacts, ShadowFacts, TrialFacts
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.lifecycle import Run, Stage
from retrain_worker.domain.trial_evaluation import TrialEvaluation
from retrain_worker.domain.worker_protocol import Done, TrialEvaluationRequest, Working
from retrain_worker.errors import WorkerInterruptedError
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.step import Step

AnyTrial = TypeVar("AnyTrial", ShadowFacts, ProbationFacts)


def facts_of(run: Run) -> ShadowFacts | ProbationFacts | None:
    """The facts of the stage at which `run` waits; None: its first evaluation is not planned yet."""
    return run.facts.shadow if run.stage is Stage.SHADOW else run.facts.probation


def new_prediction_log(run: Run, at: datetime) -> str:
    """The name of a prediction log without answers of another stage, or beside another model."""
    return f"predictions_{run.stage.lower()}_{at:%Y%m%d_%H%M%S_%f}"


def newest_used(run: Run, now: datetime) -> datetime | None:
    """The newest row of the candidate's snapshot, but not later than `now`: a stamp ahead would exclude later rows."""
    last_at = run.facts.pull.last_at if run.facts.pull else None
    return min(last_at, now) if last_at else None


def restart_note(run: Run) -> str:
    """Why the evaluations begin again although the stage began before; empty at its beginning."""
    cause = run.facts.unreadable.get(run.stage.lower())
    return (
        f"the stored facts cannot be read ({cause}); the evaluations begin again, the time limit stays" if cause else ""
    )


def evaluate(
    run: Run,
    facts: TrialFacts,
    context: StageContext,
    *,
    model_path: str,
    reference_path: str | None,
    policy: GatePolicy,
    alpha: float,
) -> Step | TrialEvaluation:
    """What the evaluation that is due has found, or a Step that waits for it. Raises the worker's error."""
    policies, run_dir = context.policies, context.folders.run_dir(run.run_id)
    answer = context.workers.result_of(
        run.stage,
        run_dir,
        TrialEvaluationRequest(
            run_id=run.run_id,
            run_dir=str(run_dir),
            number=facts.evaluation,
            model_path=model_path,
            reference_path=reference_path,
            since=facts.since.isoformat(),
            snapshot_dir=_snapshot_dir(run),
            prediction_log=facts.prediction_log,
            now=facts.evaluation_at.isoformat(),
            data=policies.data,
            policy=policy,
            prior=run.facts.train.prior if run.facts.train else 0.5,
            worse_alpha=alpha,
            threads=policies.recipe.threads,
            memory_limit_bytes=policies.worker_memory_bytes,
        ),
    )
    match answer:
        case Working():
            return Step(run=run, message=standing(run))
        case Done(result=result):
            found: TrialEvaluation = result.evaluation
            return found
        case _:
            if isinstance(answer.error, WorkerInterruptedError):
                return Step(run=run, message=standing(run))
            raise answer.error


def _snapshot_dir(run: Run) -> str | None:
    """The folder of the run that trained the model; a forced promotion is another run."""
    return str(Path(run.facts.train.candidate_path).parent.parent) if run.facts.train else None


def evaluated(facts: AnyTrial, found: TrialEvaluation) -> AnyTrial:
    """The facts after an evaluation."""
    return replace(
        facts,
        evaluation=facts.evaluation + 1,
        problem="",
        num_predictions=found.num_predictions,
        num_early_predictions=found.num_early_predictions,
        num_outcomes=found.num_outcomes,
        auc=found.evidence.candidate.auc,
        log_loss=found.evidence.candidate.log_loss,
        comparison=found.evidence.comparison,
        model=found.model,
        reference=found.reference,
        reference_absence=found.absence,
        answers=found.answers,
    )


def planned(run: Run, facts: ShadowFacts | ProbationFacts, context: StageContext) -> Run:
    """The run with these facts and its next evaluation planned."""
    at = context.now() + timedelta(minutes=context.policies.trial_interval_minutes)
    return replace(run.with_fact(replace(facts, evaluation_at=at)), not_before=at, num_deaths=0)


def is_planned(run: Run, context: StageContext) -> bool:
    """Whether the next evaluation is not due yet. A plan beyond the interval was made by a clock that was ahead."""
    interval = timedelta(minutes=context.policies.trial_interval_minutes)
    return run.not_before is not None and timedelta() < run.not_before - context.now() <= interval


def is_over(run: Run, context: StageContext) -> bool:
    """Whether the time limit of the stage has passed: SHADOW_MAX_HOURS, PROBATION_MAX_HOURS."""
    policies = context.policies
    limit = policies.shadow.max_hours if run.stage is Stage.SHADOW else policies.probation.limit_hours
    return hours_at_stage(run, context) >= limit


def hours_at_stage(run: Run, context: StageContext) -> float:
    """Hours since the stage began: a run that waits moves no more, and is never resumed."""
    return (context.now() - run.updated_at).total_seconds() / 3600.0


def standing(run: Run) -> str:
    """The state of the trial or the probation, one sentence."""
    facts, is_shadow = facts_of(run), run.stage is Stage.SHADOW
    version = run.facts.train.version if run.facts.train else "its model"
    named = f"run {run.run_id}: {version} is {'on trial' if is_shadow else 'on probation'}"
    if facts is None:
        return named
    reference = "the incumbent" if is_shadow else "the model it replaced"
    gain = "" if facts.log_loss_gain is None else f", log loss gain {facts.log_loss_gain:+.4f} over {reference}"
    problem = f"; {facts.problem}" if facts.problem else ""
    return f"{named}: {facts.num_predictions} predictions logged, {facts.num_outcomes} outcomes known{gain}{problem}"
