"""`run`: the daemon."""

from __future__ import annotations

import argparse
import faulthandler
import os
from typing import TYPE_CHECKING

from retrain_worker.cli import options

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from retrain_worker.adapters.systemd import Notifier
    from retrain_worker.daemon.service import Signals


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("run", help="the daemon: a run every RETRAIN_INTERVAL_H hours, for ever")
    options.add_places(parser)
    options.add_database(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM. Raises what makes a start impossible, and leaves it as the STATUS of the unit."""
    from retrain_worker.adapters.systemd import Notifier
    from retrain_worker.daemon.service import Signals
    from retrain_worker.errors import RetrainError

    signals, notifier = Signals(), Notifier()
    # the watchdog's SIGABRT: where every thread stood, into the log
    faulthandler.enable()
    try:
        _serve(arguments, signals, notifier)
    except RetrainError as error:
        notifier.status(f"ended: {error}")
        raise
    return 0


def _serve(arguments: argparse.Namespace, signals: Signals, notifier: Notifier) -> None:
    from retrain_worker.adapters import journal
    from retrain_worker.daemon.app import App
    from retrain_worker.daemon.service import serve
    from retrain_worker.daemon.start_checks import check_start
    from retrain_worker.settings import reload_answer_path

    outside = options.environment_outside(arguments)
    settings = options.read_settings(arguments, outside)
    said = journal.configure(level=settings.log_level, form=settings.log_format)
    options.prepare_home(settings)
    notifier.status("starting: opening the state database")
    try:
        with App(settings) as app:
            notifier.status("starting: checking directories and the trading database")
            for warning in check_start(settings):
                journal.get_logger().warning("start_warning", message=warning)
            for deprecation in settings.deprecations:
                journal.get_logger().warning("setting_deprecated", message=deprecation)
            serve(
                app,
                signals=signals,
                notifier=notifier,
                reread=lambda: options.read_settings(arguments, outside),
                answer_path=reload_answer_path(os.environ, home=settings.home),
            )
    finally:
        said.flush()
