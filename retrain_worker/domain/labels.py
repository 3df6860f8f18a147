"""What WIN means, when a label contradicts its own profit, and which action a probability stands for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Label(StrEnum):
    """What the model learns to predict."""

    #: P(the executed trade was profitable), whichever side it had (the seed's label)
    OUTCOME = "outcome"
    #: P(the price rose): WIN of a BUY and LOSS of a SELL mean up
    DIRECTION = "direction"


class LabelConflict(StrEnum):
    """What happens to a row whose class contradicts the sign of its realized_pnl."""

    DROP = "drop"
    RELABEL = "relabel"
    KEEP = "keep"


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """P above `buy` means BUY, P below `sell` means SELL, anything between means HOLD."""

    buy: float = 0.6
    sell: float = 0.4


def action_of(probability: float, thresholds: Thresholds) -> str:
    """BUY, SELL or HOLD."""
    if probability > thresholds.buy:
        return "BUY"
    if probability < thresholds.sell:
        return "SELL"
    return "HOLD"
