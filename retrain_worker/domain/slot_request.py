"""A slot request: a rollback or a forced promotion, requested by an operator, a probation or UNCONFIRMED=rollback.

The requester only stores it. The process that holds the state lock executes it, one step at a time, and stores the
answer; so a request survives every crash and needs no Redis.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum


class SlotRequestKind(StrEnum):
    """What is requested."""

    #: an earlier model returns to the slot, or the slot is emptied
    ROLLBACK = "rollback"
    #: the candidate of a run that was refused goes into the slot
    PROMOTE = "promote"


class SlotRequestState(StrEnum):
    """Progress of a request."""

    #: stored; its deployment, if there is one, has the progress of the swap
    WAITING = "WAITING"
    #: the slot is as requested
    DONE = "DONE"
    #: refused; nothing was changed
    REFUSED = "REFUSED"
    #: an error, which the answer names
    FAILED = "FAILED"


@dataclass(frozen=True, kw_only=True)
class SlotRequestArguments:
    """Arguments of a request; which fields count depends on its kind."""

    #: ROLLBACK: the version that returns; empty = the previous good one
    version: str = ""
    #: ROLLBACK: empty the slot
    to_none: bool = False
    #: ROLLBACK: the path that the env line must still name; None: any
    only_from: str | None = None
    #: ROLLBACK: the run whose promotion is rolled back. PROMOTE: the run whose candidate is promoted
    run_id: str | None = None
    #: PROMOTE: the request replaces the result of gates that could not be evaluated
    is_forced: bool = False
    #: PROMOTE: the contract that the engine is to run from now on (domain.forced_promotion.contract_name)
    accepted_contract: str = ""
    #: PROMOTE: the run of the promotion, once it is opened
    opened_run_id: str | None = None
    #: why the stored arguments cannot be read; such a request is refused
    unreadable: str = ""


@dataclass(frozen=True, kw_only=True)
class SlotRequest:
    """One request. Immutable: every change creates a new value."""

    #: also the id of its deployment: `rollback_<YYYYmmdd_HHMMSS>`, `rollback_of_<run id>`
    request_id: str
    kind: SlotRequestKind
    arguments: SlotRequestArguments = field(default_factory=SlotRequestArguments)
    requested_by: str
    #: why, one line
    reason: str
    created_at: datetime
    updated_at: datetime
    state: SlotRequestState = SlotRequestState.WAITING
    #: the state or the result, as a message for the requester
    answer: str = ""
    #: retries after a RetryLaterError
    num_retries: int = 0
    #: earliest time of the next attempt
    not_before: datetime | None = None

    @property
    def is_answered(self) -> bool:
        """Whether it has a final state."""
        return self.state is not SlotRequestState.WAITING

    def answered(self, state: SlotRequestState, answer: str, *, at: datetime) -> SlotRequest:
        """The request with its result."""
        return replace(self, state=state, answer=answer, updated_at=at, not_before=None)
