"""Advances the runs on trial and on probation: each is evaluated when its next evaluation is due.

There is one worker at a time: no evaluation begins while another worker runs, and while an evaluation runs the run at
work makes no step. An evaluation takes seconds. A rollback needs no evaluation and does not wait for one.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog

from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.daemon.run_log import log_step
from retrain_worker.daemon.unexpected_error import charged
from retrain_worker.domain.lifecycle import Outcome, Run
from retrain_worker.stages.advance import advance, postpone
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.step import Step
from retrain_worker.stages.trial_evaluation import facts_of

log = structlog.get_logger()


class WaitingRuns:
    """Knows which waiting run the worker evaluates, and the last message of each."""

    def __init__(self, workers: WorkerProcesses, *, on_end: Callable[[Run], object]) -> None:
        """`on_end` gets each run when its outcome becomes known, and when its probation ends."""
        self._workers = workers
        self._on_end = on_end
        self._evaluated: str | None = None
        self._messages: dict[str, str] = {}

    @property
    def is_evaluating(self) -> bool:
        """Whether the worker evaluates a waiting run now."""
        return self._evaluated is not None

    def advance(self, context: StageContext, *, evaluated_since: datetime | None = None) -> bool:
        """One step of each waiting run whose evaluation is due; whether anything was stored, or is being evaluated.

        With `evaluated_since`, a run whose next evaluation was planned after that instant is left alone: it was
        evaluated. Raises StateError and RetryLaterError of the state database.
        """
        waiting, has_moved = context.store.waiting_runs(), False
        if self._evaluated not in {run.run_id for run in waiting}:
            self._evaluated = None
        for run in waiting:
            is_busy = self._workers.is_running and self._evaluated != run.run_id
            if is_busy and not _is_rolling_back(run):
                continue
            if evaluated_since is not None and run.not_before is not None and run.not_before > evaluated_since:
                continue
            step = _step(run, context)
            if not is_busy:
                self._evaluated = run.run_id if self._workers.is_running else None
            self._report(step)
            has_moved |= step.is_move
            if self._evaluated == run.run_id:
                break
        self._messages = {run.run_id: self._messages.get(run.run_id, "") for run in waiting}
        return has_moved or self.is_evaluating

    def messages(self) -> tuple[str, ...]:
        """The last message of each waiting run."""
        return tuple(message for message in self._messages.values() if message)

    def _report(self, step: Step) -> None:
        run = step.run
        if self._messages.get(run.run_id) == step.message and not run.is_finished:
            return
        self._messages[run.run_id] = "" if run.is_finished else step.message
        if step.is_end:
            log_step(step)
        elif run.is_finished:
            _log_end_of_probation(step)
        else:
            _log_progress(step)
        if step.is_end or run.is_finished:
            self._on_end(run)


def _step(run: Run, context: StageContext) -> Step:
    return charged(
        f"run {run.run_id} ({run.stage.lower()})",
        lambda: advance(run, context),
        charge=lambda reason: postpone(run, reason, context),
    )


def _is_rolling_back(run: Run) -> bool:
    """Whether only its rollback is left to do, which needs no evaluation."""
    return run.facts.probation is not None and run.facts.probation.rollback_reason != ""


def _log_end_of_probation(step: Step) -> None:
    run = step.run
    is_alarm = run.outcome is Outcome.ROLLED_BACK or _is_rolling_back(run)
    write = log.warning if is_alarm else log.info
    write("probation_ended", message=step.message, run_id=run.run_id, outcome=run.outcome, reasons=list(run.reasons))


def _log_progress(step: Step) -> None:
    """The result of an evaluation is shown in STATUS and logged at debug: a trial has hundreds of them."""
    run = step.run
    facts = facts_of(run)
    is_alarm = _is_rolling_back(run) or bool(facts and facts.problem)
    is_minor = not step.is_move or step.is_evaluation
    write = log.warning if is_alarm else log.debug if is_minor else log.info
    write("run_waits", message=step.message, run_id=run.run_id, stage=run.stage)
