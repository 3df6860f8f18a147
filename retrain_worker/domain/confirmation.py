"""How a swap is confirmed, and what follows when it is not."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Quorum:
    """How many followers must have acknowledged a model: `count`, and this share of those that are known."""

    count: int = 1
    share: float = 0.0

    def required(self, num_known: int) -> int:
        """The number of followers."""
        return max(self.count, math.ceil(self.share * num_known - 1e-9))


def quorum_of(text: str) -> Quorum:
    """`3` or `50%`. Raises ValueError."""
    found = re.fullmatch(r"(\d{1,6})|(\d{1,3}(?:\.\d{1,3})?) ?%", text.strip())
    if found is None:
        raise ValueError(f'"{text}" is neither a number of followers nor a share, as in 3 or 50%')
    quorum = Quorum(count=int(found[1])) if found[1] else Quorum(share=float(found[2]) / 100)
    if not (quorum.count and quorum.share <= 1.0 and (found[1] or quorum.share > 0)):
        raise ValueError(f'"{text}" is not at least 1, or over 0 % and at most 100 %')
    return quorum


class Unconfirmed(StrEnum):
    """What follows a promotion that was not confirmed in time."""

    #: the model stays; the outcome states that it is not confirmed
    KEEP = "keep"
    #: the previous model returns to the slot
    ROLLBACK = "rollback"
