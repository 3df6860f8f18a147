"""`run`: the daemon."""

from __future__ import annotations

import argparse
import faulthandler
import os
from typing import TYPE_CHECKING

from retrain_worker.cli import options

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("run", help="the daemon: a run every RETRAIN_INTERVAL_H hours, for ever")
    options.add_places(parser)
    options.add_database(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM. Raises what makes a start impossible."""
    from retrain_worker.adapters import journal
    from retrain_worker.adapters.systemd import Notifier
    from retrain_worker.daemon.app import App
    from retrain_worker.daemon.service import Signals, serve
    from retrain_worker.daemon.start_checks import check_start
    from retrain_worker.settings import reload_answer_path

    signals, notifier = Signals(), Notifier()
    # the watchdog's SIGABRT: where every thread stood, into the log
    faulthandler.enable()
    outside = options.environment_outside(arguments)
    settings = options.read_settings(arguments, outside)
    said = journal.configure(level=settings.log_level, form=settings.log_format)
    options.prepare_home(settings)
    try:
        with App(settings) as app:
            for warning in check_start(settings):
                journal.get_logger().warning("start_warning", message=warning)
            serve(app, signals=signals, notifier=notifier, reread=lambda: options.read_settings(arguments, outside),
                  answer_path=reload_answer_path(os.environ, home=settings.home))
    finally:
        said.flush()
    return 0
