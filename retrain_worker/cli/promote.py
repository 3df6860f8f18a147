"""`promote`: the candidate of a refused run goes into the engine's slot at the operator's request."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from retrain_worker.cli import options

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from retrain_worker.adapters.state_db import StateDb
    from retrain_worker.domain.slot_request import SlotRequest

_REFUSED, _FAILED = 11, 1


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "promote",
        help="put the candidate of a refused run into the engine's slot",
        epilog="A gate that was evaluated and failed is never waived, nor is the verification of the file. exit: 0 "
        "promoted, 11 refused, nothing was changed, 1 failed or not known in time",
    )
    options.add_places(parser)
    parser.add_argument("run_id", help="the run; `retrain-worker history` lists them")
    parser.add_argument("--reason", required=True, help="why, one line; stored, and sent with the events")
    parser.add_argument("--force", action="store_true", help="promote although gates could not be evaluated")
    parser.add_argument(
        "--accept-contract",
        metavar="CONTRACT",
        default="",
        help="the contract that the engine is to run from now on; the refusal shows how it is written",
    )
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Request it, wait for the end of the run that carries it out, print the outcome."""
    from retrain_worker.adapters.state_db import StateDb
    from retrain_worker.cli.slot_request_wait import carried_out, run_of
    from retrain_worker.domain.lifecycle import Outcome
    from retrain_worker.errors import UsageError

    settings = options.read_settings(arguments)
    path = settings.state_path / "state.db"
    if not path.exists():
        raise UsageError("no run yet", where=str(settings.state_path), remedy="start one: retrain-worker once")
    if not arguments.reason.strip():
        raise UsageError("a reason is required", where="--reason", remedy="it is stored in the history")
    request = carried_out(settings, partial(_written, arguments=arguments))
    with StateDb(path, read_only=True) as store:
        run = run_of(store, request)
    if run is None:
        print(request.answer)
        return _REFUSED
    print(f"run {run.run_id} {run.outcome or 'continues'}: {'; '.join(run.reasons)}")
    return 0 if run.outcome is Outcome.PROMOTED else _REFUSED if run.outcome is Outcome.REFUSED else _FAILED


def _written(store: StateDb, *, arguments: argparse.Namespace) -> SlotRequest:
    from datetime import UTC, datetime

    from retrain_worker.domain.slot_request import SlotRequestArguments, SlotRequestKind

    return store.open_slot_request(
        SlotRequestKind.PROMOTE,
        arguments=SlotRequestArguments(
            run_id=arguments.run_id, is_forced=arguments.force, accepted_contract=arguments.accept_contract
        ),
        requested_by=options.user_name(),
        reason=" ".join(arguments.reason.split()),
        at=datetime.now(UTC),
    )
