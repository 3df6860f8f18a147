"""The rules by which a row gets its outcome, its side and its action: all of them, in one place.

A class counts only when it is spelled as the contract says and outcome_known is set. What else is found is counted,
never guessed at. A class that contradicts realized_pnl is dropped, relabelled or kept as LABEL_CONFLICT says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from retrain_worker.domain.labels import LabelConflict
from retrain_worker.worker.data.coded_cells import codes_of

Int8s = npt.NDArray[np.int8]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LOSS, WIN, NEUTRAL = 0, 1, 2
#: no outcome: the position is open, or (after `settled`) the class may not be used as a label
OPEN = -1
#: a class that is none of the three, lower case too
UNKNOWN_CLASS = -2
#: one of the three, but outcome_known is not set
CLASS_WITHOUT_OUTCOME = -3
#: outcome_known is set, but there is no class
OUTCOME_WITHOUT_CLASS = -4

BUY, SELL, NO_SIDE = 1, -1, 0
HOLD = 0
UNKNOWN_ACTION = -128

_CLASSES: dict[Any, int] = {"WIN": WIN, "LOSS": LOSS, "NEUTRAL": NEUTRAL, None: OPEN}
_ACTIONS: dict[str, int] = {"BUY": BUY, "SELL": SELL, "HOLD": HOLD}
_YES = frozenset({"1", "true", "t", "yes"})


def recorded_outcomes(classes: Sequence[Any], known: Sequence[Any]) -> Int8s:
    """int8[n]: WIN, LOSS or NEUTRAL; else one of the negative codes, which say why there is no outcome."""
    outcome = _coded(classes, lambda value: _CLASSES.get(value, UNKNOWN_CLASS))
    is_known = _coded(known, _is_yes).astype(bool)
    outcome[(outcome >= 0) & ~is_known] = CLASS_WITHOUT_OUTCOME
    outcome[(outcome == OPEN) & is_known] = OUTCOME_WITHOUT_CLASS
    return outcome


def actions_and_sides(predicted: Sequence[Any], executed: Sequence[Any]) -> tuple[Int8s, Int8s]:
    """(action, side), int8[n] each.

    action: BUY, SELL, HOLD of predicted_action in any case, else UNKNOWN_ACTION. side: BUY or SELL of execution_side,
    else of predicted_action, else NO_SIDE.
    """
    action = _coded(predicted, _action_of)
    executed_side = _coded(executed, _action_of)
    side = np.where(executed_side == UNKNOWN_ACTION, action, executed_side)
    return action, np.where(side == UNKNOWN_ACTION, np.int8(NO_SIDE), side).astype(np.int8)


def contradictions(outcome: Int8s, value: npt.NDArray[Any]) -> Bools:
    """bool[n]: WIN though `value` (a profit, a signed return) is below zero, or LOSS though it is above."""
    against: Bools = ((outcome == WIN) & (value < 0)) | ((outcome == LOSS) & (value > 0))
    return against


def settled(outcome: Int8s, pnl: Float64s, conflict: LabelConflict) -> Int8s:
    """int8[n]: outcomes that may be trained on, else OPEN, by the rule for contradictions with realized_pnl."""
    outcome = np.maximum(outcome, np.int8(OPEN))
    if conflict is LabelConflict.KEEP:
        return outcome
    contradicted = contradictions(outcome, pnl)
    if conflict is LabelConflict.DROP:
        return np.where(contradicted, np.int8(OPEN), outcome).astype(np.int8)
    by_profit = np.where(pnl > 0, np.int8(WIN), np.int8(LOSS))
    return np.where(contradicted, by_profit, outcome).astype(np.int8)


def numbers(values: Sequence[Any]) -> Float64s:
    """float64[n]; NaN where a value is missing or is no number."""
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.array([_number(value) for value in values], dtype=np.float64)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _coded(values: Sequence[Any], code: Callable[[Any], int]) -> Int8s:
    """int8[n]: `code` of each value."""
    return codes_of(values, code).astype(np.int8)


def _action_of(value: Any) -> int:
    return _ACTIONS.get(value.strip().upper(), UNKNOWN_ACTION) if isinstance(value, str) else UNKNOWN_ACTION


def _is_yes(value: Any) -> int:
    return int(value.strip().lower() in _YES if isinstance(value, str) else value == 1)
