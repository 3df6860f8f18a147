"""The table in a SQLite file: opened read-only, read in short pages, checked for damage, its errors explained.

In rollback-journal mode a reader's lock keeps a writer from committing, so a page is one short statement, and is
decoded after its lock is gone. Pages follow the rowid downwards, so each row is read at most once and as one commit
left it. What changes between two pages is not torn, only early or late: a row inserted above the cursor, or an outcome
filled in after its page, is found by the next run, because the watermark is made of the rows that were read
(watermark.py), not of a position. In WAL mode readers block no writer, and short statements let checkpoints finish.

Every access goes through one SQLite library, that of the ADBC driver: where a second copy of SQLite in this process
closes the file, POSIX drops the locks of the first (https://www.sqlite.org/howtocorrupt.html, section 2.2).
"""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import polars as pl
from adbc_driver_sqlite import dbapi
from sqlalchemy import URL

from retrain_worker.errors import DatabaseBusyError, DatabaseUnreachableError, RetrainError, SourceUnfitError
from retrain_worker.worker.data.cells import OddPageError, page_of_cells, page_of_columns, text_of
from retrain_worker.worker.data.page import (
    NO_ROW,
    NO_TABLE,
    PAGE_SCHEMA,
    TABLE,
    ChangedWhileReadError,
    check_columns,
    refuse_beside_others,
)

#: how long a page may hold a read lock, about; its first and its bounds in rows
PAGE_SECONDS = 0.005
_FIRST_PAGE_ROWS, _MIN_PAGE_ROWS, _MAX_PAGE_ROWS = 1_000, 250, 5_000
#: if a page lasts so much longer than its processor time, the thread was pre-empted while it held the read lock: before
#: each of so many pages it then sleeps for so long, because the scheduler rarely pre-empts a thread after a sleep
_INTERRUPTED_SECONDS, _PAUSED_PAGES, _TIME_SLICE_SECONDS = 0.001, 100, 0.0003
#: rows that are converted at once, after their locks are gone
_CONVERTED_ROWS = 20_000
#: the driver chooses the types of the columns by its first batch, for which it reserves address space: it must hold a
#: whole page, and a whole view
_BATCH_ROWS, _VIEW_ROWS = "adbc.sqlite.query.batch_rows", 1_000_000
_MAX_KEY = 2**63 - 1
_ROWID_NAMES = ("rowid", "_rowid_", "oid")

_HEADER = b"SQLite format 3\x00"
_WAL_READ_VERSION = 2  # byte 19 of the header, https://www.sqlite.org/fileformat.html section 1.3
#: what quick_check reports of values against declared constraints: judged row by row, no damage
_CONSTRAINTS = ("NULL value in", "CHECK constraint failed", "non-unique entry", "NUMERIC value in", "TEXT value in")
#: checks of a file past the locks, with pauses that grow by so much, for a moment without a writer; checks of a quiet
#: file that must find damage: the time of a file's change is too coarse to trust one
_CHECKS, _PAUSE_SECONDS, _QUIET_CHECKS = 10, 0.1, 2

_SCHEMA = f"""
SELECT LOWER(name) AS name, (SELECT encoding FROM pragma_encoding) AS encoding,
    (SELECT type = 'table' AND NOT wr FROM pragma_table_list('{TABLE}') WHERE schema = 'main') AS has_rowid
FROM pragma_table_xinfo('{TABLE}')
"""
_TABLES = """
SELECT '"' || REPLACE(tables.name, '"', '""') || '"', columns.name
FROM sqlite_master AS tables, pragma_table_xinfo(tables.name) AS columns WHERE tables.type = 'table'
"""
#: a longer cell is read as this text, which quarantines the row: SQLite allows a cell of 1 GB, of which the driver and
#: the conversion hold several copies. octet_length() reads the header of the row only
_MAX_CELL_BYTES, _TOO_LONG = 1_000_000, "'(too long)'"
_BOUNDED = ("features", "feature_names")
_SHORT = {
    name: f"CASE WHEN octet_length({name}) > {_MAX_CELL_BYTES} THEN {_TOO_LONG} ELSE {name} END" for name in _BOUNDED
}
#: each column as it is, for pages with one type a column; a symbol must be text
_AS_IT_IS = {name: _SHORT.get(name, name) for name in PAGE_SCHEMA} | {
    "symbol": "CASE typeof(symbol) WHEN 'text' THEN symbol END"
}
#: each column under fixed types, whatever its cells hold: text and BLOB as bytes
_BY_TYPE = {
    f"{name}_{kind}": expression.format(_SHORT.get(name, name))
    for name in PAGE_SCHEMA
    for kind, expression in (
        ("integer", "CASE typeof({0}) WHEN 'integer' THEN {0} END"),
        ("real", "CASE typeof({0}) WHEN 'real' THEN {0} END"),
        ("bytes", "CASE WHEN typeof({0}) IN ('text', 'blob') THEN CAST({0} AS BLOB) END"),
        ("is_text", "typeof({0}) = 'text'"),
    )
}
#: `IO: [SQLite] Failed to step query: database is locked`
_DRIVERS_WORDS = re.compile(r"^.*?(?:query|external error): ")

_RIGHT_FILE = "point DB_PATH at the database that the trading services write"
_RESTORE = "restore it from a backup, or run `sqlite3 FILE .recover` into a new file; nothing was trained on it"
_STUCK = "retrying; end the stuck transaction if this lasts"
_DISK = "check the disk (dmesg, smartctl); retrying"
_GRANT = (
    "a database in WAL mode, or one with a journal left by a crash, needs readable -wal and -shm files and a directory "
    "that this user may write, unless a trading service has it open: add the directory to ReadWritePaths=, or start "
    "the service that writes it"
)
_DAMAGE = "malformed|not a database|unsupported file format"
_DENIED = "unable to open|readonly|access permission denied|not authorized"
#: what SQLite's messages (https://www.sqlite.org/rescode.html) mean for the run
_MEANINGS: tuple[tuple[str, type[RetrainError], str, str], ...] = (
    ("locked", DatabaseBusyError, "a writer holds the database", _STUCK),
    (_DAMAGE, SourceUnfitError, "the file is damaged", _RESTORE),
    (_DENIED, DatabaseUnreachableError, "SQLite cannot open it read-only", _GRANT),
    ("I/O error", DatabaseUnreachableError, "reading failed", _DISK),
    ("", SourceUnfitError, "SQLite cannot read the table", _RIGHT_FILE),
)

_log = logging.getLogger(__name__)


class SqliteError(Exception):
    """SQLite's message about a statement."""


def read_sqlite(url: URL, *, busy_timeout_seconds: float) -> Generator[pl.DataFrame]:
    """Pages of the table, newest rowid first. Ends with the verdict of quick_check, which runs beside the reading."""
    path, where = _paths_of(url)
    is_wal = _check_file(path, where=where)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="quick_check") as pool:
        checked = pool.submit(_check_pages, path, is_wal, busy_timeout_seconds)
        try:
            # A WAL database that no process has open is complete by itself. Opened plainly, SQLite would make a -wal
            # and a -shm file beside it, and leave them there.
            is_at_rest = is_wal and not _has(path, "-wal")
            before, options = _state_of(path), "mode=ro&immutable=1" if is_at_rest else "mode=ro"
            with _Connection(path, busy_timeout_seconds, options=options) as connection:
                table = connection.query(_SCHEMA)
                if not len(table):
                    _refuse_beside_others(connection, NO_TABLE, where)
                check_columns(table["name"], where=where)
                is_empty = True
                for page in _pages(connection, _key_of(table), table["encoding"][0]):
                    is_empty = False
                    yield page
                if is_empty:
                    _refuse_beside_others(connection, NO_ROW, where)
            if is_at_rest and (_has(path, "-wal") or _state_of(path) != before):
                raise ChangedWhileReadError(
                    "a writer opened the database while it was read",
                    where=where,
                    remedy="nothing was trained on it; try again",
                )
            damage = checked.result()
        except SqliteError as error:
            raise _explained(str(error), where) from error
        if damage:
            raise SourceUnfitError(f"the file is damaged ({damage})", where=where, remedy=_RESTORE)


def _refuse_beside_others(connection: _Connection, what: str, where: str) -> None:
    def count(table: str) -> int:
        return int(connection.values(f"SELECT COUNT(*) FROM {table}")[0])

    refuse_beside_others(connection.query(_TABLES).iter_rows(), count, what=what, where=where)


def other_names_of(url: URL) -> int:
    """How many other hard links a WAL database has: what a writer commits under one of them is in a -wal of its own."""
    path, where = _paths_of(url)
    return path.stat().st_nlink - 1 if _check_file(path, where=where) else 0


class _Connection:
    """One connection in autocommit mode: a statement holds its lock until its last row is fetched."""

    def __init__(self, path: Path, busy_timeout_seconds: float, *, options: str) -> None:
        try:
            self._connection = dbapi.connect(f"file:{quote(bytes(path))}?{options}", autocommit=True)
        except dbapi.Error as error:
            raise SqliteError("unable to open database file") from error
        self.query(f"PRAGMA busy_timeout = {round(busy_timeout_seconds * 1000)}")
        # refuse cells that reach over their page while reading, not only in quick_check
        self.query("PRAGMA cell_size_check = ON")

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def query(self, statement: str, *, rows: int = _MAX_PAGE_ROWS) -> pl.DataFrame:
        """All rows, `rows` at most where a column may hold several types. Raises SqliteError, MemoryError."""
        try:
            with self._connection.cursor() as cursor:
                cursor.adbc_statement.set_options(**{_BATCH_ROWS: str(rows + 1)})
                cursor.execute(statement)
                return cursor.fetch_polars()
        except (dbapi.Error, pl.exceptions.ComputeError) as error:
            if "Cannot allocate memory" in str(error):
                raise MemoryError(str(error)) from error
            raise SqliteError(_DRIVERS_WORDS.sub("", str(error).partition("\n")[0])) from error

    def values(self, statement: str) -> list[Any]:
        """The first column."""
        return self.query(statement).to_series().to_list()


def _key_of(table: pl.DataFrame) -> str | None:
    """The name of the rowid, which pages follow; None where there is none (a view, a table WITHOUT ROWID).

    A column may have one of its names (https://www.sqlite.org/rowidtable.html) and any values.
    """
    names = [name for name in _ROWID_NAMES if name not in table["name"]]
    return names[0] if names and table["has_rowid"][0] else None


def _pages(connection: _Connection, key: str | None, encoding: str) -> Iterator[pl.DataFrame]:
    """Every row of the table."""
    rows = _MAX_PAGE_ROWS if key else _VIEW_ROWS
    tail, below, size = f"FROM {TABLE}", f"<= {_MAX_KEY}", _FIRST_PAGE_ROWS
    waiting: list[tuple[str, pl.DataFrame]] = []
    is_end, pauses = False, 0
    while not is_end:
        if key:
            tail = f"FROM {TABLE} WHERE {key} {below} ORDER BY {key} DESC LIMIT {size}"
        if pauses:
            time.sleep(_TIME_SLICE_SECONDS)
            pauses -= 1
        began, worked = time.perf_counter(), time.thread_time()
        page = connection.query(f"SELECT {_select(_AS_IT_IS)}, {key or 'NULL'} AS key {tail}", rows=rows)
        seconds = max(time.perf_counter() - began, 1e-6)
        if seconds - (time.thread_time() - worked) > _INTERRUPTED_SECONDS:
            pauses = _PAUSED_PAGES
        is_end = not key or len(page) < size
        if len(page):
            waiting.append((tail, page))
            below = f"< {page['key'][-1]}"
        if waiting and (is_end or sum(len(page) for _, page in waiting) >= _CONVERTED_ROWS):
            yield from _converted(connection, waiting, encoding)
            waiting = []
        size = int(min(_MAX_PAGE_ROWS, 8 * size, max(_MIN_PAGE_ROWS, size * PAGE_SECONDS / seconds)))


def _converted(connection: _Connection, pages: list[tuple[str, pl.DataFrame]], encoding: str) -> Iterator[pl.DataFrame]:
    """The pages, as one where they are alike. An odd page is read again, with the type of each cell."""
    try:
        yield _of_one_type([page for _, page in pages], encoding)
    except OddPageError:
        if len(pages) > 1:
            for alone in pages:
                yield from _converted(connection, [alone], encoding)
            return
        ((tail, page),) = pages
        found = connection.query(f"SELECT {_select(_BY_TYPE)} {tail}", rows=len(page))
        yield page_of_cells({name: _cells(found, name, encoding) for name in PAGE_SCHEMA})


def _select(expressions: dict[str, str]) -> str:
    return ", ".join(f"{expression} AS {name}" for name, expression in expressions.items())


def _of_one_type(pages: list[pl.DataFrame], encoding: str) -> pl.DataFrame:
    """The pages by columns. Raises OddPageError where a column holds several types, or text that is not UTF-8."""
    if encoding != "UTF-8" or len({tuple(page.dtypes) for page in pages}) > 1:
        raise OddPageError
    found = pl.concat(pages)
    if found.select((pl.col("key").diff() >= 0).any()).item():
        raise SqliteError("database disk image is malformed (rows are out of order)")
    return page_of_columns(found)


def _cells(found: pl.DataFrame, name: str, encoding: str) -> list[Any]:
    integers, reals, raws, are_text = (found[f"{name}_{kind}"] for kind in ("integer", "real", "bytes", "is_text"))
    return [
        integer if integer is not None else real if real is not None else text_of(raw, encoding) if is_text else raw
        for integer, real, raw, is_text in zip(integers, reals, raws, are_text, strict=True)
    ]


def _paths_of(url: URL) -> tuple[Path, str]:
    """(the file itself, since -wal and -shm stand beside it and not beside a link to it; the path as it was given)."""
    database = url.database or ""
    if database.startswith("file:"):
        database = unquote(database.removeprefix("file:").partition("?")[0], errors="surrogateescape")
    if not database or database == ":memory:":
        raise SourceUnfitError("an in-memory database holds no rows", where="DATABASE_URL", remedy=_RIGHT_FILE)
    return Path(os.path.realpath(database)), database


def _has(path: Path, suffix: str) -> bool:
    return path.with_name(path.name + suffix).exists()


def _state_of(path: Path) -> tuple[int, int, int]:
    """What changes when a process writes to the file."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _check_file(path: Path, *, where: str) -> bool:
    """Whether the file is in WAL mode. Raises unless it is a readable SQLite database; never creates one."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SourceUnfitError("this is not a regular file", where=where, remedy=_RIGHT_FILE)
        with path.open("rb") as file:
            header = file.read(len(_HEADER) + 4)
    except FileNotFoundError:
        raise DatabaseUnreachableError("no such file", where=where, remedy=_RIGHT_FILE) from None
    except OSError as error:
        raise DatabaseUnreachableError(
            f"cannot be read ({error.strerror})",
            where=where,
            remedy="let the user of this service (on a host quantum-retrain) read the file and enter its directory",
        ) from error
    if not header:
        raise SourceUnfitError("the file is empty (0 bytes): no table, no rows", where=where, remedy=_RIGHT_FILE)
    if not header.startswith(_HEADER):
        raise SourceUnfitError("this is not a SQLite database", where=where, remedy=_RIGHT_FILE)
    return header[-1:] == bytes([_WAL_READ_VERSION])


def _check_pages(path: Path, is_wal: bool, busy_timeout_seconds: float) -> str:
    """What quick_check finds wrong. Raises SqliteError.

    A file that is complete by itself is read past the locks (immutable), since a check of a big file would hold a
    writer up for seconds. A writer at work can make such a check find damage, never make damage look sound: so damage
    counts when two checks of a quiet file find it. Where no check is quiet, the reading's own checks must do.
    """
    if is_wal and _has(path, "-wal"):  # there, readers delay no writer
        return _quick_check(path, "mode=ro", busy_timeout_seconds)
    quiet = 0
    for number in range(_CHECKS):
        time.sleep(number * _PAUSE_SECONDS)
        before = _state_of(path)
        damage = _quick_check(path, "mode=ro&immutable=1", busy_timeout_seconds)
        quiet += before == _state_of(path) and not _has(path, "-journal")
        if not damage or quiet == _QUIET_CHECKS:
            return damage
    _log.warning("%s: a writer was active in each of %d checks; only the pages read are checked", path, _CHECKS)
    return ""


def _quick_check(path: Path, options: str, busy_timeout_seconds: float) -> str:
    """The damage in a line."""
    try:
        with _Connection(path, busy_timeout_seconds, options=options) as connection:
            lines = connection.values(f"PRAGMA quick_check({TABLE})")
    except SqliteError as error:
        if re.search(_DAMAGE, str(error)):
            return str(error)
        raise
    damage = [line for line in lines if line != "ok" and not line.startswith(_CONSTRAINTS)]
    more = f" and {len(damage) - 1} more" if len(damage) > 1 else ""
    return f"quick_check: {damage[0].replace(chr(10), ' ')}{more}" if damage else ""


def _explained(message: str, where: str) -> RetrainError:
    """The error of this program for a message of SQLite."""
    _, kind, what, remedy = next(each for each in _MEANINGS if re.search(each[0], message))
    return kind(f"{what} ({message})", where=where, remedy=remedy)
