"""How a swap is confirmed, and what follows when it is not."""

from __future__ import annotations

from enum import StrEnum


class Confirm(StrEnum):
    """What counts as evidence that the engine serves a new model."""

    #: EVENT where a follower has ever answered, else UNIT where it exists, else NONE
    AUTO = "auto"
    NONE = "none"
    #: a follower's acknowledgement on quantum:stream:model.served
    EVENT = "event"
    #: ENGINE_UNIT is active and was started after the swap
    UNIT = "unit"
    #: an entry of quantum:stream:trade.intent in which the engine names the model
    ANSWERS = "answers"


class Unconfirmed(StrEnum):
    """What follows a promotion that was not confirmed in time."""

    #: the model stays; the outcome states that it is not confirmed
    KEEP = "keep"
    #: the previous model returns to the slot
    ROLLBACK = "rollback"
