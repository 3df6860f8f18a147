"""Has a slot request carried out: by the daemon, if one runs on this state directory, else by this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.domain.host_names import command
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
    from retrain_worker.adapters import state_access
    from retrain_worker.cli.progress import Activity
    from retrain_worker.daemon.wiring import open_components

    if wait_seconds is None:
        wait_seconds = settings.engine_confirm_seconds + PATIENCE_SECONDS
    options.configure_log(settings, level="ERROR")
    request_id, until = "", time.monotonic() + wait_seconds
    with Activity() as activity:

        def report(request: SlotRequest) -> None:
            activity.message(f"{request.request_id}: {request.answer}")

        while True:
            try:
                with open_components(replace(settings, max_retries=0)) as components:
                    request_id = request_id or write(components.store).request_id
                    return components.driver.carry_out(request_id, report=report)
            except AlreadyRunningError:
                with state_access.state_beside(settings.state_place, read_only=False) as store:
                    request_id = request_id or write(store).request_id
                    request = _answered_by_daemon(settings, store, request_id, wait_seconds, report)
                if request is not None:
                    return request
                if settings.state_url:  # the lease of a leader that has ended, or a host that cannot follow it
                    if time.monotonic() >= until:
                        raise
                    time.sleep(1.0)
                    continue
                options.warn("the daemon has ended; this process carries the request out")


def run_of(store: StateDb, request: SlotRequest) -> Run | None:
    """The run that the request has opened."""
    return store.run(request.arguments.opened_run_id)


def _answered_by_daemon(
    settings: Settings, store: StateDb, request_id: str, wait_seconds: float, report: Callable[[SlotRequest], None]
) -> SlotRequest | None:
    """The request, answered; None when the daemon has ended before that. Raises RetryLaterError."""
    from retrain_worker.adapters import state_access

    until = time.monotonic() + wait_seconds
    while time.monotonic() < until:
        request = store.request(request_id)
        assert request is not None, "a slot request that was written is stored"
        run = run_of(store, request)
        if request.is_answered and (run is None or run.is_concluded):
            return request
        if not state_access.is_in_use(settings.state_place):
            return None
        report(request)
        time.sleep(_POLL_SECONDS)
    raise RetryLaterError(
        f"the daemon has not carried out {request_id} within {wait_seconds:.0f} s; the request stays queued",
        where=str(settings.state_path),
        remedy=f"see `{command()} status`",
    )
