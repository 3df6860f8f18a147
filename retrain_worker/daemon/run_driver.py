"""The one driver of runs and of the slot: for the daemon, `once`, `demo`, forced promotions and rollbacks.

A pass checks the slot, carries out slot requests, evaluates the waiting runs, and advances the current run by one step.
Each step is stored before the next one, so recovery from a crash at any instant is the next pass.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.daemon.configuration import Configuration, deadlines_of
from retrain_worker.daemon.jobs import slot_requests
from retrain_worker.daemon.jobs.event_relay import EventRelay
from retrain_worker.daemon.jobs.slot_watch import SlotWatch
from retrain_worker.daemon.jobs.waiting_runs import WaitingRuns
from retrain_worker.daemon.run_schedule import RunSchedule
from retrain_worker.daemon.unexpected_error import charged
from retrain_worker.domain import events
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.domain.slot_request import SlotRequest
from retrain_worker.settings import Settings
from retrain_worker.stages.advance import advance, interrupt, resume
from retrain_worker.stages.step import Step

log = structlog.get_logger()

#: that a worker has to write its checkpoint when this process stops
WORKER_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.1


class RunDriver:
    """May be used from any thread. Every method raises StateError and RetryLaterError of the state database."""

    def __init__(
        self,
        *,
        store: StateDb,
        workers: WorkerProcesses,
        configuration: Configuration,
        schedule: RunSchedule,
        slot_watch: SlotWatch,
        waiting_runs: WaitingRuns,
        relay: EventRelay,
        report: Callable[[Step], None],
        on_rollback: Callable[[Run], object],
        on_begin: Callable[[], None],
        lock: threading.RLock,
    ) -> None:
        """`report` gets each step of the current run with a new message, `on_rollback` each run that is rolled back.

        `on_begin` is called when there is a new run to drive. `lock` is held while run or slot move.
        """
        self._store = store
        self._workers = workers
        self._configuration = configuration
        self._schedule = schedule
        self._slot_watch = slot_watch
        self._waiting_runs = waiting_runs
        self._relay = relay
        self._report = report
        self._on_rollback = on_rollback
        self._on_begin = on_begin
        self._lock = lock
        #: the last message of the current run; empty while there is none
        self.message = ""
        #: whether nothing new begins any more
        self.is_stopping = False
        #: whether the next pass has nothing to do unless something happens, or a time comes
        self.is_idle = False

    def recover(self) -> None:
        """Take up the run that an earlier process left behind, if there is one."""
        with self._lock:
            run = self._store.unfinished_run()
            if run is not None:
                self._note(resume(run, self._configuration.context))

    def begin(self, requested_by: str, reason: str, *, is_forced: bool = False) -> Run:
        """Open a run, or return the current one. `is_forced`: it runs although nothing is new."""
        at = self._configuration.context.now()
        with self._lock:
            run, is_new = self._store.open_run(
                requested_by=requested_by,
                reason=reason,
                at=at,
                is_forced=is_forced,
                announce=lambda new: (events.started(new, at=at),),
            )
            if is_new:
                self.message = f"run {run.run_id} started: {reason}"
                log.info("run_started", message=self.message, run_id=run.run_id)
                self._on_begin()
        return run

    def run_pass(self) -> None:
        """One pass of the daemon; it also starts the run that is due. What was stored is relayed at once."""
        with self._lock:
            has_moved = not self.is_stopping and self._pass()
        if has_moved:
            self._relay.run()

    def drive(self, run: Run, *, is_stopped: Callable[[], bool] = lambda: False) -> Run:
        """Advance one run until it ends, waits for rows, or is interrupted: the daemon without a schedule."""
        while not run.is_finished and not run.is_waiting:
            if is_stopped():
                self.interrupt()
                break
            with self._lock:
                self._keep_slot()
                run = self._advance(run)
            if run.outcome is Outcome.INTERRUPTED:
                break
            self._relay.run()
            time.sleep(_POLL_SECONDS)
        self._relay.run(at_once=True)
        return self._stored(run)

    def evaluate_waiting_runs(self, *, is_stopped: Callable[[], bool]) -> None:
        """Evaluate each waiting run once and do what follows from it: for a process that does not stay."""
        began_at = self._configuration.context.now()
        has_moved = True
        while has_moved and not is_stopped():
            with self._lock:
                has_moved = self._keep_slot()
                has_moved |= self._waiting_runs.advance(self._configuration.context, evaluated_since=began_at)
                has_moved |= self._store.waiting_slot_request() is not None
            self._relay.run()
            time.sleep(_POLL_SECONDS)

    def carry_out(self, request_id: str, *, report: Callable[[SlotRequest], None]) -> SlotRequest:
        """Carry out a slot request to its answer, and the run that it opens to its end. `report` gets each pass."""
        with self._lock:  # an external change is part of the history after two checks
            self._slot_watch.check(self._configuration.context)
        while True:
            with self._lock:
                self._keep_slot()
                request = self._store.request(request_id)
            assert request is not None, "a slot request that was written is stored"
            report(request)
            self._relay.run()
            if request.is_answered:
                break
            time.sleep(_POLL_SECONDS)
        opened = self._store.run(request.arguments.opened_run_id)
        if opened is not None:
            self.drive(opened)
        return request

    def reconfigure(self, settings: Settings) -> None:
        """Put deadlines and launcher of `settings` in force now, the rest as soon as there is no current run."""
        with self._lock:
            self._workers.reconfigure(deadline_seconds=deadlines_of(settings), launcher=settings.train_launcher)
            self._configuration.request(settings)
            if self._store.unfinished_run() is None:
                self._configuration.adopt_pending()

    def stop_worker(self) -> None:
        """Begin nothing new, and give the worker its grace to write a checkpoint."""
        self.is_stopping = True
        self._workers.stop(WORKER_GRACE_SECONDS)

    def interrupt(self) -> None:
        """Stop the worker, store that the next start resumes the current run, and relay once more."""
        self.stop_worker()
        with self._lock:
            run = self._store.unfinished_run()
            if run is not None and run.outcome is not Outcome.INTERRUPTED:
                self._note(interrupt(run, self._configuration.context))
        if self._relay.problem is None:
            self._relay.run(at_once=True)

    def _pass(self) -> bool:
        """Whether anything was stored that others wait for."""
        self.is_idle = False
        has_moved = self._keep_slot()
        has_moved |= self._waiting_runs.advance(self._configuration.context)
        if self._waiting_runs.is_evaluating:
            return has_moved
        run = self._store.unfinished_run() or self._due_run()
        if run is None:
            self.message = ""
            self.is_idle = self._slot_watch.is_settled and self._store.waiting_slot_request() is None
            return has_moved
        return self._advance(run) is not run or has_moved

    def _keep_slot(self) -> bool:
        context = self._configuration.context
        self._slot_watch.check(context)
        return slot_requests.carry_out(
            self._store, context, is_stopping=lambda: self.is_stopping, on_rollback=self._on_rollback
        )

    def _due_run(self) -> Run | None:
        self._configuration.adopt_pending()
        due = self._schedule.due(self._configuration.context.now())
        return self.begin(due.requested_by, due.reason, is_forced=due.is_forced) if due else None

    def _advance(self, run: Run) -> Run:
        """One step of the run; of a promotion as many as need no waiting."""
        while True:
            step = self._step(run)
            self._note(step)
            run = step.run
            is_waiting = not step.is_move or run.outcome is not None or run.not_before is not None
            if is_waiting or run.stage is not Stage.PROMOTE or self.is_stopping:
                return run

    def _step(self, run: Run) -> Step:
        context = self._configuration.context
        return charged(
            f"run {run.run_id} ({run.stage.lower()})",
            lambda: advance(run, context),
            charge=lambda _reason: resume(run, context),
        )

    def _note(self, step: Step) -> None:
        if step.status == self.message:
            return
        self.message = "" if step.is_end else step.status
        self._report(step)

    def _stored(self, run: Run) -> Run:
        stored = self._store.run(run.run_id)
        assert stored is not None, "a run that was driven is stored"
        return stored
