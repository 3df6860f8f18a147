"""`rollback`: an earlier model returns to the engine's slot, verified first."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.cli.pause import add_duration, pause_promotions
from retrain_worker.cli.slot_request_wait import PATIENCE_SECONDS, carried_out

if TYPE_CHECKING:
    from retrain_worker.adapters.state_db import StateDb
    from retrain_worker.domain.lifecycle import Deployment
    from retrain_worker.domain.slot_request import SlotRequest
    from retrain_worker.settings import Settings


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "exit: 0 the slot names it (and the engine was seen serving it, where ENGINE_CONFIRM requires that), "
        "11 refused, nothing was changed, 1 not confirmed, or failed; the last line names which"
    )
    options.add_places(parser)
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument(
        "version",
        nargs="?",
        help="which one (default: the latest one before that was not rolled back); `retrain-worker deployments` "
        "lists them",
    )
    wanted.add_argument(
        "--to-none", action="store_true", help="remove PATCHTST_MODEL_PATH, as it was before the first model"
    )
    parser.add_argument("--reason", default="requested by an operator", help="why, one line; it is stored")
    parser.add_argument("--pause", action="store_true", help="pause promotions as well, before the rollback")
    add_duration(parser)
    parser.add_argument(
        "--wait",
        type=float,
        metavar="SECONDS",
        help=f"how long to wait for a running daemon (default: ENGINE_CONFIRM_TIMEOUT_S and {PATIENCE_SECONDS:.0f} s)",
    )
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Request it, wait for the answer, print it."""
    from retrain_worker.adapters import state_access
    from retrain_worker.cli.results import RollbackReport
    from retrain_worker.cli.screen import paragraph, show
    from retrain_worker.errors import StateError

    settings = options.read_valid_settings(arguments)
    if not state_access.exists(settings.state_place):
        raise StateError(
            "there is no state database, so no earlier model is known",
            where=str(settings.state_place),
            remedy="check --home or --env-file",
        )
    if arguments.pause:
        print(pause_promotions(settings, arguments).message, file=sys.stderr)
    write = partial(_written, settings=settings, arguments=arguments)
    request = carried_out(settings, write, wait_seconds=arguments.wait)
    with state_access.state_beside(settings.state_place) as store:
        deployment = store.deployment(request.request_id)
    report = RollbackReport(
        request_id=request.request_id,
        state=request.state,
        answer=request.answer,
        requested_by=request.requested_by,
        reason=request.reason,
        deployment=deployment,
    )
    show(arguments, report, lambda: paragraph(request.answer))
    return _exit_code(request, deployment)


def _written(store: StateDb, *, settings: Settings, arguments: argparse.Namespace) -> SlotRequest:
    """A new request. It is valid for what the env line names now, so that asking twice does not go back twice."""
    from datetime import UTC, datetime

    from retrain_worker.adapters.model_slot import ModelSlot
    from retrain_worker.domain.slot_request import SlotRequestArguments, SlotRequestKind

    slot = ModelSlot(engine_models_dir=settings.engine_models_dir, engine_env_file=settings.engine_env_file)
    current = slot.current_path()
    return store.open_slot_request(
        SlotRequestKind.ROLLBACK,
        arguments=SlotRequestArguments(
            only_from=str(current) if current else None, version=arguments.version or "", to_none=arguments.to_none
        ),
        requested_by=options.user_name(),
        reason=" ".join(arguments.reason.split()),
        at=datetime.now(UTC),
    )


def _exit_code(request: SlotRequest, deployment: Deployment | None) -> ExitCode:
    from retrain_worker.domain.deployments import is_confirmed
    from retrain_worker.domain.slot_request import SlotRequestState

    if request.state is SlotRequestState.REFUSED:
        return ExitCode.REFUSED
    is_done = request.state is SlotRequestState.DONE
    is_good = is_done and deployment is not None and is_confirmed(deployment) is not False
    return ExitCode.DONE if is_good else ExitCode.FAILED
