"""Advances the runs on trial and on probation: each is evaluated when its next evaluation is due.

There is one worker at a time: no evaluation begins while another worker runs, and while an evaluation runs the run at
work makes no step. An evaluation takes seconds. A rollback needs no evaluation, and waits for none.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog

from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.domain.probation import ROLL_BACK
from retrain_worker.errors import RetryLaterError, StateError
from retrain_worker.stages.advance import advance, postpone
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.step import Step
from retrain_worker.stages.trial_evaluation import standing

log = structlog.get_logger()


class Trials:
    """Advances the waiting runs; knows which of them a worker is at work for."""

    def __init__(
        self,
        workers: WorkerProcesses,
        *,
        conclude: Callable[[Step], None],
        closed: Callable[[Run], object],
    ) -> None:
        """`conclude` is told the step by which a run's outcome became known, `closed` a run whose probation is over."""
        self._workers = workers
        self._conclude, self._closed = conclude, closed
        self._looking: str | None = None
        self._sentences: dict[str, str] = {}

    @property
    def is_looking(self) -> bool:
        """Whether a look is under way: the worker belongs to it."""
        return self._looking is not None

    def advance(self, context: StageContext, *, looked_since: datetime | None = None) -> bool:
        """One step of each waiting run whose turn it is; whether anything moved, or a look is under way.

        With `looked_since`, a run whose next look was planned after that instant is left alone: it was looked at.
        Raises StateError and RetryLaterError of the store; anything else that is unforeseen postpones the look.
        """
        waiting, has_moved = context.store.waiting_runs(), False
        if self._looking not in {run.run_id for run in waiting}:
            self._looking = None
        for run in waiting:
            is_busy = self._workers.is_running and self._looking != run.run_id
            if is_busy and not _is_settled(run):
                continue
            if looked_since is not None and run.not_before is not None and run.not_before > looked_since:
                continue
            step = _step(run, context)
            if not is_busy:
                self._looking = run.run_id if self._workers.is_running else None
            self._tell(step)
            has_moved |= step.is_move
            if self._looking == run.run_id:
                break
        self._sentences = {run.run_id: self._sentences.get(run.run_id, "") for run in waiting}
        return has_moved or self.is_looking

    def messages(self) -> tuple[str, ...]:
        """How each of them stands."""
        return tuple(message for message in self._sentences.values() if message)

    def _tell(self, step: Step) -> None:
        run = step.run
        if self._sentences.get(run.run_id) == step.message and not run.is_finished:
            return
        self._sentences[run.run_id] = "" if run.is_finished else step.message
        if step.is_end:
            self._conclude(step)
        elif run.is_finished:
            is_alarm = run.outcome is Outcome.ROLLED_BACK or bool(run.fact(Stage.PROBATION).get("decision"))
            tell = log.warning if is_alarm else log.info
            tell(
                "probation_ended",
                message=step.message,
                run_id=run.run_id,
                outcome=run.outcome,
                reasons=list(run.reasons),
            )
            self._closed(run)
        else:
            is_alarm = _is_settled(run) or bool(run.fact(run.stage).get("problem"))
            # how a look has ended stands in STATUS; hundreds of them fit into a trial
            is_news = step.is_move and step.message != standing(run)
            tell = log.warning if is_alarm else log.info if is_news else log.debug
            tell("run_waits", message=step.message, run_id=run.run_id, stage=run.stage)


def _is_settled(run: Run) -> bool:
    """Whether only the taking back is left to do, which needs no look."""
    return run.fact(Stage.PROBATION).get("decision") == ROLL_BACK


def _step(run: Run, context: StageContext) -> Step:
    try:
        return advance(run, context)
    except (StateError, RetryLaterError):
        raise
    except Exception:
        log.exception("evaluation_failed", message=f"run {run.run_id} failed unexpectedly at {run.stage}")
        return postpone(run, "an unforeseen error; see the log", context)
