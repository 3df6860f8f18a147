"""`promote`: the candidate of a refused run goes into the engine's slot at the operator's request."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from retrain_worker.adapters.state_db import StateDb
    from retrain_worker.domain.slot_request import SlotRequest


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "A gate that was evaluated and failed is never waived, nor is the verification of the file. exit: 0 promoted, "
        "11 refused, nothing was changed, 1 failed or not known in time"
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
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Request it, wait for the end of the run that carries it out, print the outcome."""
    from retrain_worker.adapters import state_access
    from retrain_worker.cli.results import PromoteReport
    from retrain_worker.cli.screen import paragraph, show
    from retrain_worker.cli.slot_request_wait import carried_out, run_of
    from retrain_worker.domain.lifecycle import Outcome
    from retrain_worker.errors import UsageError

    settings = options.read_settings(arguments)
    if not state_access.exists(settings.state_place):
        raise options.no_run_yet(settings)
    if not arguments.reason.strip():
        raise UsageError("a reason is required", where="--reason", remedy="it is stored in the history")
    request = carried_out(settings, partial(_written, arguments=arguments))
    with state_access.state_beside(settings.state_place) as store:
        run = run_of(store, request)
    report = PromoteReport(
        request_id=request.request_id,
        answer=request.answer,
        run_id=run.run_id if run else None,
        outcome=run.outcome if run else None,
        reasons=run.reasons if run else (),
    )
    text = f"run {run.run_id} {run.outcome or 'continues'}: {'; '.join(run.reasons)}" if run else request.answer
    show(arguments, report, lambda: paragraph(text))
    if report.outcome is Outcome.PROMOTED:
        return ExitCode.DONE
    return ExitCode.REFUSED if run is None or run.outcome is Outcome.REFUSED else ExitCode.FAILED


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
