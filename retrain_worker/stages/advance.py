"""Runs the stage that is due, stores the move and its events in one transaction, and answers with one sentence.

Recovery after a crash is nothing special: load the run, run its stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from retrain_worker.domain import events
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.errors import OperatorActionError, RefuseError, RetryLaterError, WorkerInterruptedError
from retrain_worker.stages import promote, trial_evaluation
from retrain_worker.stages.audit import audit
from retrain_worker.stages.gate import gate
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.probation import probation
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
    Stage.PROBATION: probation,
}

#: outcomes after which the rows of the run count as covered
_COMMITS_WATERMARK = frozenset({Outcome.PROMOTED, Outcome.REFUSED})


def advance(run: Run, context: StageContext) -> Step:
    """One tick of an unfinished run. What changed is stored before the step is returned."""
    now = context.now()
    if run.not_before is not None and now < run.not_before:
        if run.is_waiting:
            return Step(run=run, message=trial_evaluation.standing(run))
        seconds = (run.not_before - now).total_seconds()
        return Step(run=run, message=f"{run.stage.lower()} {run.run_id}: next try in {seconds:.0f} s")
    try:
        step = STAGES[run.stage](run, context)
    except WorkerInterruptedError as error:
        step = Step(run=run.ended(Outcome.INTERRUPTED, str(error), at=now), message=f"{_name(run)} interrupted")
    except RefuseError as error:
        step = _end(run, Outcome.REFUSED, str(error), context)
    except RetryLaterError as error:
        step = _later(run, error, context)
    except OperatorActionError as error:
        step = _end(run, Outcome.FAILED, str(error), context)
    return _stored(run, step, context)


def resume(run: Run, context: StageContext) -> Step:
    """Take up a run that an earlier process left behind. Given up when it dies at the same stage again and again."""
    num_deaths = run.num_deaths if run.outcome is Outcome.INTERRUPTED else run.num_deaths + 1
    if num_deaths >= context.policies.max_stage_deaths:
        reason = f"{_name(run)} died {num_deaths} times in the same stage"
        return _stored(run, _end(run.resumed(at=context.now()), Outcome.ABANDONED, reason, context), context)
    resumed = replace(run.resumed(at=context.now()), num_deaths=num_deaths)
    return _stored(run, Step(run=resumed, message=f"{_name(run)} goes on where it stopped"), context)


def postpone(run: Run, reason: str, context: StageContext) -> Step:
    """A run on trial or on probation that failed in an unforeseen way: the next look tries again."""
    later = (
        trial_evaluation.problem(run, context, reason)
        if run.fact(run.stage)
        else replace(run, not_before=context.now() + timedelta(minutes=context.policies.trial_interval_minutes))
    )
    return _stored(run, Step(run=later, message=f"{_name(run)}: {reason}"), context)


def interrupt(run: Run, context: StageContext) -> Step:
    """Note that this process stops while the run is under way; the next start resumes it."""
    ended = run.ended(
        Outcome.INTERRUPTED, f"stopped at {run.stage.lower()}; the next start goes on there", at=context.now()
    )
    return _stored(run, Step(run=ended, message=f"{_name(run)} interrupted"), context)


def _later(run: Run, error: RetryLaterError, context: StageContext) -> Step:
    if run.num_retries >= context.policies.max_retries:
        return _end(run, Outcome.FAILED, str(error), context)
    wait = timedelta(seconds=context.policies.retry_seconds * 2**run.num_retries)
    waiting = replace(run, num_retries=run.num_retries + 1, not_before=context.now() + wait)
    return Step(run=waiting, message=f"{_name(run)} tries again in {wait.total_seconds():.0f} s: {error}")


def _end(run: Run, outcome: Outcome, reason: str, context: StageContext) -> Step:
    """The run ends early. In the middle of a promotion, what the env file says, counts."""
    left = promote.cut_short(run, reason, context) if run.stage is Stage.PROMOTE else None
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
        pulled = after.fact(Stage.PULL).get("watermark_path")
        if after.outcome in _COMMITS_WATERMARK and after.fact(Stage.GATE) and pulled:
            watermark = Path(pulled)
    context.store.record(
        after, events=raised, deployment=step.deployment, request=step.request, watermark_path=watermark
    )
    return replace(step, run=after, events=raised, watermark_path=watermark, is_move=True, is_end=is_end)


def _name(run: Run) -> str:
    return f"run {run.run_id} ({run.stage.lower()})"
