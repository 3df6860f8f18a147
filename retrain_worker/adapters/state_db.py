"""The state database: runs, deployments, slot requests, the outbox, and values that survive a restart.

Each move is stored with the events that it causes in one transaction. Implements stages.ports.RunStore.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, cast

from retrain_worker import durable_file, typed_json
from retrain_worker.adapters import state_schema, stored_json
from retrain_worker.domain.alpha_spending import AlphaSpending
from retrain_worker.domain.events import Event
from retrain_worker.domain.facts import RequestFacts, RunFacts
from retrain_worker.domain.lifecycle import WAITING, Deployment, DeploymentState, Outcome, Run, Stage
from retrain_worker.domain.pause import Pause
from retrain_worker.domain.slot_request import SlotRequest, SlotRequestArguments, SlotRequestKind, SlotRequestState
from retrain_worker.errors import MalformedError, StateError

_WATERMARK, _PAUSE = "watermark_path", "pause"
#: for connections that other threads use
_CLOSE_SECONDS = 2.0
Value = TypeVar("Value", Run, Deployment, SlotRequest, Event)
Remembered = TypeVar("Remembered")
_MARKS = ", ".join("?" * len(WAITING))
#: table, key, and what each row is decoded as
_DECODED_TABLES: tuple[tuple[str, str, type[Any]], ...] = (
    ("runs", "run_id", Run),
    ("deployments", "deployment_id", Deployment),
    ("slot_requests", "request_id", SlotRequest),
    ("outbox", "event_id", Event),
)
#: for a JSON field without a default, while the other columns are converted
_PLACEHOLDERS: dict[str, Any] = {"payload": {}}


class Cursor(Protocol):
    """What a statement returns: rows whose values are found by number and by name."""

    @property
    def rowcount(self) -> int:
        """Number of rows that were changed."""

    def fetchall(self) -> list[Any]:
        """Every row."""

    def fetchone(self) -> Any:
        """The first row; None without one."""


class Connection(Protocol):
    """A connection that takes the SQL of SQLite: sqlite3's own, or that of adapters.postgres_state."""

    def execute(self, statement: str, values: Any = ..., /) -> Cursor:
        """Execute one statement."""

    def executemany(self, statement: str, values: Any, /) -> Cursor:
        """Execute a statement for each of `values`."""

    def close(self) -> None:
        """Close it."""


@dataclass(frozen=True, kw_only=True)
class OutboxRow:
    """An event on its way to its stream."""

    event: Event
    #: the id chosen before the first attempt, None while there was none
    stream_id: str | None
    sent_at: datetime | None


class StateDb:
    """The state database. Methods may be called from any thread; each thread has its own connection."""

    def __init__(self, path: Path, *, read_only: bool = False, is_owner: bool = True) -> None:
        """Open or create the file. Raises StateError when it is damaged, newer than this program, or not writable.

        `read_only`, for `status` and `history`: nothing is changed or created; works beside a running daemon. Without
        `is_owner`, for slot requests: the daemon has the lock, so the file is not migrated.
        """
        self._path = path
        self._opened: os.stat_result | None = None
        self._is_read_only = read_only
        self._of_thread = threading.local()
        self._lock = threading.Lock()
        #: each with a lock, which its thread holds while it uses it
        self._connections: list[tuple[Connection, threading.RLock]] = []
        self._is_closed = False
        #: rows that this opening has moved to the table `unreadable_rows`: which, and why
        self.quarantined: tuple[str, ...] = ()
        try:
            self._prepare(is_owner=is_owner)
            if is_owner and not read_only:
                self.quarantined = self._quarantine()
        except BaseException:
            self.close()
            raise

    @property
    def _where(self) -> str:
        """For messages."""
        return str(self._path)

    def _prepare(self, *, is_owner: bool) -> None:
        connection: Any = self._connection
        if not self._is_read_only and not is_owner:
            state_schema.check_same_version(connection, self._path)
        elif not self._is_read_only:
            state_schema.check_sound(connection, self._path)
            state_schema.migrate(connection, self._path)
        self._opened = self._path.stat()

    def check_in_place(self) -> None:
        """Raise StateError when the file was removed or replaced: what is stored from then on would be lost."""
        if self._opened is not None:
            durable_file.check_same(self._path, self._opened)

    def fencing_token(self) -> int | None:
        """The token of this process's leadership, read from the database now; None where no other host can lead.

        To be called immediately before an effect outside the database. Raises LeadershipLostError when another process
        leads.
        """
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of all threads; no thread gets another one.

        A connection in use is waited for: to close it under a running statement ends the process (SQLite). One that is
        not free in time stays open until the process ends.
        """
        with self._lock:
            self._is_closed = True
            connections, self._connections = self._connections, []
        until = time.monotonic() + _CLOSE_SECONDS
        for connection, in_use in connections:
            if in_use.acquire(timeout=max(0.0, until - time.monotonic())):
                connection.close()
                in_use.release()

    # --- runs -----------------------------------------------------------------------------------------------------

    def open_run(
        self,
        *,
        requested_by: str,
        reason: str,
        at: datetime,
        is_forced: bool = False,
        announce: Callable[[Run], Sequence[Event]] = lambda _: (),
    ) -> tuple[Run, bool]:
        """A new run, stored with the events that `announce` makes of it, and True; or the unfinished one, and False."""
        with self._transaction() as connection:
            if unfinished := self.unfinished_run():
                return unfinished, False
            run = Run(
                run_id=_free_id(connection, "runs", "run_id", at),
                requested_by=requested_by,
                request_reason=reason,
                created_at=at,
                updated_at=at,
                facts=RunFacts(request=RequestFacts(is_forced=True) if is_forced else None),
            )
            _store(connection, "runs", "run_id", run)
            _enqueue(connection, announce(run))
        return run, True

    def unfinished_run(self) -> Run | None:
        """The working run, also an interrupted one; at most one. Waiting runs do not count."""
        return self._one(Run, f"SELECT * FROM runs WHERE finished_at IS NULL AND stage NOT IN ({_MARKS})", *WAITING)  # noqa: S608

    def waiting_runs(self) -> list[Run]:
        """The runs on trial and on probation, oldest first."""
        return self._all(
            Run,
            f"SELECT * FROM runs WHERE finished_at IS NULL AND stage IN ({_MARKS}) ORDER BY rowid",  # noqa: S608
            *WAITING,
        )

    def blocked(self, sha256: str) -> str | None:
        """Why a model with this sha256 is blocked: a probation rolled it back. None when it is not."""
        for run in self._all(
            Run,
            "SELECT runs.* FROM runs JOIN deployments ON deployment_id = runs.run_id WHERE stage = ? AND sha256 = ?",
            Stage.PROBATION,
            sha256,
        ):
            facts = run.facts.probation
            reason = facts.rollback_reason if facts else run.facts.unreadable.get("probation", "")
            if reason and (facts or run.outcome is Outcome.ROLLED_BACK):
                return f"blocked by its probation in run {run.run_id}: {reason}"
        return None

    def record(
        self,
        run: Run,
        *,
        events: Sequence[Event] = (),
        deployment: Deployment | None = None,
        request: SlotRequest | None = None,
        watermark_path: Path | None = None,
    ) -> None:
        """Store a run, its events, a deployment, a slot request and a new watermark in one transaction.

        An event that is already in the outbox is not enqueued again.
        """
        with self._transaction() as connection:
            _store(connection, "runs", "run_id", run)
            if deployment is not None:
                _store_deployment(connection, deployment)
            if request is not None:
                _store(connection, "slot_requests", "request_id", request)
            _enqueue(connection, events)
            if watermark_path is not None:
                _remember(connection, _WATERMARK, str(watermark_path))

    def run(self, run_id: str | None) -> Run | None:
        """One run; None for None, and for a run that is not stored."""
        return self._one(Run, "SELECT * FROM runs WHERE run_id = ?", run_id)

    def history(self, limit: int) -> list[Run]:
        """The newest runs, newest first, in the order of their creation, not by the clock."""
        return self._all(Run, "SELECT * FROM runs ORDER BY rowid DESC LIMIT ?", limit)

    def alpha_spending_before(self, run_id: str | None) -> AlphaSpending | None:
        """The alpha spending of the newest decision of an earlier run (of any run, for None).

        A decision that cannot be read counts as one that left no alpha wealth.
        """
        run = self._one(
            Run,
            "SELECT * FROM runs WHERE rowid < coalesce((SELECT rowid FROM runs WHERE run_id = ?), 9223372036854775807)"
            " AND CASE WHEN json_valid(facts) THEN json_extract(facts, '$.gate.alpha_spending') IS NOT NULL"
            " OR json_extract(facts, '$.unreadable.gate') IS NOT NULL ELSE TRUE END ORDER BY rowid DESC LIMIT 1",
            run_id,
        )
        if run is None:
            return None
        spent = run.facts.gate.alpha_spending if run.facts.gate else None
        return spent or AlphaSpending(alpha=0.0, left=0.0, num_decisions=1, at=run.created_at, since=run.created_at)

    def last_attempt_at(self) -> datetime | None:
        """Start of the newest run that is not a forced promotion; the schedule counts from it."""
        newest = self._one(
            Run,
            "SELECT * FROM runs WHERE CASE WHEN json_valid(facts) THEN json_extract(facts, '$.gate.forced') END IS NULL"
            " ORDER BY rowid DESC LIMIT 1",
        )
        return newest.created_at if newest else None

    # --- deployments ----------------------------------------------------------------------------------------------

    def record_deployment(
        self, deployment: Deployment, *, events: Sequence[Event] = (), run: Run | None = None
    ) -> None:
        """Store a deployment without a request (an external change), its events, and the run that it rolls back."""
        with self._transaction() as connection:
            if run is not None:
                _store(connection, "runs", "run_id", run)
            _store_deployment(connection, deployment)
            _enqueue(connection, events)

    def deployment(self, deployment_id: str) -> Deployment | None:
        """One deployment."""
        return self._one(Deployment, "SELECT * FROM deployments WHERE deployment_id = ?", deployment_id)

    def last_deployment(self) -> Deployment | None:
        """The newest deployment that reached the env file."""
        return self._one(
            Deployment, "SELECT * FROM deployments WHERE reached IS NOT NULL ORDER BY reached DESC LIMIT 1"
        )

    def reached_deployments(self) -> list[Deployment]:
        """Every deployment that reached the env file, in that order."""
        return self._all(Deployment, "SELECT * FROM deployments WHERE reached IS NOT NULL ORDER BY reached")

    def intended_deployments(self) -> list[Deployment]:
        """Deployments at INTENDED: the env file may or may not name their model."""
        return self._all(Deployment, "SELECT * FROM deployments WHERE state = ?", DeploymentState.INTENDED)

    def last_promotion(self) -> Deployment | None:
        """The newest promotion that reached the env file, whether it still serves or not."""
        return self._one(
            Deployment,
            "SELECT * FROM deployments WHERE reached IS NOT NULL AND kind = 'promote' ORDER BY reached DESC LIMIT 1",
        )

    def deployments(self, limit: int) -> list[Deployment]:
        """The newest deployments, newest first."""
        return self._all(Deployment, "SELECT * FROM deployments ORDER BY sequence DESC LIMIT ?", limit)

    # --- slot requests -----------------------------------------------------------------------------------------------

    def open_slot_request(
        self,
        kind: SlotRequestKind,
        *,
        arguments: SlotRequestArguments,
        requested_by: str,
        reason: str,
        at: datetime,
    ) -> SlotRequest:
        """Store a new request; the process that holds the state lock executes it."""
        with self._transaction() as connection:
            request = SlotRequest(
                request_id=f"{kind}_{_free_id(connection, 'slot_requests', 'request_id', at, prefix=f'{kind}_')}",
                kind=kind,
                arguments=arguments,
                requested_by=requested_by,
                reason=reason,
                created_at=at,
                updated_at=at,
                answer="waiting for its turn",
            )
            _store(connection, "slot_requests", "request_id", request)
        return request

    def record_slot_request(
        self,
        request: SlotRequest,
        *,
        deployment: Deployment | None = None,
        events: Sequence[Event] = (),
        run: Run | None = None,
    ) -> None:
        """Store a slot request, its deployment, its events and the run it opens or rolls back in one transaction."""
        with self._transaction() as connection:
            if run is not None:
                _store(connection, "runs", "run_id", run)
            _store(connection, "slot_requests", "request_id", request)
            if deployment is not None:
                _store_deployment(connection, deployment)
            _enqueue(connection, events)

    def request(self, request_id: str) -> SlotRequest | None:
        """One slot request."""
        return self._one(SlotRequest, "SELECT * FROM slot_requests WHERE request_id = ?", request_id)

    def waiting_slot_request(self) -> SlotRequest | None:
        """The oldest slot request without an answer."""
        return self._one(
            SlotRequest,
            "SELECT * FROM slot_requests WHERE state = ? ORDER BY sequence LIMIT 1",
            SlotRequestState.WAITING,
        )

    # --- outbox ---------------------------------------------------------------------------------------------------

    def pending_events(self, limit: int, *, besides: Collection[str] = ()) -> list[OutboxRow]:
        """The oldest unsent events, in the order of the outbox, except those of the streams `besides`."""
        marks = ", ".join(("''", *("?" * len(besides))))  # PostgreSQL has no empty list
        return [
            _outbox_row(row)
            for row in self._rows(
                f"SELECT * FROM outbox WHERE sent_at IS NULL AND stream NOT IN ({marks}) ORDER BY sequence LIMIT ?",  # noqa: S608
                *besides,
                limit,
            )
        ]

    def place_of(self, event_id: str) -> int:
        """Position of an event in the outbox; 0 when it is unknown."""
        rows = self._rows("SELECT sequence FROM outbox WHERE event_id = ?", event_id)
        return int(rows[0][0]) if rows else 0

    def num_pending(self) -> int:
        """Number of unsent events."""
        return int(self._rows("SELECT count(*) FROM outbox WHERE sent_at IS NULL")[0][0])

    def oldest_pending_at(self) -> datetime | None:
        """Time of the oldest unsent event."""
        pending = self.pending_events(1)
        return pending[0].event.timestamp if pending else None

    def assign_stream_ids(self, stream_ids: Mapping[str, str]) -> None:
        """Store the stream id (event id -> stream id) of each event before the first attempt to send it."""
        self._change_each(
            "UPDATE outbox SET stream_id = ? WHERE event_id = ?",
            [(stream_id, event_id) for event_id, stream_id in stream_ids.items()],
        )

    def mark_sent(self, event_ids: Collection[str], *, at: datetime) -> None:
        """Mark these events as sent."""
        self._change_each(
            "UPDATE outbox SET sent_at = ? WHERE event_id = ?", [(_text(at), event_id) for event_id in event_ids]
        )

    def requeue(self, event_ids: Collection[str]) -> None:
        """Mark these events, which Redis has lost, as unsent, without a stream id."""
        self._change_each(
            "UPDATE outbox SET sent_at = NULL, stream_id = NULL WHERE event_id = ?",
            [(event_id,) for event_id in event_ids],
        )

    def sent_event_ids(self, stream: str, *, since: datetime) -> list[str]:
        """Ids of the events sent to `stream` at `since` or later, in the order of the outbox."""
        return [
            str(row[0])
            for row in self._rows(
                "SELECT event_id FROM outbox WHERE stream = ? AND sent_at >= ? ORDER BY sequence", stream, _text(since)
            )
        ]

    def highest_sent_milliseconds(self, stream: str, *, since: datetime) -> int:
        """The highest time part among the stream ids of those events; 0 when there are none."""
        return int(
            self._rows(
                "SELECT coalesce(max(CAST(substr(stream_id, 1, instr(stream_id, '-') - 1) AS BIGINT)), 0)"
                " FROM outbox WHERE stream = ? AND sent_at >= ?",
                stream,
                _text(since),
            )[0][0]
        )

    # --- what the daemon remembers ----------------------------------------------------------------------------------

    def watermark_path(self) -> Path | None:
        """The watermark: the snapshot of the last committed run."""
        value = self.recall(_WATERMARK, str)
        return Path(value) if value else None

    def pause(self) -> Pause | None:
        """The pause of promotions, which may be over."""
        return self.recall(_PAUSE, Pause)

    def set_pause(self, pause: Pause | None) -> None:
        """Store a pause in the place of an earlier one; None removes it."""
        with self._transaction() as connection:
            if pause is None:
                connection.execute("DELETE FROM memory WHERE key = ?", (_PAUSE,))
            else:
                _remember(connection, _PAUSE, pause)

    def remember(self, key: str, value: object) -> None:
        """Store a value (a dataclass, a text, a number) persistently."""
        with self._transaction() as connection:
            _remember(connection, key, value)

    def recall(self, key: str, kind: type[Remembered]) -> Remembered | None:
        """The value of `key`; None when there is none, or none of type `kind`."""
        rows = self._rows("SELECT value FROM memory WHERE key = ?", key)
        try:
            return typed_json.decode(rows[0][0], kind) if rows else None
        except MalformedError:
            return None

    # --- connection -----------------------------------------------------------------------------------------------

    def _connect(self) -> Connection:
        return (state_schema.connect_to_read if self._is_read_only else state_schema.connect)(self._path)

    @property
    def _connection(self) -> Connection:
        self._check_open()
        found: Connection | None = getattr(self._of_thread, "connection", None)
        if found is None:
            found = self._connect()
            in_use = threading.RLock()
            with self._lock:
                self._connections.append((found, in_use))
            self._of_thread.connection, self._of_thread.in_use = found, in_use
        return found

    @contextmanager
    def _used(self) -> Iterator[Connection]:
        """The connection of this thread; `close` waits until it is not used."""
        connection = self._connection
        with self._of_thread.in_use:
            self._check_open()
            yield connection

    def _check_open(self) -> None:
        if self._is_closed:
            raise StateError("the state database is closed", where=self._where)

    def _quarantine(self) -> tuple[str, ...]:
        """Move rows that cannot be decoded to `unreadable_rows`, so that they stop no other."""
        found = []
        with self._transaction() as connection:
            for table, key, kind in _DECODED_TABLES:
                condition = "WHERE sent_at IS NULL" if kind is Event else ""
                for row in connection.execute(f"SELECT * FROM {table} {condition}").fetchall():  # noqa: S608
                    try:
                        _value_of(row, kind)
                    except StateError as error:
                        found.append(f"{table} {row[key]}: {error.what}")
                        _move_unreadable(connection, table, key, row, error.what)
        return tuple(found)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._used() as connection, state_schema.transaction(cast(sqlite3.Connection, connection), self._path):
            yield connection

    def _rows(self, query: str, *values: object) -> list[Any]:
        with state_schema.named_errors(self._path), self._used() as connection:
            return connection.execute(query, values).fetchall()

    def _change_each(self, statement: str, values: Sequence[tuple[str, ...]]) -> None:
        """Change one event for each of `values`, all in one transaction. Raises StateError when one is unknown."""
        if not values:
            return
        with self._transaction() as connection:
            changed = connection.executemany(statement, values).rowcount
            if changed != len(values):
                raise StateError(f"{changed} of {len(values)} events are known", where=self._where)

    def _all(self, kind: type[Value], query: str, *values: object) -> list[Value]:
        return [_value_of(row, kind) for row in self._rows(query, *values)]

    def _one(self, kind: type[Value], query: str, *values: object) -> Value | None:
        found = self._all(kind, query, *values)
        return found[0] if found else None


def _free_id(connection: Connection, table: str, key: str, at: datetime, *, prefix: str = "") -> str:
    """`prefix` and `YYYYmmdd_HHMMSS`, the next second that no row has."""
    while True:
        found = f"{at.astimezone(UTC):%Y%m%d_%H%M%S}"
        if connection.execute(f"SELECT 1 FROM {table} WHERE {key} = ?", (prefix + found,)).fetchone() is None:  # noqa: S608
            return found
        at += timedelta(seconds=1)


def _move_unreadable(connection: Connection, table: str, key: str, row: Any, reason: str) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS unreadable_rows (source TEXT NOT NULL, content TEXT NOT NULL, reason TEXT NOT NULL)"
    )
    connection.execute("INSERT INTO unreadable_rows VALUES (?, ?, ?)", (table, stored_json.encode(dict(row)), reason))
    if table == "runs":
        connection.execute("UPDATE deployments SET run_id = NULL WHERE run_id = ?", (row[key],))
    connection.execute(f"DELETE FROM {table} WHERE {key} = ?", (row[key],))  # noqa: S608


def _store_deployment(connection: Connection, deployment: Deployment) -> None:
    """Store the deployment, and, once it has reached the env line, its position in that order."""
    _store(connection, "deployments", "deployment_id", deployment)
    if deployment.state not in (DeploymentState.INTENDED, DeploymentState.UNDONE):
        connection.execute(
            "UPDATE deployments SET reached = (SELECT coalesce(max(reached), 0) + 1 FROM deployments)"
            " WHERE deployment_id = ? AND reached IS NULL",
            (deployment.deployment_id,),
        )


def _store(connection: Connection, table: str, key: str, value: Run | Deployment | SlotRequest) -> None:
    """Insert or update one row; its columns are the fields of the dataclass."""
    row = _columns(value)
    names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
    updates = ", ".join(f"{name} = excluded.{name}" for name in row if name != key)
    connection.execute(
        f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT ({key}) DO UPDATE SET {updates}",  # noqa: S608
        row,
    )


def _enqueue(connection: Connection, events: Sequence[Event]) -> None:
    connection.executemany(
        "INSERT INTO outbox (event_id, event_type, stream, payload, correlation_id, timestamp, flat)"
        " VALUES (:event_id, :event_type, :stream, :payload, :correlation_id, :timestamp, :flat)"
        " ON CONFLICT (event_id) DO NOTHING",
        [{"stream": event.stream, **_columns(event)} for event in events],
    )


def _remember(connection: Connection, key: str, value: object) -> None:
    connection.execute(
        "INSERT INTO memory VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, stored_json.encode(value)),
    )


def _columns(value: Run | Deployment | SlotRequest | Event) -> dict[str, Any]:
    return {each.name: _column(each.name, getattr(value, each.name)) for each in fields(value)}


def _column(name: str, value: Any) -> Any:
    if name in stored_json.KINDS:
        return stored_json.encode(value)
    return _text(value) if isinstance(value, datetime) else value


def _value_of(row: Any, kind: type[Value]) -> Value:
    plain = {name: row[name] for name in row.keys() if name not in stored_json.KINDS}  # noqa: SIM118
    decoded = {name: stored_json.decode(name, row[name]) for name in row.keys() if name in stored_json.KINDS}  # noqa: SIM118
    try:
        return replace(typed_json.convert(_PLACEHOLDERS | plain, kind), **decoded)
    except MalformedError as error:
        raise StateError(
            f"a stored {kind.__name__} is not one that this version knows ({error})",
            where="state.db",
            remedy="restart the daemon: it moves such rows to the table unreadable_rows",
        ) from None


def _outbox_row(row: Any) -> OutboxRow:
    sent_at = row["sent_at"]
    return OutboxRow(
        event=_value_of(row, Event),
        stream_id=row["stream_id"],
        sent_at=datetime.fromisoformat(sent_at) if sent_at else None,
    )


def _text(at: datetime) -> str:
    """ISO 8601 UTC with a fixed width, so that text order is time order."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")
