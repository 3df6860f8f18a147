"""The runs that wait for rows: those on trial and on probation, each looked at when its look is due.

A look needs a child, and there is one child at a time: no look begins while another child is at work, and while a look
is under way the run at work makes no step. A look takes seconds. Taking a model back needs no look, and waits for none.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog

from retrain_worker.adapters.child_process import ChildProcesses
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.domain.trial import ROLL_BACK
from retrain_worker.errors import RetryLaterError, StateError
from retrain_worker.stages.advance import advance, postpone
from retrain_worker.stages.look import standing
from retrain_worker.stages.ports import World
from retrain_worker.stages.step import Step

log = structlog.get_logger()


class Trials:
    """Advances the waiting runs; knows which of them a child is at work for."""

    def __init__(
        self,
        children: ChildProcesses,
        *,
        conclude: Callable[[Step], None],
        closed: Callable[[Run], object],
    ) -> None:
        """`conclude` is told the step by which a run's outcome became known, `closed` a run whose probation is over."""
        self._children = children
        self._conclude, self._closed = conclude, closed
        self._looking: str | None = None
        self._sentences: dict[str, str] = {}

    @property
    def is_looking(self) -> bool:
        """Whether a look is under way: the child belongs to it."""
        return self._looking is not None

    def advance(self, world: World, *, looked_since: datetime | None = None) -> bool:
        """One step of each waiting run whose turn it is; whether anything moved, or a look is under way.

        With `looked_since`, a run whose next look was planned after that instant is left alone: it was looked at.
        Raises StateError and RetryLaterError of the store; anything else that is unforeseen postpones the look.
        """
        waiting, has_moved = world.store.waiting_runs(), False
        if self._looking not in {run.run_id for run in waiting}:
            self._looking = None
        for run in waiting:
            is_busy = self._children.is_running and self._looking != run.run_id
            if is_busy and not _is_settled(run):
                continue
            if looked_since is not None and run.not_before is not None and run.not_before > looked_since:
                continue
            step = _step(run, world)
            if not is_busy:
                self._looking = run.run_id if self._children.is_running else None
            self._tell(step)
            has_moved |= step.is_move
            if self._looking == run.run_id:
                break
        self._sentences = {run.run_id: self._sentences.get(run.run_id, "") for run in waiting}
        return has_moved or self.is_looking

    def sentences(self) -> tuple[str, ...]:
        """How each of them stands."""
        return tuple(sentence for sentence in self._sentences.values() if sentence)

    def _tell(self, step: Step) -> None:
        run = step.run
        if self._sentences.get(run.run_id) == step.sentence and not run.is_finished:
            return
        self._sentences[run.run_id] = "" if run.is_finished else step.sentence
        if step.is_end:
            self._conclude(step)
        elif run.is_finished:
            is_alarm = run.outcome is Outcome.ROLLED_BACK or bool(run.fact(Stage.PROBATION).get("decision"))
            tell = log.warning if is_alarm else log.info
            tell(
                "probation_ended",
                message=step.sentence,
                run_id=run.run_id,
                outcome=run.outcome,
                reasons=list(run.reasons),
            )
            self._closed(run)
        else:
            is_alarm = _is_settled(run) or bool(run.fact(run.stage).get("problem"))
            # how a look has ended stands in STATUS; hundreds of them fit into a trial
            is_news = step.is_move and step.sentence != standing(run)
            tell = log.warning if is_alarm else log.info if is_news else log.debug
            tell("run_waits", message=step.sentence, run_id=run.run_id, stage=run.stage)


def _is_settled(run: Run) -> bool:
    """Whether only the taking back is left to do, which needs no look."""
    return run.fact(Stage.PROBATION).get("decision") == ROLL_BACK


def _step(run: Run, world: World) -> Step:
    try:
        return advance(run, world)
    except (StateError, RetryLaterError):
        raise
    except Exception:
        log.exception("look_failed", message=f"run {run.run_id} failed unexpectedly at {run.stage}")
        return postpone(run, "an unforeseen error; see the log", world)
