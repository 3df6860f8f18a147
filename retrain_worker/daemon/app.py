"""The composition root: the only place where ports meet adapters, and what one pass of each job does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import TracebackType

import structlog

from retrain_worker import durable_file
from retrain_worker.adapters.artifact_store import ArtifactStore
from retrain_worker.adapters.embedded_redis import EmbeddedRedis
from retrain_worker.adapters.engine_unit import UnitConfirmations
from retrain_worker.adapters.event_confirmations import EventConfirmations
from retrain_worker.adapters.model_slot import ModelSlot
from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.retrain_requests import Poll, Requests
from retrain_worker.adapters.stack_tables import StackTables
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.adapters.state_lock import StateLock
from retrain_worker.adapters.trade_intents import ServingMonitor
from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.daemon import queued_request, retention
from retrain_worker.daemon.bookkeeping import Bookkeeping
from retrain_worker.daemon.job_backoff import Guard
from retrain_worker.daemon.run_report import write_report
from retrain_worker.daemon.schedule import next_run_at
from retrain_worker.daemon.serving_monitor import finding_of
from retrain_worker.daemon.waiting_runs import Trials
from retrain_worker.domain import events
from retrain_worker.domain.confirmation import Confirm
from retrain_worker.domain.deployments import is_confirmed
from retrain_worker.domain.engine_answers import INTENT_STREAM
from retrain_worker.domain.lifecycle import WAITING, DeploymentState, Outcome, Run, Stage
from retrain_worker.domain.slot_request import SlotRequest, SlotRequestState
from retrain_worker.domain.worker_protocol import OneOffTask
from retrain_worker.errors import RetrainError, RetryLaterError, SlotError, StateError
from retrain_worker.redis_client import connect
from retrain_worker.settings import Settings
from retrain_worker.stages import external_change, slot_requests
from retrain_worker.stages.advance import advance, interrupt, resume
from retrain_worker.stages.ports import Confirmations, Policies, StageContext
from retrain_worker.stages.step import Step

log = structlog.get_logger()

#: seconds that a worker has to write its checkpoint when we stop
_CHILD_GRACE_SECONDS = 5.0
#: that Redis has for one answer; a call under way holds up the stop, and a look at the engine's entries the tick
_REDIS_SECONDS = 2.0
#: of a look at a run that waits: it takes seconds, and keeps the run at work waiting
_LOOK_DEADLINE_SECONDS = 600.0
#: for the worker that verifies the model of an order
_VERIFY_DEADLINE_SECONDS = 300.0
#: polls of requests in one pass; the rest of a flood waits for the next
_MOST_POLLS = 100
_CLOCK_WENT_BACK = "clock_went_back"


class App:
    """One process's hold on a state directory. Use as a context manager; every public method is one pass of a job."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is opened yet."""
        self._settings = settings
        self._moving = threading.RLock()
        self._closing = False
        self._resources = contextlib.ExitStack()
        self._sentence = ""
        self._redis_problem: str | None = None
        self._requests_problem: str | None = None
        self._slot_problem: str | None = None
        #: whether this tick has put something into the outbox that others wait for
        self._has_news = False
        #: what the env line named at the last look, when it was not what we know
        self._glimpsed: str | None = None
        #: what the engine's own answers say of its serving
        self._engine_finding = ""
        self._is_serving_fault = False
        self._serving_monitor_problem: str | None = None
        self.guard = Guard()
        self._relaying = threading.Lock()
        #: settings that wait for the run under way to end
        self._reread: Settings | None = None

    def __enter__(self) -> App:
        """Take the lock, open what is needed. Raises AlreadyRunningError, StateError, SettingsError."""
        settings = self._settings
        with contextlib.ExitStack() as resources:
            with durable_file.named_errors(settings.state_path):
                settings.state_path.mkdir(parents=True, exist_ok=True)
            resources.enter_context(StateLock(settings.state_path))
            self.store = resources.enter_context(StateDb(settings.state_path / "state.db"))
            self._books = Bookkeeping(self.store)
            self.redis_url = str(settings.redis_url)
            self._embedded: EmbeddedRedis | None = None
            if not self.redis_url:
                assert settings.home is not None, "without a home, a Redis is always named"
                self._embedded = resources.enter_context(EmbeddedRedis(settings.home))
                self.redis_url = self._embedded.url
            client = resources.enter_context(
                contextlib.closing(connect(self.redis_url, socket_timeout_seconds=_REDIS_SECONDS))
            )
            self._relay = Relay(client, self.store, now)
            self._requests = Requests(client, now)
            self._workers = WorkerProcesses(
                database_url=str(settings.database_url),
                niceness=settings.worker_nice,
                deadline_seconds=_deadlines(settings),
            )
            resources.callback(self._workers.stop, _CHILD_GRACE_SECONDS)
            self._trials = Trials(
                self._workers, conclude=self._finish, closed=lambda run: write_report(run, self.artifacts)
            )
            self._verifier = WorkerProcesses(deadline_seconds={OneOffTask.VERIFY: _VERIFY_DEADLINE_SECONDS})
            resources.callback(self._verifier.stop, 0.0)
            self._client = client
            self._serving_monitor = ServingMonitor(client, self.store)
            self.context = self._context(settings)
            self.artifacts.sweep()
            if settings.home is None or settings.home in settings.engine_env_file.parents:
                self._slot.sweep()
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the worker, close everything, in the reverse order of opening."""
        self._resources.close()

    def recover(self) -> None:
        """Take up the run that an earlier process left behind, if there is one."""
        with self._moving:
            run = self.store.unfinished_run()
            if run is not None:
                self._say(resume(run, self.context))

    def begin(self, requested_by: str, reason: str) -> Run:
        """Open a run, or give the one that is under way."""
        at = self.context.now()
        with self._moving:
            run, is_new = self.store.open_run(
                requested_by=requested_by, reason=reason, at=at, announce=lambda new: (events.started(new, at=at),)
            )
            if is_new:
                self._sentence = f"run {run.run_id} started: {reason}"
                log.info("run_started", message=self._sentence, run_id=run.run_id)
        return run

    def tick(self) -> None:
        """Look at the slot, carry out what was ordered, start the run that is due or advance the one under way."""
        self._has_news = False
        self._tick()
        if self._has_news:
            self.relay()

    def _tick(self) -> None:
        with self._moving:
            if self._closing:
                return
            self.check_slot()
            self.carry_out_slot_requests()
            self.evaluate_trials()
            if self._trials.is_looking:
                return
            run = self.store.unfinished_run()
            if run is None and self._reread is not None:
                self._adopt(self._reread)
            at = self.context.now()
            if run is None and (reason := queued_request.due(self.store)):
                run = self.begin("trigger", reason)
            if run is None and at >= self.next_run_at(at):
                run = self.begin("schedule", f"every {self._settings.retrain_interval_hours:g} h")
            if run is None:
                self._sentence = ""
                return
            try:
                self._advance(run)
            except (StateError, RetryLaterError):
                raise
            except Exception:
                # Unforeseen: the same tick would fail for ever, so it counts as a death of the process would.
                log.exception("tick_failed", message=f"run {run.run_id} failed unexpectedly at {run.stage}")
                self._say(resume(run, self.context))

    def _advance(self, run: Run) -> None:
        """One step; of a promotion as many as need no waiting, because each is stored before the next one anyway."""
        while True:
            step = advance(run, self.context)
            self._say(step)
            run = step.run
            self._has_news = self._has_news or bool(step.events)
            is_waiting = not step.is_move or run.outcome is not None or run.not_before is not None
            if is_waiting or run.stage is not Stage.PROMOTE or self._closing:
                return

    def evaluate_trials(self, *, looked_since: datetime | None = None) -> bool:
        """One step of the runs on trial and on probation; whether anything moved, or a look is under way."""
        with self._moving:
            return not self._closing and self._trials.advance(self.context, looked_since=looked_since)

    def settle_trials(self, *, stopping: Callable[[], bool], pause: Callable[[float], None]) -> None:
        """Look once at every run that waits, and do what follows: for a process that does not stay."""
        begun_at = self.context.now()
        while not stopping():
            self.check_slot()
            request, has_moved = self.carry_out_slot_requests(), self.evaluate_trials(looked_since=begun_at)
            self.relay()
            if request is None and not has_moved:
                return
            pause(0.05)

    def check_slot(self) -> None:
        """Record what somebody else has put into the slot, once; a slot that cannot be read is said once.

        Two looks must agree: some editors write in parts.
        """
        with self._moving:
            try:
                found = external_change.unrecorded(self.context)
                problem = None
            except StateError:
                raise
            except RetrainError as error:
                found, problem = None, str(error)
            if problem is not None and problem != self._slot_problem:
                log.warning("slot_problem", message=problem)
            self._slot_problem = problem
            before, self._glimpsed = self._glimpsed, found.model_path if found else None
            if found is None or found.model_path != before:
                return
            self._glimpsed = None
            is_first = self.store.last_deployment() is None
            told = (
                ()
                if is_first
                else (events.changed_externally(found, shadow_only=self._slot.is_shadow_only(), at=found.created_at),)
            )
            self.store.record_deployment(found, events=told)
            tell = log.info if is_first else log.warning
            tell(
                "slot_changed_externally",
                message=f"PATCHTST_MODEL_PATH names {found.model_path or 'nothing'}: {found.reason}; "
                f"{found.confirmation}",
                version=found.version,
                sha256=found.sha256,
            )

    def carry_out_slot_requests(self) -> SlotRequest | None:
        """Carry out what was ordered, as far as it goes without waiting; the order that is waited for, if there is one.

        The oldest first. A step is stored before the next one begins, so a crash between them is healed by the next
        pass.
        """
        with self._moving:
            while not self._closing and (request := self.store.waiting_slot_request()) is not None:
                try:
                    step = slot_requests.carry_out(request, self.context)
                except (StateError, RetryLaterError):
                    raise
                except Exception:
                    # Unforeseen: the same step would fail for ever.
                    log.exception("slot_request_failed", message=f"{request.request_id} failed unexpectedly")
                    step = slot_requests.abandon(request, "an unforeseen error; see the log", self.context)
                self._tell(step)
                self._has_news = self._has_news or bool(step.events)
                if not step.is_move or step.request.not_before is not None:
                    return step.request
            return None

    def relay(self, *, at_once: bool = False) -> None:
        """Deliver what waits in the outbox; a problem is said once, not every second."""
        with self._relaying:
            report = self._relay.relay_once(at_once=at_once)
            if report.problem and self._embedded is not None:
                self._embedded.ensure()
        for notice in report.notices:
            log.warning("redis_notice", message=notice)
        if report.problem != self._redis_problem:
            self._redis_problem = report.problem
            if report.problem:
                log.warning("redis_problem", message=f"{report.problem}; {report.pending} events wait")
            else:
                log.info("redis_recovered", message=f"Redis takes events again; {report.pending} wait")

    def take_requests(self) -> None:
        """A request on the stream starts a run or joins the one under way; acknowledged once it is recorded.

        One that comes too late for the rows of the run under way makes another run follow it. A flood is read to its
        end while nothing moves: read over several passes, it would begin a run after each that ends at once.
        """
        found = self._poll_requests()
        if not found.requests:
            return
        first = found.requests[0]
        reason = f"{first.requested_by}: {first.reason}"
        with self._moving:
            if self._closing:
                return
            under_way = self.store.unfinished_run()
            if under_way is not None and queued_request.comes_too_late(under_way):
                if queued_request.note(self.store, under_way, reason):
                    log.info(
                        "request_queued",
                        message=f"a request follows run {under_way.run_id}, which has taken its rows: {reason}",
                        run_id=under_way.run_id,
                    )
            else:
                run = self.begin("trigger", reason)
                if under_way is not None:
                    log.info(
                        "request_joined", message=f"a request joined run {run.run_id}: {reason}", run_id=run.run_id
                    )
            for _ in range(_MOST_POLLS):
                unheard = self._requests.acknowledge(request.stream_id for request in found.requests)
                if unheard or not found.is_full:
                    return
                found = self._poll_requests()

    def _poll_requests(self) -> Poll:
        found = self._requests.poll()
        for malformed in found.set_aside:
            log.warning("request_dead_lettered", message=f"request {malformed.stream_id} set aside: {malformed.reason}")
        # what concerns all of Redis, the relay says
        problem = found.problem if found.problem and events.REQUEST_STREAM in found.problem else None
        if problem != self._requests_problem:
            self._requests_problem = problem
            if problem:
                log.warning("requests_problem", message=f"no request can be taken: {problem}")
        return found

    def listen(self) -> None:
        """Count what the engine itself says; a serving fault is said once when it begins, and once when it is over."""
        with self._moving:
            try:
                current = self._slot.current_path()
            except SlotError:
                return  # look_at_slot says it
            if current is None:
                return
            problem = self._serving_monitor.read(model_path=str(current), at=self.context.now())
            if problem != self._serving_monitor_problem:
                self._serving_monitor_problem = problem
                if problem and INTENT_STREAM in problem:
                    log.warning("serving_monitor_problem", message=problem)
            found = finding_of(self.store, self._serving_monitor.tally)
        self._engine_finding = found.message if self._serving_monitor.tally.entries else ""
        if found.is_fault != self._is_serving_fault:
            self._is_serving_fault = found.is_fault
            tell = log.warning if found.is_fault else log.info
            tell(
                "serving_fault" if found.is_fault else "serving_fault_over",
                message=found.message,
                model_path=str(current),
            )

    def keep_prediction_logs(self) -> None:
        """Write what came of the runs into the stack's own tables. A failure is logged and tried again."""
        if not self._settings.bookkeeping:
            return
        self._books.keep(StackTables(str(self._settings.database_url)))

    def sweep(self) -> None:
        """Delete the oldest run folders and models; never one that serves, served before, or is needed."""
        retention.sweep_runs(self.store, self.artifacts, keep=self._settings.keep_runs)
        with self._moving:  # between the choice of a model and its deployment nothing may go
            retention.sweep_models(self.store, self._slot, keep=self._settings.keep_models)

    def stop_worker(self) -> None:
        """Begin no new work, and give the worker its grace to write a checkpoint."""
        self._closing = True
        self._workers.stop(_CHILD_GRACE_SECONDS)

    def interrupt(self) -> None:
        """Stop the worker and note that the run under way goes on at the next start; one last pass of the relay."""
        self.stop_worker()
        with self._moving:
            run = self.store.unfinished_run()
            if run is not None and run.outcome is not Outcome.INTERRUPTED:
                self._say(interrupt(run, self.context))
        if self._redis_problem is None:
            self.relay(at_once=True)

    def apply(self, settings: Settings) -> None:
        """Take new settings once no run is under way, deadlines at once; our paths, Redis, database after a restart."""
        with self._moving:
            self._workers.set_deadlines(_deadlines(settings))
            self._reread = settings
            if self.store.unfinished_run() is None:
                self._adopt(settings)

    def next_run_at(self, at: datetime) -> datetime:
        """When the next run is due, seen from `at`."""
        return next_run_at(
            last_attempt_at=self._last_attempt_at(at),
            now=at,
            interval=timedelta(hours=self._settings.retrain_interval_hours),
        )

    def _last_attempt_at(self, at: datetime) -> datetime | None:
        """The last attempt; one dated in the future counts from when this was noticed, because the clock went back."""
        last = self.store.last_attempt_at()
        if last is None or last <= at:
            return last
        attempt, _, noticed = (self.store.recall(_CLOCK_WENT_BACK) or "").partition(" ")
        if attempt == last.isoformat() and datetime.fromisoformat(noticed) <= at:
            return datetime.fromisoformat(noticed)
        self.store.remember(_CLOCK_WENT_BACK, f"{last.isoformat()} {at.isoformat()}")
        return at

    def status_line(self) -> str:
        """One sentence for STATUS=: what it does, or when it will; what is wrong. Never raises."""
        try:
            return self._status_line()
        except RetrainError as error:
            return str(error)

    def _status_line(self) -> str:
        parts = [self._sentence or self._idle_sentence(), *self._trials.messages(), *self.guard.messages()]
        if self._redis_problem:
            parts.append(f"{self._redis_problem}, {self.store.num_pending()} events waiting")
        return "; ".join(parts)

    def _adopt(self, settings: Settings) -> None:
        self._reread = None
        self._settings = replace(
            settings,
            state_path=self._settings.state_path,
            redis_url=self._settings.redis_url,
            database_url=self._settings.database_url,
            database_path=self._settings.database_path,
            model_path=self._settings.model_path,
            checkpoint_path=self._settings.checkpoint_path,
        )
        self.context = self._context(self._settings)

    def _idle_sentence(self) -> str:
        at = self.context.now()
        wait = self.next_run_at(at) - at
        serving = self.store.last_deployment()
        return (
            f"idle; next run {f'in {in_words(wait)}' if wait > timedelta() else 'now'}; "
            f"serving {serving.version if serving else 'nothing that this program has promoted'}"
        )

    def _say(self, step: Step) -> None:
        """Log a sentence when it is new: info for a move, debug for waiting and for the steps on both sides of a swap.

        One canonical line at the end of a run.
        """
        run, message = step.run, step.message
        if message == self._sentence:
            return
        self._sentence = message
        if step.is_end:
            self._sentence = ""
            self._finish(step)
        else:
            tell = log.info if step.is_move and not _is_between(step) else log.debug
            tell("run_progress", message=message, run_id=run.run_id, stage=run.stage)

    def _finish(self, step: Step) -> None:
        """The canonical line: what came of a run, once its outcome is known."""
        run = step.run
        end = log.warning if run.outcome in (Outcome.FAILED, Outcome.ABANDONED, Outcome.ROLLED_BACK) else log.info
        end(
            "run_finished",
            message=step.message,
            run_id=run.run_id,
            outcome=run.outcome,
            stage=run.stage,
            reasons=list(run.reasons),
            seconds=dict(run.seconds),
            model_path=run.fact(Stage.PROMOTE).get("model_path"),
        )
        write_report(run, self.artifacts)

    def _tell(self, step: slot_requests.SlotRequestStep) -> None:
        """Log a step of an order: waiting at debug, a move at info, an end that is not as ordered as a warning."""
        request = step.request
        is_alarm = request.is_answered and request.state is not SlotRequestState.DONE
        is_alarm = is_alarm or (step.deployment is not None and is_confirmed(step.deployment) is False)
        tell = log.warning if is_alarm else log.info if step.is_move else log.debug
        tell("slot_request_progress", message=step.message, request_id=request.request_id, state=request.state)

    def _context(self, settings: Settings) -> StageContext:
        self.artifacts = ArtifactStore(model_path=settings.model_path, checkpoint_path=settings.checkpoint_path)
        self._slot = ModelSlot(
            engine_models_dir=settings.engine_models_dir,
            engine_env_file=settings.engine_env_file,
            trigger_file=settings.engine_trigger_file,
            serving_user=settings.engine_user or None,
        )
        confirmations: Confirmations = EventConfirmations(self._client)
        if settings.engine_confirm is Confirm.UNIT:
            confirmations = UnitConfirmations(settings.engine_unit)
        if settings.engine_confirm is Confirm.ANSWERS:
            confirmations = self._serving_monitor
        return StageContext(
            store=self.store,
            workers=self._workers,
            verifier=self._verifier,
            folders=self.artifacts,
            confirmations=confirmations,
            slot=self._slot,
            policies=policies_of(settings),
            now=now,
            engine_says=lambda: self._engine_finding,
        )


def _is_between(step: Step) -> bool:
    """A step of a swap that needs nobody's eye: the model beside the others, the engine told."""
    moved = step.deployment
    return moved is not None and moved.state in (DeploymentState.INTENDED, DeploymentState.ANNOUNCED)


def _deadlines(settings: Settings) -> dict[Stage | OneOffTask, float]:
    """Seconds that a worker of each stage may take."""
    longest = settings.stage_deadline_minutes * 60
    return {stage: min(longest, _LOOK_DEADLINE_SECONDS) if stage in WAITING else longest for stage in Stage}


def now() -> datetime:
    """The wall clock, aware UTC."""
    return datetime.now(UTC)


def policies_of(settings: Settings) -> Policies:
    """The policies of a run under these settings."""
    return Policies(
        data=settings.data,
        split=settings.split,
        recipe=settings.recipe,
        gate=settings.gate,
        allow_live_swap=settings.allow_live_swap,
        engine_confirm=settings.engine_confirm,
        engine_confirm_seconds=settings.engine_confirm_seconds,
        unconfirmed=settings.unconfirmed,
        shadow=settings.shadow,
        probation=settings.probation,
        trial_interval_minutes=settings.trial_interval_minutes,
        max_retries=settings.max_retries,
        worker_memory_bytes=settings.worker_memory_bytes,
    )


def in_words(wait: timedelta) -> str:
    """`3 h 12 min`, `12 min`, `40 s`, or `now`."""
    seconds = int(wait.total_seconds())
    if seconds <= 0:
        return "now"
    if seconds < 60:
        return f"{seconds} s"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def ticks(app: App, run: Run, *, stopping: Callable[[], bool], pause: Callable[[float], None]) -> Iterator[Step]:
    """Advance one run until it ends or is interrupted, relaying between the ticks: the daemon without a schedule."""
    while not run.is_finished and not run.is_waiting:
        if stopping():
            app.interrupt()
            return
        app.check_slot()
        app.carry_out_slot_requests()
        step = advance(run, app.context)
        yield step
        run = step.run
        if run.outcome is Outcome.INTERRUPTED:
            return
        app.relay()
        pause(0.1)
    app.relay(at_once=True)
