"""Events for those who react to them: a typed, patient reader of our streams.

    events = ModelEvents("redis://localhost:6379", group="my_service", consumer="my-host")
    for event in events:
        handle(event)
        events.acknowledge(event)

An event comes again until it is acknowledged: after a restart at once, otherwise when it has lain for a while. What is
handled once does not come twice, although our side publishes again what Redis has lost. An entry that nobody survives,
or that makes no sense, is set aside after a few tries. The loop outlives every fault of Redis.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast

import redis
from redis.exceptions import RedisError, ResponseError

from retrain_worker.domain.envelope import ReceivedEvent, received
from retrain_worker.domain.events import EventType, stream_of
from retrain_worker.redis_client import connect, entries_in, is_no_group, problem_of, set_aside, streams_in, text_of

MAX_TRIES = 5
RECLAIM_AFTER_SECONDS = 60.0
#: one wait of the server; it must be shorter than the socket's timeout
BLOCK_SECONDS = 1.0
_SOCKET_TIMEOUT_SECONDS = BLOCK_SECONDS + 5.0
_LONGEST_PAUSE_SECONDS = 30.0
#: event ids that are known to be handled
_MEMORY = 10_000
#: entries of a stream whose ids are read back when we start
_LOOK_BACK = 1_000
_PAGE = 100
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """An entry that was delivered before, to us or to somebody else, and not acknowledged."""

    stream: str
    stream_id: str
    times_delivered: int
    min_idle_milliseconds: int


class ModelEvents:
    """An iterator over events, in the order of each stream. One thread iterates; `stop` may come from any other."""

    def __init__(
        self, redis_url: str, *, group: str, consumer: str, types: Iterable[str] = tuple(EventType),
        only_new: bool = False, max_tries: int = MAX_TRIES, reclaim_after_seconds: float = RECLAIM_AFTER_SECONDS,
    ) -> None:
        """`consumer` names this process and must stay the same over restarts.

        A group that does not exist yet begins with everything that is kept (30 days), with `only_new` at the present.
        """
        self._client: redis.Redis = connect(
            redis_url, socket_timeout_seconds=_SOCKET_TIMEOUT_SECONDS, client_name=f"model-events:{consumer}")
        self._group = group
        self._consumer = consumer
        self._streams = tuple(stream_of(kind) for kind in types)
        self._first_id = "$" if only_new else "0"
        self._max_tries = max_tries
        self._reclaim_milliseconds = int(reclaim_after_seconds * 1000)
        self._stopped = threading.Event()
        self._handled: OrderedDict[str, None] = OrderedDict()
        self._waiting: deque[_Waiting] = deque()
        self._fresh: deque[tuple[str, str, dict[bytes, bytes]]] = deque()
        #: given to the caller by this object and not acknowledged: they come again only when they have lain for a while
        self._in_hand: set[tuple[str, str]] = set()
        self._is_ready = False
        self._reclaim_at = 0.0
        self._problem: str | None = None
        self._pause_seconds = 0.0

    def __iter__(self) -> Iterator[ReceivedEvent]:
        while not self._stopped.is_set():
            try:
                event = self._next()
            except RedisError as error:
                self._wait_after(error)
                continue
            self._note_recovery()
            if event is not None:
                yield event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._client.close()

    def stop(self) -> None:
        """End the iteration within BLOCK_SECONDS."""
        self._stopped.set()

    def acknowledge(self, event: ReceivedEvent) -> None:
        """The event is handled. If Redis does not hear it now, it is told when it offers the event again."""
        self._remember(event.event_id)
        self._in_hand.discard((event.stream, event.stream_id))
        try:
            self._client.xack(event.stream, self._group, event.stream_id)
        except RedisError as error:
            _log.debug("acknowledgement of %s not delivered: %s", event.event_id, self._sentence(error))

    # ---------------------------------------------------------------- one step

    def _next(self) -> ReceivedEvent | None:
        if not self._is_ready:
            self._prepare()
        if time.monotonic() >= self._reclaim_at:
            self._find_abandoned()
        if self._waiting:
            return self._claim(self._waiting.popleft())
        if not self._fresh:
            seconds = min(BLOCK_SECONDS, self._reclaim_at - time.monotonic())
            reply = self._client.xreadgroup(
                self._group, self._consumer, dict.fromkeys(self._streams, ">"), count=_PAGE,
                block=max(1, int(seconds * 1000)))
            self._fresh.extend(streams_in(reply))
        return self._offer(*self._fresh.popleft()) if self._fresh else None

    def _offer(self, stream: str, stream_id: str, fields: dict[bytes, bytes], tries: int = 1) -> ReceivedEvent | None:
        """The event in an entry, unless it was handled before or can never be."""
        try:
            event = received(stream, stream_id, fields)
        except ValueError as error:
            self._refuse(stream, stream_id, fields, str(error))
            return None
        if event.event_id in self._handled:
            self.acknowledge(event)
            return None
        if tries > self._max_tries:
            self._refuse(stream, stream_id, fields, f"it was tried {tries - 1} times and never acknowledged")
            return None
        self._in_hand.add((stream, stream_id))
        return event

    def _refuse(self, stream: str, stream_id: str, fields: dict[bytes, bytes], reason: str) -> None:
        set_aside(self._client, group=self._group, stream=stream, entry_id=stream_id, fields=fields, reason=reason)
        _log.warning("entry %s of %s is set aside: %s", stream_id, stream, reason)

    def _claim(self, waiting: _Waiting) -> ReceivedEvent | None:
        """Take one entry. One at a time, because each claim counts as a try, also of those that we would not get to."""
        reply = self._client.xclaim(waiting.stream, self._group, self._consumer, waiting.min_idle_milliseconds,
                                    [waiting.stream_id])
        for stream_id, fields in entries_in(reply):
            return self._offer(waiting.stream, stream_id, fields, tries=waiting.times_delivered + 1)
        if not self._client.xrange(waiting.stream, waiting.stream_id, waiting.stream_id):
            self._client.xack(waiting.stream, self._group, waiting.stream_id)  # trimmed away while it was pending
        return None

    # ---------------------------------------------------------------- what was delivered before

    def _prepare(self) -> None:
        """Have our group on every stream, learn what it has handled, find what we were given and lost."""
        self._fresh.clear()
        self._waiting.clear()
        for stream in self._streams:
            self._create_group(stream)
            pending = self._pending(stream)
            self._learn_handled(stream, {entry["message_id"] for entry in pending})
            ours = (_waiting(stream, entry, 0) for entry in pending if text_of(entry["consumer"]) == self._consumer)
            self._waiting.extend(each for each in ours if (stream, each.stream_id) not in self._in_hand)
        self._first_id = "0"  # a group that disappears later has missed what came meanwhile
        self._is_ready = True

    def _create_group(self, stream: str) -> None:
        try:
            self._client.xgroup_create(stream, self._group, id=self._first_id, mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def _learn_handled(self, stream: str, pending: set[bytes]) -> None:
        """Entries that the group has passed and that are not pending are handled: by an earlier life or a colleague."""
        groups = self._client.xinfo_groups(stream)
        last = next(group["last-delivered-id"] for group in groups if text_of(group["name"]) == self._group)
        for stream_id, fields in entries_in(self._client.xrevrange(stream, last, "-", count=_LOOK_BACK)):
            if stream_id.encode() not in pending and b"event_id" in fields:
                self._remember(text_of(fields[b"event_id"]))

    def _find_abandoned(self) -> None:
        """Entries that anybody has held for too long, we too."""
        for stream in self._streams:
            known = {(each.stream, each.stream_id) for each in self._waiting}
            idle = self._pending(stream, idle_milliseconds=self._reclaim_milliseconds)
            abandoned = (_waiting(stream, entry, self._reclaim_milliseconds) for entry in idle)
            self._waiting.extend(each for each in abandoned if (stream, each.stream_id) not in known)
        self._reclaim_at = time.monotonic() + self._reclaim_milliseconds / 1000 / 2

    def _pending(self, stream: str, idle_milliseconds: int | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        start = "-"
        while page := cast(list[dict[str, Any]], self._client.xpending_range(
                stream, self._group, start, "+", _PAGE, idle=idle_milliseconds)):
            found += page
            start = f"({text_of(page[-1]['message_id'])}"
        return found

    def _remember(self, event_id: str) -> None:
        self._handled[event_id] = None
        self._handled.move_to_end(event_id)
        while len(self._handled) > _MEMORY:
            self._handled.popitem(last=False)

    # ---------------------------------------------------------------- faults

    def _wait_after(self, error: RedisError) -> None:
        self._is_ready = False
        if is_no_group(error):  # it is made again at once
            self._stopped.wait(0.1)
            return
        if self._problem != (sentence := self._sentence(error)):
            self._problem = sentence
            _log.warning("%s; events come when that is over", sentence)
        self._pause_seconds = min(max(2 * self._pause_seconds, 0.25), _LONGEST_PAUSE_SECONDS)
        self._stopped.wait(self._pause_seconds)

    def _note_recovery(self) -> None:
        if self._problem is not None:
            _log.info("events can be read again")
        self._problem, self._pause_seconds = None, 0.0

    def _sentence(self, error: RedisError) -> str:
        return problem_of(error, self._client, key=" or ".join(self._streams)).sentence


def _waiting(stream: str, entry: dict[str, Any], min_idle_milliseconds: int) -> _Waiting:
    return _Waiting(stream=stream, stream_id=text_of(entry["message_id"]), times_delivered=entry["times_delivered"],
                    min_idle_milliseconds=min_idle_milliseconds)
