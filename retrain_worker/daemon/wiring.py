"""The composition root: the only place where ports meet adapters. Opens every resource and builds every job.

The resources are closed in the reverse order: the worker is stopped first, the lock on the state directory is released
last.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import redis
import structlog

from retrain_worker import durable_file
from retrain_worker.adapters.artifact_store import ArtifactStore
from retrain_worker.adapters.automatic_confirmations import AutomaticConfirmations
from retrain_worker.adapters.embedded_redis import EmbeddedRedis
from retrain_worker.adapters.engine_unit import UnitConfirmations
from retrain_worker.adapters.event_confirmations import EventConfirmations
from retrain_worker.adapters.model_slot import ModelSlot
from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.request_arrival import SOCKET_SECONDS, RequestArrival
from retrain_worker.adapters.retrain_requests import Requests
from retrain_worker.adapters.stack_tables import StackTables
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.adapters.state_lock import StateLock
from retrain_worker.adapters.trade_intents import TradeIntents
from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.daemon.configuration import Configuration, deadlines_of, policies_of
from retrain_worker.daemon.job_backoff import JobBackoff
from retrain_worker.daemon.job_schedule import Wakeups, boot_clock
from retrain_worker.daemon.jobs.bookkeeping import Bookkeeping
from retrain_worker.daemon.jobs.event_relay import EventRelay
from retrain_worker.daemon.jobs.retrain_requests import RetrainRequests
from retrain_worker.daemon.jobs.serving_monitor import ServingMonitor
from retrain_worker.daemon.jobs.slot_watch import SlotWatch
from retrain_worker.daemon.jobs.waiting_runs import WaitingRuns
from retrain_worker.daemon.leadership import end_process, opened_state
from retrain_worker.daemon.run_driver import WORKER_GRACE_SECONDS, RunDriver
from retrain_worker.daemon.run_log import log_rollback, log_step
from retrain_worker.daemon.run_report import ReportWriter
from retrain_worker.daemon.run_schedule import RunSchedule
from retrain_worker.daemon.serving_state import engine_says
from retrain_worker.daemon.signatures import required_verifier, signer_of
from retrain_worker.domain.confirmation import Confirm
from retrain_worker.domain.lifecycle import Run
from retrain_worker.domain.redis_rights import Role
from retrain_worker.domain.rollout import Offer
from retrain_worker.domain.state_place import StatePlace
from retrain_worker.domain.upload_request import credentials_in, is_of_object_store
from retrain_worker.domain.worker_protocol import OneOffTask
from retrain_worker.errors import StateError
from retrain_worker.redis_client import RedisProblem, connect
from retrain_worker.settings import Settings
from retrain_worker.stages.ports import Confirmations, StageContext
from retrain_worker.stages.rollout import offer_in
from retrain_worker.stages.step import Step

if TYPE_CHECKING:
    from retrain_worker.adapters.leader import Leader

log = structlog.get_logger()

#: names of the jobs that are woken
RUN_DRIVER, EVENT_RELAY, RETRAIN_REQUESTS, REPORTS = "run driver", "event relay", "retrain requests", "reports"

#: that Redis has for one answer; a call in progress delays the stop, and a read of trade intents the run driver
_REDIS_SECONDS = 2.0
#: for the worker that verifies the model of a slot request, and the one that copies models to MODELS_URL
_VERIFY_DEADLINE_SECONDS = _UPLOAD_DEADLINE_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Components:
    """Everything that a process with the lock on a state directory consists of."""

    store: StateDb
    run_folders: ArtifactStore
    configuration: Configuration
    schedule: RunSchedule
    driver: RunDriver
    waiting_runs: WaitingRuns
    reports: ReportWriter
    relay: EventRelay
    retrain_requests: RetrainRequests
    serving_monitor: ServingMonitor
    bookkeeping: Bookkeeping
    backoff: JobBackoff
    wakeups: Wakeups
    request_arrival: RequestArrival
    #: held while a run or the slot may change
    lock: threading.RLock
    state_lock: StateLock
    redis_url: str

    def check_state(self) -> None:
        """Raise StateError when the state is no longer the one that this process has opened."""
        self.state_lock.check()
        self.store.check_in_place()


@contextlib.contextmanager
def open_components(
    settings: Settings,
    *,
    report: Callable[[Step], None] | None = None,
    wait: Callable[[str], None] | None = None,
    on_lost: Callable[[str], None] = end_process,
) -> Iterator[Components]:
    """Take the lock and open what is needed. `report` gets the steps of the current run instead of log and report page.

    `wait`, `on_lost`: for the lead, see leadership.py. Raises AlreadyRunningError, StateError, SettingsError.
    """
    with contextlib.ExitStack() as resources:
        with durable_file.named_errors(settings.state_path):
            settings.state_path.mkdir(parents=True, exist_ok=True)
        state_lock = resources.enter_context(StateLock(settings.state_path))
        run_folders = ArtifactStore(model_path=settings.model_path, checkpoint_path=settings.checkpoint_path)
        _check_not_lost(settings.state_place, run_folders)
        store, leader = resources.enter_context(opened_state(settings, wait=wait, on_lost=on_lost))
        embedded_redis = None if settings.redis_url else resources.enter_context(_embedded_redis(settings))
        redis_url = embedded_redis.url if embedded_redis else str(settings.redis_url)
        names = settings.redis_names
        signer = signer_of(settings)
        origin = {"instance": names.instance, "host": socket.gethostname()}
        client, relay_client, waiting_client = (
            resources.enter_context(
                contextlib.closing(connect(redis_url, names=names, role=Role.DAEMON, socket_timeout_seconds=seconds))
            )
            for seconds in (_REDIS_SECONDS, _REDIS_SECONDS, SOCKET_SECONDS)
        )
        workers = WorkerProcesses(
            database_url=str(settings.database_url),
            launcher=settings.train_launcher,
            niceness=settings.worker_nice,
            deadline_seconds=deadlines_of(settings),
        )
        resources.callback(workers.stop, WORKER_GRACE_SECONDS)
        verifier = WorkerProcesses(deadline_seconds={OneOffTask.VERIFY: _VERIFY_DEADLINE_SECONDS})
        resources.callback(verifier.stop, 0.0)
        trade_intents = TradeIntents(client, store)

        def build_context(settings: Settings, slot: ModelSlot) -> StageContext:
            unit, confirm = UnitConfirmations(settings.engine_unit), settings.engine_confirm
            signatures = required_verifier(settings, signer)
            uploader = _uploader(settings, resources) if settings.models_url else None
            events = EventConfirmations(
                client,
                instance=names.instance,
                consumers=settings.engine_confirm_consumers,
                quorum=settings.engine_confirm_quorum,
            )
            automatic = AutomaticConfirmations(events, unit)
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
                uploader=uploader,
                folders=run_folders,
                confirmations=confirmations.get(confirm) or events,
                acknowledgements=events.acknowledgements,
                confirm_by=automatic.expected if is_auto else lambda: confirm,
                unconfirmable=why_none if is_auto else "ENGINE_CONFIRM=none",
                slot=slot,
                policies=policies_of(settings),
                now=_now,
                engine_says=lambda: engine_says(store),
                check_signature=_ignore if signatures is None else signatures.check_model,
            )

        def log_and_request_report(step: Step) -> None:
            log_step(step)
            if step.is_end:
                reports.request(step.run)

        def note_rollback(run: Run) -> None:
            log_rollback(run)
            reports.request(run)

        lock, wakeups = threading.RLock(), Wakeups()
        _wake_on_change(leader, wakeups)
        configuration = Configuration(settings, build_context, fence=store.fencing_token)
        schedule = RunSchedule(store, configuration)
        offer = partial(_offer, store, configuration)
        relay = EventRelay(Relay(relay_client, store, _now, origin=origin, signer=signer, offer=offer), embedded_redis)
        reports = ReportWriter(
            store,
            run_folders,
            niceness=settings.worker_nice,
            is_stopping=lambda: driver.is_stopping,
            on_request=partial(wakeups.wake, REPORTS),
        )
        waiting_runs = WaitingRuns(workers, on_end=reports.request)
        driver = RunDriver(
            store=store,
            workers=workers,
            configuration=configuration,
            schedule=schedule,
            slot_watch=SlotWatch(note_rollback),
            waiting_runs=waiting_runs,
            relay=relay,
            report=report or log_and_request_report,
            on_rollback=note_rollback,
            on_begin=partial(wakeups.wake, RUN_DRIVER),
            lock=lock,
        )
        retrain_requests = RetrainRequests(
            Requests(client, _now, instance=names.instance),
            store,
            begin_run=driver.begin,
            is_held=schedule.is_held,
            is_stopping=lambda: driver.is_stopping,
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
            reports=reports,
            relay=relay,
            retrain_requests=retrain_requests,
            serving_monitor=ServingMonitor(trade_intents, store, configuration, lock=lock),
            bookkeeping=Bookkeeping(store, lambda: _stack_tables(configuration.settings)),
            backoff=JobBackoff(clock=boot_clock),
            wakeups=wakeups,
            request_arrival=_request_arrival(waiting_client, retrain_requests, wakeups),
            lock=lock,
            state_lock=state_lock,
            redis_url=redis_url,
        )
        # of a process that does not stay; the daemon is stopping here and writes none
        reports.run()


def _wake_on_change(leader: Leader | None, wakeups: Wakeups) -> None:
    """What inotify does for a state in SQLite."""
    if leader is not None:
        leader.on_change = partial(wakeups.wake, RUN_DRIVER, EVENT_RELAY)


def _check_not_lost(place: StatePlace, run_folders: ArtifactStore) -> None:
    """Raise StateError when the runs have a history somewhere else: rollback targets and the schedule are in it."""
    state_file = place.file
    if not place.url and not state_file.exists() and (run_ids := run_folders.run_ids()):
        raise StateError(
            f"missing, but there are {len(run_ids)} runs in {run_folders.path_of(run_ids[-1]).parent}",
            where=str(state_file),
            remedy=f"restore it from a backup, or begin a new history: touch {state_file}",
        )


def _request_arrival(client: redis.Redis, requests: RetrainRequests, wakeups: Wakeups) -> RequestArrival:
    def note_loss(problem: RedisProblem) -> None:
        requests.note_loss(problem)
        wakeups.wake(EVENT_RELAY, RETRAIN_REQUESTS)

    return RequestArrival(client, on_arrival=partial(wakeups.wake, RETRAIN_REQUESTS), on_loss=note_loss)


def _embedded_redis(settings: Settings) -> EmbeddedRedis:
    assert settings.home is not None, "without a home, a Redis is always named"
    return EmbeddedRedis(settings.home)


def _stack_tables(settings: Settings) -> StackTables | None:
    return StackTables(str(settings.database_url)) if settings.bookkeeping else None


def _uploader(settings: Settings, resources: contextlib.ExitStack) -> WorkerProcesses:
    given = {name: value for name, value in os.environ.items() if is_of_object_store(name)}
    uploader = WorkerProcesses(
        deadline_seconds={OneOffTask.UPLOAD: _UPLOAD_DEADLINE_SECONDS},
        niceness=settings.worker_nice,
        credentials=given | dict(credentials_in(settings.models_credentials)),
    )
    resources.callback(uploader.stop, 0.0)
    return uploader


def _offer(store: StateDb, configuration: Configuration) -> Offer | None:
    """What some followers serve before the slot names it."""
    return offer_in(store, configuration.context.policies)


def _ignore(_model: Path, _sha256: str) -> None:
    """SIGNED_MODELS=off."""


def _now() -> datetime:
    """The wall clock, aware UTC."""
    return datetime.now(UTC)
