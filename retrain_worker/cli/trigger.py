"""`trigger`: request a run from the daemon, on the same stream that other services use."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from retrain_worker.cli import options

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("trigger", help="request a run from the daemon now")
    options.add_places(parser)
    parser.add_argument("--reason", default="requested by an operator", help="why, one line")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Add a request to quantum:stream:model.retrain. Raises RedisUnavailableError."""
    from retrain_worker.adapters.retrain_requests import trigger
    from retrain_worker.redis_client import connect

    client = connect(options.redis_url(options.read_settings(arguments)))
    entry_id = trigger(client, reason=arguments.reason, requested_by=options.user_name())
    print(f"retrain request added (entry {entry_id}); see `retrain-worker status`")
    return 0
