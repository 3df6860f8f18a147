"""One look at a model on trial: a child scores the rows that have come, and the next look is planned.

A look is due when its time has come (TRIAL_CHECK_MIN after the last one); what the last one found stands in the run's
fact. A world that cannot be looked at now is no verdict: the problem is noted and the next look tries again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.handoff import Done, LookRequest, Working
from retrain_worker.domain.lifecycle import Run, Stage
from retrain_worker.domain.trial import Look
from retrain_worker.errors import ChildInterruptedError
from retrain_worker.stages.ports import World
from retrain_worker.stages.step import Step


def begun(run: Run, world: World, found: Mapping[str, Any], sentence: str) -> Step:
    """The trial begins: what is known of it from the start, and a first look at once."""
    now = world.now()
    fact = {
        "started_at": now.isoformat(),
        "look_at": now.isoformat(),
        "look": 1,
        "book": new_book(run, now),
        "observed": 0,
        "foreseen": 0,
        "known": 0,
        "problem": "",
        **found,
    }
    return Step(run=run.with_fact(run.stage, fact), sentence=sentence)


def new_book(run: Run, at: datetime) -> str:
    """A name that no book of this run has had: answers of another stage, or beside another model, stay out of it."""
    return f"{run.stage.lower()}_{at:%Y%m%d_%H%M%S_%f}"


def look(
    run: Run,
    world: World,
    *,
    model_path: str,
    reference_path: str | None,
    policy: GatePolicy,
    alpha: float,
) -> Step | Look:
    """What this look found, or a Step that waits. Raises the child's error."""
    fact, policies = run.fact(run.stage), world.policies
    answer = world.children.result_of(
        run.stage,
        world.folders.run_dir(run.run_id),
        LookRequest(
            run_id=run.run_id,
            run_dir=str(world.folders.run_dir(run.run_id)),
            number=fact["look"],
            model_path=model_path,
            reference_path=reference_path,
            since=fact["since"],
            book=fact["book"],
            now=fact["look_at"],
            data=policies.data,
            policy=policy,
            prior=_prior(run),
            worse_alpha=alpha,
            threads=policies.recipe.threads,
            memory_limit_bytes=policies.child_memory_bytes,
        ),
    )
    match answer:
        case Working():
            return Step(run=run, sentence=standing(run))
        case Done(result=result):
            found: Look = result.look
            return found
        case _:
            if isinstance(answer.error, ChildInterruptedError):
                return Step(run=run, sentence=standing(run))
            raise answer.error


def looked(run: Run, world: World, found: Mapping[str, Any]) -> Run:
    """The run with what this look found, and the next one planned."""
    engine = {"engine": world.engine_says()} if run.stage is Stage.PROBATION else {}
    fact = {**run.fact(run.stage), "problem": "", "unsound": False, **found, **engine}
    return _planned(run.with_fact(run.stage, {**fact, "look": fact["look"] + 1}), world)


def problem(run: Run, world: World, error: str) -> Run:
    """The run, knowing why it could not be looked at; the next look is planned."""
    return _planned(run.with_fact(run.stage, {**run.fact(run.stage), "problem": error}), world)


def counts_of(found: Look) -> dict[str, Any]:
    """What every look leaves in the fact."""
    card, paired = found.evidence.candidate, found.evidence.comparison
    return {
        "observed": found.observed,
        "foreseen": found.foreseen,
        "known": found.known,
        "auc": card.auc,
        "log_loss": card.log_loss,
        "log_loss_gain": paired.log_loss_gain if paired else None,
        "model": asdict(found.model),
        "reference": asdict(found.reference) if found.reference else None,
        "absence": found.absence,
        "answers": [asdict(each) for each in found.answers],
    }


def hours_since(text: str, world: World) -> float:
    """Hours since an instant of a fact."""
    return (world.now() - datetime.fromisoformat(text)).total_seconds() / 3600.0


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


def _planned(run: Run, world: World) -> Run:
    at = world.now() + timedelta(minutes=world.policies.trial_check_minutes)
    return replace(run.with_fact(run.stage, {**run.fact(run.stage), "look_at": at.isoformat()}), not_before=at)


def _prior(run: Run) -> float:
    part = run.fact(Stage.TRAIN).get("parts", {}).get("train", {})
    rows = part.get("win", 0) + part.get("loss", 0)
    return float(part.get("win", 0)) / rows if rows else 0.5
