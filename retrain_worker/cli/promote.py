"""`promote`: a person puts the candidate of a refused run into the engine's slot, where a person may.

The order is written into the state database. A running daemon opens the run; without one, this process does it all.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from retrain_worker.cli import options

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from retrain_worker.adapters.state_db import StateDb
    from retrain_worker.domain.lifecycle import Run
    from retrain_worker.domain.slot_request import SlotRequest
    from retrain_worker.settings import Settings

_POLL_SECONDS = 0.1
#: beside the time for the confirmation: verification in a worker, the swap, retries of a busy disk
_PATIENCE_SECONDS = 90.0
_REFUSED = 11


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "promote",
        help="put the candidate of a refused run into the engine's slot, at a person's word",
        epilog="What was measured and failed is never waived, nor the soundness of the file. exit: 0 promoted, "
        "11 refused, nothing was changed, 1 failed or not known in time",
    )
    options.add_places(parser)
    parser.add_argument("run_id", help="the run; `retrain-worker history` lists them")
    parser.add_argument("--reason", required=True, help="why, one line; it is kept, and stands in the events")
    parser.add_argument("--force", action="store_true", help="take the place of the gates that could not be evaluated")
    parser.add_argument(
        "--accept-contract",
        metavar="CONTRACT",
        default="",
        help="the engine is to run this contract from now on; the refusal says how it is written",
    )
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Order it, wait for the end of the run that does it, print what came of it."""
    from retrain_worker.domain.lifecycle import Outcome
    from retrain_worker.errors import AlreadyRunningError, UsageError

    settings = options.read_settings(arguments)
    if not (settings.state_path / "state.db").exists():
        raise UsageError("no run yet", where=str(settings.state_path), remedy="start one: retrain-worker once")
    if not arguments.reason.strip():
        raise UsageError("a reason must be given", where="--reason", remedy="it stands in the history for good")
    try:
        request, run = _alone(settings, arguments)
    except AlreadyRunningError:
        request, run = _beside_daemon(settings, arguments)
    if run is None:
        print(request.answer)
        return _REFUSED
    print(f"run {run.run_id} {run.outcome or 'goes on'}: {'; '.join(run.reasons)}")
    return 0 if run.outcome is Outcome.PROMOTED else _REFUSED if run.outcome is Outcome.REFUSED else 1


def _alone(settings: Settings, arguments: argparse.Namespace) -> tuple[SlotRequest, Run | None]:
    """Raises AlreadyRunningError when a daemon has the lock."""
    from dataclasses import replace

    from retrain_worker.adapters import journal
    from retrain_worker.daemon.app import App, ticks
    from retrain_worker.daemon.run_report import write_report

    journal.configure(level="ERROR", form=settings.log_format)
    with App(replace(settings, max_retries=0)) as app:
        app.check_slot()
        app.check_slot()
        request_id = _written(app.store, arguments).request_id
        while app.carry_out_slot_requests() is not None:
            time.sleep(_POLL_SECONDS)
        request, run = _standing(app.store, request_id)
        if run is None:
            return request, None
        for step in ticks(app, run, stopping=lambda: False, pause=time.sleep):
            run = step.run
        write_report(run, app.artifacts)
        return request, run


def _beside_daemon(settings: Settings, arguments: argparse.Namespace) -> tuple[SlotRequest, Run | None]:
    """Raises RetryLaterError when the daemon does not come to an end in time."""
    from retrain_worker.adapters.state_db import StateDb
    from retrain_worker.errors import RetryLaterError

    seconds = settings.engine_confirm_seconds + _PATIENCE_SECONDS
    with StateDb(settings.state_path / "state.db", is_owner=False) as store:
        request_id = _written(store, arguments).request_id
        if _within(seconds, lambda: _is_settled(store, request_id)):
            return _standing(store, request_id)
    raise RetryLaterError(
        f"the daemon has not come to an end within {seconds:.0f} s; the order {request_id} stands",
        where=str(settings.state_path),
        remedy="`retrain-worker status` shows what became of it",
    )


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _is_settled(store: StateDb, request_id: str) -> bool:
    request, run = _standing(store, request_id)
    return request.is_answered and (run is None or run.is_concluded)


def _standing(store: StateDb, request_id: str) -> tuple[SlotRequest, Run | None]:
    """The order, and the run that it has opened."""
    request = store.request(request_id)
    assert request is not None, "an order that was written is stored"
    return request, store.run(request.arguments.get("opened", ""))


def _written(store: StateDb, arguments: argparse.Namespace) -> SlotRequest:
    from datetime import UTC, datetime

    from retrain_worker.domain.slot_request import SlotRequestKind

    wanted = {
        "run_id": arguments.run_id,
        "force": "yes" if arguments.force else "",
        "accept_contract": arguments.accept_contract,
    }
    request = store.open_slot_request(
        SlotRequestKind.PROMOTE,
        arguments={name: value for name, value in wanted.items() if value},
        requested_by=options.person(),
        reason=" ".join(arguments.reason.split()),
        at=datetime.now(UTC),
    )
    print(f"{request.request_id} is written down", file=sys.stderr, flush=True)
    return request
