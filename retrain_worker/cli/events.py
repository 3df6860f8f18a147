"""`events`: the events of the Redis streams as text, and their JSON Schemas."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.domain.events import REQUEST_STREAM, SERVED_STREAM, STREAM_PREFIX, EventType, stream_of
from retrain_worker.errors import RedisUnavailableError, UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from retrain_worker.adapters.event_tail import Found

TYPES = (
    *(str(kind) for kind in EventType),
    *(stream.removeprefix(STREAM_PREFIX) for stream in (REQUEST_STREAM, SERVED_STREAM)),
)
_PAUSE_SECONDS = 1.0


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb and its actions."""
    parser = verbs.add_parser("events", help="events of the Redis streams as text, and their JSON Schemas")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    tail = actions.add_parser(
        "tail",
        help="the newest events, oldest first",
        epilog="types: " + ", ".join(TYPES) + "; the last part of a name is enough",
    )
    options.add_places(tail)
    tail.add_argument("--follow", "-f", action="store_true", help="print events as they arrive, until Ctrl-C")
    tail.add_argument("--type", action="append", metavar="TYPE", dest="types", help="only this type (may be repeated)")
    tail.add_argument("--limit", "-n", type=int, default=20, metavar="N", help="the newest N (default 20)")
    tail.add_argument("--json", action="store_true", help="print one JSON object per line")
    tail.set_defaults(execute=execute_tail)
    schemas = actions.add_parser("schemas", help="write the JSON Schemas of the events")
    schemas.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder; created if it is missing")
    schemas.set_defaults(execute=execute_schemas)


def execute_tail(arguments: argparse.Namespace) -> int:
    """Print events. Raises RedisUnavailableError; with --follow it prints the error once and waits for Redis."""
    from retrain_worker.adapters.event_tail import EventTail
    from retrain_worker.redis_client import connect

    streams = [stream_of(kind) for kind in _types(arguments.types or ())]
    settings = options.read_settings(arguments)
    client = connect(options.redis_url(settings), names=settings.redis_names)
    tail = EventTail(client, streams)
    newest = partial(tail.newest, arguments.limit)
    try:
        for found in _waiting_for_redis(newest) if arguments.follow else newest():
            _show(found, as_json=arguments.json)
        while arguments.follow:
            for found in _waiting_for_redis(tail.coming):
                _show(found, as_json=arguments.json)
    finally:
        client.close()
    return 0


def execute_schemas(arguments: argparse.Namespace) -> int:
    """Write one file for each schema."""
    from retrain_worker.adapters.event_schemas import write_schemas

    for path in write_schemas(arguments.to):
        print(path)
    return 0


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


def _show(found: Found, *, as_json: bool) -> None:
    from retrain_worker.adapters.event_tail import Unreadable
    from retrain_worker.cli.once import as_json as as_json_line
    from retrain_worker.report.event_line import event_line

    if as_json:
        print(as_json_line(found), flush=True)
    elif isinstance(found, Unreadable):
        print(f"entry {found.stream_id} of {found.stream} is not an event: {found.reason}", flush=True)
    else:
        print(event_line(found), flush=True)
