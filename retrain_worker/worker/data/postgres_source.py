"""The table in PostgreSQL: one REPEATABLE READ, READ ONLY transaction, fetched through a server-side cursor.

MVCC readers hold up no writer, so the whole table is read in one transaction. Texts come as bytes, in UTF-8 unless the
database is SQL_ASCII, which has no encoding; instants that are no timestamps come as text.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING

import polars as pl
from sqlalchemy import URL

from retrain_worker.domain.connection_url import requoted, shown, without_password
from retrain_worker.errors import (
    DatabaseBusyError,
    DatabaseUnreachableError,
    RetrainError,
    SourceUnfitError,
    install_extra,
)
from retrain_worker.worker.data.cells import page_of_columns, text_of
from retrain_worker.worker.data.page import (
    INSTANTS,
    NO_ROW,
    NO_TABLE,
    NUMBERS,
    PAGE_SCHEMA,
    TABLE,
    TEXTS,
    check_columns,
    refuse_beside_others,
)

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Connection

_PAGE_ROWS = 10_000
#: a single FETCH of _PAGE_ROWS rows that takes longer means a server in trouble
_STATEMENT_TIMEOUT_SECONDS = 120
#: pages are decoded between two statements; texts of a database without an encoding come as they are, since a byte
#: that is no UTF-8 would end the query
_SETTINGS = """
SELECT CONCAT(set_config('lock_timeout', '{}', true), set_config('statement_timeout', '{}', true),
    set_config('idle_in_transaction_session_timeout', '0', true), set_config('timezone', 'UTC', true),
    set_config('client_encoding',
        CASE current_setting('server_encoding') WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END, true))
"""
_SCHEMA = f"""
SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute
WHERE attrelid = to_regclass('{TABLE}') AND attnum > 0 AND NOT attisdropped
"""
_TABLES = """
SELECT pg_class.oid::regclass::text, attname::text FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
WHERE relkind IN ('r', 'p') AND pg_table_is_visible(pg_class.oid) AND has_table_privilege(pg_class.oid, 'SELECT')
    AND attnum > 0 AND NOT attisdropped
"""
#: COPY, the driver's other way, cannot read from a cursor
_OPTIONS = {"adbc.postgresql.use_copy": "false"}

#: SQLSTATEs and their classes (https://www.postgresql.org/docs/current/errcodes-appendix.html)
_WAITED_TOO_LONG = ("40", "55P03", "57014", "25P03", "25P04")
_PASSING = ("08", "25P0", "28", "53", "57", "58", "42501", "3D000")


def read_postgres(url: URL, *, busy_timeout_seconds: float) -> Generator[pl.DataFrame]:
    """Pages of the table as one snapshot of the database holds it."""
    uri = _libpq_uri(url, busy_timeout_seconds)
    where = shown(uri)
    try:
        from adbc_driver_postgresql import dbapi
    except ModuleNotFoundError as error:
        raise DatabaseUnreachableError(
            f"the PostgreSQL driver is not installed ({error})",
            where=where,
            remedy=install_extra("postgres"),
        ) from error
    try:
        with dbapi.connect(uri, autocommit=True) as connection:
            yield from _pages(connection, where=where, busy_timeout_seconds=busy_timeout_seconds)
    except dbapi.Error as error:
        raise _explained(error.sqlstate or "", without_password(str(error), uri), where) from None


def _libpq_uri(url: URL, busy_timeout_seconds: float) -> str:
    """The URL as libpq reads it, which rejects a blank, and takes + as it is."""
    query = {"connect_timeout": str(max(2, round(busy_timeout_seconds))), **url.query}
    rendered = requoted(url.set(drivername="postgresql", query=query).render_as_string(hide_password=False))
    place, separator, parameters = rendered.partition("?")
    return place + separator + parameters.replace("+", "%20")


def _pages(connection: Connection, *, where: str, busy_timeout_seconds: float) -> Iterator[pl.DataFrame]:
    _query(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    _query(connection, _SETTINGS.format(round(busy_timeout_seconds * 1000), _STATEMENT_TIMEOUT_SECONDS * 1000))
    kinds = dict(_query(connection, _SCHEMA).iter_rows())
    if not kinds:
        _refuse_beside_others(connection, NO_TABLE, where)
    check_columns(kinds, where=where)
    columns = ", ".join(f"{_typed(name, kinds)} AS {name}" for name in PAGE_SCHEMA)
    _query(connection, f"DECLARE pages NO SCROLL CURSOR FOR SELECT {columns} FROM {TABLE}")
    is_empty = True
    while len(page := _query(connection, f"FETCH FORWARD {_PAGE_ROWS} FROM pages")):
        is_empty = False
        yield page_of_columns(_with_texts(page))
    if is_empty:
        _refuse_beside_others(connection, NO_ROW, where)


def _refuse_beside_others(connection: Connection, what: str, where: str) -> None:
    def count(table: str) -> int:
        return int(_query(connection, f"SELECT COUNT(*) FROM {table}").item())

    refuse_beside_others(_query(connection, _TABLES).iter_rows(), count, what=what, where=where)


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
    if kinds[name].startswith("timestamp"):
        return f"CASE WHEN isfinite({name}) THEN {name}::timestamptz END"
    return f"textsend({name}::text)"


def _with_texts(page: pl.DataFrame) -> pl.DataFrame:
    """The page with its bytes as text."""
    try:
        return page.cast({pl.Binary: pl.String})
    except pl.exceptions.ComputeError:  # a SQL_ASCII database holds any bytes
        return page.with_columns(pl.col(pl.Binary).map_elements(text_of, return_dtype=pl.String))


def _explained(state: str, message: str, where: str) -> RetrainError:
    """The error of this program for an SQLSTATE."""
    cause = message.strip().split("\n")[0]
    kind: type[RetrainError] = SourceUnfitError
    what, remedy = f"cannot read {TABLE} as training rows", "compare the columns' types with the 24-column table"
    if state.startswith(_WAITED_TOO_LONG):
        kind, what, remedy = DatabaseBusyError, "made this process wait too long", "retrying; pg_locks shows which"
    elif not state or state.startswith(_PASSING):
        kind, what = DatabaseUnreachableError, "cannot be used"
        remedy = "check that it runs, the user, its password and its SELECT right"
    return kind(f"the server {what} ({cause})", where=where, remedy=remedy)
