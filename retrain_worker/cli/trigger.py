"""`trigger`: request a run from the daemon, on the same stream that other services use."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from retrain_worker.cli import options

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from retrain_worker.settings import Settings


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("trigger", help="request a run from the daemon now")
    options.add_places(parser)
    parser.add_argument("--reason", default="requested by an operator", help="why, one line")
    parser.add_argument("--force", action="store_true", help="run although nothing is new")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Add a request to quantum:stream:model.retrain; while Redis is unreachable, to the state database.

    Raises RedisUnavailableError where there is no state database on this host.
    """
    from retrain_worker.adapters.retrain_requests import trigger
    from retrain_worker.errors import RedisUnavailableError
    from retrain_worker.redis_client import connect

    settings = options.read_valid_settings(arguments)
    try:
        entry_id = trigger(
            connect(options.redis_url(settings), names=settings.redis_names),
            reason=arguments.reason,
            requested_by=options.user_name(),
            is_forced=arguments.force,
            instance=settings.redis_names.instance,
        )
    except RedisUnavailableError as error:
        if not (settings.state_path / "state.db").exists():
            raise
        print(f"{error.what}; {_queued(settings, arguments)}")
    else:
        print(f"retrain request added (entry {entry_id}); see `retrain-worker status`")
    return 0


def _queued(settings: Settings, arguments: argparse.Namespace) -> str:
    """What became of a request that is stored for the daemon."""
    from retrain_worker.daemon import queued_request

    with options.state_to_write(settings) as store:
        newest = store.history(limit=1)
        if not newest:
            return "the first run starts with the daemon"
        why = f"{options.user_name()}: {' '.join(arguments.reason.split())}"
        is_new = queued_request.note(store, newest[0], why, is_forced=arguments.force)
    when = "at once" if newest[0].is_finished or newest[0].is_waiting else f"when run {newest[0].run_id} has finished"
    return f"the request is {'stored' if is_new else 'queued already'}; the daemon starts the run {when}"
