"""`trigger`: request a run from the daemon, on the same stream that other services use."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.domain.host_names import command

if TYPE_CHECKING:
    from retrain_worker.settings import Settings


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_places(parser)
    parser.add_argument("--reason", default="requested by an operator", help="why, one line")
    parser.add_argument("--force", action="store_true", help="run although nothing is new")
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Add a request to quantum:stream:model.retrain; while Redis is unreachable, to the state database.

    Raises RedisUnavailableError where there is no state database on this host.
    """
    from retrain_worker.adapters import state_access
    from retrain_worker.adapters.retrain_requests import trigger
    from retrain_worker.cli.results import TriggerReport
    from retrain_worker.cli.screen import as_json
    from retrain_worker.domain.printable import printable
    from retrain_worker.errors import RedisUnavailableError
    from retrain_worker.redis_client import connect

    settings = options.read_valid_settings(arguments)
    added = None
    try:
        added = trigger(
            connect(options.redis_url(settings), names=settings.redis_names),
            reason=arguments.reason,
            requested_by=options.user_name(),
            is_forced=arguments.force,
            instance=settings.redis_names.instance,
        )
    except RedisUnavailableError as error:
        if not state_access.exists(settings.state_place):
            raise
        message = f"{error.what}; {_queued(settings, arguments)}"
    else:
        message = f"retrain request added (entry {added.entry_id}); see `{command()} status`"
        if not added.is_replicated:
            message += "; no replica of Redis has it yet, so that a failover would lose it"
    entry_id = added.entry_id if added else None
    print(as_json(TriggerReport(entry_id=entry_id, message=message)) if arguments.json else printable(message))
    return ExitCode.DONE


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
