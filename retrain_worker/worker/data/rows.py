"""Raw rows of `ai_training_samples`: the columns that training needs, with the values of the driver."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from retrain_worker.errors import DatabaseBusyError, SourceUnfitError

TABLE = "ai_training_samples"


class ChangedWhileReadError(DatabaseBusyError):
    """The database was at rest when the reading began, and a writer has opened it since: read it again."""


class RawRows(NamedTuple):
    """Some rows, column by column, all of the same length."""

    id: Sequence[Any]
    symbol: Sequence[Any]
    timestamp: Sequence[Any]
    predicted_action: Sequence[Any]
    prediction_confidence: Sequence[Any]
    features: Sequence[Any]
    feature_names: Sequence[Any]
    execution_side: Sequence[Any]
    entry_price: Sequence[Any]
    outcome_known: Sequence[Any]
    exit_price: Sequence[Any]
    #: exit_time, else updated_at
    outcome_time: Sequence[Any]
    realized_pnl: Sequence[Any]
    hold_duration_seconds: Sequence[Any]
    target_label: Sequence[Any]
    target_class: Sequence[Any]


OUTCOME_TIME = "outcome_time"
OUTCOME_TIME_COLUMNS = ("exit_time", "updated_at")
#: the columns that are read; the other columns of the table may be there or not
COLUMNS: tuple[str, ...] = (*(name for name in RawRows._fields if name != OUTCOME_TIME), *OUTCOME_TIME_COLUMNS)


def check_columns(present: Iterable[str], *, where: str) -> None:
    """Raise SourceUnfitError that names every column which training needs and the table lacks."""
    lower = {name.lower() for name in present}
    missing = [name for name in COLUMNS if name not in lower]
    if missing:
        raise SourceUnfitError(
            f"table {TABLE} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            where=where,
            remedy="point DB_PATH or DATABASE_URL at the trading database with the 24-column table, or migrate it",
        )


def table_missing(where: str) -> SourceUnfitError:
    """The error for a database without the table."""
    return SourceUnfitError(
        f"there is no table {TABLE}",
        where=where,
        remedy="this is another database: point DB_PATH or DATABASE_URL at the one that the trading services write",
    )
