"""The daemon: start, ready, wait, stop, on one screen. Signals only set flags.

Order of stopping: no new work is started; the worker is told to stop and has time to write a checkpoint; the run is
noted as INTERRUPTED, so that the next start resumes it; the relay has one last chance to deliver; then the doors close.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import structlog

from retrain_worker.adapters import journal, reload_result
from retrain_worker.adapters.reload_result import ReloadAnswer
from retrain_worker.adapters.systemd import Notifier
from retrain_worker.daemon.app import App
from retrain_worker.daemon.schedule import Job, Schedule
from retrain_worker.errors import RetrainError, SettingsError
from retrain_worker.settings import Settings

log = structlog.get_logger()

#: seconds between two looks at the flags when no watchdog asks for less
_HEARTBEAT_SECONDS = 2.0
#: drift between wall clock and boot clock that counts as a jump
_CLOCK_JUMP_SECONDS = 60.0
#: how long the worker and the passes under way may hold up the stop, together; ten are promised for all of it
_STOP_SECONDS = 7.0


class Signals:
    """SIGTERM and SIGINT stop, a second one kills; SIGHUP reloads."""

    def __init__(self) -> None:
        """Install the handlers: as early as possible, because an unhandled SIGHUP ends the process."""
        self.stopping = False
        self.reloading = False
        # not an Event: its lock is held in the middle of wait(), and a handler that wants it then waits for ever
        self._woken, self._waker = os.pipe()
        for end in (self._woken, self._waker):
            os.set_blocking(end, False)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGHUP, self._reload)

    def wait(self, seconds: float) -> None:
        """Sleep until a signal arrives or the time is over."""
        if select.select([self._woken], [], [], seconds)[0]:
            os.read(self._woken, select.PIPE_BUF)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.stopping:
            os._exit(1)
        self.stopping = True
        self._wake()

    def _reload(self, _number: int, _frame: FrameType | None) -> None:
        self.reloading = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it is woken already
            os.write(self._waker, b"\0")


def serve(app: App, *, signals: Signals, notifier: Notifier, reread: Callable[[], Settings], answer_path: Path) -> None:
    """Live until a signal says stop. `app` is open and checked.

    `reread` reads the settings again; how that ended is left at `answer_path` for whoever waits for it.
    """
    schedule = Schedule(jobs_of(app), clock=boot_clock)
    drift = time.time() - boot_clock()
    stuck: tuple[str, ...] = ()
    app.recover()
    notifier.ready(app.status_line())
    log.info("ready", message=app.status_line())
    schedule.start()
    try:
        while not signals.stopping and app.guard.broken is None:
            if signals.reloading:
                signals.reloading = False
                _reload(app, notifier, reread, answer_path)
            if abs(time.time() - boot_clock() - drift) > _CLOCK_JUMP_SECONDS:
                drift = time.time() - boot_clock()
                log.warning("clock_jumped", message="the wall clock jumped; every job is planned anew")
                schedule.restart()
            stuck = _heartbeat(app, schedule, notifier, told=stuck)
            signals.wait(min(_HEARTBEAT_SECONDS, notifier.watchdog_interval_seconds or _HEARTBEAT_SECONDS))
    finally:
        notifier.stopping(f"stopping; it was {app.status_line()}")
        until = time.monotonic() + _STOP_SECONDS
        # first, because a pass may meanwhile wait for a Redis that does not answer
        app.stop_worker()
        schedule.stop(wait_seconds=max(0.0, until - time.monotonic()))
        app.interrupt()
        log.info("stopped", message="stopped")
    if app.guard.broken is not None:
        raise app.guard.broken


def jobs_of(app: App) -> tuple[Job, ...]:
    """The table of jobs. Patience is what a pass may take when everything is slow but alive."""
    return tuple(
        Job(name=name, action=app.guard.around(name, action), every_seconds=every, patience_seconds=patience)
        for name, action, every, patience in (
            ("advance", app.tick, 1.0, 120.0),
            ("relay", app.relay, 1.0, 120.0),
            ("requests", app.take_requests, 2.0, 120.0),
            ("serving monitor", app.listen, 10.0, 120.0),
            ("bookkeeping", app.keep_prediction_logs, 60.0, 300.0),
            ("retention", app.sweep, 3600.0, 900.0),
        )
    )


def boot_clock() -> float:
    """Seconds since boot, suspend included; never goes back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _heartbeat(app: App, schedule: Schedule, notifier: Notifier, *, told: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Status and ping; the jobs that are stuck, which end the pings. `told`: those of the last time."""
    notifier.status(app.status_line())
    stuck = schedule.stuck()
    if not stuck:
        notifier.watchdog()
    elif stuck != told:
        log.error("job_stuck", message=f"no ping to the watchdog: {', '.join(stuck)} does not come back")
    return stuck


def _reload(app: App, notifier: Notifier, reread: Callable[[], Settings], answer_path: Path) -> None:
    """One reload for all signals that came before it."""
    began_at_ns = time.monotonic_ns()
    notifier.reloading()
    problems: tuple[str, ...] = ()
    try:
        settings = reread()
        app.apply(settings)
        journal.set_level(settings.log_level)
        log.info("reloaded", message="settings reloaded; a run under way keeps the old ones")
        for deprecation in settings.deprecations:
            log.warning("setting_deprecated", message=deprecation)
    except RetrainError as error:
        problems = error.problems if isinstance(error, SettingsError) else (str(error),)
        log.error("reload_refused", message=f"old settings kept: {error}")  # noqa: TRY400 - the sentence is enough
    notifier.ready(app.status_line())
    try:
        reload_result.leave(answer_path, ReloadAnswer(pid=os.getpid(), began_at_ns=began_at_ns, problems=problems))
    except RetrainError as error:
        log.warning("reload_not_answered", message=str(error))
