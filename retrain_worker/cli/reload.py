"""`reload`: the daemon reads its settings again; returns when they are in force or rejected."""

from __future__ import annotations

import argparse
import os

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "exit: 0 the new settings are in force, 78 they are invalid and the running configuration is unchanged"
    )
    options.add_places(parser)
    parser.add_argument(
        "--pid", type=int, help="the daemon (default: the one that holds the lock of the state directory)"
    )
    parser.add_argument("--wait", type=float, default=60.0, metavar="S", help="seconds to wait for the result")
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Request it, wait, print what has changed. Raises SettingsError with the problems of the new settings.

    Raises OperatorActionError when there is no result in time.
    """
    from retrain_worker.adapters.reload_result import reload_process
    from retrain_worker.cli.results import ReloadReport
    from retrain_worker.cli.screen import pairs, show
    from retrain_worker.errors import SettingsError
    from retrain_worker.settings import reload_answer_path

    pid = arguments.pid or options.daemon_pid(options.read_valid_settings(arguments))
    path = reload_answer_path(os.environ, home=options.home_of(arguments), host_names=options.host_names_of(arguments))
    result = reload_process(pid, path, wait_seconds=arguments.wait)
    if result.problems:
        raise SettingsError((*result.problems, "reload rejected, running configuration unchanged"))
    lines = [change.message for change in result.changes] or ["no setting has changed"]
    show(arguments, ReloadReport(pid=pid, changes=result.changes), lambda: pairs(("", line, "") for line in lines))
    return ExitCode.DONE
