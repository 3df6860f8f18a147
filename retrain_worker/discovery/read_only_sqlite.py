"""Reads the SQLite files of other programs: no lock that a writer has to wait for, no file left behind.

`mode=ro` alone creates a -wal and a -shm beside a database in WAL mode, and without WAL its lock keeps writers from
committing. Therefore: a file without a pending -wal or -journal is complete by itself and is opened as immutable, past
the locks; one with both -wal and -shm is read through them (https://www.sqlite.org/wal.html#readonly); one with a -wal
that no process has open is copied together with it. A concurrent writer can make an immutable file look damaged, but
never damage look sound: only a failed reading is repeated, with the lock.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

Found = TypeVar("Found")

BUSY_TIMEOUT_SECONDS = 2.0
MAX_STATEMENT_SECONDS = 60.0
#: name under which the second database of a reading is attached
SECOND = "second"
_STEPS_BETWEEN_CHECKS = 100_000
_SECONDS_BETWEEN_CHECKS = 0.02
_HEADER_BYTES = 20
_JOURNAL = bytes.fromhex("d9d505f920a163d7")
_WAL_VERSION = 2  # byte 18 of the header, https://www.sqlite.org/fileformat.html section 1.3


def _never() -> bool:
    return False


class ReadOnlyConnection(sqlite3.Connection):
    """A connection whose statements end in OperationalError when they take too long or the search is stopped."""

    is_stopped: Callable[[], bool] = staticmethod(_never)

    def rows(
        self, statement: str, *parameters: object, seconds: float = MAX_STATEMENT_SECONDS
    ) -> list[tuple[Any, ...]]:
        """All rows of a statement."""
        until = time.monotonic() + seconds
        self.set_progress_handler(lambda: time.monotonic() > until or self.is_stopped(), _STEPS_BETWEEN_CHECKS)
        return self.execute(statement, parameters).fetchall()


def read(
    reading: Callable[[ReadOnlyConnection], Found],
    path: Path,
    second: Path | None = None,
    *,
    is_stopped: Callable[[], bool] = _never,
) -> Found:
    """`reading(connection)` on one database, or on two, the other attached as SECOND; repeated once with locks.

    Raises sqlite3.Error, or OSError when the file or the space for a copy is missing.
    """
    for with_lock in (False, True):
        try:
            with opened(path, second, with_lock=with_lock) as connection:
                connection.is_stopped = is_stopped
                return reading(connection)
        except sqlite3.DatabaseError as error:
            is_final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_INTERRUPT)
            if with_lock or getattr(error, "sqlite_errorcode", None) in is_final:
                raise
    raise AssertionError("the second reading returns or raises")


@contextmanager
def opened(path: Path, second: Path | None = None, *, with_lock: bool = False) -> Iterator[ReadOnlyConnection]:
    """A read-only connection. Raises sqlite3.Error or OSError as `read` does."""
    with ExitStack() as stack:
        uri = stack.enter_context(_readable(path, with_lock=with_lock))
        connection = stack.enter_context(
            closing(
                sqlite3.connect(
                    uri, uri=True, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, factory=ReadOnlyConnection
                )
            )
        )
        connection.text_factory = _lenient_text
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        if second is not None:
            attached = stack.enter_context(_readable(second, with_lock=with_lock))
            connection.execute(f"ATTACH ? AS {SECOND}", (attached,))
        yield connection


@contextmanager
def safe_to_open(path: Path) -> Iterator[Path]:
    """A file that others may open with `mode=ro` and that leaves nothing beside `path`: itself or a copy."""
    if not _is_wal(path) or Path(f"{path}-shm").exists():
        yield path
    else:
        with _copied(path) as copy:
            yield copy


@contextmanager
def _readable(path: Path, *, with_lock: bool) -> Iterator[str]:
    """The URI under which the database can be opened."""
    if _is_pending(path, "-wal"):
        if _is_wal(path) and not Path(f"{path}-shm").exists():
            with _copied(path) as copy:
                yield _uri(copy, "mode=ro")
        else:
            yield _uri(path, "mode=ro&readonly_shm=1")
    elif (with_lock and not _is_wal(path)) or _is_being_written(path):
        yield _uri(path, "mode=ro")
    else:
        yield _uri(path, "mode=ro&immutable=1")


@contextmanager
def _copied(path: Path) -> Iterator[Path]:
    """A copy of the database and its -wal, deleted at the end. Raises OSError when there is no space."""
    sources = [source for source in (path, Path(f"{path}-wal")) if source.exists()]
    with tempfile.TemporaryDirectory(prefix="retrain-worker-discover-") as folder:
        needed, free = sum(source.stat().st_size for source in sources), shutil.disk_usage(folder).free
        if needed * 1.1 > free:
            raise OSError(f"{needed:,} bytes are needed for a copy, {free:,} are free in {tempfile.gettempdir()}")
        copy = Path(folder) / "copy.db"
        for source in sources:
            shutil.copyfile(source, copy.with_name(copy.name + source.name.removeprefix(path.name)))
        yield copy


def _is_wal(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(_HEADER_BYTES)[18:19] == bytes([_WAL_VERSION])


def _is_being_written(path: Path) -> bool:
    """Whether a transaction is still open after BUSY_TIMEOUT_SECONDS, or was cut off."""
    until = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while _has_journal(path):
        if time.monotonic() > until:
            return True
        time.sleep(_SECONDS_BETWEEN_CHECKS)
    return False


def _has_journal(path: Path) -> bool:
    try:
        with Path(f"{path}-journal").open("rb") as file:
            return file.read(len(_JOURNAL)) == _JOURNAL
    except FileNotFoundError:
        return False


def _is_pending(path: Path, suffix: str) -> bool:
    try:
        return Path(f"{path}{suffix}").stat().st_size > 0
    except FileNotFoundError:
        return False


def _uri(path: Path, options: str) -> str:
    return f"file:{quote(bytes(path.absolute()))}?{options}"


def _lenient_text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="backslashreplace")
