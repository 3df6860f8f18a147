"""Finds sent events that Redis has lost: by a restart from an old snapshot, a flush, an eviction.

The last id of a stream and its number of entries ever added never decrease while the server keeps its data, not even
when entries are trimmed or deleted. When they do, the sent events are compared with the stream entry by entry, and the
missing ones become pending again, with new ids: a consumer that has read past an old id would not see an entry there.

After a failover other writers may have hidden the decrease before it was read. So the streams are compared as well when
another server answers: from its oldest entry on, because what is older may have been trimmed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from redis.exceptions import RedisError

from retrain_worker.adapters.outbox import Outbox
from retrain_worker.domain.envelope import StreamId, parts_of
from retrain_worker.domain.events import STREAM_RETENTION_DAYS, EventType, stream_of
from retrain_worker.redis_client import entries_in, eviction_warning, is_no_such_key

STREAMS = tuple(stream_of(kind) for kind in EventType)
RETENTION = timedelta(days=STREAM_RETENTION_DAYS)
#: among the problems of reading: that of the server's own state
INFO = "info"
_PAGE = 50
#: key of the highest id of a lost stream in the outbox: a consumer may have read up to it
_LOST_TOP = "relay/lost_top/"
#: key of the run id of the server with which the streams were compared last
_SERVER = "relay/server"
#: entries of one batch have the same time part: some of them may have been trimmed
_AFTER_OLDEST = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True)
class StreamState:
    """XINFO STREAM of one stream."""

    last_id: StreamId
    #: None before Redis 7.0
    entries_added: int | None
    #: when the oldest entry was added; None without entries
    oldest_at: datetime | None

    @property
    def top(self) -> int:
        """Time part of the last id."""
        return self.last_id[0]


@dataclass(frozen=True, kw_only=True)
class StreamStates:
    """All streams at one moment; None: the stream does not exist."""

    states: Mapping[str, StreamState | None]
    problems: Mapping[str, RedisError] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    #: run id; empty: unknown
    server: str = ""


class StreamHistory:
    """Compares the state of the streams with the sent events."""

    def __init__(self, client: redis.Redis, outbox: Outbox, now: Callable[[], datetime]) -> None:
        self._client = client
        self._outbox = outbox
        self._now = now
        self._run_id = ""
        self._eviction: str | None = None
        self._states: dict[str, StreamState | None] = {}
        #: stream -> time part of the highest id seen in it; 0: nothing sent
        self._sent_top: dict[str, int] = {}
        self._entries_added: dict[str, int] = {}

    def read(self) -> StreamStates:
        """Read the state of all streams, in one round trip. Raises RedisError when Redis does not answer."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.info("server")
        pipeline.info("memory")
        for stream in STREAMS:
            pipeline.xinfo_stream(stream)
        server, memory, *replies = pipeline.execute(raise_on_error=False)
        states: dict[str, StreamState | None] = {}
        problems: dict[str, RedisError] = {}
        for stream, reply in zip(STREAMS, replies, strict=True):
            if not isinstance(reply, RedisError):
                states[stream] = _state_of(reply)
            elif is_no_such_key(reply):
                states[stream] = None
            else:
                problems[stream] = reply
        self._states = states
        for reply in (server, memory):
            if isinstance(reply, RedisError):
                problems[INFO] = reply
        run_id = "" if isinstance(server, RedisError) else str(server.get("run_id", ""))
        eviction = None if isinstance(memory, RedisError) else eviction_warning(memory)
        notices = (*self._restart_notice(run_id), *self._eviction_notice(eviction))
        return StreamStates(states=states, problems=problems, notices=notices, server=run_id)

    def refresh(self, streams: Sequence[str]) -> None:
        """Read the last ids of some streams, in one round trip. Raises RedisError."""
        pipeline = self._client.pipeline(transaction=False)
        for stream in streams:
            pipeline.xinfo_stream(stream)
        for stream, reply in zip(streams, pipeline.execute(raise_on_error=False), strict=True):
            if not isinstance(reply, RedisError):
                self._states[stream] = _state_of(reply)
            elif is_no_such_key(reply):
                self._states[stream] = None
            else:
                raise reply

    def last_id_of(self, stream: str) -> StreamId:
        """The last id of the stream when it was read last; (0, 0) when it did not exist."""
        state = self._states.get(stream)
        return state.last_id if state else (0, 0)

    def top_of(self, stream: str) -> int:
        """Time part of the highest known id of the stream, also from before it was lost."""
        state = self._states.get(stream)
        lost = self._outbox.recall(_LOST_TOP + stream, int) or 0
        return max(state.top if state else 0, self._sent_top_of(stream), lost)

    def note_sent(self, stream: str, stream_id: StreamId) -> None:
        """Note that an entry of this program is in the stream."""
        self._sent_top[stream] = max(self._sent_top_of(stream), stream_id[0])

    def requeue_lost(self, found: StreamStates, *, all_streams: bool) -> dict[str, int]:
        """Make lost events pending again; how many of each stream. `all_streams`: compare every stream."""
        lost = {}
        known = self._outbox.recall(_SERVER, str)
        is_other_server = bool(known and found.server and known != found.server)
        oldest = self._now() - RETENTION
        for stream, state in found.states.items():
            count = 0
            if all_streams or self._has_decreased(stream, state):
                count = self._requeue_missing(stream, since=oldest)
            elif is_other_server and state is not None and state.oldest_at is not None:
                count = self._requeue_missing(stream, since=max(oldest, state.oldest_at + _AFTER_OLDEST))
            if count:
                lost[stream] = count
            if state is not None and state.entries_added is not None:
                self._entries_added[stream] = state.entries_added
        if found.server and known != found.server and not found.problems:
            self._outbox.remember(_SERVER, found.server)
        return lost

    def _has_decreased(self, stream: str, state: StreamState | None) -> bool:
        sent_top = self._sent_top_of(stream)
        if state is None:
            return sent_top > 0
        fewer = state.entries_added is not None and state.entries_added < self._entries_added.get(stream, 0)
        return fewer or state.top < sent_top

    def _sent_top_of(self, stream: str) -> int:
        if stream not in self._sent_top:
            self._sent_top[stream] = self._outbox.highest_sent_milliseconds(stream, since=self._now() - RETENTION)
        return self._sent_top[stream]

    def _requeue_missing(self, stream: str, *, since: datetime) -> int:
        """Make the events sent at `since` or later pending again that are not in the stream; how many."""
        present = self._event_ids_in(stream)
        sent = self._outbox.sent_event_ids(stream, since=since)
        missing = [event_id for event_id in sent if event_id not in present]
        if missing:
            self._outbox.remember(_LOST_TOP + stream, self.top_of(stream))
            self._outbox.requeue(missing)
        state = self._states.get(stream)
        self._sent_top[stream] = state.top if state else 0
        self._entries_added.pop(stream, None)
        return len(missing)

    def _event_ids_in(self, stream: str) -> set[str]:
        found: set[str] = set()
        start = "-"
        while page := entries_in(self._client.xrange(stream, start, "+", count=_PAGE)):
            found.update(fields.get(b"event_id", b"").decode(errors="replace") for _, fields in page)
            start = f"({page[-1][0]}"
        return found

    def _restart_notice(self, run_id: str) -> tuple[str, ...]:
        before, self._run_id = self._run_id, run_id or self._run_id
        return ("Redis was restarted or replaced by another server",) if before and before != self._run_id else ()

    def _eviction_notice(self, eviction: str | None) -> tuple[str, ...]:
        before, self._eviction = self._eviction, eviction
        return (eviction,) if eviction and eviction != before else ()


def trim(client: redis.Redis, stream: str, *, before: datetime) -> int:
    """Remove entries older than `before` and than the oldest entry that a group has pending; how many."""
    try:
        groups = client.xinfo_groups(stream)
    except RedisError as error:
        if is_no_such_key(error):
            return 0
        raise
    limit = (int(before.timestamp() * 1000), 0)
    for group in groups:
        if group["pending"]:
            smallest = client.xpending(stream, group["name"])["min"]
            limit = min(limit, parts_of(smallest.decode())) if smallest else limit
    return client.xtrim(stream, minid=f"{limit[0]}-{limit[1]}", approximate=False)


def _state_of(reply: Mapping[str, Any]) -> StreamState:
    added, oldest = reply.get("entries-added"), reply.get("first-entry")
    return StreamState(
        last_id=parts_of(reply["last-generated-id"].decode()),
        entries_added=None if added is None else int(added),
        oldest_at=datetime.fromtimestamp(parts_of(oldest[0].decode())[0] / 1000, UTC) if oldest else None,
    )
