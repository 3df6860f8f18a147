"""An order: what a person, or a trial that went badly, wants done to the slot; kept in the state database.

Whoever gives it only writes it down. The process that holds the lock carries it out, one step per tick, and writes the
answer; so it survives every crash, and needs no Redis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum


class SlotRequestKind(StrEnum):
    """What is wanted."""

    #: An earlier model returns to the slot. Arguments: `version`: which one, else the previous good one. `to_none`:
    #: "yes" where no model is to be named any more. `only_from`: the model path that the env line must still name,
    #: else nothing is done. `run_id`: the run whose promotion is taken back.
    ROLLBACK = "rollback"
    #: The candidate of a run goes into the slot at a person's word. Arguments: `run_id`: whose candidate. `force`:
    #: "yes" where the order takes the place of gates that could not be evaluated. `accept_contract`: the contract
    #: that the engine is to run from now on (domain.forced.contract_name). `opened`: the run that does it, once there
    #: is one.
    PROMOTE = "promote"


class SlotRequestState(StrEnum):
    """How far an order has come."""

    #: written down; its deployment, if there is one yet, says how far the swap has come
    WAITING = "WAITING"
    #: the slot is as it was ordered
    DONE = "DONE"
    #: it cannot be done, and nothing was changed
    REFUSED = "REFUSED"
    #: something broke; the answer says what, and the deployment how far it came
    FAILED = "FAILED"


@dataclass(frozen=True, kw_only=True)
class SlotRequest:
    """One order. Immutable: every change makes a new value."""

    #: also the id of the deployment that it leads to: `rollback_<YYYYmmdd_HHMMSS>`, `rollback_of_<run id>`
    request_id: str
    kind: SlotRequestKind
    arguments: Mapping[str, str] = field(default_factory=dict)
    requested_by: str
    #: why, one line
    reason: str
    created_at: datetime
    updated_at: datetime
    state: SlotRequestState = SlotRequestState.WAITING
    #: one sentence for whoever waits: how it stands, and in the end how it ended
    answer: str = ""
    #: how often it was tried again after a RetryLaterError
    num_retries: int = 0
    #: not before this instant
    not_before: datetime | None = None

    @property
    def is_answered(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state is not SlotRequestState.WAITING

    def answered(self, state: SlotRequestState, answer: str, *, at: datetime) -> SlotRequest:
        """The order with its end."""
        return replace(self, state=state, answer=answer, updated_at=at, not_before=None)
