"""`rollback`: an earlier model returns to the engine's slot, verified first.

The order is written into the state database. A running daemon carries it out; without one, this process does.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from retrain_worker.cli import options

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from retrain_worker.adapters.state_db import StateDb
    from retrain_worker.domain.lifecycle import Deployment
    from retrain_worker.domain.slot_request import SlotRequest
    from retrain_worker.settings import Settings

_POLL_SECONDS = 0.1
#: beside the time for the confirmation: verification in a worker, retries of a busy disk
_PATIENCE_SECONDS = 90.0
_REFUSED, _FAILED = 11, 1


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "rollback",
        help="return an earlier model to the engine's slot",
        epilog="exit: 0 the slot names it (and the engine was seen serving it, where ENGINE_CONFIRM asks for that), "
        "11 refused, nothing was changed, 1 not confirmed, or failed; the last line says which",
    )
    options.add_places(parser)
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument(
        "version",
        nargs="?",
        help="which one (default: the one before that was not taken back); `retrain-worker deployments` lists them",
    )
    wanted.add_argument(
        "--to-none",
        action="store_true",
        help="take the model out, so that PATCHTST_MODEL_PATH names none, as before the first one",
    )
    parser.add_argument("--reason", default="asked for by a person", help="why, one line; it is kept")
    parser.add_argument(
        "--wait",
        type=float,
        metavar="SECONDS",
        help=f"how long to wait for a running daemon (default: ENGINE_CONFIRM_TIMEOUT_S and {_PATIENCE_SECONDS:.0f} s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Order it, wait for the answer, print it."""
    from retrain_worker.cli.once import as_json
    from retrain_worker.errors import StateError

    settings = options.read_settings(arguments)
    if not (settings.state_path / "state.db").exists():
        raise StateError(
            "there is no state database here, so no earlier model is known",
            where=str(settings.state_path),
            remedy="name the right --home or --env-file",
        )
    request, deployment = _carried_out(settings, arguments)
    if arguments.json:
        print(as_json(_as_object(request, deployment)))
    else:
        print(request.answer)
    return _exit_code(request, deployment)


def _carried_out(settings: Settings, arguments: argparse.Namespace) -> tuple[SlotRequest, Deployment | None]:
    """The order with its end, and the deployment it led to; whoever has the lock carries it out."""
    from retrain_worker.errors import AlreadyRunningError

    request_id: str | None = None
    while True:
        try:
            return _alone(settings, arguments, request_id)
        except AlreadyRunningError:
            answered = _beside_daemon(settings, arguments, request_id)
        if not isinstance(answered, str):
            return answered
        request_id = answered
        _say("the daemon has ended; this process carries the order out")


def _alone(
    settings: Settings,
    arguments: argparse.Namespace,
    request_id: str | None,
) -> tuple[SlotRequest, Deployment | None]:
    """Raises AlreadyRunningError when a daemon has the lock."""
    from dataclasses import replace

    from retrain_worker.adapters import journal
    from retrain_worker.daemon.app import App

    journal.configure(level="ERROR", form=settings.log_format)
    with App(replace(settings, max_retries=0)) as app:
        request_id = request_id or _written(app.store, settings, arguments).request_id
        said = ""
        while True:
            app.check_slot()
            app.carry_out_slot_requests()
            request = _found(app.store, request_id)
            app.relay()
            if request.is_answered:
                return request, app.store.deployment(request_id)
            said = _say_once(request, said)
            time.sleep(_POLL_SECONDS)


def _beside_daemon(
    settings: Settings,
    arguments: argparse.Namespace,
    request_id: str | None,
) -> tuple[SlotRequest, Deployment | None] | str:
    """The answer; or the id of the order, when the daemon ends before it has answered. Raises RetryLaterError."""
    from retrain_worker.adapters.state_db import StateDb
    from retrain_worker.adapters.state_lock import is_held
    from retrain_worker.errors import RetryLaterError

    seconds = arguments.wait if arguments.wait is not None else settings.engine_confirm_seconds + _PATIENCE_SECONDS
    until, said = time.monotonic() + seconds, ""
    with StateDb(settings.state_path / "state.db", is_owner=False) as store:
        request_id = request_id or _written(store, settings, arguments).request_id
        while time.monotonic() < until:
            request = _found(store, request_id)
            if request.is_answered:
                return request, store.deployment(request_id)
            if not is_held(settings.state_path):
                return request_id
            said = _say_once(request, said)
            time.sleep(_POLL_SECONDS)
    raise RetryLaterError(
        f"the daemon has not answered within {seconds:.0f} s; the order {request_id} stands",
        where=str(settings.state_path),
        remedy="`retrain-worker deployments` shows what became of it",
    )


def _written(store: StateDb, settings: Settings, arguments: argparse.Namespace) -> SlotRequest:
    """A new order. It holds for what the env line names now, so that asking twice does not go back twice."""
    from datetime import UTC, datetime

    from retrain_worker.adapters.model_slot import ModelSlot
    from retrain_worker.domain.slot_request import SlotRequestKind

    slot = ModelSlot(engine_models_dir=settings.engine_models_dir, engine_env_file=settings.engine_env_file)
    wanted = {
        "only_from": str(slot.current_path() or ""),
        "version": arguments.version,
        "to_none": "yes" if arguments.to_none else "",
    }
    return store.open_slot_request(
        SlotRequestKind.ROLLBACK,
        arguments={name: value for name, value in wanted.items() if value},
        requested_by=options.person(),
        reason=" ".join(arguments.reason.split()),
        at=datetime.now(UTC),
    )


def _found(store: StateDb, request_id: str) -> SlotRequest:
    request = store.request(request_id)
    assert request is not None, "an order that was written is stored"
    return request


def _exit_code(request: SlotRequest, deployment: Deployment | None) -> int:
    from retrain_worker.domain.deployments import is_confirmed
    from retrain_worker.domain.slot_request import SlotRequestState

    if request.state is SlotRequestState.REFUSED:
        return _REFUSED
    is_done = request.state is SlotRequestState.DONE and deployment is not None
    return 0 if is_done and deployment is not None and is_confirmed(deployment) is not False else _FAILED


def _as_object(request: SlotRequest, deployment: Deployment | None) -> dict[str, Any]:
    return {
        "request_id": request.request_id,
        "state": request.state,
        "answer": request.answer,
        "requested_by": request.requested_by,
        "reason": request.reason,
        "deployment": deployment,
    }


def _say_once(request: SlotRequest, said: str) -> str:
    if request.answer != said:
        _say(request.answer)
    return request.answer


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
