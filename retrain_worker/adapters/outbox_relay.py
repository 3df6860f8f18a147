"""Outbox → Redis streams: in order, each event once, however often Redis fails.

An event gets its stream id from us, and the id is stored before the first attempt. After a lost reply one look at that
id says whether the entry is there, and the stream itself refuses a repeat: nothing is ever concluded from an exception.
Events go in batches: one commit stores the ids, one MULTI sends all entries or none, one commit marks them sent; death
between any two of these is a lost reply. A stream that cannot be written to holds up only its own events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import redis
from redis.exceptions import ReadOnlyError, RedisError

from retrain_worker.adapters.current_model_hash import CurrentModelHash
from retrain_worker.adapters.outbox import Outbox, StoredEvent
from retrain_worker.adapters.stream_history import RETENTION, STREAMS, StreamHistory, trim
from retrain_worker.domain.envelope import StreamId, fields_of, parts_of
from retrain_worker.domain.events import REQUEST_STREAM, SERVED_STREAM, Event
from retrain_worker.redis_client import BackOff, RedisProblem, entries_in, problem_of, text_of

#: events of one transaction
BATCH = 500
#: transactions of one call: a call stays short, the next goes on
BATCHES = 10
TRIM_EVERY = timedelta(hours=1)
#: ids of a batch begin here: an id that Redis gives to somebody else's entry meanwhile is below all of ours or above
FIRST_SEQUENCE = 1000
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
        self._problems: dict[str, RedisProblem] = {}
        self._back_offs: dict[str, BackOff] = {}
        self._trimmed_at: dict[str, datetime] = {}

    def relay_once(self, *, at_once: bool = False) -> RelayReport:
        """Look whether Redis has lost something, then send up to BATCHES * BATCH pending events.

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
            notices = self._evaluate()
            for _ in range(BATCHES):
                batch = self._outbox.pending_events(BATCH, besides=self._held_up())
                sent += self._send(batch)
                if len(batch) < BATCH:
                    break
            self._trim_if_due()
        except RedisError as error:
            self._note(error, _ALL)
        else:
            self._settle(_ALL)
        return self._report(sent, notices)

    def _report(self, sent: int, notices: tuple[str, ...]) -> RelayReport:
        messages = dict.fromkeys(problem.message for problem in self._problems.values())
        return RelayReport(
            sent=sent,
            pending=self._outbox.num_pending(),
            oldest_pending_at=self._outbox.oldest_pending_at(),
            problem="; ".join(messages) or None,
            notices=notices,
        )

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

    def _evaluate(self) -> tuple[str, ...]:
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

    def _held_up(self) -> list[str]:
        """The streams that cannot be written to now."""
        return [
            stream for stream in STREAMS if f"look {stream}" in self._problems or not self._may_try(f"send {stream}")
        ]

    def _send(self, batch: Sequence[StoredEvent]) -> int:
        """Bring these events to their streams; how many are there now."""
        if not batch:
            return 0
        self._learn(stored.event for stored in batch)
        self._history.look_again(list(dict.fromkeys(stored.event.stream for stored in batch)))
        there = [stored for stored in batch if self._is_there(stored)]
        known = {stored.event.event_id for stored in there}
        rest = [stored for stored in batch if stored.event.event_id not in known]
        chosen = self._chosen(rest)
        sent = [(stored.event, parts_of(str(stored.stream_id))) for stored in there]
        sent += [(event, chosen[event.event_id]) for event in self._added([stored.event for stored in rest], chosen)]
        self._outbox.mark_sent([event.event_id for event, _ in sent], at=self._now())
        for event, stream_id in sent:
            self._history.note_sent(event.stream, stream_id)
            self._settle(f"send {event.stream}")
        return len(sent)

    def _learn(self, events: Iterable[Event]) -> None:
        try:
            self._current.learn(events)
        except RedisError as error:
            self._note(error, "restore", self._current.key)

    def _is_there(self, stored: StoredEvent) -> bool:
        """Whether the entry of an event is in its stream already, although we were not told."""
        stream, stream_id = stored.event.stream, stored.stream_id
        if stream_id is None or parts_of(stream_id) > self._history.last_id_of(stream):
            return False
        entries = entries_in(self._client.xrange(stream, stream_id, stream_id))
        return any(text_of(fields.get(b"event_id", b"")) == stored.event.event_id for _, fields in entries)

    def _chosen(self, batch: Sequence[StoredEvent]) -> dict[str, StreamId]:
        """The stream id of each event: the one that it has, if it can still be used, else a new one. Stored.

        A new one is above all that the stream has had, of ours or not, even after the clock went back.
        """
        chosen: dict[str, StreamId] = {}
        new: dict[str, str] = {}
        lasts: dict[str, StreamId] = {}
        firsts: dict[str, StreamId] = {}
        for stored in batch:
            event_id, stream = stored.event.event_id, stored.event.stream
            last = lasts.get(stream) or self._history.last_id_of(stream)
            stream_id = parts_of(stored.stream_id) if stored.stream_id else None
            if stream_id is None or stream_id <= last or self._is_stale(stream_id):
                first = firsts.get(stream) or self._first_id(stream, is_alone=len(batch) == 1)
                firsts[stream] = first
                stream_id = max(first, (last[0], last[1] + 1))
                new[event_id] = f"{stream_id[0]}-{stream_id[1]}"
            chosen[event_id] = lasts[stream] = stream_id
        if new:
            self._outbox.assign_stream_ids(new)
        return chosen

    def _first_id(self, stream: str, *, is_alone: bool) -> StreamId:
        milliseconds = max(int(self._now().timestamp() * 1000), self._history.top_of(stream) + 1)
        return milliseconds, 0 if is_alone else FIRST_SEQUENCE

    def _is_stale(self, stream_id: StreamId) -> bool:
        """Whether an id is so old, after weeks without Redis, that its entry would soon be trimmed."""
        return self._now() - datetime.fromtimestamp(stream_id[0] / 1000, UTC) > RETENTION / 2

    def _added(self, events: Sequence[Event], chosen: Mapping[str, StreamId]) -> list[Event]:
        """Send the entries, all of them or none; those that their streams have taken."""
        if not events:
            return []
        pipeline = self._client.pipeline(transaction=True)
        for event in events:
            milliseconds, sequence = chosen[event.event_id]
            fields = fields_of(event, msgspec.json.encode(event.payload).decode())
            pipeline.xadd(event.stream, dict(fields.items()), id=f"{milliseconds}-{sequence}")
        added = []
        for event, reply in zip(events, pipeline.execute(raise_on_error=False), strict=True):
            if not isinstance(reply, RedisError):
                added.append(event)
            elif "equal or smaller" not in str(reply):  # somebody else was faster: the next batch chooses again
                self._note(reply, f"send {event.stream}", event.stream)
        return added

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
