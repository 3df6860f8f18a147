"""Whether the trading database is there and holds the table: a look that takes milliseconds, before the first run.

The rows are the worker's business. SQLite is opened read-only; PostgreSQL is asked one question.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from retrain_worker.adapters.sql_engine import engine_of
from retrain_worker.domain.connection_url import shown, without_password
from retrain_worker.errors import DatabaseUnreachableError, SourceUnfitError

TABLE = "ai_training_samples"
_REMEDY = "correct DB_PATH or DATABASE_URL"
_CONNECT_SECONDS = 5


def check_source(database_url: str, path: Path | None) -> None:
    """Raises SourceUnfitError when it is not a training database, DatabaseUnreachableError when it cannot be read."""
    if path is None:
        _look_at_postgresql(database_url)
    else:
        _look_at_sqlite(path)


def _look_at_sqlite(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise DatabaseUnreachableError(f"cannot be read: {error.strerror}", where=str(path), remedy=_REMEDY) from error
    if start != b"SQLite format 3\0":
        raise SourceUnfitError("not an SQLite database", where=str(path), remedy=_REMEDY)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as connection:
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (TABLE,)).fetchone()
    except sqlite3.Error as error:
        raise DatabaseUnreachableError(
            f"cannot be read: {error}", where=str(path), remedy="see whether a writer holds it, and who may read it"
        ) from error
    if found is None:
        raise SourceUnfitError(f"has no table {TABLE}", where=str(path), remedy=_REMEDY)


def _look_at_postgresql(url: str) -> None:
    import sqlalchemy as sa

    engine = engine_of(url, {"connect_timeout": _CONNECT_SECONDS})
    where = shown(url)
    try:
        with engine.connect() as connection:
            has_table = sa.inspect(connection).has_table(TABLE)
    except sa.exc.SQLAlchemyError as error:
        cause = without_password(str(error.__cause__ or error).splitlines()[0], url)
        raise DatabaseUnreachableError(f"cannot be reached: {cause}", where=where, remedy=_REMEDY) from None
    if not has_table:
        raise SourceUnfitError(f"has no table {TABLE}", where=where, remedy=_REMEDY)
