"""The file of the state database: opened, checked, and brought to this version's tables.

SQLite in WAL mode with synchronous=FULL: a committed transaction survives a power loss. PRAGMA user_version counts the
migrations that the file has seen. A copy is kept before a file is migrated: `state.db.schema<version>.<instant>`.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from retrain_worker import durable_file
from retrain_worker.adapters import stored_upgrades
from retrain_worker.domain.facts import FACTS_SCHEMA
from retrain_worker.errors import DiskFullError, RetrainError, RetryLaterError, StateError

_BUSY_TIMEOUT_SECONDS = 30.0
#: of the runs that go on, and of the newest one
_NEWEST_FACTS_SCHEMA = (
    "SELECT max(json_extract(facts, '$.schema')) FROM runs WHERE json_valid(facts)"
    " AND (finished_at IS NULL OR rowid = (SELECT max(rowid) FROM runs))"
)

Migration = tuple[str | Callable[[sqlite3.Connection], None], ...]


def _each_json(
    table: str, key: str, column: str, upgrade: stored_upgrades.Upgrade
) -> Callable[[sqlite3.Connection], None]:
    """Upgrades a JSON column row by row; what is no JSON object is left as it is."""

    def run(connection: sqlite3.Connection) -> None:
        for name, text in connection.execute(f"SELECT {key}, {column} FROM {table}").fetchall():  # noqa: S608
            with contextlib.suppress(ValueError, RecursionError):
                if isinstance(value := json.loads(text), dict):
                    values = (json.dumps(upgrade(value)), name)
                    connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", values)  # noqa: S608

    return run


def _memory(connection: sqlite3.Connection) -> None:
    values = dict(map(tuple, connection.execute("SELECT key, value FROM memory")))
    connection.execute("DELETE FROM memory")
    stored = [(key, json.dumps(value)) for key, value in stored_upgrades.memory(values).items()]
    connection.executemany("INSERT INTO memory VALUES (?, ?)", stored)


#: statements and functions of each version; a released one is never changed
MIGRATIONS: tuple[Migration, ...] = (
    (
        """CREATE TABLE runs (
            run_id TEXT PRIMARY KEY,
            requested_by TEXT NOT NULL,
            request_reason TEXT NOT NULL,
            created_at TEXT NOT NULL,
            updated_at TEXT NOT NULL,
            stage TEXT NOT NULL,
            outcome TEXT,
            reasons TEXT NOT NULL,
            finished_at TEXT,
            num_deaths INTEGER NOT NULL,
            num_retries INTEGER NOT NULL,
            not_before TEXT,
            facts TEXT NOT NULL,
            seconds TEXT NOT NULL
        ) STRICT""",
        "CREATE UNIQUE INDEX one_unfinished_run ON runs (finished_at IS NULL) WHERE finished_at IS NULL",
        """CREATE TABLE deployments (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT,
            deployment_id TEXT NOT NULL UNIQUE,
            run_id TEXT REFERENCES runs (run_id),
            kind TEXT NOT NULL,
            version TEXT NOT NULL,
            model_path TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            size_bytes INTEGER NOT NULL,
            previous_version TEXT,
            previous_model_path TEXT,
            state TEXT NOT NULL,
            created_at TEXT NOT NULL,
            updated_at TEXT NOT NULL,
            requested_by TEXT NOT NULL,
            reason TEXT NOT NULL,
            confirmation TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE outbox (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT,
            event_id TEXT NOT NULL UNIQUE,
            event_type TEXT NOT NULL,
            stream TEXT NOT NULL,
            payload TEXT NOT NULL,
            correlation_id TEXT NOT NULL,
            timestamp TEXT NOT NULL,
            flat TEXT NOT NULL,
            stream_id TEXT,
            sent_at TEXT
        ) STRICT""",
        "CREATE INDEX pending_events ON outbox (sequence) WHERE sent_at IS NULL",
        "CREATE INDEX sent_events ON outbox (stream, sent_at)",
        "CREATE TABLE memory (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    ),
    (
        "ALTER TABLE deployments ADD COLUMN previous_sha256 TEXT",
        # the order in which deployments reached the env line: one that was intended early may get there late
        "ALTER TABLE deployments ADD COLUMN reached INTEGER",
        "UPDATE deployments SET reached = sequence WHERE state NOT IN ('INTENDED', 'UNDONE')",
        """CREATE TABLE orders (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT,
            order_id TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL,
            arguments TEXT NOT NULL,
            requested_by TEXT NOT NULL,
            reason TEXT NOT NULL,
            created_at TEXT NOT NULL,
            updated_at TEXT NOT NULL,
            state TEXT NOT NULL,
            answer TEXT NOT NULL,
            num_retries INTEGER NOT NULL,
            not_before TEXT
        ) STRICT""",
        "CREATE INDEX waiting_orders ON orders (sequence) WHERE state = 'WAITING'",
    ),
    (
        # runs on trial and on probation wait for rows: another run may work meanwhile
        "DROP INDEX one_unfinished_run",
        """CREATE UNIQUE INDEX one_working_run ON runs (finished_at IS NULL)
            WHERE finished_at IS NULL AND stage NOT IN ('SHADOW', 'PROBATION')""",
        "CREATE INDEX waiting_runs ON runs (stage) WHERE finished_at IS NULL",
    ),
    (
        "ALTER TABLE orders RENAME TO slot_requests",
        "ALTER TABLE slot_requests RENAME COLUMN order_id TO request_id",
        "DROP INDEX waiting_orders",
        "CREATE INDEX waiting_slot_requests ON slot_requests (sequence) WHERE state = 'WAITING'",
        "UPDATE deployments SET kind = 'external' WHERE kind = 'observed'",
        "UPDATE deployments SET state = 'NOT_ASKED' WHERE state = 'NOT_CONFIRMED' AND (kind = 'external'"
        " OR confirmation IN ('ENGINE_CONFIRM=none: nobody was asked',"
        " 'no model is named, so nobody can be seen serving it'))",
        # sent events stay as they are in the stream: these rows are not read again
        "UPDATE outbox SET event_type = 'model.changed_externally', stream = 'quantum:stream:model.changed_externally',"
        " payload = json_remove(json_set(payload, '$.changed_at', json_extract(payload, '$.observed_at'),"
        " '$.changed_by', json_extract(payload, '$.observed_by')), '$.observed_at', '$.observed_by'),"
        " flat = json_set(flat, '$.status', 'changed_externally')"
        " WHERE event_type = 'model.observed' AND sent_at IS NULL AND json_valid(payload) AND json_valid(flat)",
        _each_json("runs", "run_id", "facts", stored_upgrades.facts_1_to_2),
        _each_json("slot_requests", "request_id", "arguments", stored_upgrades.slot_request_arguments),
        _memory,
    ),
)


def connect(path: Path) -> sqlite3.Connection:
    """A connection that writes. Transactions are begun by hand. Raises StateError, DiskFullError."""
    with named_errors(path):
        connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
        return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing and creates no file, whether or not a daemon has the file open."""
    if not path.is_file():
        raise StateError(
            "there is no state database here", where=str(path), remedy="start the daemon once, or name the right --home"
        )
    # Without a -wal file there is no writer, and only `immutable` keeps SQLite from making one.
    mode = "mode=ro" if path.with_name(path.name + "-wal").exists() else "mode=ro&immutable=1"
    with named_errors(path):
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?{mode}",
            uri=True,
            timeout=_BUSY_TIMEOUT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.row_factory = sqlite3.Row
        try:
            check_migrated(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def check_sound(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StateError when SQLite finds the file damaged."""
    with named_errors(path):
        found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise _damaged("; ".join(found), path)


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """How many migrations the file has seen. Raises StateError when a newer version has written the file."""
    with named_errors(path):
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        newest = connection.execute(_NEWEST_FACTS_SCHEMA).fetchone()[0] if 0 < version <= len(MIGRATIONS) else None
    check_known(version, newest, str(path))
    return version


def check_known(version: int, facts_schema: object, where: str) -> None:
    """Raise StateError when a newer version has written the tables, or the facts of the newest runs."""
    if version > len(MIGRATIONS) or (isinstance(facts_schema, int) and facts_schema > FACTS_SCHEMA):
        found, known = (version, len(MIGRATIONS)) if version > len(MIGRATIONS) else (facts_schema, FACTS_SCHEMA)
        raise StateError(
            f"written by a newer version of this program (schema {found}, known {known})",
            where=where,
            remedy="install the newer version again",
        )


def check_same_version(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StateError when a daemon of another version owns the file."""
    version = check_version(connection, path)
    if version < len(MIGRATIONS):
        raise StateError(
            f"a running daemon of an older version uses it (schema {version}, here {len(MIGRATIONS)})",
            where=str(path),
            remedy="restart the daemon, then try again",
        )


def check_migrated(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StateError when a reader would not find this version's tables; only the daemon makes them."""
    version = check_version(connection, path)
    if version < len(MIGRATIONS):
        raise StateError(
            f"written by an older version of this program (schema {version}, here {len(MIGRATIONS)})",
            where=str(path),
            remedy="start or restart the daemon once: it brings the tables up to date",
        )


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the tables to this version, each migration in one transaction; a copy of the file is kept before."""
    first = check_version(connection, path)
    if 0 < first < len(MIGRATIONS):
        copy = path.with_name(f"{path.name}.schema{first}.{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        with named_errors(path), durable_file.replacing(copy, mode=path.stat().st_mode & 0o777) as file:
            file.write(connection.serialize())
    for version in range(first, len(MIGRATIONS)):
        with transaction(connection, path):
            if check_version(connection, path) > version:
                continue
            for step in MIGRATIONS[version]:
                if isinstance(step, str):
                    connection.execute(step)
                else:
                    step(connection)
            connection.execute(f"PRAGMA user_version = {version + 1}")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """All of the block or nothing of it; the write lock is taken at once."""
    with named_errors(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Every sqlite3.Error of the block becomes an error with a remedy."""
    try:
        yield
    except sqlite3.Error as error:
        raise _named_error(error, path) from error


def _named_error(error: sqlite3.Error, path: Path) -> RetrainError:
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return DiskFullError(
                "no space for the state database", where=str(path), remedy="free space on this file system"
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return RetryLaterError(
                f"another process has held the state database for {_BUSY_TIMEOUT_SECONDS:.0f} s",
                where=str(path),
                remedy="see who has it open",
            )
        case sqlite3.SQLITE_IOERR:
            return RetryLaterError(
                f"the state database cannot be read or written ({error})",
                where=str(path),
                remedy="check the disk and the system's log",
            )
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return StateError(
                f"the state database cannot be opened for writing ({error})",
                where=str(path),
                remedy="give the daemon's user its directory",
            )
        case sqlite3.SQLITE_CONSTRAINT:
            return StateError(
                f"the state database refuses this ({error})",
                where=str(path),
                remedy="two things happened that exclude each other: report it with the log",
            )
        case code:
            return (_unfit if code == sqlite3.SQLITE_ERROR else _damaged)(str(error), path)


def _unfit(finding: str, path: Path) -> StateError:
    return StateError(
        f"the state database does not have the tables of this version: {finding}",
        where=str(path),
        remedy="see that one version only is installed, and restart the daemon",
    )


def _damaged(finding: str, path: Path) -> StateError:
    return StateError(
        f"the state database is damaged: {finding}",
        where=str(path),
        remedy="stop the daemon, keep the file for inspection, and move it away with its -wal and -shm, "
        "or restore a copy; a new one is made at the next start",
    )
