"""The table in PostgreSQL: one REPEATABLE READ, READ ONLY snapshot, fetched through a server-side cursor.

MVCC readers hold up no writer, so the whole table is read in one transaction. Values are cast in SQL to what SQLite
would give (JSON as text, instants as seconds since the epoch), so that one decoder serves both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    URL,
    BigInteger,
    ColumnElement,
    Double,
    Engine,
    Text,
    cast,
    column,
    create_engine,
    extract,
    func,
    inspect,
    select,
    table,
    text,
)
from sqlalchemy.exc import DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from retrain_worker.errors import DatabaseBusyError, DatabaseUnreachableError, RetrainError, SourceUnfitError
from retrain_worker.worker.data.rows import (
    OUTCOME_TIME,
    OUTCOME_TIME_COLUMNS,
    TABLE,
    RawRows,
    check_columns,
    table_missing,
)

_PAGE_ROWS = 10_000
#: a single FETCH of _PAGE_ROWS rows that takes longer means a server in trouble
_STATEMENT_TIMEOUT_SECONDS = 120

_TEXTS = frozenset({"symbol", "predicted_action", "features", "feature_names", "execution_side", "target_class"})
_NUMBERS = frozenset(
    {"prediction_confidence", "entry_price", "exit_price", "realized_pnl", "hold_duration_seconds", "target_label"}
)


def read_postgres(url: URL, *, busy_timeout_seconds: float) -> Iterator[RawRows]:
    """Pages of the table as one snapshot of the database holds it."""
    where = url.render_as_string(hide_password=True)
    try:
        import psycopg

        engine = create_engine(
            url, poolclass=NullPool, connect_args={"connect_timeout": max(2, round(busy_timeout_seconds))}
        )
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise DatabaseUnreachableError(
            f"the PostgreSQL driver is not installed ({error})",
            where=where,
            remedy="pip install 'retrain-worker[postgres]'",
        ) from error
    try:
        yield from _pages(engine, where=where, busy_timeout_seconds=busy_timeout_seconds)
    except DBAPIError as error:
        raise _explained(error.orig, where) from error
    except psycopg.Error as error:
        raise _explained(error, where) from error
    finally:
        engine.dispose()


def _pages(engine: Engine, *, where: str, busy_timeout_seconds: float) -> Iterator[RawRows]:
    with engine.connect().execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True) as connection:
        connection.execute(text(f"SET LOCAL lock_timeout = {round(busy_timeout_seconds * 1000)}"))
        connection.execute(text(f"SET LOCAL statement_timeout = {_STATEMENT_TIMEOUT_SECONDS * 1000}"))
        inspector = inspect(connection)
        if not (inspector.has_table(TABLE) or TABLE in inspector.get_view_names()):
            raise table_missing(where)
        check_columns((found["name"] for found in inspector.get_columns(TABLE)), where=where)
        statement = select(*(_typed(name) for name in RawRows._fields)).select_from(table(TABLE))
        # the driver's own cursor: SQLAlchemy's rows cost half as much again, and numbers come faster as binary
        driver = connection.connection.driver_connection
        assert driver is not None
        with driver.cursor(name="retrain_worker_pull", binary=True) as cursor:
            cursor.execute(str(statement.compile(engine)))
            while page := cursor.fetchmany(_PAGE_ROWS):
                yield RawRows(*zip(*page, strict=True))


def _typed(name: str) -> ColumnElement[Any]:
    """The column as the decoder expects it. `infinity` becomes a float too, and is judged like any absurd instant."""
    named: ColumnElement[Any] = column(name)
    if name == OUTCOME_TIME:
        named = func.coalesce(*map(column, OUTCOME_TIME_COLUMNS))
    if name in ("timestamp", OUTCOME_TIME):
        return cast(extract("epoch", named), Double).label(name)
    if name in _TEXTS:
        return cast(named, Text).label(name)
    if name in _NUMBERS:
        return cast(named, Double).label(name)
    if name == "id":
        return cast(named, BigInteger).label(name)
    return named


def _explained(error: BaseException | None, where: str) -> RetrainError:
    """The error of ours for an SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
    state = getattr(error, "sqlstate", None) or ""
    said = str(error).strip().split("\n")[0]
    if state in ("55P03", "57014", "40001", "40P01"):
        return DatabaseBusyError(
            f"the server made us wait too long ({said})", where=where, remedy="it is tried again; look at pg_locks"
        )
    if state == "" or state[:2] in ("08", "28", "53", "57") or state in ("42501", "3D000"):
        return DatabaseUnreachableError(
            f"the server cannot be used ({said})",
            where=where,
            remedy="check that it runs, the user, its password and its SELECT right",
        )
    return SourceUnfitError(
        f"the server cannot read {TABLE} as training rows ({said})",
        where=where,
        remedy="compare the columns' types with the 24-column table",
    )
