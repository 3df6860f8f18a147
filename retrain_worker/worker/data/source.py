"""Reads `ai_training_samples` read-only, from SQLite or PostgreSQL.

The two sources differ in how they are opened and how they avoid delaying writers; both yield RawRows.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from retrain_worker.errors import SourceUnfitError
from retrain_worker.worker.data.rows import RawRows


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
