"""Outbox → Redis streams: in order, each event once, through any number of Redis failures.

The relay assigns the stream id of an event and stores it before the first attempt. After a lost reply the relay reads
that id from the stream, which itself rejects a repeated id; no conclusion is drawn from an exception. Events go in
batches: one commit stores the ids, one MULTI sends all entries or none, one commit marks them sent; a crash between two
of these steps equals a lost reply. A stream that rejects writes delays only its own events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import msgspec
import redis
from redis.exceptions import NoPermissionError, ReadOnlyError, RedisError

from retrain_worker.adapters.current_model_hash import CurrentModelHash
from retrain_worker.adapters.outbox import Outbox, StoredEvent
from retrain_worker.adapters.stream_history import INFO, RETENTION, STREAMS, StreamHistory, StreamStates, trim
from retrain_worker.domain.envelope import StreamId, fields_of, parts_of
from retrain_worker.domain.events import REQUEST_STREAM, SERVED_STREAM, Event
from retrain_worker.domain.rollout import Offer
from retrain_worker.redis_client import BackOff, RedisProblem, entries_in, problem_of, same_connection, text_of
from retrain_worker.signing import Signer

#: events of one transaction
BATCH = 500
#: transactions of one call, which is kept short; the next call continues
BATCHES = 10
TRIM_EVERY = timedelta(hours=1)
#: first sequence number of a batch: an id that Redis assigns to another client's entry is below or above all of them
FIRST_SEQUENCE = 1000
_ALL = "all"


@dataclass(frozen=True, kw_only=True)
class RelayReport:
    """State of the relay after one call."""

    sent: int
    pending: int
    oldest_pending_at: datetime | None
    #: why events are not sent, in the same words as long as the cause lasts; None: they are
    problem: str | None
    #: messages of this call for the operator
    notices: tuple[str, ...] = ()


class Relay:
    """One writer, one thread, one client of its own. Errors of Redis are reported, those of the outbox passed on."""

    def __init__(
        self,
        client: redis.Redis,
        outbox: Outbox,
        now: Callable[[], datetime],
        *,
        origin: Mapping[str, str] = MappingProxyType({}),
        signer: Signer | None = None,
        offer: Callable[[], Offer | None] = lambda: None,
    ) -> None:
        """`origin`: instance and host of the worker, for each entry and the hash. `signer`: for changes of the slot.

        `offer`: what some followers serve before the slot names it.
        """
        self._origin = origin
        self._client = client
        self._outbox = outbox
        self._now = now
        self._history = StreamHistory(client, outbox, now)
        self._current = CurrentModelHash(client, outbox, origin, signer, offer)
        #: action (_ALL: every action) -> the problem it met, and when to retry
        self._problems: dict[str, RedisProblem] = {}
        self._back_offs: dict[str, BackOff] = {}
        self._trimmed_at: dict[str, datetime] = {}

    def relay_once(self, *, at_once: bool = False) -> RelayReport:
        """Check whether Redis has lost events, then send up to BATCHES * BATCH pending ones.

        Called every second: it is cheap without pending events, and keeps the pauses after a problem itself. `at_once`
        ends such a pause.
        """
        if at_once:
            self._back_offs.clear()
        if not self._may_try(_ALL):
            return self._report(0, ())
        sent = 0
        notices: tuple[str, ...] = ()
        try:
            found = self._history.read()
            with same_connection(self._client):  # a new one may lead to a server whose streams were not compared
                notices = self._evaluate(found)
                sent = self._send_batches()
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
        """Store the problem of an action; raise `error` again when it affects not `key` but all of Redis."""
        problem = problem_of(error, self._client, key=key)
        if isinstance(error, ReadOnlyError):
            self._client.connection_pool.disconnect()  # after a failover the name may resolve to another server
        if key and not problem.key:
            raise error
        self._problems[doing] = problem
        self._back_offs.setdefault(doing, BackOff(self._now)).after(problem)

    @contextmanager
    def _allowing_refusal(self, doing: str) -> Iterator[None]:
        """Note that an ACL refuses a command of the block, so that the other actions go on."""
        try:
            yield
        except NoPermissionError as error:
            self._note(error, doing)
        else:
            self._settle(doing)

    def _settle(self, doing: str) -> None:
        self._problems.pop(doing, None)
        self._back_offs.pop(doing, None)

    # ---------------------------------------------------------------- losses

    def _evaluate(self, found: StreamStates) -> tuple[str, ...]:
        """Make events pending again that Redis has lost."""
        for stream in STREAMS:
            if stream in found.problems:
                self._note(found.problems[stream], f"read {stream}", stream)
            else:
                self._settle(f"read {stream}")
        if INFO in found.problems:
            self._note(found.problems[INFO], INFO)
        else:
            self._settle(INFO)
        try:
            suspicious = self._current.restore()
        except RedisError as error:
            self._note(error, "restore", self._current.key)
            suspicious = False
        else:
            self._settle("restore")
        lost: dict[str, int] = {}
        with self._allowing_refusal("requeue"):
            lost = self._history.requeue_lost(found, all_streams=suspicious)
        return found.notices + tuple(
            f"Redis has lost {count} events of {stream}; they are published again" for stream, count in lost.items()
        )

    # ---------------------------------------------------------------- sending

    def _held_up(self) -> list[str]:
        """The streams that reject writes now."""
        return [
            stream for stream in STREAMS if f"read {stream}" in self._problems or not self._may_try(f"send {stream}")
        ]

    def _send_batches(self) -> int:
        """Send up to BATCHES * BATCH pending events; how many are in their streams now."""
        sent = 0
        with self._allowing_refusal("send"):
            for _ in range(BATCHES):
                batch = self._outbox.pending_events(BATCH, besides=self._held_up())
                sent += self._send(batch)
                if len(batch) < BATCH:
                    break
        return sent

    def _send(self, batch: Sequence[StoredEvent]) -> int:
        """Send events; how many are in their streams now."""
        if not batch:
            return 0
        self._learn(stored.event for stored in batch)
        self._history.refresh(list(dict.fromkeys(stored.event.stream for stored in batch)))
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
        """Whether the entry of an event is in its stream although its reply was lost."""
        stream, stream_id = stored.event.stream, stored.stream_id
        if stream_id is None or parts_of(stream_id) > self._history.last_id_of(stream):
            return False
        entries = entries_in(self._client.xrange(stream, stream_id, stream_id))
        return any(text_of(fields.get(b"event_id", b"")) == stored.event.event_id for _, fields in entries)

    def _chosen(self, batch: Sequence[StoredEvent]) -> dict[str, StreamId]:
        """Assign and store the stream id of each event: the present one if it is still usable, else a new one.

        A new id is above every id that the stream has had, also after the clock was set back.
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
        """Whether an id is so old, after weeks without Redis, that its entry would be trimmed soon."""
        return self._now() - datetime.fromtimestamp(stream_id[0] / 1000, UTC) > RETENTION / 2

    def _added(self, events: Sequence[Event], chosen: Mapping[str, StreamId]) -> list[Event]:
        """Send all entries or none; the events whose streams accepted them."""
        if not events:
            return []
        pipeline = self._current.fenced() or self._client.pipeline(transaction=True)
        for event in events:
            milliseconds, sequence = chosen[event.event_id]
            fields = {**fields_of(event, msgspec.json.encode(event.payload).decode()), **self._origin}
            fields |= self._current.signature_of(event)
            pipeline.xadd(event.stream, dict(fields.items()), id=f"{milliseconds}-{sequence}")
        added = []
        for event, reply in zip(events, pipeline.execute(raise_on_error=False), strict=True):
            if not isinstance(reply, RedisError):
                added.append(event)
            elif "equal or smaller" not in str(reply):  # another client added an entry: the next batch assigns new ids
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
