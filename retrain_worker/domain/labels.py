"""The meaning of WIN, contradictory labels, and the action for a probability."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Label(StrEnum):
    """What the model predicts."""

    #: P(the executed trade was profitable), for either side (the seed's label)
    OUTCOME = "outcome"
    #: P(the price rose): WIN of a BUY and LOSS of a SELL mean up
    DIRECTION = "direction"


class LabelConflict(StrEnum):
    """Treatment of a row whose class contradicts the sign of its realized_pnl."""

    DROP = "drop"
    RELABEL = "relabel"
    KEEP = "keep"


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """BUY above `buy`, SELL below `sell`, HOLD between."""

    buy: float = 0.6
    sell: float = 0.4


def action_of(probability: float, thresholds: Thresholds) -> str:
    """BUY, SELL or HOLD."""
    if probability > thresholds.buy:
        return "BUY"
    if probability < thresholds.sell:
        return "SELL"
    return "HOLD"
