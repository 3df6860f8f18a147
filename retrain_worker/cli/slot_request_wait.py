"""Has a slot request carried out: by the daemon, if one runs on this state directory, else by this process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from retrain_worker.errors import AlreadyRunningError, RetryLaterError

if TYPE_CHECKING:
    from retrain_worker.adapters.state_db import StateDb
    from retrain_worker.domain.lifecycle import Run
    from retrain_worker.domain.slot_request import SlotRequest
    from retrain_worker.settings import Settings

#: beside the time for the confirmation: verification in a worker, the swap, retries of a busy disk
PATIENCE_SECONDS = 90.0
_POLL_SECONDS = 0.1


def carried_out(
    settings: Settings, write: Callable[[StateDb], SlotRequest], *, wait_seconds: float | None = None
) -> SlotRequest:
    """The request that `write` has stored, answered, and the run that it has opened concluded.

    Raises RetryLaterError when the daemon takes longer than `wait_seconds` (default: ENGINE_CONFIRM_TIMEOUT_S and
    PATIENCE_SECONDS).
    """
    from retrain_worker.adapters import journal
    from retrain_worker.adapters.state_db import StateDb
    from retrain_worker.daemon.wiring import open_components

    if wait_seconds is None:
        wait_seconds = settings.engine_confirm_seconds + PATIENCE_SECONDS
    journal.configure(level="ERROR", form=settings.log_format)
    report, request_id = _Progress(), ""
    while True:
        try:
            with open_components(replace(settings, max_retries=0)) as components:
                request_id = request_id or write(components.store).request_id
                return components.driver.carry_out(request_id, report=report)
        except AlreadyRunningError:
            with StateDb(settings.state_path / "state.db", is_owner=False) as store:
                request_id = request_id or write(store).request_id
                request = _answered_by_daemon(settings, store, request_id, wait_seconds, report)
            if request is not None:
                return request
            print("the daemon has ended; this process carries the request out", file=sys.stderr, flush=True)


def run_of(store: StateDb, request: SlotRequest) -> Run | None:
    """The run that the request has opened."""
    return store.run(request.arguments.opened_run_id)


class _Progress:
    """Prints each new answer of a request that is not completed."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, request: SlotRequest) -> None:
        if not request.is_answered and request.answer != self._last:
            self._last = request.answer
            print(f"{request.request_id}: {request.answer}", file=sys.stderr, flush=True)


def _answered_by_daemon(
    settings: Settings, store: StateDb, request_id: str, wait_seconds: float, report: Callable[[SlotRequest], None]
) -> SlotRequest | None:
    """The request, answered; None when the daemon has ended before that. Raises RetryLaterError."""
    from retrain_worker.adapters.state_lock import is_held

    until = time.monotonic() + wait_seconds
    while time.monotonic() < until:
        request = store.request(request_id)
        assert request is not None, "a slot request that was written is stored"
        run = run_of(store, request)
        if request.is_answered and (run is None or run.is_concluded):
            return request
        if not is_held(settings.state_path):
            return None
        report(request)
        time.sleep(_POLL_SECONDS)
    raise RetryLaterError(
        f"the daemon has not carried out {request_id} within {wait_seconds:.0f} s; the request stays queued",
        where=str(settings.state_path),
        remedy="see `retrain-worker status`",
    )
