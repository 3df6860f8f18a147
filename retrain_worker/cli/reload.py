"""`reload`: the daemon reads its settings again; returns when they are in force or rejected."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from retrain_worker.cli import options

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "reload",
        help="the daemon reads its settings again (what `systemctl reload` runs)",
        epilog="exit: 0 the new settings are in force, 78 they are wrong and the running configuration is unchanged",
    )
    options.add_places(parser)
    parser.add_argument(
        "--pid", type=int, help="the daemon (default: the one that holds the lock of the state directory)"
    )
    parser.add_argument("--wait", type=float, default=60.0, metavar="S", help="seconds to wait for the result")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Request it, wait, print its problems. Raises SettingsError, OperatorActionError when there is no result."""
    from retrain_worker.adapters.reload_result import reload_process
    from retrain_worker.adapters.state_lock import holder_of
    from retrain_worker.errors import UsageError
    from retrain_worker.settings import reload_answer_path

    pid = arguments.pid
    if pid is None:
        state_path = options.read_valid_settings(arguments).state_path
        pid = holder_of(state_path)
        if pid is None:
            raise UsageError("no daemon is running", where=str(state_path), remedy="start it")
    result = reload_process(
        pid, reload_answer_path(os.environ, home=options.home_of(arguments)), wait_seconds=arguments.wait
    )
    for problem in result.problems:
        print(f"retrain-worker: {problem}", file=sys.stderr)
    if result.problems:
        print("retrain-worker: reload rejected, running configuration unchanged", file=sys.stderr)
        return os.EX_CONFIG
    return 0
