"""The daemon: start, ready, main loop, stop, and the table of its jobs.

Order of the stop: nothing new begins; the worker gets SIGTERM and a grace to write a checkpoint; the current run is
stored as INTERRUPTED, so that the next start resumes it; the relay sends what it can; then the resources are closed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from retrain_worker.adapters import journal, reload_result
from retrain_worker.adapters.reload_result import ReloadResult
from retrain_worker.adapters.systemd import Notifier
from retrain_worker.daemon.job_schedule import Job, JobSchedule, boot_clock
from retrain_worker.daemon.jobs import retention
from retrain_worker.daemon.signals import Signals
from retrain_worker.daemon.status import status_line
from retrain_worker.daemon.wiring import Components
from retrain_worker.domain.problem import ProblemKind, problem_of
from retrain_worker.errors import RetrainError, SettingsError
from retrain_worker.settings import Settings

log = structlog.get_logger()

#: seconds between two passes of the main loop when no watchdog requires less
_HEARTBEAT_SECONDS = 2.0
#: drift between wall clock and boot clock that counts as a jump
_CLOCK_JUMP_SECONDS = 60.0
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
    schedule = JobSchedule(jobs_of(components), clock=boot_clock)
    drift = time.time() - boot_clock()
    stuck: tuple[str, ...] = ()
    driver.recover()
    notifier.ready(status_line(components))
    log.info("ready", message=status_line(components))
    schedule.start()
    try:
        while not signals.stopping and backoff.fatal is None:
            components.check_state()
            if signals.reloading:
                signals.reloading = False
                _reload(components, notifier, read_settings, result_path)
            if abs(time.time() - boot_clock() - drift) > _CLOCK_JUMP_SECONDS:
                drift = time.time() - boot_clock()
                log.warning("clock_jumped", message="the wall clock jumped; all jobs are rescheduled")
                schedule.restart()
            stuck = _heartbeat(components, schedule, notifier, reported=stuck)
            signals.wait(min(_HEARTBEAT_SECONDS, notifier.watchdog_interval_seconds or _HEARTBEAT_SECONDS))
    finally:
        on_stop()
        notifier.stopping(f"stopping; before: {status_line(components)}")
        until = time.monotonic() + _STOP_SECONDS
        # first, because a job may be waiting for a Redis that does not answer
        driver.stop_worker()
        schedule.stop(wait_seconds=max(0.0, until - time.monotonic()))
        driver.interrupt()
        log.info("stopped", message="stopped")
    if backoff.fatal is not None:
        raise backoff.fatal


def jobs_of(components: Components) -> tuple[Job, ...]:
    """The table of jobs. Patience is what a pass may take when everything is slow but works."""
    return tuple(
        Job(
            name=name,
            action=components.backoff.around(name, action),
            every_seconds=every,
            patience_seconds=patience,
        )
        for name, action, every, patience in (
            ("run driver", components.driver.run_pass, 1.0, 120.0),
            ("event relay", components.relay.run, 1.0, 120.0),
            ("retrain requests", components.retrain_requests.run, 2.0, 120.0),
            ("serving monitor", components.serving_monitor.run, 10.0, 120.0),
            ("bookkeeping", components.bookkeeping.run, 60.0, 300.0),
            ("retention", partial(_remove_old_files, components), 3600.0, 900.0),
        )
    )


def _remove_old_files(components: Components) -> None:
    settings, slot = components.configuration.settings, components.configuration.slot
    retention.remove_runs(components.store, components.run_folders, keep=settings.keep_runs)
    with components.lock:  # none between the choice of a model and its deployment
        retention.remove_models(components.store, slot, keep=settings.keep_models)


def _heartbeat(
    components: Components, schedule: JobSchedule, notifier: Notifier, *, reported: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Send STATUS= and the watchdog's ping; the jobs that are stuck, which end the pings. `reported`: the last ones."""
    notifier.status(status_line(components))
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
    """One reload for all signals that came before it."""
    began_at_ns = time.monotonic_ns()
    notifier.reloading()
    problems: tuple[str, ...] = ()
    try:
        settings = read_settings()
        components.driver.reconfigure(settings)
        journal.set_level(settings.log_level)
        log.info("reloaded", message="settings reloaded; the current run keeps those that it began with")
        for deprecation in settings.deprecations:
            log.warning("setting_deprecated", message=deprecation)
    except Exception as error:  # the running configuration stays, whatever is wrong with the new one
        named = problem_of(error, kind=ProblemKind.SETTINGS).message
        problems = error.problems if isinstance(error, SettingsError) else (named,)
        message = f"reload rejected, running configuration unchanged: {'; '.join(problems)}"
        log.error("reload_rejected", message=message, exc_info=not isinstance(error, RetrainError))  # noqa: TRY400
    notifier.ready(status_line(components))
    try:
        result = ReloadResult(pid=os.getpid(), began_at_ns=began_at_ns, problems=problems)
        reload_result.write(result_path, result)
    except RetrainError as error:
        log.warning("reload_result_not_written", message=f"the result of the reload was not written: {error}")
