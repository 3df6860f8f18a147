"""The daemon: start, ready, main loop, stop, and the table of its jobs.

Order of the stop: nothing new begins; the worker gets SIGTERM and a grace to write a checkpoint; the current run is
stored as INTERRUPTED, so that the next start resumes it; the relay sends what it can; then the resources are closed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from retrain_worker.adapters.file_watch import FileWatch
from retrain_worker.adapters.systemd import Notifier
from retrain_worker.daemon.job_schedule import Job, JobSchedule, never
from retrain_worker.daemon.jobs import retention
from retrain_worker.daemon.monitoring import monitoring_jobs
from retrain_worker.daemon.settings_reload import reload_settings, store_result
from retrain_worker.daemon.signals import Signals
from retrain_worker.daemon.status import note_activity, status_line
from retrain_worker.daemon.wiring import EVENT_RELAY, REPORTS, RETRAIN_REQUESTS, RUN_DRIVER, Components
from retrain_worker.settings import Settings

log = structlog.get_logger()

#: seconds between two passes of the main loop when no watchdog requires less: with and without something to do
_HEARTBEAT_SECONDS, _IDLE_HEARTBEAT_SECONDS = 2.0, 10.0
#: of a job that is woken when there is something to do: what no wake-up reports is found by then
_IDLE_SECONDS = 10.0
#: retrain requests that another consumer of the group has left
_IDLE_REQUESTS_SECONDS = 60.0
#: the worker and the jobs in progress may delay the stop by this, together; the whole stop takes ten at most
_STOP_SECONDS = 7.0


def serve(
    components: Components,
    *,
    signals: Signals,
    notifier: Notifier,
    read_settings: Callable[[], Settings],
    result_path: Path,
    on_stop: Callable[[], None] = lambda: None,
) -> None:
    """Run until a signal or a StateError, which is raised again, ends it.

    `read_settings` reads the settings for a reload, whose result is written to `result_path` for the caller of it.
    `on_stop` is called at the begin of the stop.
    """
    driver, backoff = components.driver, components.backoff
    resources = contextlib.ExitStack()
    schedule = JobSchedule(
        (*jobs_of(components), *resources.enter_context(monitoring_jobs(components))),
        clock=time.monotonic,
        wakeups=components.wakeups,
    )
    watch = FileWatch(_watched_files(components))
    stuck: tuple[str, ...] = ()
    driver.recover()
    notifier.ready(status_line(components))
    log.info("ready", message=status_line(components))
    store_result(components.configuration.accepted, result_path, began_at_ns=time.monotonic_ns())
    schedule.start()
    resources.enter_context(components.request_arrival)
    try:
        while not signals.stopping and backoff.fatal is None:
            components.check_state()
            if signals.reloading:
                signals.reloading = False
                _reload(components, notifier, read_settings, result_path)
            if watch.files != (files := _watched_files(components)):
                watch.close()
                watch = FileWatch(files)
            stuck = _heartbeat(components, schedule, notifier, reported=stuck)
            is_idle = components.driver.is_idle and components.relay.is_idle
            pause = _IDLE_HEARTBEAT_SECONDS if is_idle else _HEARTBEAT_SECONDS
            signals.wait(min(pause, notifier.watchdog_interval_seconds or pause), *watch.descriptors())
            if watch.has_changed():
                components.wakeups.wake(RUN_DRIVER, EVENT_RELAY)
    finally:
        on_stop()
        notifier.stopping(f"stopping; before: {status_line(components)}")
        until = time.monotonic() + _STOP_SECONDS
        # first, because a job may be waiting for a Redis that does not answer
        driver.stop_worker()
        schedule.stop(wait_seconds=max(0.0, until - time.monotonic()))
        try:
            driver.interrupt()
        finally:  # also where the state cannot be written
            watch.close()
            resources.close()
        log.info("stopped", message="stopped")
    if backoff.fatal is not None:
        raise backoff.fatal


def jobs_of(components: Components) -> tuple[Job, ...]:
    """The table of jobs. Patience is what a pass may take when everything is slow but works."""
    relay, requests = components.relay, components.retrain_requests
    return tuple(
        Job(
            name=name,
            action=components.backoff.around(name, action),
            every_seconds=every,
            idle_seconds=idle,
            patience_seconds=patience,
            is_idle=is_idle,
        )
        for name, action, every, idle, is_idle, patience in (
            (RUN_DRIVER, components.driver.run_pass, 1.0, _IDLE_SECONDS, lambda: components.driver.is_idle, 120.0),
            (EVENT_RELAY, relay.run, 1.0, _IDLE_SECONDS, lambda: relay.is_idle, 120.0),
            (RETRAIN_REQUESTS, requests.run, 2.0, _IDLE_REQUESTS_SECONDS, lambda: _is_waiting(components), 120.0),
            ("serving monitor", components.serving_monitor.run, 10.0, 0.0, never, 120.0),
            (REPORTS, components.reports.run_job, 60.0, 0.0, never, 900.0),
            ("bookkeeping", components.bookkeeping.run, 60.0, 0.0, never, 300.0),
            ("retention", partial(_remove_old_files, components), 3600.0, 0.0, never, 900.0),
        )
    )


def _is_waiting(components: Components) -> bool:
    """Whether nothing is to be read, and the next retrain request wakes its job."""
    return components.request_arrival.is_waiting and components.retrain_requests.is_idle


def _watched_files(components: Components) -> frozenset[Path]:
    """What another process changes, and this one acts on."""
    settings = components.configuration.settings
    own = (settings.state_path / name for name in ("lock", "state.db", "state.db-wal"))
    return frozenset((*own, settings.engine_env_file))


def _remove_old_files(components: Components) -> None:
    settings, slot = components.configuration.settings, components.configuration.slot
    if retention.remove_runs(components.store, components.run_folders, keep=settings.keep_runs):
        components.reports.request_index()
    with components.lock:  # none between the choice of a model and its deployment
        retention.remove_models(components.store, slot, keep=settings.keep_models)


def _heartbeat(
    components: Components, schedule: JobSchedule, notifier: Notifier, *, reported: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Send STATUS= and the watchdog's ping; the jobs that are stuck, which end the pings. `reported`: the last ones."""
    line = status_line(components)
    notifier.status(line)
    with contextlib.suppress(OSError):  # only shown by `status` and `watch`
        note_activity(components.configuration.settings.state_path, line)
    stuck = schedule.stuck()
    if not stuck:
        notifier.watchdog()
    elif stuck != reported:
        log.error(
            "job_stuck", message=f"job {', '.join(stuck)} does not return; the watchdog gets no ping until it does"
        )
    return stuck


def _reload(
    components: Components, notifier: Notifier, read_settings: Callable[[], Settings], result_path: Path
) -> None:
    reload_settings(
        components.configuration.accepted,
        read_settings=read_settings,
        accept=components.driver.reconfigure,
        effect="the current run keeps those that it began with",
        notifier=notifier,
        status=lambda: status_line(components),
        result_path=result_path,
    )
