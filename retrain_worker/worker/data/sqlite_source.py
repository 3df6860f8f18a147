"""The table in a SQLite file: opened read-only, checked for damage while it is read, its errors explained."""

from __future__ import annotations

import logging
import sqlite3
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote

from sqlalchemy import URL

from retrain_worker.errors import DatabaseBusyError, DatabaseUnreachableError, RetrainError, SourceUnfitError
from retrain_worker.worker.data.rows import TABLE, ChangedWhileReadError, RawRows, check_columns, table_missing
from retrain_worker.worker.data.sqlite_pages import read_pages

_HEADER = b"SQLite format 3\x00"
_WAL_READ_VERSION = 2  # byte 19 of the header, https://www.sqlite.org/fileformat.html section 1.3

#: what quick_check says about values against declared constraints; ours to judge row by row, not damage
_CONSTRAINT_TALK = ("NULL value in", "CHECK constraint failed", "non-unique entry", "NUMERIC value in", "TEXT value in")

#: how often a file is looked at past the locks, with pauses that grow by so much, for a moment without a writer
_LOOKS = 10
_PAUSE_SECONDS = 0.1
#: looks that must find damage; a file's time of change is too coarse to trust one
_QUIET_LOOKS = 2

_log = logging.getLogger(__name__)

_RIGHT_FILE = "point DB_PATH at the database that the trading services write"
_RESTORE = "restore it from a backup, or run `sqlite3 FILE .recover` into a new file; nothing was trained on it"


def read_sqlite(url: URL, *, busy_timeout_seconds: float) -> Iterator[RawRows]:
    """Pages of the table, newest rowid first. Ends with the verdict of quick_check, which runs beside the reading."""
    path = _path_of(url)
    is_wal = _check_file(path)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="quick_check") as pool:
        checked = pool.submit(_check_pages, path, is_wal, busy_timeout_seconds)
        try:
            # A WAL database that nobody has open is complete by itself. Opened plainly, SQLite would make a -wal and a
            # -shm file beside it, and leave them there.
            is_at_rest = is_wal and not _wal_of(path).exists()
            before, options = _evaluate(path), "mode=ro&immutable=1" if is_at_rest else "mode=ro"
            with closing(_connect(path, busy_timeout_seconds, options=options)) as connection:
                _check_schema(connection, path)
                yield from read_pages(connection)
            if is_at_rest and (_wal_of(path).exists() or _evaluate(path) != before):
                raise ChangedWhileReadError(
                    "a writer opened the database while it was read",
                    where=str(path),
                    remedy="nothing was trained on it; try again",
                )
        except sqlite3.Error as error:
            raise _explained(error, path) from error
        if damage := checked.result():
            raise SourceUnfitError(f"the file is damaged ({damage})", where=str(path), remedy=_RESTORE)


def _path_of(url: URL) -> Path:
    database = url.database or ""
    if database.startswith("file:"):
        database = unquote(database.removeprefix("file:").partition("?")[0], errors="surrogateescape")
    if not database or database == ":memory:":
        raise SourceUnfitError("an in-memory database holds no rows", where="DATABASE_URL", remedy=_RIGHT_FILE)
    return Path(database)


def _wal_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _journal_of(path: Path) -> Path:
    return path.with_name(path.name + "-journal")


def _evaluate(path: Path) -> tuple[int, int, int]:
    """What changes when somebody writes to the file."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


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
            f"cannot be read ({error.strerror})",
            where=where,
            remedy="let this service's user read the file and enter its directory",
        ) from error
    if not header:
        raise SourceUnfitError("the file is empty (0 bytes): no table, no rows", where=where, remedy=_RIGHT_FILE)
    if not header.startswith(_HEADER):
        raise SourceUnfitError("this is not a SQLite database", where=where, remedy=_RIGHT_FILE)
    return header[-1:] == bytes([_WAL_READ_VERSION])


def _connect(path: Path, busy_timeout_seconds: float, *, options: str = "mode=ro") -> sqlite3.Connection:
    uri = f"file:{quote(bytes(path.absolute()))}?{options}"
    connection = sqlite3.connect(uri, uri=True, timeout=busy_timeout_seconds, isolation_level=None)
    # refuse cells that reach over their page while reading, not only in quick_check
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _check_pages(path: Path, is_wal: bool, busy_timeout_seconds: float) -> str | None:
    """What quick_check finds wrong, or None.

    A file that is complete by itself is read past the locks (immutable), since a check of a big file would hold a
    writer up for seconds. A writer at work can make such a look find damage, never make damage look sound: so damage
    counts when two looks at a quiet file find it. Where no look is quiet, the reading's own checks must do.
    """
    if is_wal and _wal_of(path).exists():  # there, readers hold nobody up
        return _in_words(_quick_check(path, "mode=ro", busy_timeout_seconds))
    quiet = 0
    for look in range(_LOOKS):
        time.sleep(look * _PAUSE_SECONDS)
        before = _evaluate(path)
        damage = _quick_check(path, "mode=ro&immutable=1", busy_timeout_seconds)
        if not damage:
            return None
        quiet += before == _evaluate(path) and not _journal_of(path).exists()
        if quiet == _QUIET_LOOKS:
            return _in_words(damage)
    _log.warning("%s: a writer was at work in each of %d looks; the file was checked only as it was read", path, _LOOKS)
    return None


def _in_words(damage: list[str]) -> str | None:
    return damage[0] + (f" and {len(damage) - 1} more" if len(damage) > 1 else "") if damage else None


def _quick_check(path: Path, options: str, busy_timeout_seconds: float) -> list[str]:
    """The lines that tell of damage."""
    with closing(_connect(path, busy_timeout_seconds, options=options)) as connection:
        try:
            lines = [str(line) for (line,) in connection.execute(f"PRAGMA quick_check({TABLE})")]
        except sqlite3.DatabaseError as error:
            if _primary_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                return [str(error)]
            raise _explained(error, path) from error
    return [
        f"quick_check: {line.replace(chr(10), ' ')}"
        for line in lines
        if line != "ok" and not line.startswith(_CONSTRAINT_TALK)
    ]


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    present = [name for (name,) in connection.execute("SELECT name FROM pragma_table_xinfo(?)", (TABLE,))]
    if not present:
        raise table_missing(str(path))
    check_columns(present, where=str(path))


def _primary_code(error: sqlite3.Error) -> int:
    # extended codes keep the primary one in the low byte, https://www.sqlite.org/rescode.html
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def _explained(error: sqlite3.Error, path: Path) -> RetrainError:
    """The error of ours that says what a driver error means for the run."""
    where, code = str(path), _primary_code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseBusyError(
            f"a writer holds the database ({error})",
            where=where,
            remedy="it is tried again; look for a stuck transaction if this lasts",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return SourceUnfitError(f"the file is damaged ({error})", where=where, remedy=_RESTORE)
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return DatabaseUnreachableError(
            f"SQLite cannot open it read-only ({error})",
            where=where,
            remedy="a database in WAL mode, or one with a journal left by a crash, needs readable -wal and -shm files "
            "and a directory that this user may write, unless a trading service has it open: add the directory to "
            "ReadWritePaths=, or start the service that writes it",
        )
    if code == sqlite3.SQLITE_IOERR:
        return DatabaseUnreachableError(
            f"reading failed ({error})", where=where, remedy="look at the disk (dmesg, smartctl); it is tried again"
        )
    return SourceUnfitError(f"SQLite cannot read the table ({error})", where=where, remedy=_RIGHT_FILE)
