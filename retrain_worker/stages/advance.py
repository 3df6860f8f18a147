"""Runs the stage that is due, and stores the move and its events in one transaction.

Recovery after a crash is the same: load the run, run its stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from retrain_worker.domain import events
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.errors import OperatorActionError, RefuseError, RetryLaterError, StateError, WorkerInterruptedError
from retrain_worker.stages import probation, promote, trial_evaluation
from retrain_worker.stages.audit import audit
from retrain_worker.stages.gate import gate
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.pull import pull
from retrain_worker.stages.shadow import shadow
from retrain_worker.stages.step import Step
from retrain_worker.stages.train import train

STAGES: Mapping[Stage, Callable[[Run, StageContext], Step]] = {
    Stage.PULL: pull,
    Stage.AUDIT: audit,
    Stage.TRAIN: train,
    Stage.GATE: gate,
    Stage.SHADOW: shadow,
    Stage.PROMOTE: promote.promote,
    Stage.PROBATION: probation.probation,
}

#: outcomes after which the rows of the run count as covered
_COMMITS_WATERMARK = frozenset({Outcome.PROMOTED, Outcome.REFUSED})

#: stages that read what an earlier one has left in the run's folder
_NEEDS_FOLDER = frozenset({Stage.AUDIT, Stage.TRAIN, Stage.GATE})

#: unforeseen errors in a row after which a trial or a probation ends
MAX_EVALUATION_ERRORS = 10


def advance(run: Run, context: StageContext) -> Step:
    """One step of an unfinished run. What changed is stored before the step is returned."""
    now = context.now()
    if run.is_waiting:
        run = replace(run, updated_at=min(run.updated_at, now))  # a clock that went back extends no time limit
    if run.is_waiting and trial_evaluation.is_planned(run, context):
        return Step(run=run, message=trial_evaluation.standing(run))
    if not run.is_waiting and run.not_before is not None and now < run.not_before:
        seconds = (run.not_before - now).total_seconds()
        return Step(run=run, message=f"{run.stage.lower()} {run.run_id}: next try in {seconds:.0f} s")
    try:
        step = STAGES[run.stage](run, context)
    except WorkerInterruptedError as error:
        step = Step(run=run.ended(Outcome.INTERRUPTED, str(error), at=now), message=f"{_name(run)} interrupted")
    except StateError:
        raise  # concerns every run, not this one
    except RefuseError as error:
        step = _end(run, Outcome.REFUSED, str(error), context)
    except RetryLaterError as error:
        step = _postponed(run, str(error), context) if run.is_waiting else _later(run, error, context)
    except OperatorActionError as error:
        step = _end(run, Outcome.FAILED, str(error), context)
    return _stored(run, step, context)


def resume(run: Run, context: StageContext) -> Step:
    """Resume a run that an earlier process left behind; ABANDONED when it died too often at the same stage."""
    num_deaths = run.num_deaths if run.outcome is Outcome.INTERRUPTED else run.num_deaths + 1
    if num_deaths >= context.policies.max_stage_deaths:
        reason = f"{_name(run)} died {num_deaths} times in the same stage"
        return _stored(run, _end(run, Outcome.ABANDONED, reason, context), context)
    resumed = replace(run.resumed(at=context.now()), num_deaths=num_deaths)
    if run.stage in _NEEDS_FOLDER and not context.folders.path_of(run.run_id).is_dir():
        # of another host; the rows are those of the time at which the run was opened
        restarted = replace(resumed, stage=Stage.PULL)
        message = f"{_name(run)} resumed at pull: its folder is not on this host"
        return _stored(run, Step(run=restarted, message=message), context)
    return _stored(run, Step(run=resumed, message=f"{_name(run)} resumed"), context)


def postpone(run: Run, cause: str, context: StageContext) -> Step:
    """An unforeseen error in a run on trial or on probation: the next evaluation tries again, within its limits."""
    return _stored(run, _postponed(run, cause, context), context)


def interrupt(run: Run, context: StageContext) -> Step:
    """The run INTERRUPTED, because this process stops; the next start resumes it."""
    ended = run.ended(
        Outcome.INTERRUPTED, f"stopped at {run.stage.lower()}; the next start goes on there", at=context.now()
    )
    return _stored(run, Step(run=ended, message=f"{_name(run)} interrupted"), context)


def _postponed(run: Run, cause: str, context: StageContext) -> Step:
    errors, facts = run.num_deaths + 1, trial_evaluation.facts_of(run)
    if errors >= MAX_EVALUATION_ERRORS or trial_evaluation.is_over(run, context):
        return _end(run, Outcome.FAILED, f"{errors} errors in a row, the last: {cause}", context)
    later = (
        trial_evaluation.planned(run, replace(facts, problem=cause), context)
        if facts
        else replace(run, not_before=context.now() + timedelta(minutes=context.policies.trial_interval_minutes))
    )
    return Step(run=replace(later, num_deaths=errors), message=f"{_name(run)}: {cause}")


def _later(run: Run, error: RetryLaterError, context: StageContext) -> Step:
    if run.num_retries >= context.policies.max_retries:
        return _end(run, Outcome.FAILED, str(error), context)
    wait = timedelta(seconds=context.policies.retry_seconds * 2**run.num_retries)
    waiting = replace(run, num_retries=run.num_retries + 1, not_before=context.now() + wait)
    return Step(run=waiting, message=f"{_name(run)} tries again in {wait.total_seconds():.0f} s: {error}")


def _end(run: Run, outcome: Outcome, reason: str, context: StageContext) -> Step:
    """The run ends early. In the middle of a promotion the env file decides; on probation the model stays promoted."""
    if run.stage is Stage.PROBATION:
        return probation.given_up(run, reason, context)
    left = promote.cut_short(run, reason, context)
    if isinstance(left, Step):
        return left
    return Step(
        run=run.ended(outcome, reason, at=context.now()), message=f"{_name(run)} {outcome}: {reason}", deployment=left
    )


def _stored(before: Run, step: Step, context: StageContext) -> Step:
    """Store what changed; add the seconds of a finished stage, the closing event, and the watermark."""
    if step.run is before and step.deployment is None and step.request is None:
        return step
    after, now = step.run, context.now()
    if after.stage is not before.stage or after.is_finished:
        spent = before.seconds.get(before.stage.lower(), 0.0) + (now - before.updated_at).total_seconds()
        after = replace(after, seconds={**before.seconds, before.stage.lower(): round(spent, 3)})
    raised, watermark = step.events, step.watermark_path
    is_end = after.is_concluded and not before.is_concluded
    if is_end:
        raised = (*raised, events.finished(after, at=now))
        pulled = after.facts.pull
        if after.outcome in _COMMITS_WATERMARK and after.facts.gate and pulled and pulled.watermark_path:
            watermark = Path(pulled.watermark_path)
    context.store.record(
        after, events=raised, deployment=step.deployment, request=step.request, watermark_path=watermark
    )
    return replace(step, run=after, events=raised, watermark_path=watermark, is_move=True, is_end=is_end)


def _name(run: Run) -> str:
    return f"run {run.run_id} ({run.stage.lower()})"
