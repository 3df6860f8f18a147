"""`trigger`: ask the daemon for a run now, by the same stream that other services use."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from retrain_worker.cli import options

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("trigger", help="ask the daemon for a run now")
    options.add_places(parser)
    parser.add_argument("--reason", default="asked for by a person", help="why, one line")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Put a request on quantum:stream:model.retrain. Raises RedisUnavailableError."""
    from retrain_worker.adapters.retrain_requests import trigger
    from retrain_worker.redis_client import connect

    client = connect(options.redis_url(options.read_settings(arguments)))
    entry_id = trigger(client, reason=arguments.reason, requested_by=options.person())
    print(f"asked for a run (entry {entry_id}); `retrain-worker status` shows it")
    return 0
