"""`watch`: the status and the newest runs, renewed until Ctrl-C. Reads only."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType

    from retrain_worker.settings import Settings

_RUNS = 8


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "What is not a terminal gets the view once."
    options.add_places(parser)
    parser.add_argument(
        "--interval", type=float, default=2.0, metavar="S", help="seconds between two views (default 2)"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Show the view until Ctrl-C."""
    from rich.live import Live

    from retrain_worker.cli.screen import console

    settings, screen = options.read_valid_settings(arguments), console()
    if not screen.is_terminal or screen.is_dumb_terminal:
        screen.print(_view(settings))
        return ExitCode.DONE
    with Live(_view(settings), console=screen, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_view(settings), refresh=True)
            time.sleep(max(arguments.interval, 0.1))


def _view(settings: Settings) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from retrain_worker.cli.history import history_table
    from retrain_worker.cli.status import as_text
    from retrain_worker.daemon.status import status_of
    from retrain_worker.errors import RetrainError

    try:
        found = status_of(settings)
        store = options.open_state(settings)
        runs = []
        if store is not None:
            with store:
                runs = store.history(limit=_RUNS)
    except RetrainError as error:  # the state database is replaced, or busy for a moment
        return Text(str(error), "red")
    title = Text.assemble(("retrain-worker", "bold"), (f"  {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n", "dim"))
    return Group(title, as_text(found), *((Text(), history_table(runs)) if runs else ()))
