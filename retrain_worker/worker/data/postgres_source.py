"""The table in PostgreSQL: one REPEATABLE READ, READ ONLY transaction, fetched through a server-side cursor.

MVCC readers hold up no writer, so the whole table is read in one transaction. Texts come as bytes, in UTF-8 unless the
database is SQL_ASCII, which has no encoding; instants that are no timestamps come as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import polars as pl
from sqlalchemy import URL

from retrain_worker.errors import DatabaseBusyError, DatabaseUnreachableError, RetrainError, SourceUnfitError
from retrain_worker.worker.data.cells import column_of_one_type, text_of
from retrain_worker.worker.data.page import (
    INSTANTS,
    NUMBERS,
    OUTCOME_TIME,
    OUTCOME_TIME_COLUMNS,
    PAGE_SCHEMA,
    TABLE,
    TEXTS,
    check_columns,
)

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Connection

_PAGE_ROWS = 10_000
#: texts of a database without an encoding come as they are: a byte that is no UTF-8 would end the query
_ENCODING = (
    "SELECT set_config('client_encoding', "
    "CASE current_setting('server_encoding') WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END, true)"
)
#: a single FETCH of _PAGE_ROWS rows that takes longer means a server in trouble
_STATEMENT_TIMEOUT_SECONDS = 120
#: COPY, the driver's other way, cannot read from a cursor
_OPTIONS = {"adbc.postgresql.use_copy": "false"}

#: SQLSTATEs and their classes (https://www.postgresql.org/docs/current/errcodes-appendix.html)
_WAITED_TOO_LONG = ("40", "55P03", "57014", "25P03", "25P04")
_PASSING = ("08", "25P0", "28", "53", "57", "58", "42501", "3D000")


def read_postgres(url: URL, *, busy_timeout_seconds: float) -> Iterator[pl.DataFrame]:
    """Pages of the table as one snapshot of the database holds it."""
    where = url.render_as_string(hide_password=True)
    try:
        from adbc_driver_postgresql import dbapi
    except ModuleNotFoundError as error:
        raise DatabaseUnreachableError(
            f"the PostgreSQL driver is not installed ({error})",
            where=where,
            remedy="pip install 'retrain-worker[postgres]'",
        ) from error
    try:
        with dbapi.connect(_libpq_uri(url, busy_timeout_seconds), autocommit=True) as connection:
            yield from _pages(connection, where=where, busy_timeout_seconds=busy_timeout_seconds)
    except dbapi.Error as error:
        raise _explained(error.sqlstate or "", str(error), where) from error


def _libpq_uri(url: URL, busy_timeout_seconds: float) -> str:
    """The URL as libpq reads it."""
    query = {"connect_timeout": str(max(2, round(busy_timeout_seconds))), **url.query}
    return url.set(drivername="postgresql", query=query).render_as_string(hide_password=False)


def _pages(connection: Connection, *, where: str, busy_timeout_seconds: float) -> Iterator[pl.DataFrame]:
    _execute(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    for setting in (
        f"lock_timeout = {round(busy_timeout_seconds * 1000)}",
        f"statement_timeout = {_STATEMENT_TIMEOUT_SECONDS * 1000}",
        "idle_in_transaction_session_timeout = 0",  # pages are decoded between two statements
        "timezone = 'UTC'",
    ):
        _execute(connection, f"SET LOCAL {setting}")
    _query(connection, _ENCODING)
    kinds = dict(
        _query(
            connection,
            "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute "  # noqa: S608 (a constant)
            f"WHERE attrelid = to_regclass('{TABLE}') AND attnum > 0 AND NOT attisdropped",
        ).iter_rows()
    )
    check_columns(kinds, where=where)
    columns = ", ".join(f"{_typed(name, kinds)} AS {name}" for name in PAGE_SCHEMA)
    _execute(connection, f"DECLARE pages NO SCROLL CURSOR FOR SELECT {columns} FROM {TABLE}")  # noqa: S608 (constants)
    while len(page := _query(connection, f"FETCH FORWARD {_PAGE_ROWS} FROM pages")):
        yield pl.DataFrame([column_of_one_type(name, _text(page[name])) for name in PAGE_SCHEMA])


def _execute(connection: Connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**_OPTIONS)
        cursor.adbc_statement.set_sql_query(statement)
        cursor.adbc_statement.execute_update()


def _query(connection: Connection, statement: str) -> pl.DataFrame:
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**_OPTIONS)
        cursor.execute(statement)
        return cursor.fetch_polars()


def _typed(name: str, kinds: Mapping[str, str]) -> str:
    """The column as the decoder expects it. `infinity` is no instant."""
    if name in TEXTS:
        return f"textsend({name}::text)"
    if name in NUMBERS:
        return f"{name}::float8"
    if name not in INSTANTS:
        return f"{name}::int8" if name == "id" else name
    columns = OUTCOME_TIME_COLUMNS if name == OUTCOME_TIME else (name,)
    if all(kinds[each].startswith("timestamp") for each in columns):
        return f"COALESCE({', '.join(f'CASE WHEN isfinite({each}) THEN {each}::timestamptz END' for each in columns)})"
    return f"textsend(COALESCE({', '.join(f'{each}::text' for each in columns)}))"


def _text(column: pl.Series) -> pl.Series:
    """Bytes as text."""
    if column.dtype != pl.Binary:
        return column
    try:
        return column.cast(pl.String)
    except pl.exceptions.ComputeError:  # a SQL_ASCII database holds any bytes
        return pl.Series([text_of(raw) if raw is not None else None for raw in column], dtype=pl.String)


def _explained(state: str, message: str, where: str) -> RetrainError:
    """The error of this program for an SQLSTATE."""
    cause = message.strip().split("\n")[0]
    if state.startswith(_WAITED_TOO_LONG):
        remedy = "it is tried again; look at pg_locks"
        return DatabaseBusyError(f"the server made this process wait too long ({cause})", where=where, remedy=remedy)
    if not state or state.startswith(_PASSING):
        remedy = "check that it runs, the user, its password and its SELECT right"
        return DatabaseUnreachableError(f"the server cannot be used ({cause})", where=where, remedy=remedy)
    return SourceUnfitError(
        f"the server cannot read {TABLE} as training rows ({cause})",
        where=where,
        remedy="compare the columns' types with the 24-column table",
    )
