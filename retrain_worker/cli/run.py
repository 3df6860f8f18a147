"""`run`: the daemon."""

from __future__ import annotations

import argparse
import faulthandler
import os
import threading
from functools import partial
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from retrain_worker.adapters.journal import Journal
    from retrain_worker.adapters.systemd import Notifier
    from retrain_worker.daemon.signals import Signals


#: for the whole stop; a call of Redis in progress may take longer
_STOP_LIMIT_SECONDS = 9.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_places(parser)
    options.add_database(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM. Raises what makes a start impossible, after showing it as the STATUS of the unit."""
    from retrain_worker.adapters.systemd import Notifier
    from retrain_worker.daemon.signals import Signals
    from retrain_worker.errors import RetrainError

    signals, notifier = Signals(), Notifier()
    # on the watchdog's SIGABRT the stack of every thread is written to stderr
    faulthandler.enable()
    try:
        _serve(arguments, signals, notifier)
    except RetrainError as error:
        notifier.status(f"ended: {error}")
        raise
    return ExitCode.DONE


def _serve(arguments: argparse.Namespace, signals: Signals, notifier: Notifier) -> None:
    from retrain_worker.adapters import journal
    from retrain_worker.daemon.leadership import end_process
    from retrain_worker.daemon.service import serve
    from retrain_worker.daemon.standby import StoppedError, standby
    from retrain_worker.daemon.start_checks import check_start
    from retrain_worker.daemon.wiring import open_components
    from retrain_worker.errors import LeadershipLostError
    from retrain_worker.settings import reload_answer_path

    outside = options.environment_outside(arguments)
    settings = options.read_settings(arguments, outside)
    log_output = journal.configure(level=settings.log_level, form=settings.log_format)
    options.prepare_home(settings)
    notifier.status("starting: opening the state database")
    end = partial(end_process, flush=log_output.flush)
    read_settings = partial(options.read_settings, arguments, outside)
    result_path = reload_answer_path(os.environ, home=settings.home, host_names=settings.host_names)
    try:
        with (
            standby(
                settings, signals=signals, notifier=notifier, read_settings=read_settings, result_path=result_path
            ) as (wait, end_standby),
            open_components(settings, wait=wait, on_lost=end) as components,
        ):
            end_standby()
            notifier.status("starting: checking directories and the trading database")
            for problem in check_start(settings):
                journal.get_logger().warning("start_warning", message=problem.message)
            for deprecation in settings.deprecations:
                journal.get_logger().warning("setting_deprecated", message=deprecation)
            serve(
                components,
                signals=signals,
                notifier=notifier,
                read_settings=read_settings,
                result_path=result_path,
                on_stop=lambda: _limit_stop(log_output),
            )
    except StoppedError:
        notifier.stopping("stopped")
    except LeadershipLostError as error:
        end(str(error))
    finally:
        log_output.flush()


def _limit_stop(log_output: Journal) -> None:
    """End the process when the stop takes too long; the next start resumes as after a kill."""
    from retrain_worker.adapters import journal

    def end() -> None:
        journal.get_logger().warning(
            "stop_forced", message=f"a job did not end within {_STOP_LIMIT_SECONDS:g} s; the process ends without it"
        )
        log_output.flush()
        os._exit(0)

    timer = threading.Timer(_STOP_LIMIT_SECONDS, end)
    timer.daemon = True
    timer.start()
