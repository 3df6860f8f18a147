"""The composition root: the only place where ports meet adapters. Opens every resource and builds every job.

The resources are closed in the reverse order: the worker is stopped first, the lock on the state directory is released
last.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from retrain_worker import durable_file
from retrain_worker.adapters.artifact_store import ArtifactStore
from retrain_worker.adapters.automatic_confirmations import AutomaticConfirmations
from retrain_worker.adapters.embedded_redis import EmbeddedRedis
from retrain_worker.adapters.engine_unit import UnitConfirmations
from retrain_worker.adapters.event_confirmations import EventConfirmations
from retrain_worker.adapters.model_slot import ModelSlot
from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.retrain_requests import Requests
from retrain_worker.adapters.stack_tables import StackTables
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.adapters.state_lock import StateLock
from retrain_worker.adapters.trade_intents import TradeIntents
from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.daemon.configuration import Configuration, deadlines_of, policies_of
from retrain_worker.daemon.job_backoff import JobBackoff
from retrain_worker.daemon.job_schedule import boot_clock
from retrain_worker.daemon.jobs.bookkeeping import Bookkeeping
from retrain_worker.daemon.jobs.event_relay import EventRelay
from retrain_worker.daemon.jobs.retrain_requests import RetrainRequests
from retrain_worker.daemon.jobs.serving_monitor import ServingMonitor, engine_says
from retrain_worker.daemon.jobs.slot_watch import SlotWatch
from retrain_worker.daemon.jobs.waiting_runs import WaitingRuns
from retrain_worker.daemon.run_driver import WORKER_GRACE_SECONDS, RunDriver
from retrain_worker.daemon.run_log import log_rollback, log_step
from retrain_worker.daemon.run_report import write_report
from retrain_worker.daemon.run_schedule import RunSchedule
from retrain_worker.domain.confirmation import Confirm
from retrain_worker.domain.lifecycle import Run
from retrain_worker.domain.worker_protocol import OneOffTask
from retrain_worker.errors import StateError
from retrain_worker.redis_client import connect
from retrain_worker.settings import Settings
from retrain_worker.stages.ports import Confirmations, StageContext
from retrain_worker.stages.step import Step

log = structlog.get_logger()

#: that Redis has for one answer; a call in progress delays the stop, and a read of trade intents the run driver
_REDIS_SECONDS = 2.0
#: for the worker that verifies the model of a slot request
_VERIFY_DEADLINE_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Components:
    """Everything that a process with the lock on a state directory consists of."""

    store: StateDb
    run_folders: ArtifactStore
    configuration: Configuration
    schedule: RunSchedule
    driver: RunDriver
    waiting_runs: WaitingRuns
    relay: EventRelay
    retrain_requests: RetrainRequests
    serving_monitor: ServingMonitor
    bookkeeping: Bookkeeping
    backoff: JobBackoff
    #: held while a run or the slot may change
    lock: threading.RLock
    state_lock: StateLock
    redis_url: str

    def check_state(self) -> None:
        """Raise StateError when the state is no longer the one that this process has opened."""
        self.state_lock.check()
        self.store.check_in_place()


@contextlib.contextmanager
def open_components(settings: Settings, *, report: Callable[[Step], None] | None = None) -> Iterator[Components]:
    """Take the lock and open what is needed. `report` gets the steps of the current run instead of log and report page.

    Raises AlreadyRunningError, StateError, SettingsError.
    """
    with contextlib.ExitStack() as resources:
        with durable_file.named_errors(settings.state_path):
            settings.state_path.mkdir(parents=True, exist_ok=True)
        state_lock = resources.enter_context(StateLock(settings.state_path))
        run_folders = ArtifactStore(model_path=settings.model_path, checkpoint_path=settings.checkpoint_path)
        _check_not_lost(settings.state_path / "state.db", run_folders)
        store = resources.enter_context(StateDb(settings.state_path / "state.db"))
        for row in store.quarantined:
            log.warning("state_quarantined", message=f"moved to the table unreadable_rows of state.db: {row}")
        redis_url, embedded_redis = str(settings.redis_url), None
        if not redis_url:
            assert settings.home is not None, "without a home, a Redis is always named"
            embedded_redis = resources.enter_context(EmbeddedRedis(settings.home))
            redis_url = embedded_redis.url
        names = settings.redis_names
        origin = {"instance": names.instance, "host": socket.gethostname()}
        client = resources.enter_context(
            contextlib.closing(connect(redis_url, names=names, socket_timeout_seconds=_REDIS_SECONDS))
        )
        workers = WorkerProcesses(
            database_url=str(settings.database_url),
            niceness=settings.worker_nice,
            deadline_seconds=deadlines_of(settings),
        )
        resources.callback(workers.stop, WORKER_GRACE_SECONDS)
        verifier = WorkerProcesses(deadline_seconds={OneOffTask.VERIFY: _VERIFY_DEADLINE_SECONDS})
        resources.callback(verifier.stop, 0.0)
        trade_intents = TradeIntents(client, store)

        def build_context(settings: Settings, slot: ModelSlot) -> StageContext:
            unit, confirm = UnitConfirmations(settings.engine_unit), settings.engine_confirm
            automatic = AutomaticConfirmations(EventConfirmations(client, instance=names.instance), unit)
            confirmations: dict[Confirm, Confirmations] = {
                Confirm.AUTO: automatic,
                Confirm.UNIT: unit,
                Confirm.ANSWERS: trade_intents,
            }
            is_auto = confirm is Confirm.AUTO
            why_none = (
                f"no follower has ever answered, and there is no unit {settings.engine_unit} (ENGINE_CONFIRM=auto)"
            )
            return StageContext(
                store=store,
                workers=workers,
                verifier=verifier,
                folders=run_folders,
                confirmations=confirmations.get(confirm) or EventConfirmations(client, instance=names.instance),
                confirm_by=automatic.expected if is_auto else lambda: confirm,
                unconfirmable=why_none if is_auto else "ENGINE_CONFIRM=none",
                slot=slot,
                policies=policies_of(settings),
                now=_now,
                engine_says=lambda: engine_says(store),
            )

        def log_and_write_report(step: Step) -> None:
            log_step(step)
            if step.is_end:
                write_report(step.run, run_folders)

        def note_rollback(run: Run) -> None:
            log_rollback(run)
            write_report(run, run_folders)

        lock = threading.RLock()
        configuration = Configuration(settings, build_context)
        schedule = RunSchedule(store, configuration)
        relay = EventRelay(Relay(client, store, _now, origin=origin), embedded_redis)
        waiting_runs = WaitingRuns(workers, on_end=lambda run: write_report(run, run_folders))
        driver = RunDriver(
            store=store,
            workers=workers,
            configuration=configuration,
            schedule=schedule,
            slot_watch=SlotWatch(note_rollback),
            waiting_runs=waiting_runs,
            relay=relay,
            report=report or log_and_write_report,
            on_rollback=note_rollback,
            lock=lock,
        )
        run_folders.sweep()
        if settings.home is None or settings.home in settings.engine_env_file.parents:
            configuration.slot.sweep()
        yield Components(
            store=store,
            run_folders=run_folders,
            configuration=configuration,
            schedule=schedule,
            driver=driver,
            waiting_runs=waiting_runs,
            relay=relay,
            retrain_requests=RetrainRequests(
                Requests(client, _now, instance=names.instance),
                store,
                begin_run=driver.begin,
                is_held=schedule.is_held,
                is_stopping=lambda: driver.is_stopping,
                lock=lock,
            ),
            serving_monitor=ServingMonitor(trade_intents, store, configuration, lock=lock),
            bookkeeping=Bookkeeping(store, lambda: _stack_tables(configuration.settings)),
            backoff=JobBackoff(clock=boot_clock),
            lock=lock,
            state_lock=state_lock,
            redis_url=redis_url,
        )


def _check_not_lost(state_file: Path, run_folders: ArtifactStore) -> None:
    """Raise StateError when the runs have a history somewhere else: rollback targets and the schedule are in it."""
    if not state_file.exists() and (run_ids := run_folders.run_ids()):
        raise StateError(
            f"missing, but there are {len(run_ids)} runs in {run_folders.path_of(run_ids[-1]).parent}",
            where=str(state_file),
            remedy=f"restore it from a backup, or begin a new history: touch {state_file}",
        )


def _stack_tables(settings: Settings) -> StackTables | None:
    return StackTables(str(settings.database_url)) if settings.bookkeeping else None


def _now() -> datetime:
    """The wall clock, aware UTC."""
    return datetime.now(UTC)
