"""One look at a model on trial: a worker scores the rows that have come, and the next look is planned.

A look is due when its time has come (TRIAL_INTERVAL_MIN after the last one); what the last one found stands in the
run's fact. A world that cannot be looked at now is no verdict: the problem is noted and the next look tries again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.lifecycle import Run, Stage
from retrain_worker.domain.trial_evaluation import TrialEvaluation
from retrain_worker.domain.worker_protocol import Done, TrialEvaluationRequest, Working
from retrain_worker.errors import WorkerInterruptedError
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.step import Step


def begun(run: Run, context: StageContext, found: Mapping[str, Any], message: str) -> Step:
    """The trial begins: what is known of it from the start, and a first look at once."""
    now = context.now()
    fact = {
        "started_at": now.isoformat(),
        "look_at": now.isoformat(),
        "look": 1,
        "book": new_prediction_log(run, now),
        "observed": 0,
        "foreseen": 0,
        "known": 0,
        "problem": "",
        **found,
    }
    return Step(run=run.with_fact(run.stage, fact), message=message)


def new_prediction_log(run: Run, at: datetime) -> str:
    """A name that no book of this run has had: answers of another stage, or beside another model, stay out of it."""
    return f"{run.stage.lower()}_{at:%Y%m%d_%H%M%S_%f}"


def evaluate(
    run: Run,
    context: StageContext,
    *,
    model_path: str,
    reference_path: str | None,
    policy: GatePolicy,
    alpha: float,
) -> Step | TrialEvaluation:
    """What this look found, or a Step that waits. Raises the worker's error."""
    fact, policies = run.fact(run.stage), context.policies
    answer = context.workers.result_of(
        run.stage,
        context.folders.run_dir(run.run_id),
        TrialEvaluationRequest(
            run_id=run.run_id,
            run_dir=str(context.folders.run_dir(run.run_id)),
            number=fact["look"],
            model_path=model_path,
            reference_path=reference_path,
            since=fact["since"],
            prediction_log=fact["book"],
            now=fact["look_at"],
            data=policies.data,
            policy=policy,
            prior=_prior(run),
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


def looked(run: Run, context: StageContext, found: Mapping[str, Any]) -> Run:
    """The run with what this look found, and the next one planned."""
    engine = {"engine": context.engine_says()} if run.stage is Stage.PROBATION else {}
    fact = {**run.fact(run.stage), "problem": "", "unsound": False, **found, **engine}
    return _planned(run.with_fact(run.stage, {**fact, "look": fact["look"] + 1}), context)


def problem(run: Run, context: StageContext, error: str) -> Run:
    """The run, knowing why it could not be looked at; the next look is planned."""
    return _planned(run.with_fact(run.stage, {**run.fact(run.stage), "problem": error}), context)


def counts_of(found: TrialEvaluation) -> dict[str, Any]:
    """What every look leaves in the fact."""
    card, paired = found.evidence.candidate, found.evidence.comparison
    return {
        "observed": found.num_predictions,
        "foreseen": found.num_early_predictions,
        "known": found.num_outcomes,
        "auc": card.auc,
        "log_loss": card.log_loss,
        "log_loss_gain": paired.log_loss_gain if paired else None,
        "model": asdict(found.model),
        "reference": asdict(found.reference) if found.reference else None,
        "absence": found.absence,
        "answers": [asdict(each) for each in found.answers],
    }


def hours_since(text: str, context: StageContext) -> float:
    """Hours since an instant of a fact."""
    return (context.now() - datetime.fromisoformat(text)).total_seconds() / 3600.0


def standing(run: Run) -> str:
    """How the trial stands, one sentence."""
    fact = run.fact(run.stage)
    name = "on trial" if run.stage is Stage.SHADOW else "on probation"
    gain = fact.get("log_loss_gain")
    against = "" if gain is None else f", log loss gain {gain:+.4f} over {_reference_name(run)}"
    told = f"run {run.run_id}: {run.fact(Stage.TRAIN).get('version')} is {name}"
    if not fact:
        return told
    return f"{told}: {fact['observed']} rows recorded, {fact['known']} outcomes known{against}" + (
        f"; {fact['problem']}" if fact["problem"] else ""
    )


def _reference_name(run: Run) -> str:
    return "the incumbent" if run.stage is Stage.SHADOW else "the model it replaced"


def _planned(run: Run, context: StageContext) -> Run:
    at = context.now() + timedelta(minutes=context.policies.trial_interval_minutes)
    return replace(run.with_fact(run.stage, {**run.fact(run.stage), "look_at": at.isoformat()}), not_before=at)


def _prior(run: Run) -> float:
    part = run.fact(Stage.TRAIN).get("parts", {}).get("train", {})
    rows = part.get("win", 0) + part.get("loss", 0)
    return float(part.get("win", 0)) / rows if rows else 0.5
