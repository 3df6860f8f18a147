"""`pause`: hold every promotion."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.domain.pause import Pause
from retrain_worker.domain.quantity import duration_of

if TYPE_CHECKING:
    from retrain_worker.settings import Settings


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_places(parser)
    parser.add_argument("--reason", required=True, help="why, one line; it is stored")
    add_duration(parser)
    options.add_json(parser)


def add_duration(parser: argparse.ArgumentParser) -> None:
    """--for."""
    parser.add_argument(
        "--for",
        dest="duration",
        type=_duration,
        metavar="TIME",
        help="how long, like 90min, 12h, 3d (default: until resume)",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Store the pause; a daemon that runs sees it within a second."""
    from retrain_worker.cli.results import PauseReport
    from retrain_worker.cli.screen import paragraph, show

    pause = pause_promotions(options.read_valid_settings(arguments), arguments)
    show(arguments, PauseReport(pause=pause), lambda: paragraph(pause.message, "yellow"))
    return ExitCode.DONE


def pause_promotions(settings: Settings, arguments: argparse.Namespace) -> Pause:
    """The stored pause. It replaces an earlier one."""
    now = datetime.now(UTC)
    pause = Pause(
        by=options.user_name(),
        reason=" ".join(arguments.reason.split()),
        since=now,
        until=now + arguments.duration if arguments.duration else None,
    )
    with options.state_to_write(settings) as store:
        store.set_pause(pause)
    return pause


def _duration(text: str) -> timedelta:
    try:
        return duration_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
