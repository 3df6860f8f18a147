"""The table in a SQLite file: opened read-only, checked, and read in short pages that no writer can feel.

In rollback-journal mode a reader's SHARED lock keeps a writer from committing, so a read transaction lasts one page
(about PAGE_SECONDS) and ends before the page is decoded. Pages follow the rowid downwards, so each row is read at most
once and as one commit left it. What changes between two pages is not torn, only early or late: a row inserted above the
cursor, or an outcome filled in after its page, is found by the next run, because the watermark is made of the rows
that were read (fingerprints.py), not of a position. Rows are independent samples; nothing here needs two rows from
the same instant. In WAL mode readers block nobody, and short transactions let checkpoints finish.
"""

from __future__ import annotations

import sqlite3
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from sqlalchemy import URL

from retrain_worker.errors import DatabaseBusyError, DatabaseUnreachableError, RetrainError, SourceUnfitError
from retrain_worker.work.data.rows import (
    OUTCOME_TIME,
    OUTCOME_TIME_COLUMNS,
    TABLE,
    RawRows,
    check_columns,
    table_missing,
)

#: how long one page may hold a read lock, about
PAGE_SECONDS = 0.005
_FIRST_PAGE_ROWS = 1_000
_MAX_PAGE_ROWS = 20_000
_TURNED_ROWS = 250
_MAX_ROWID = 2**63 - 1

_HEADER = b"SQLite format 3\x00"
_WAL_READ_VERSION = 2  # byte 19 of the header, https://www.sqlite.org/fileformat.html section 1.3

#: what quick_check says about values against declared constraints; ours to judge row by row, not damage
_CONSTRAINT_TALK = ("NULL value in", "CHECK constraint failed", "non-unique entry", "NUMERIC value in", "TEXT value in")

_RIGHT_FILE = "point DB_PATH at the database that the trading services write"
_RESTORE = "restore it from a backup, or run `sqlite3 FILE .recover` into a new file; nothing was trained on it"


def read_sqlite(url: URL, *, busy_timeout_seconds: float) -> Iterator[RawRows]:
    """Pages of the table, newest rowid first. Ends with the verdict of quick_check, which runs beside the reading."""
    path = _path_of(url)
    is_wal = _check_file(path)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="quick_check") as pool:
        checked = pool.submit(_check_pages, path, is_wal, busy_timeout_seconds)
        try:
            with closing(_connect(path, busy_timeout_seconds)) as connection:
                _check_schema(connection, path)
                yield from _pages(connection)
        except sqlite3.Error as error:
            raise _explained(error, path) from error
        if damage := checked.result():
            raise SourceUnfitError(f"the file is damaged ({damage})", where=str(path), remedy=_RESTORE)


def _path_of(url: URL) -> Path:
    database = url.database or ""
    if database.startswith("file:"):
        database = unquote(database.removeprefix("file:").partition("?")[0])
    if not database or database == ":memory:":
        raise SourceUnfitError("an in-memory database holds no rows", where="DATABASE_URL", remedy=_RIGHT_FILE)
    return Path(database)


def _check_file(path: Path) -> bool:
    """Whether the file is in WAL mode. Raises unless it is a readable SQLite database; never creates one."""
    where = str(path)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise SourceUnfitError("this is not a regular file", where=where, remedy=_RIGHT_FILE)
        with path.open("rb") as file:
            header = file.read(len(_HEADER) + 4)
    except FileNotFoundError:
        raise DatabaseUnreachableError("no such file", where=where, remedy=_RIGHT_FILE) from None
    except OSError as error:
        raise DatabaseUnreachableError(
            f"cannot be read ({error.strerror})", where=where,
            remedy="let this service's user read the file and enter its directory",
        ) from error
    if not header:
        raise SourceUnfitError("the file is empty (0 bytes): no table, no rows", where=where, remedy=_RIGHT_FILE)
    if not header.startswith(_HEADER):
        raise SourceUnfitError("this is not a SQLite database", where=where, remedy=_RIGHT_FILE)
    return header[-1:] == bytes([_WAL_READ_VERSION])


def _connect(path: Path, busy_timeout_seconds: float, *, options: str = "mode=ro") -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?{options}"
    connection = sqlite3.connect(uri, uri=True, timeout=busy_timeout_seconds, isolation_level=None)
    # refuse cells that reach over their page while reading, not only in quick_check
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _check_pages(path: Path, is_wal: bool, busy_timeout_seconds: float) -> str | None:
    """What quick_check finds wrong, or None.

    In rollback-journal mode it reads past the locks (immutable), since a check of a big file would hold a writer up
    for seconds. A writer at work can make such a reading look damaged, never make damage look sound: so only a bad
    verdict is taken again, with the lock.
    """
    if not is_wal and _quick_check(path, "mode=ro&immutable=1", busy_timeout_seconds) is None:
        return None
    return _quick_check(path, "mode=ro", busy_timeout_seconds)


def _quick_check(path: Path, options: str, busy_timeout_seconds: float) -> str | None:
    with closing(_connect(path, busy_timeout_seconds, options=options)) as connection:
        try:
            lines = [str(line) for (line,) in connection.execute(f"PRAGMA quick_check({TABLE})")]
        except sqlite3.DatabaseError as error:
            if _primary_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                return str(error)
            raise _explained(error, path) from error
    damage = [line for line in lines if line != "ok" and not line.startswith(_CONSTRAINT_TALK)]
    if damage:
        first = damage[0].replace("\n", " ")
        return f"quick_check: {first}" + (f" and {len(damage) - 1} more" if len(damage) > 1 else "")
    return None


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    present = [name for (name,) in connection.execute("SELECT name FROM pragma_table_xinfo(?)", (TABLE,))]
    if not present:
        raise table_missing(str(path))
    check_columns(present, where=str(path))


def _pages(connection: sqlite3.Connection) -> Iterator[RawRows]:
    outcome_time = f"COALESCE({', '.join(OUTCOME_TIME_COLUMNS)})"
    columns = ", ".join(outcome_time if name == OUTCOME_TIME else name for name in RawRows._fields)
    if not _has_rowid(connection):
        yield from _read_at_once(connection, f"SELECT {columns} FROM {TABLE}")  # noqa: S608 (constants)
        return
    statement = f"SELECT {columns}, rowid FROM {TABLE} WHERE rowid <= ? ORDER BY rowid DESC LIMIT ?"  # noqa: S608
    below, size = _MAX_ROWID, _FIRST_PAGE_ROWS
    while True:
        started = time.perf_counter()
        *values, rowids = _fetch(connection, statement, (below, size))
        seconds = max(time.perf_counter() - started, 1e-6)
        if rowids:
            yield RawRows(*values)
            below = rowids[-1] - 1
        if len(rowids) < size:
            return
        size = int(min(_MAX_PAGE_ROWS, 2 * size, max(_FIRST_PAGE_ROWS // 4, size * PAGE_SECONDS / seconds)))


def _has_rowid(connection: sqlite3.Connection) -> bool:
    """False for a view and for a WITHOUT ROWID table."""
    kinds = connection.execute("SELECT type, wr FROM pragma_table_list WHERE name = ? AND schema = 'main'", (TABLE,))
    return bool(kinds.fetchone() == ("table", 0))


def _read_at_once(connection: sqlite3.Connection, statement: str) -> Iterator[RawRows]:
    connection.text_factory = _lenient_text
    cursor = connection.execute(statement)
    while rows := cursor.fetchmany(_MAX_PAGE_ROWS):
        yield RawRows(*zip(*rows, strict=True))


def _fetch(connection: sqlite3.Connection, statement: str, parameters: tuple[int, int]) -> list[list[Any]]:
    """All rows of one statement, as columns: when this returns, the read lock is gone."""
    try:
        return _columns(connection.execute(statement, parameters))
    except sqlite3.OperationalError as error:
        if "decode to UTF-8" not in str(error):
            raise
    connection.text_factory = _lenient_text
    try:
        return _columns(connection.execute(statement, parameters))
    finally:
        connection.text_factory = str


def _columns(cursor: sqlite3.Cursor) -> list[list[Any]]:
    """Turned in small pieces, while they are in the processor's cache: that makes it almost free."""
    columns: list[list[Any]] = [[] for _ in cursor.description]
    while rows := cursor.fetchmany(_TURNED_ROWS):
        for column, values in zip(columns, zip(*rows, strict=True), strict=True):
            column.extend(values)
    return columns


def _lenient_text(raw: bytes) -> str:
    """Text that is not UTF-8, distinct for distinct bytes."""
    return raw.decode("utf-8", errors="backslashreplace")


def _primary_code(error: sqlite3.Error) -> int:
    # extended codes keep the primary one in the low byte, https://www.sqlite.org/rescode.html
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def _explained(error: sqlite3.Error, path: Path) -> RetrainError:
    """The error of ours that says what a driver error means for the run."""
    where, code = str(path), _primary_code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseBusyError(
            f"a writer holds the database ({error})", where=where,
            remedy="it is tried again; look for a stuck transaction if this lasts",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return SourceUnfitError(f"the file is damaged ({error})", where=where, remedy=_RESTORE)
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return DatabaseUnreachableError(
            f"SQLite cannot open it read-only ({error})", where=where,
            remedy="a database in WAL mode, or one with a journal left by a crash, needs readable -wal and -shm files "
            "and a directory that this user may write, unless a trading service has it open: add the directory to "
            "ReadWritePaths=, or start the service that writes it",
        )
    if code == sqlite3.SQLITE_IOERR:
        return DatabaseUnreachableError(
            f"reading failed ({error})", where=where, remedy="look at the disk (dmesg, smartctl); it is tried again"
        )
    return SourceUnfitError(f"SQLite cannot read the table ({error})", where=where, remedy=_RIGHT_FILE)
