"""`pause` and `resume`: hold every promotion, and let them continue."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.domain.pause import Pause, duration_of

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from retrain_worker.settings import Settings


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare both verbs."""
    parser = verbs.add_parser("pause", help="promote nothing until `resume`, or for a time; rollbacks stay possible")
    options.add_places(parser)
    parser.add_argument("--reason", required=True, help="why, one line; it is stored")
    add_duration(parser)
    parser.set_defaults(execute=execute_pause)
    parser = verbs.add_parser("resume", help="end a pause")
    options.add_places(parser)
    parser.set_defaults(execute=execute_resume)


def add_duration(parser: argparse.ArgumentParser) -> None:
    """--for."""
    parser.add_argument(
        "--for",
        dest="duration",
        type=_duration,
        metavar="TIME",
        help="how long, like 90min, 12h, 3d (default: until resume)",
    )


def execute_pause(arguments: argparse.Namespace) -> int:
    """Store the pause; a daemon that runs sees it within a second."""
    pause = pause_promotions(options.read_valid_settings(arguments), arguments)
    print(pause.message)
    return 0


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


def execute_resume(arguments: argparse.Namespace) -> int:
    """Remove the pause."""
    with options.state_to_write(options.read_valid_settings(arguments)) as store:
        pause = store.pause()
        store.set_pause(None)
    print(f"no longer paused; before: {pause.message}" if pause else "there was no pause")
    return 0


def _duration(text: str) -> timedelta:
    try:
        return duration_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
