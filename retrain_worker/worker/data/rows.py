"""Pages of raw rows from `ai_training_samples`, read-only, from SQLite or PostgreSQL.

The two sources differ in how they are opened and how they stay out of a writer's way; what they yield is the same:
`RawRows`, the columns that training needs, values as the driver gives them. Nothing is judged here but the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

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


def read_pages(database_url: str, *, busy_timeout_seconds: float) -> Iterator[RawRows]:
    """Every row of the table, in pages of unspecified size and order, each row once and as one transaction left it.

    A page may be trusted only when the iteration has ended without an error: damage is sometimes found last. Raises
    DatabaseUnreachableError, DatabaseBusyError, ChangedWhileReadError, SourceUnfitError; no text of theirs holds the
    URL's password.
    """
    url = parse_url(database_url)
    backend = url.get_backend_name()
    if backend == "sqlite":
        from retrain_worker.worker.data.sqlite_source import read_sqlite

        return read_sqlite(url, busy_timeout_seconds=busy_timeout_seconds)
    if backend == "postgresql":
        from retrain_worker.worker.data.postgres_source import read_postgres

        return read_postgres(url, busy_timeout_seconds=busy_timeout_seconds)
    raise SourceUnfitError(
        f"{backend} is not a database this program reads",
        where=url.render_as_string(),
        remedy="set DB_PATH to a SQLite file or DATABASE_URL to sqlite:// or postgresql://",
    )


def parse_url(database_url: str) -> URL:
    """The URL, with `postgres://` taken for `postgresql://` and psycopg as its driver."""
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):
        # the library's message may repeat the text, and with it a password
        raise SourceUnfitError(
            "the database URL cannot be parsed",
            where="DATABASE_URL",
            remedy="write it as sqlite:////absolute/path.db or postgresql://user:password@host:5432/name",
        ) from None
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    return url


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
