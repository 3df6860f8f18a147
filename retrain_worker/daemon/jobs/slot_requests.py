"""Carries out slot requests: rollbacks and forced promotions that an operator or a failed probation has requested."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.daemon.unexpected_error import charged
from retrain_worker.domain.deployments import is_confirmed
from retrain_worker.domain.lifecycle import Outcome, Run
from retrain_worker.domain.slot_request import SlotRequest, SlotRequestState
from retrain_worker.stages import slot_requests
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.slot_requests import SlotRequestStep

log = structlog.get_logger()


def carry_out(
    store: StateDb, context: StageContext, *, is_stopping: Callable[[], bool], on_rollback: Callable[[Run], object]
) -> bool:
    """Carry out the oldest requests as far as that needs no waiting; whether anything was stored.

    `on_rollback` gets each run that is rolled back. Each step is stored before the next one, so the next pass recovers
    from a crash between two of them. Raises StateError and RetryLaterError of the state database.
    """
    has_moved = False
    while not is_stopping() and (request := store.waiting_slot_request()) is not None:
        step = _step(request, context)
        _log(step)
        if step.run is not None and step.run.outcome is Outcome.ROLLED_BACK:
            on_rollback(step.run)
        has_moved |= step.is_move
        if not step.is_move or step.request.not_before is not None:
            break
    return has_moved


def _step(request: SlotRequest, context: StageContext) -> SlotRequestStep:
    return charged(
        f"slot request {request.request_id}",
        lambda: slot_requests.carry_out(request, context),
        charge=lambda reason: slot_requests.abandon(request, reason, context),
    )


def _log(step: SlotRequestStep) -> None:
    """Waiting at debug, a move at info, an end that is not what was requested as a warning."""
    request, deployment = step.request, step.deployment
    is_alarm = (request.is_answered and request.state is not SlotRequestState.DONE) or (
        deployment is not None and is_confirmed(deployment) is False
    )
    write = log.warning if is_alarm else log.info if step.is_move else log.debug
    write("slot_request_progress", message=step.message, request_id=request.request_id, state=request.state)
