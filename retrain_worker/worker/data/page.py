"""A page of rows as both databases give it, and what the table must have for that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import polars as pl

from retrain_worker.errors import DatabaseBusyError, SourceUnfitError

TABLE = "ai_training_samples"

NO_TABLE, NO_ROW = f"there is no table {TABLE}", f"table {TABLE} is empty"

#: microseconds since the epoch, UTC
INSTANTS = ("timestamp", "exit_time", "created_at", "updated_at")
#: the columns that are read; the other columns of the table may be there or not. Null: missing, or not of that type
PAGE_SCHEMA: dict[str, pl.DataType] = {
    "id": pl.Int64(),
    "symbol": pl.String(),
    "predicted_action": pl.String(),
    "prediction_confidence": pl.Float64(),
    "features": pl.String(),
    "feature_names": pl.String(),
    "execution_side": pl.String(),
    "entry_price": pl.Float64(),
    "outcome_known": pl.Boolean(),
    "exit_price": pl.Float64(),
    "realized_pnl": pl.Float64(),
    "hold_duration_seconds": pl.Float64(),
    "target_label": pl.Float64(),
    "target_class": pl.String(),
    **dict.fromkeys(INSTANTS, pl.Int64()),
}
TEXTS = tuple(name for name, kind in PAGE_SCHEMA.items() if kind == pl.String)
NUMBERS = tuple(name for name, kind in PAGE_SCHEMA.items() if kind == pl.Float64)


class ChangedWhileReadError(DatabaseBusyError):
    """No process had the database open when the reading began, and a writer has opened it since: read it again."""


def refuse_beside_others(
    columns: Iterable[tuple[str, str]], count: Callable[[str], int], *, what: str, where: str
) -> None:
    """Raise SourceUnfitError when another table has every column, and rows: the services may write to that one.

    `columns`: (quoted table, column); `what`: what is wrong with TABLE.
    """
    found: defaultdict[str, set[str]] = defaultdict(set)
    for table, column in columns:
        found[table].add(column.lower())
    rows = {table: count(table) for table, names in found.items() if names.issuperset(PAGE_SCHEMA)}
    if not any(rows.values()):
        return
    fullest = max(rows, key=rows.__getitem__)
    others = ", ".join(f"table {table} has its columns and {number:,} rows" for table, number in rows.items() if number)
    raise SourceUnfitError(
        f"{what}, but {others}",
        where=where,
        remedy=f"if the trading services write to {fullest} now, rename it to {TABLE}, or make {TABLE} a view of it",
    )


def check_columns(present: Iterable[str], *, where: str) -> None:
    """Raise SourceUnfitError when there is no table, or with every column that training needs and the table lacks."""
    lower = {name.lower() for name in present}
    if not lower:
        raise SourceUnfitError(
            NO_TABLE,
            where=where,
            remedy="this is another database: point DB_PATH or DATABASE_URL at the one that the trading services write",
        )
    missing = [name for name in PAGE_SCHEMA if name not in lower]
    if missing:
        raise SourceUnfitError(
            f"table {TABLE} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            where=where,
            remedy="point DB_PATH or DATABASE_URL at the trading database with the 24-column table, or migrate it",
        )
