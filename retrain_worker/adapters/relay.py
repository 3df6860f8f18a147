"""Outbox → Redis streams: in order, each event once, however often Redis fails.

An event gets its stream id from us, and the id is stored before the first attempt. So a repeat after a lost reply is
refused by the stream itself, and one look at that id says whether the entry is there: nothing is ever concluded from an
exception. A stream that cannot be written to holds up only its own events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import redis
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from retrain_worker.adapters.current_model_hash import CurrentModelHash
from retrain_worker.adapters.outbox import Outbox, StoredEvent
from retrain_worker.adapters.stream_history import RETENTION, STREAMS, StreamHistory, trim
from retrain_worker.domain.envelope import fields_of, milliseconds_of
from retrain_worker.domain.events import REQUEST_STREAM, SERVED_STREAM, Event
from retrain_worker.redis_client import BackOff, Problem, add_entry, entries_in, problem_of

#: events of one call: a call stays short, the next goes on
BATCH = 200
TRIM_EVERY = timedelta(hours=1)
#: new ids tried for one event before we let it rest
_ATTEMPTS = 3
_ALL = "all"


@dataclass(frozen=True, kw_only=True)
class RelayReport:
    """How the relay stands after one call."""

    sent: int
    pending: int
    oldest_pending_at: datetime | None
    #: what keeps events back, in the same words for as long as it lasts; None: nothing does
    problem: str | None
    #: what happened in this call that a person should read once
    notices: tuple[str, ...] = ()


class Relay:
    """One writer, one thread. Never raises for what Redis does; what the outbox raises goes through."""

    def __init__(self, client: redis.Redis, outbox: Outbox, now: Callable[[], datetime]) -> None:
        self._client = client
        self._outbox = outbox
        self._now = now
        self._history = StreamHistory(client, outbox, now)
        self._current = CurrentModelHash(client, outbox)
        #: what we were doing (ALL: anything) -> what kept us from it, and when to try again
        self._problems: dict[str, Problem] = {}
        self._back_offs: dict[str, BackOff] = {}
        self._trimmed_at: dict[str, datetime] = {}

    def relay_once(self, *, at_once: bool = False) -> RelayReport:
        """Look whether Redis has lost something, then send up to BATCH pending events.

        Cheap when there is nothing to do, so it may be called every second: pauses after a problem are kept here.
        `at_once` does not wait for the end of a pause.
        """
        if at_once:
            self._back_offs.clear()
        if not self._may_try(_ALL):
            return self._report(0, ())
        sent = 0
        notices: tuple[str, ...] = ()
        try:
            notices = self._look()
            for stored in self._outbox.pending_events(BATCH):
                sent += self._try_to_send(stored)
            self._trim_if_due()
        except RedisError as error:
            self._note(error, _ALL)
        else:
            self._settle(_ALL)
        return self._report(sent, notices)

    def _report(self, sent: int, notices: tuple[str, ...]) -> RelayReport:
        sentences = dict.fromkeys(problem.sentence for problem in self._problems.values())
        return RelayReport(sent=sent, pending=self._outbox.num_pending(),
                           oldest_pending_at=self._outbox.oldest_pending_at(),
                           problem="; ".join(sentences) or None, notices=notices)

    # ---------------------------------------------------------------- problems

    def _may_try(self, doing: str) -> bool:
        return doing not in self._back_offs or self._back_offs[doing].is_over

    def _note(self, error: RedisError, doing: str, key: str = "") -> None:
        """Remember what kept us from `doing`; raise it again when it is not about `key` but about all of Redis."""
        problem = problem_of(error, self._client, key=key)
        if isinstance(error, ReadOnlyError):
            self._client.connection_pool.disconnect()  # after a failover the name may lead to another server
        if key and not problem.key:
            raise error
        self._problems[doing] = problem
        self._back_offs.setdefault(doing, BackOff(self._now)).after(problem)

    def _settle(self, doing: str) -> None:
        self._problems.pop(doing, None)
        self._back_offs.pop(doing, None)

    # ---------------------------------------------------------------- losses

    def _look(self) -> tuple[str, ...]:
        """See what Redis still has; make pending again what it lost."""
        look = self._history.look()
        for stream in STREAMS:
            if stream in look.problems:
                self._note(look.problems[stream], f"look {stream}", stream)
            else:
                self._settle(f"look {stream}")
        try:
            suspicious = self._current.restore()
        except RedisError as error:
            self._note(error, "restore", self._current.key)
            suspicious = False
        else:
            self._settle("restore")
        lost = self._history.requeue_lost(look, all_streams=suspicious)
        return look.notices + tuple(
            f"Redis has lost {count} events of {stream}; they are published again" for stream, count in lost.items()
        )

    # ---------------------------------------------------------------- sending

    def _try_to_send(self, stored: StoredEvent) -> bool:
        stream = stored.event.stream
        if not self._may_try(f"send {stream}"):
            return False
        try:
            self._learn(stored.event)
            self._send(stored)
        except RedisError as error:
            self._note(error, f"send {stream}", stream)
            return False
        self._settle(f"send {stream}")
        return True

    def _learn(self, event: Event) -> None:
        try:
            self._current.learn(event)
        except RedisError as error:
            self._note(error, "restore", self._current.key)

    def _send(self, stored: StoredEvent) -> None:
        event = stored.event
        fields = fields_of(event, msgspec.json.encode(event.payload).decode())
        stream_id = stored.stream_id
        if stream_id is None or self._is_stale(event, stream_id):
            stream_id = self._choose_id(event)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                add_entry(self._client, event.stream, fields, entry_id=stream_id)
                break
            except ResponseError as error:
                if "equal or smaller" not in str(error):
                    raise
                if self._is_there(event, stream_id):
                    break
                if attempt == _ATTEMPTS:
                    raise
                self._history.refresh(event.stream)
                stream_id = self._choose_id(event)
        self._outbox.mark_sent(event.event_id, at=self._now())
        self._history.note_sent(event.stream, stream_id)

    def _choose_id(self, event: Event) -> str:
        """An id above all that this stream has had, of ours or not, even after the clock went back. Stored first."""
        milliseconds = max(int(self._now().timestamp() * 1000), self._history.top_of(event.stream) + 1)
        self._outbox.assign_stream_id(event.event_id, f"{milliseconds}-0")
        return f"{milliseconds}-0"

    def _is_stale(self, event: Event, stream_id: str) -> bool:
        """Whether an id is so old, after weeks without Redis, that its entry would soon be trimmed."""
        age = self._now() - datetime.fromtimestamp(milliseconds_of(stream_id) / 1000, UTC)
        return age > RETENTION / 2 and not self._is_there(event, stream_id)

    def _is_there(self, event: Event, stream_id: str) -> bool:
        entries = entries_in(self._client.xrange(event.stream, stream_id, stream_id))
        return any(fields.get(b"event_id", b"").decode(errors="replace") == event.event_id for _, fields in entries)

    # ---------------------------------------------------------------- trimming

    def _trim_if_due(self) -> None:
        now = self._now()
        for stream in (*STREAMS, REQUEST_STREAM, SERVED_STREAM):
            trimmed_at = self._trimmed_at.get(stream)
            just_done = trimmed_at is not None and timedelta() <= now - trimmed_at < TRIM_EVERY
            if just_done or not self._may_try(f"trim {stream}"):
                continue
            try:
                trim(self._client, stream, before=now - RETENTION)
            except RedisError as error:
                self._note(error, f"trim {stream}", stream)
            else:
                self._settle(f"trim {stream}")
                self._trimmed_at[stream] = now
