"""`events`: the events of the Redis streams as text, and their JSON Schemas."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.cli.screen import as_json
from retrain_worker.domain.events import REQUEST_STREAM, SERVED_STREAM, STREAM_PREFIX, EventType, stream_of
from retrain_worker.domain.printable import printable
from retrain_worker.errors import RedisUnavailableError, UsageError

if TYPE_CHECKING:
    from retrain_worker.adapters.event_tail import Found

TYPES = (
    *(str(kind) for kind in EventType),
    *(stream.removeprefix(STREAM_PREFIX) for stream in (REQUEST_STREAM, SERVED_STREAM)),
)
_PAUSE_SECONDS = 1.0
#: last part of a type -> its colour on a terminal
_STYLES = {"promoted": "green", "rolled_back": "red", "failed": "red", "changed_externally": "yellow"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    tail = actions.add_parser(
        "tail",
        help="the newest events, oldest first",
        epilog="types: " + ", ".join(TYPES) + "; the last part of a name is enough",
    )
    options.add_places(tail)
    tail.add_argument("--follow", "-f", action="store_true", help="print events as they arrive, until Ctrl-C")
    tail.add_argument("--type", action="append", metavar="TYPE", dest="types", help="only this type (may be repeated)")
    options.add_limit(tail)
    options.add_json(tail, help="print one JSON array; with --follow one JSON object per line")
    tail.set_defaults(execute=execute_tail, parser=tail)
    schemas = actions.add_parser("schemas", help="write the JSON Schemas of the events")
    schemas.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder; created if it is missing")
    options.add_json(schemas)
    schemas.set_defaults(execute=execute_schemas, parser=schemas)


def execute_tail(arguments: argparse.Namespace) -> int:
    """Print events. Raises RedisUnavailableError; with --follow it prints the error once and waits for Redis."""
    from retrain_worker.adapters.event_tail import EventTail
    from retrain_worker.redis_client import connect

    streams = [stream_of(kind) for kind in _types(arguments.types or ())]
    settings = options.read_settings(arguments)
    with options.running_redis(settings) as url, contextlib.closing(connect(url, names=settings.redis_names)) as client:
        tail = EventTail(client, streams)
        newest = partial(tail.newest, arguments.limit)
        if arguments.json and not arguments.follow:
            print(as_json(newest()))
            return ExitCode.DONE
        for found in _waiting_for_redis(newest) if arguments.follow else newest():
            _show(found, is_json=arguments.json)
        while arguments.follow:
            for found in _waiting_for_redis(tail.coming):
                _show(found, is_json=arguments.json)
    return ExitCode.DONE


def execute_schemas(arguments: argparse.Namespace) -> int:
    """Write one file for each schema."""
    from retrain_worker.adapters.event_schemas import write_schemas
    from retrain_worker.cli.results import WrittenFiles

    written = [str(path) for path in write_schemas(arguments.to)]
    print(as_json(WrittenFiles(files=tuple(written))) if arguments.json else "\n".join(written))
    return ExitCode.DONE


def _waiting_for_redis(read: Callable[[], Sequence[Found]]) -> Sequence[Found]:
    """What `read` returns, as soon as Redis is available."""
    problem = ""
    while True:
        try:
            return read()
        except RedisUnavailableError as error:
            if error.what != problem:
                problem = error.what
                print(f"{error.what}; waiting for Redis", file=sys.stderr)
            time.sleep(_PAUSE_SECONDS)


def _types(named: Sequence[str]) -> list[str]:
    """The event types with these names. Raises UsageError."""
    found = []
    for name in named:
        matching = [kind for kind in TYPES if kind == name or kind.rpartition(".")[2] == name]
        if not matching:
            raise UsageError(f"there is no event type {name!r}", remedy="choose from " + ", ".join(TYPES))
        found += matching
    return found or list(TYPES)


def _show(found: Found, *, is_json: bool) -> None:
    from retrain_worker.adapters.event_tail import Unreadable
    from retrain_worker.report.event_line import event_line

    if is_json:
        print(as_json(found), flush=True)
    elif isinstance(found, Unreadable):
        _print(f"entry {found.stream_id} of {found.stream} is not an event: {found.reason}", "yellow")
    else:
        kind = found.event_type.rpartition(".")[2]
        _print(event_line(found), _STYLES.get(kind, ""))


def _print(line: str, style: str) -> None:
    """One line, in colour where rich is installed: a consumer of events installs without it."""
    try:
        from retrain_worker.cli.screen import console

        console().print(printable(line), style=style, soft_wrap=True)
    except ModuleNotFoundError:
        print(printable(line), flush=True)
