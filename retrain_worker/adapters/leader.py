"""One leader among the processes of several hosts: a lock and a lease in the state's PostgreSQL, and a fencing token.

Who holds the advisory lock leads; the server releases it when the leader's connection ends, at once after a kill -9. A
leader that is stopped or cut off keeps its connection: it renews its lease in the table `leader`, and when that is not
renewed another process ends its sessions and takes the lock. Each change of the leader increases the token, which every
transaction compares. The leader counts its lease itself, with a clock that goes on while it is stopped, and ends sooner
than the server's count allows another one to begin.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from retrain_worker.adapters import postgres_state
from retrain_worker.domain.state_place import StatePlace
from retrain_worker.errors import LeadershipLostError, RetrainError

if TYPE_CHECKING:
    import psycopg

#: after the last renewal, by the server's clock, another process may lead
LEASE_SECONDS = 15.0
#: after the last renewal, by its own clock, a leader does nothing more
_OWN_LEASE_SECONDS = 12.0
_RENEW_SECONDS = 3.0
#: of the two numbers of the advisory lock; the other one is the table's
_LOCK = 7_224_119

_LEASE_IS_OVER = f"renewed_at < clock_timestamp() - interval '{LEASE_SECONDS} seconds'"
_OTHERS = "pid <> pg_backend_pid() AND usename = current_user AND datname = current_database()"
_LOCK_IDS = f"{_LOCK}, 'leader'::regclass::oid::integer"


@dataclass(frozen=True, kw_only=True)
class Leadership:
    """Who leads, or has led last."""

    host: str
    pid: int
    since: datetime
    #: whether the lease is renewed
    is_live: bool

    @property
    def message(self) -> str:
        """For status and messages."""
        return f"{self.host} (pid {self.pid}) has led since {self.since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def leadership_in(place: StatePlace) -> Leadership | None:
    """Who leads, or has led last; None before the first leader. Raises RetryLaterError, StateError."""
    with (
        postgres_state.named_errors(place),
        contextlib.closing(postgres_state.connect(place, read_only=True)) as connection,
    ):
        return _leadership(connection)


def _leadership(connection: psycopg.Connection[postgres_state.Row]) -> Leadership | None:
    found = connection.execute(
        f"SELECT host, pid, since, NOT ({_LEASE_IS_OVER}) AS is_live FROM leader"  # noqa: S608
        " WHERE token > 0"
    ).fetchone()
    return Leadership(**found) if found else None


class Leader:
    """This process's part in the election. `check` and `check_token` may be called from any thread."""

    def __init__(self, place: StatePlace, *, on_lost: Callable[[str], None]) -> None:
        """`on_lost` is called once, from a thread of its own, when this process has led and no longer may."""
        self._place, self._on_lost = place, on_lost
        #: the name of this process's connections at the server
        self.session = f"retrain-worker {uuid.uuid4()}"
        #: called when the state was changed, by any process
        self.on_change: Callable[[], None] = lambda: None
        self._token: int | None = None
        self._until = 0.0
        self._lost = ""
        self._changed = threading.Event()
        self._released = False
        self._connection: psycopg.Connection[postgres_state.Row] | None = None
        self._thread: threading.Thread | None = None

    # --- election -------------------------------------------------------------------------------------------------

    def last(self) -> Leadership | None:
        """Who leads, or has led last. Makes the tables where there are none.

        Raises RetryLaterError, StateError where this version cannot use the tables.
        """
        with postgres_state.named_errors(self._place):
            if self._connection is None:
                postgres_state.prepare(self._place)
            postgres_state.check_version(self._connected(), self._place)
            return _leadership(self._connected())

    def slot_models(self) -> tuple[str, ...]:
        """What the engine's env line may name by the state: the model in service, or that of a swap that has begun.

        Empty before the first one. Raises RetryLaterError, StateError.
        """
        with postgres_state.named_errors(self._place):
            found = self._connected().execute(
                "SELECT model_path FROM deployments, (SELECT max(reached) AS last FROM deployments) AS slot"
                " WHERE last IS NOT NULL AND (reached = last OR state = 'INTENDED')"
            )
            return tuple(row[0] for row in found.fetchall())

    def try_take(self) -> bool:
        """Whether this process leads from now on. Raises RetryLaterError, StateError."""
        with postgres_state.named_errors(self._place):
            connection = self._connected()
            try:
                is_locked = self._locked(connection)
                if is_locked:
                    self._take(connection)
                else:
                    self._end_overdue(connection)
            except BaseException:
                self._disconnect()
                raise
        return is_locked

    @staticmethod
    def _end_overdue(connection: psycopg.Connection[postgres_state.Row]) -> None:
        """End the session that holds the lock, where its lease is over: the next try gets the lock."""
        connection.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_OTHERS}"  # noqa: S608
            f" AND EXISTS (SELECT FROM leader WHERE {_LEASE_IS_OVER}) AND pid IN (SELECT pid FROM pg_locks"
            f" WHERE locktype = 'advisory' AND granted AND (classid, objid) = ({_LOCK}, 'leader'::regclass::oid))"
        )

    def _take(self, connection: psycopg.Connection[postgres_state.Row]) -> None:
        # one that is stopped in a transaction holds the row; one that is cut off may still send
        connection.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_OTHERS}"  # noqa: S608
            " AND application_name = (SELECT session FROM leader)"
        )
        began = _clock()
        row = connection.execute(
            "UPDATE leader SET token = token + 1, host = %s, pid = %s, session = %s, since = clock_timestamp(),"
            " renewed_at = clock_timestamp() RETURNING token",
            (socket.gethostname(), os.getpid(), self.session),
        ).fetchone()
        assert row is not None, "the table has one row"
        self._token, self._until = row[0], began + _OWN_LEASE_SECONDS
        self._thread = threading.Thread(target=self._renew_until_released, name="leader", daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch, name="lease", daemon=True).start()

    # --- while it leads -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise LeadershipLostError when another process may lead by now; without a query."""
        if not self._lost and _clock() >= self._until:
            self._lost = "the lease could not be renewed in time"
            self._changed.set()
        if self._lost:
            raise self._error(self._lost)

    def check_token(self, token: int | None) -> int:
        """This process's token. Raises LeadershipLostError when the stored one is another."""
        if token is None or token != self._token:
            self._lose(f"another process leads (token {token}, here {self._token})")
        self.check()
        assert self._token is not None, "a store with a leader is opened after the election"
        return self._token

    def release(self) -> None:
        """End the lease at once, so that another process can lead. Doing it twice changes nothing."""
        if self._released:
            return
        self._released = True
        self._changed.set()
        if self._thread is None:
            self._disconnect()
        elif not self._lost:
            with (
                contextlib.suppress(RetrainError),
                postgres_state.named_errors(self._place),
                contextlib.closing(postgres_state.connect(self._place)) as connection,
            ):
                ended = "UPDATE leader SET renewed_at = '-infinity' WHERE token = %s"
                connection.execute(ended, (self._token,))
                connection.execute("SELECT pg_notify(%s, '')", (self._place.schema,))  # ends the pause of the thread
            self._thread.join(_RENEW_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _renew_until_released(self) -> None:
        """Renew the lease, and report changes meanwhile. A broken connection is replaced as long as the lease lasts."""
        is_locked = True
        while not (self._released or self._lost):
            began = _clock()
            try:
                with postgres_state.named_errors(self._place):
                    if self._connection is None:
                        is_locked = False
                    connection = self._connected()
                    is_locked = is_locked or self._locked(connection)
                    renewed = "UPDATE leader SET renewed_at = clock_timestamp() WHERE token = %s"
                    if connection.execute(renewed, (self._token,)).rowcount != 1:
                        self._lose("another process leads")
                    self._until = began + _OWN_LEASE_SECONDS
                    connection.execute(f'LISTEN "{self._place.schema}"')
                    while not self._released and (left := began + _RENEW_SECONDS - _clock()) > 0:
                        for _ in connection.notifies(timeout=left, stop_after=1):
                            self.on_change()
            except RetrainError:
                self._disconnect()
                time.sleep(0.5)
        self._disconnect()

    def _watch(self) -> None:
        """Report the loss, also while every connection waits for a server that does not answer."""
        while not self._released:
            try:
                self.check()
            except LeadershipLostError as error:
                self._on_lost(str(error))
                return
            self._changed.wait(min(1.0, max(0.0, self._until - _clock())))

    def _lose(self, reason: str) -> None:
        self._lost = self._lost or reason
        self._changed.set()
        raise self._error(self._lost)

    def _error(self, reason: str) -> LeadershipLostError:
        return LeadershipLostError(
            f"this process no longer leads: {reason}", where=str(self._place), remedy="it stops; see who leads: status"
        )

    # --- connection -----------------------------------------------------------------------------------------------

    def _connected(self) -> psycopg.Connection[postgres_state.Row]:
        if self._connection is None or self._connection.closed:
            self._connection = postgres_state.connect(self._place, session=self.session)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = None

    @staticmethod
    def _locked(connection: psycopg.Connection[postgres_state.Row]) -> bool:
        row: Any = connection.execute(f"SELECT pg_try_advisory_lock({_LOCK_IDS})").fetchone()
        return bool(row[0])


def _clock() -> float:
    """Seconds, which go on while this process is stopped or the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
