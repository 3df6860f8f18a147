"""`resume`: end a pause."""

from __future__ import annotations

import argparse

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_places(parser)
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Remove the pause, if there is one."""
    from retrain_worker.cli.results import PauseReport
    from retrain_worker.cli.screen import paragraph, show

    with options.state_to_write(options.read_valid_settings(arguments)) as store:
        pause = store.pause()
        store.set_pause(None)
    text = f"no longer paused; before: {pause.message}" if pause else "there was no pause"
    show(arguments, PauseReport(pause=None, ended=pause), lambda: paragraph(text))
    return ExitCode.DONE
