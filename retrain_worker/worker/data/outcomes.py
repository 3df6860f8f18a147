"""The rules by which a row gets its outcome, its side and its action, as expressions over the columns of the table.

A class counts only when it is spelled as in the contract and outcome_known is set. Other values are counted, never
guessed at. A class that contradicts realized_pnl is dropped, relabelled or kept, by LABEL_CONFLICT.
"""

from __future__ import annotations

import polars as pl

from retrain_worker.domain.labels import LabelConflict
from retrain_worker.worker.data.instants import CLOCK_TOLERANCE, MICROSECONDS, NEVER

LOSS, WIN, NEUTRAL = 0, 1, 2
_CLASSES = {"LOSS": LOSS, "WIN": WIN, "NEUTRAL": NEUTRAL}
#: no outcome: the position is open, or (after `settled`) the class may not be used as a label
OPEN = -1
#: outcome_known is set, and the class is none of the three, lower case too
UNKNOWN_CLASS = -2
#: a class, but outcome_known is not set
CLASS_WITHOUT_OUTCOME = -3
#: outcome_known is set, but there is no class
OUTCOME_WITHOUT_CLASS = -4

BUY, SELL, NO_SIDE = 1, -1, 0
HOLD = 0
UNKNOWN_ACTION = -128
_ACTIONS = {"BUY": BUY, "SELL": SELL, "HOLD": HOLD}

#: texts of outcome_known that mean yes
YES = ("1", "true", "t", "yes")

#: a position held longer was not held
_MAX_HOLD_SECONDS = 10 * 366 * 86_400
#: by how much exit_time may differ from the value of hold_duration_seconds
EXIT_TOLERANCE = 60 * MICROSECONDS


def recorded_outcome() -> pl.Expr:
    """Int8: WIN, LOSS or NEUTRAL; else one of the negative codes, which state why there is no outcome."""
    is_known = pl.col("outcome_known").fill_null(False)
    named = pl.col("target_class").replace_strict(_CLASSES, default=UNKNOWN_CLASS, return_dtype=pl.Int8)
    without_class = pl.when(is_known).then(OUTCOME_WITHOUT_CLASS).otherwise(OPEN)
    with_class = pl.when(~is_known).then(CLASS_WITHOUT_OUTCOME).otherwise(named)
    return pl.when(pl.col("target_class").is_null()).then(without_class).otherwise(with_class).cast(pl.Int8)


def action(name: str) -> pl.Expr:
    """Int8: BUY, SELL or HOLD in any case, else UNKNOWN_ACTION."""
    word = pl.col(name)
    other = pl.when(~word.is_in([*_ACTIONS])).then(word).str.strip_chars().str.to_uppercase()
    return pl.coalesce(other, word).replace_strict(_ACTIONS, default=UNKNOWN_ACTION, return_dtype=pl.Int8)


def side(executed: pl.Expr, predicted: pl.Expr) -> pl.Expr:
    """Int8: BUY or SELL of the action that was executed, else of the predicted one, else NO_SIDE."""
    found = pl.when(executed == UNKNOWN_ACTION).then(predicted).otherwise(executed)
    return pl.when(found == UNKNOWN_ACTION).then(pl.lit(NO_SIDE, dtype=pl.Int8)).otherwise(found)


def known_at(now: int) -> pl.Expr:
    """Int64: when the outcome was known; later than `latest_outcome`: in the future; NEVER: open, or in no column.

    That is exit_time, or updated_at where exit_time is not plausible (empty, not after the decision, in the future);
    but not before decided_at + hold_duration_seconds where that is plausible.
    """
    decided, recorded = pl.col("decided_at"), pl.coalesce("exit_time", "updated_at")
    odd = pl.when(recorded.is_not_null()).then(pl.max_horizontal(recorded, decided))
    found = pl.coalesce(_plausible(now), odd, _held_until(), pl.lit(NEVER))
    return pl.when(pl.col("recorded_outcome") >= 0).then(found).otherwise(NEVER)


def is_exit_replaced(now: int) -> pl.Expr:
    """Boolean: `known_at` is not exit_time, but the value of updated_at or hold_duration_seconds."""
    differs = (_plausible(now) - pl.col("exit_time")).abs() > EXIT_TOLERANCE
    replaced = _plausible(now).is_not_null() & differs.fill_null(True)
    return replaced & (pl.col("recorded_outcome") >= 0)


def latest_outcome(now: int) -> int:
    """The latest time of an outcome that is in the table."""
    return now + CLOCK_TOLERANCE


def _held_until() -> pl.Expr:
    held = pl.col("hold_duration_seconds")
    microseconds = (held * MICROSECONDS).cast(pl.Int64, strict=False)
    return pl.when((held >= 0) & (held < _MAX_HOLD_SECONDS)).then(pl.col("decided_at") + microseconds)


def _plausible(now: int) -> pl.Expr:
    exit_time, updated_at, held_until = (
        pl.when((instant > pl.col("decided_at")) & (instant <= latest_outcome(now))).then(instant)
        for instant in (pl.col("exit_time"), pl.col("updated_at"), _held_until())
    )
    return pl.max_horizontal(pl.coalesce(exit_time, updated_at), held_until)


def contradicts(outcome: str, value: str | pl.Expr) -> pl.Expr:
    """Boolean: WIN though `value` (a profit, a signed return) is below zero, or LOSS though it is above."""
    measured = pl.col(value) if isinstance(value, str) else value
    against = ((pl.col(outcome) == WIN) & (measured < 0)) | ((pl.col(outcome) == LOSS) & (measured > 0))
    # NaN is larger than any number here: it has no sign
    return (against & measured.is_not_nan()).fill_null(False)


def settled(conflict: LabelConflict) -> pl.Expr:
    """Int8: outcomes that may be trained on, else OPEN, by the rule for contradictions with realized_pnl."""
    outcome = pl.max_horizontal("recorded_outcome", pl.lit(OPEN, dtype=pl.Int8))
    contradicted = contradicts("recorded_outcome", "pnl")
    match conflict:
        case LabelConflict.KEEP:
            return outcome
        case LabelConflict.DROP:
            return pl.when(contradicted).then(pl.lit(OPEN, dtype=pl.Int8)).otherwise(outcome)
        case LabelConflict.RELABEL:
            by_profit = pl.when(pl.col("pnl") > 0).then(WIN).otherwise(LOSS).cast(pl.Int8)
            return pl.when(contradicted).then(by_profit).otherwise(outcome)
