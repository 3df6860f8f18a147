"""The rules by which a row gets its outcome, its side and its action, as expressions over the columns of the table.

A class counts only when it is spelled as in the contract and outcome_known is set. Other values are counted, never
guessed at. A class that contradicts realized_pnl is dropped, relabelled or kept, by LABEL_CONFLICT.
"""

from __future__ import annotations

import polars as pl

from retrain_worker.domain.labels import LabelConflict

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

#: texts of outcome_known that mean yes
YES = ("1", "true", "t", "yes")

#: a position held longer was not held
_MAX_HOLD_SECONDS = 10 * 366 * 86_400


def recorded_outcome() -> pl.Expr:
    """Int8: WIN, LOSS or NEUTRAL; else one of the negative codes, which say why there is no outcome."""
    named, is_known = pl.col("target_class"), pl.col("outcome_known").fill_null(False)
    code = (
        pl.when(named.is_null())
        .then(pl.when(is_known).then(OUTCOME_WITHOUT_CLASS).otherwise(OPEN))
        .when(~named.is_in(["WIN", "LOSS", "NEUTRAL"]))
        .then(UNKNOWN_CLASS)
        .when(~is_known)
        .then(CLASS_WITHOUT_OUTCOME)
        .when(named == "WIN")
        .then(WIN)
        .when(named == "LOSS")
        .then(LOSS)
        .otherwise(NEUTRAL)
    )
    return code.cast(pl.Int8)


def actions(words: pl.Series) -> pl.Series:
    """Int8: BUY, SELL or HOLD in any case, else UNKNOWN_ACTION."""
    spellings = words.unique()
    codes = spellings.str.strip_chars().str.to_uppercase()
    codes = codes.replace_strict({"BUY": BUY, "SELL": SELL, "HOLD": HOLD}, default=UNKNOWN_ACTION, return_dtype=pl.Int8)
    return words.replace_strict(spellings, codes).cast(pl.Int8)


def side(executed: pl.Expr, predicted: pl.Expr) -> pl.Expr:
    """Int8: BUY or SELL of the action that was executed, else of the predicted one, else NO_SIDE."""
    found = pl.when(executed == UNKNOWN_ACTION).then(predicted).otherwise(executed)
    return pl.when(found == UNKNOWN_ACTION).then(pl.lit(NO_SIDE, dtype=pl.Int8)).otherwise(found)


def known_at(never: int) -> pl.Expr:
    """Int64: exit_time, else updated_at, else decided_at + hold_duration_seconds, else `never`; never where open."""
    held = pl.col("hold_duration_seconds")
    by_hold = (
        pl.when((held >= 0) & (held < _MAX_HOLD_SECONDS))
        .then(pl.col("decided_at") + (held * 1_000_000).cast(pl.Int64, strict=False))
        .otherwise(never)
    )
    return pl.when(pl.col("recorded_outcome") >= 0).then(pl.coalesce("outcome_time", by_hold)).otherwise(never)


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
