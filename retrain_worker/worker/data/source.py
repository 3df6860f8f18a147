"""Pages of rows from `ai_training_samples`, read-only, from SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import polars as pl
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from retrain_worker.domain.connection_url import shown
from retrain_worker.domain.database_url import canonical
from retrain_worker.errors import SourceUnfitError


def read_pages(database_url: str, *, busy_timeout_seconds: float) -> Iterator[pl.DataFrame]:
    """Every row of the table, in pages of unspecified size and order, each row once and as one transaction left it.

    A page may be trusted only when the iteration has ended without an error: damage is sometimes found last. Raises
    DatabaseUnreachableError, DatabaseBusyError, ChangedWhileReadError, SourceUnfitError; no text of theirs holds the
    URL's password.
    """
    url = parse_url(database_url)
    backend = url.get_backend_name()
    if backend == "sqlite":
        from retrain_worker.worker.data.sqlite_source import read_sqlite

        return _read_ahead(read_sqlite(url, busy_timeout_seconds=busy_timeout_seconds))
    if backend == "postgresql":
        from retrain_worker.worker.data.postgres_source import read_postgres

        return _read_ahead(read_postgres(url, busy_timeout_seconds=busy_timeout_seconds))
    raise SourceUnfitError(
        f"{backend} databases are not supported",
        where=shown(database_url),
        remedy="set DB_PATH to a SQLite file or DATABASE_URL to sqlite:// or postgresql://",
    )


def _read_ahead(pages: Generator[pl.DataFrame]) -> Generator[pl.DataFrame]:
    """The pages; the next one is read while the caller works on the one before."""
    with closing(pages), ThreadPoolExecutor(max_workers=1, thread_name_prefix="read_pages") as pool:
        waiting = pool.submit(next, pages, None)
        while (page := waiting.result()) is not None:
            waiting = pool.submit(next, pages, None)
            yield page


def hard_links(database_url: str) -> int:
    """How many names the database file has beside the one in the URL; 0 for a server, and without WAL."""
    url = parse_url(database_url)
    if url.get_backend_name() != "sqlite":
        return 0
    from retrain_worker.worker.data.sqlite_source import other_names_of

    return other_names_of(url)


def parse_url(database_url: str) -> URL:
    """The URL, in whichever spelling of SQLAlchemy, libpq or another library. Raises SourceUnfitError."""
    try:
        return make_url(canonical(database_url))
    except (ArgumentError, ValueError):
        # the library's message may repeat the text, and with it a password
        raise SourceUnfitError(
            "the database URL cannot be parsed",
            where="DATABASE_URL",
            remedy="write it as sqlite:////absolute/path.db or postgresql://user:password@host:5432/name",
        ) from None
