"""A slot request: what an operator, or a probation that found its model worse, wants done to the engine's slot.

The requester only stores it. The process that holds the lock carries it out, one step at a time, and stores the answer;
so a request survives every crash, and needs no Redis.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum


class SlotRequestKind(StrEnum):
    """What is requested."""

    #: an earlier model returns to the slot, or none is named any more
    ROLLBACK = "rollback"
    #: the candidate of a run that was refused goes into the slot
    PROMOTE = "promote"


class SlotRequestState(StrEnum):
    """How far a request has come."""

    #: stored; its deployment, if there is one yet, holds how far the swap has come
    WAITING = "WAITING"
    #: the slot is as requested
    DONE = "DONE"
    #: it cannot be done, and nothing was changed
    REFUSED = "REFUSED"
    #: an error; the answer holds what, and the deployment how far it came
    FAILED = "FAILED"


@dataclass(frozen=True, kw_only=True)
class SlotRequestArguments:
    """What a request is about; which fields count, depends on its kind."""

    #: ROLLBACK: the version that returns; empty = the previous good one
    version: str = ""
    #: ROLLBACK: no model is to be named any more
    to_none: bool = False
    #: ROLLBACK: the model path that the env line must still name; None: whatever it names
    only_from: str | None = None
    #: ROLLBACK: the run whose promotion is taken back. PROMOTE: the run whose candidate is promoted
    run_id: str | None = None
    #: PROMOTE: the request replaces the result of gates that could not be evaluated
    is_forced: bool = False
    #: PROMOTE: the contract that the engine is to run from now on (domain.forced_promotion.contract_name)
    accepted_contract: str = ""
    #: PROMOTE: the run that does it, once it is opened
    opened_run_id: str | None = None
    #: why the stored arguments cannot be read; such a request is refused
    unreadable: str = ""


@dataclass(frozen=True, kw_only=True)
class SlotRequest:
    """One request. Immutable: every change makes a new value."""

    #: also the id of the deployment that it leads to: `rollback_<YYYYmmdd_HHMMSS>`, `rollback_of_<run id>`
    request_id: str
    kind: SlotRequestKind
    arguments: SlotRequestArguments = field(default_factory=SlotRequestArguments)
    requested_by: str
    #: why, one line
    reason: str
    created_at: datetime
    updated_at: datetime
    state: SlotRequestState = SlotRequestState.WAITING
    #: the state, and in the end the result, in one sentence for whoever waits
    answer: str = ""
    #: how often it was tried again after a RetryLaterError
    num_retries: int = 0
    #: not before this instant
    not_before: datetime | None = None

    @property
    def is_answered(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state is not SlotRequestState.WAITING

    def answered(self, state: SlotRequestState, answer: str, *, at: datetime) -> SlotRequest:
        """The request with its result."""
        return replace(self, state=state, answer=answer, updated_at=at, not_before=None)
