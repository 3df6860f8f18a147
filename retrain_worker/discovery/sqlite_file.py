"""Opens SQLite files that belong to others: read-only, without a lock a writer can feel, and leaving no file behind.

`mode=ro` alone makes a -wal and a -shm file beside a database in WAL mode, and without WAL its lock keeps writers from
committing. So: without a pending -wal or -journal the file is complete by itself and is read as immutable, past the
locks; with both -wal and -shm, through them, as SQLite allows readers (https://www.sqlite.org/wal.html#readonly); with
a -wal that nobody has open, from a copy of the two. What a writer does meanwhile can make an immutable file look
damaged, never make damage look sound: so only a bad reading is taken again, with the lock.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

Found = TypeVar("Found")

BUSY_TIMEOUT_SECONDS = 2.0
#: a statement that takes longer is given up
MAX_STATEMENT_SECONDS = 60.0
_STEPS_BETWEEN_LOOKS = 100_000
_HEADER_BYTES = 20
_SECONDS_BETWEEN_LOOKS = 0.02
_JOURNAL = bytes.fromhex("d9d505f920a163d7")
_WAL_VERSION = 2  # byte 18 of the header, https://www.sqlite.org/fileformat.html section 1.3


def looked_into(look: Callable[..., Found], *paths: Path) -> Found:
    """`look(*connections)`, a second time with locks if the first reading was bad. Raises sqlite3.Error or OSError."""
    for with_lock in (False, True):
        try:
            with ExitStack() as stack:
                return look(*(stack.enter_context(opened(path, with_lock=with_lock)) for path in paths))
        except sqlite3.DatabaseError as error:
            if with_lock or getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                raise
    raise AssertionError("the second reading returns or raises")


@contextmanager
def opened(path: Path, *, with_lock: bool = False) -> Iterator[sqlite3.Connection]:
    """A read-only connection. Raises sqlite3.Error, or OSError when the file or the room for a copy is missing."""
    if _needs_copy(path):
        with copied(path) as copy, _connected(copy, "mode=ro") as connection:
            yield connection
    elif _pending(path, "-wal"):
        with _connected(path, "mode=ro&readonly_shm=1") as connection:
            yield connection
    elif (with_lock and not is_wal(path)) or _is_being_written(path):
        with _connected(path, "mode=ro") as connection:
            yield connection
    else:
        with _connected(path, "mode=ro&immutable=1") as connection:
            yield connection


@contextmanager
def safe_to_open(path: Path) -> Iterator[Path]:
    """A file that others may open with `mode=ro` and that leaves nothing beside `path`: itself or a copy."""
    if not is_wal(path) or Path(f"{path}-shm").exists():
        yield path
    else:
        with copied(path) as copy:
            yield copy


@contextmanager
def copied(path: Path) -> Iterator[Path]:
    """A copy of the database and its -wal, thrown away at the end. Raises OSError when there is no room."""
    sources = [source for source in (path, Path(f"{path}-wal")) if source.exists()]
    with tempfile.TemporaryDirectory(prefix="retrain-worker-discover-") as folder:
        needed, free = sum(source.stat().st_size for source in sources), shutil.disk_usage(folder).free
        if needed * 1.1 > free:
            raise OSError(f"a copy to read it takes {needed:,} bytes, {free:,} are free in {tempfile.gettempdir()}")
        copy = Path(folder) / "copy.db"
        for source in sources:
            shutil.copyfile(source, copy.with_name(copy.name + source.name.removeprefix(path.name)))
        yield copy


def is_wal(path: Path) -> bool:
    """Whether the database is in WAL mode."""
    with path.open("rb") as file:
        return file.read(_HEADER_BYTES)[18:19] == bytes([_WAL_VERSION])


def _needs_copy(path: Path) -> bool:
    return is_wal(path) and _pending(path, "-wal") and not Path(f"{path}-shm").exists()


def _is_being_written(path: Path) -> bool:
    """Whether a transaction of a writer is still on its way after BUSY_TIMEOUT_SECONDS, or was cut off."""
    until = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while _has_journal(path):
        if time.monotonic() > until:
            return True
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return False


def _has_journal(path: Path) -> bool:
    try:
        with Path(f"{path}-journal").open("rb") as file:
            return file.read(len(_JOURNAL)) == _JOURNAL
    except FileNotFoundError:
        return False


def _pending(path: Path, suffix: str) -> bool:
    try:
        return Path(f"{path}{suffix}").stat().st_size > 0
    except FileNotFoundError:
        return False


@contextmanager
def _connected(path: Path, options: str) -> Iterator[sqlite3.Connection]:
    uri = f"file:{quote(bytes(path.absolute()))}?{options}"
    with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)) as connection:
        connection.text_factory = _lenient_text
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        yield connection


def limit_time(connection: sqlite3.Connection) -> None:
    """Interrupt the next statement (OperationalError) when it takes longer than MAX_STATEMENT_SECONDS."""
    until = time.monotonic() + MAX_STATEMENT_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS_BETWEEN_LOOKS)


def _lenient_text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="backslashreplace")
