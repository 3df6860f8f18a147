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
from retrain_worker.errors import CallPersonError, ChildInterruptedError, RefuseError, RetryLaterError
from retrain_worker.stages import look as looks
from retrain_worker.stages import promote
from retrain_worker.stages.audit import audit
from retrain_worker.stages.gate import gate
from retrain_worker.stages.ports import World
from retrain_worker.stages.probation import probation
from retrain_worker.stages.pull import pull
from retrain_worker.stages.shadow import shadow
from retrain_worker.stages.step import Step
from retrain_worker.stages.train import train

STAGES: Mapping[Stage, Callable[[Run, World], Step]] = {
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


def advance(run: Run, world: World) -> Step:
    """One tick of an unfinished run. What changed is stored before the step is returned."""
    now = world.now()
    if run.not_before is not None and now < run.not_before:
        if run.is_waiting:
            return Step(run=run, sentence=looks.standing(run))
        seconds = (run.not_before - now).total_seconds()
        return Step(run=run, sentence=f"{run.stage.lower()} {run.run_id}: next try in {seconds:.0f} s")
    try:
        step = STAGES[run.stage](run, world)
    except ChildInterruptedError as error:
        step = Step(run=run.ended(Outcome.INTERRUPTED, str(error), at=now), sentence=f"{_name(run)} interrupted")
    except RefuseError as error:
        step = _end(run, Outcome.REFUSED, str(error), world)
    except RetryLaterError as error:
        step = _later(run, error, world)
    except CallPersonError as error:
        step = _end(run, Outcome.FAILED, str(error), world)
    return _stored(run, step, world)


def resume(run: Run, world: World) -> Step:
    """Take up a run that an earlier process left behind. Given up when it dies at the same stage again and again."""
    num_deaths = run.num_deaths if run.outcome is Outcome.INTERRUPTED else run.num_deaths + 1
    if num_deaths >= world.policies.max_stage_deaths:
        reason = f"{_name(run)} died {num_deaths} times in the same stage"
        return _stored(run, _end(run.resumed(at=world.now()), Outcome.ABANDONED, reason, world), world)
    resumed = replace(run.resumed(at=world.now()), num_deaths=num_deaths)
    return _stored(run, Step(run=resumed, sentence=f"{_name(run)} goes on where it stopped"), world)


def postpone(run: Run, reason: str, world: World) -> Step:
    """A run on trial or on probation that failed in an unforeseen way: the next look tries again."""
    later = (
        looks.problem(run, world, reason)
        if run.fact(run.stage)
        else replace(run, not_before=world.now() + timedelta(minutes=world.policies.trial_check_minutes))
    )
    return _stored(run, Step(run=later, sentence=f"{_name(run)}: {reason}"), world)


def interrupt(run: Run, world: World) -> Step:
    """Note that this process stops while the run is under way; the next start resumes it."""
    ended = run.ended(
        Outcome.INTERRUPTED, f"stopped at {run.stage.lower()}; the next start goes on there", at=world.now()
    )
    return _stored(run, Step(run=ended, sentence=f"{_name(run)} interrupted"), world)


def _later(run: Run, error: RetryLaterError, world: World) -> Step:
    if run.num_retries >= world.policies.max_retries:
        return _end(run, Outcome.FAILED, str(error), world)
    wait = timedelta(seconds=world.policies.retry_seconds * 2**run.num_retries)
    waiting = replace(run, num_retries=run.num_retries + 1, not_before=world.now() + wait)
    return Step(run=waiting, sentence=f"{_name(run)} tries again in {wait.total_seconds():.0f} s: {error}")


def _end(run: Run, outcome: Outcome, reason: str, world: World) -> Step:
    """The run ends early. In the middle of a promotion, what the env file says, counts."""
    left = promote.cut_short(run, reason, world) if run.stage is Stage.PROMOTE else None
    if isinstance(left, Step):
        return left
    return Step(
        run=run.ended(outcome, reason, at=world.now()), sentence=f"{_name(run)} {outcome}: {reason}", deployment=left
    )


def _stored(before: Run, step: Step, world: World) -> Step:
    """Store what changed; add the seconds of a finished stage, the closing event, and the watermark."""
    if step.run is before and step.deployment is None and step.order is None:
        return step
    after, now = step.run, world.now()
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
    world.store.record(after, events=raised, deployment=step.deployment, order=step.order, watermark_path=watermark)
    return replace(step, run=after, events=raised, watermark_path=watermark, is_move=True, is_end=is_end)


def _name(run: Run) -> str:
    return f"run {run.run_id} ({run.stage.lower()})"
