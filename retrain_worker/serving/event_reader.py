"""How events are read: groups, what is pending, what was handled, what nobody survives. Logic only; `driving` does it.

An entry that was delivered before comes first: ours after a restart at once, anybody's when it has lain for a while.
Redis counts how often it was delivered; after too many tries it is set aside. An event that was handled before, here
or by a colleague, under this stream id or an older one, is acknowledged and passed over.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError, ResponseError

from retrain_worker.domain.envelope import ReceivedEvent, received
from retrain_worker.redis_client import (
    SET_ASIDE_LENGTH,
    SET_ASIDE_PREFIX,
    dead_letter_fields,
    entries_in,
    is_no_group,
    streams_in,
    text_of,
)
from retrain_worker.serving.handled_events import HandledEvents
from retrain_worker.serving.io_drivers import Pause, Steps, call

#: one wait of the server; it must be shorter than the socket's timeout
BLOCK_SECONDS = 1.0
SOCKET_TIMEOUT_SECONDS = BLOCK_SECONDS + 5.0
_LONGEST_PAUSE_SECONDS = 30.0
#: entries of a stream whose ids are read back when we start
_LOOK_BACK = 1_000
_PAGE = 100
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReaderPolicy:
    """What a consumer may choose."""

    group: str
    consumer: str
    streams: Sequence[str]
    only_new: bool
    max_tries: int
    reclaim_after_seconds: float


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """An entry that was delivered before, to us or to somebody else, and not acknowledged."""

    stream: str
    stream_id: str
    times_delivered: int
    min_idle_milliseconds: int


class EventReader:
    """One step at a time; every method that returns Steps is to be driven."""

    def __init__(
        self, policy: ReaderPolicy, handled: HandledEvents, *, sentence_of: Callable[[RedisError], str]
    ) -> None:
        """`sentence_of` puts an error of Redis into words without secrets."""
        self._policy = policy
        self._handled = handled
        self._sentence_of = sentence_of
        self._first_id = "$" if policy.only_new else "0"
        self._reclaim_milliseconds = int(policy.reclaim_after_seconds * 1000)
        self._waiting: deque[_Waiting] = deque()
        self._fresh: deque[tuple[str, str, dict[bytes, bytes]]] = deque()
        #: given to the caller by this object and not acknowledged: they come again only when they have lain for a while
        self._in_hand: set[tuple[str, str]] = set()
        self._is_ready = False
        self._reclaim_at = 0.0
        self._problem: str | None = None
        self._pause_seconds = 0.0

    def step(self) -> Steps[ReceivedEvent | None]:
        """The next event; None when none came within BLOCK_SECONDS, or after the pause that a fault asks for."""
        try:
            event = yield from self._next()
        except RedisError as error:
            yield self._pause_after(error)
            return None
        except GeneratorExit:
            self._is_ready = False  # cancelled: what Redis was about to give us is pending
            raise
        self._note_recovery()
        return event

    def acknowledge(self, event: ReceivedEvent) -> Steps[None]:
        """The event is handled. If Redis does not hear it now, it is told when it offers the event again."""
        self._handled.add(event.event_id)
        self._in_hand.discard((event.stream, event.stream_id))
        try:
            yield call("xack", event.stream, self._policy.group, event.stream_id)
        except RedisError as error:
            _log.debug("acknowledgement of %s not delivered: %s", event.event_id, self._sentence_of(error))

    # ---------------------------------------------------------------- one step

    def _next(self) -> Steps[ReceivedEvent | None]:
        if not self._is_ready:
            yield from self.prepare()
        if time.monotonic() >= self._reclaim_at:
            yield from self._find_abandoned()
        if self._waiting:
            return (yield from self._claim(self._waiting.popleft()))
        if not self._fresh:
            seconds = min(BLOCK_SECONDS, self._reclaim_at - time.monotonic())
            reply = yield call(
                "xreadgroup",
                self._policy.group,
                self._policy.consumer,
                dict.fromkeys(self._policy.streams, ">"),
                count=_PAGE,
                block=max(1, int(seconds * 1000)),
            )
            self._fresh.extend(streams_in(reply))
        return (yield from self._offer(*self._fresh.popleft())) if self._fresh else None

    def _offer(
        self, stream: str, stream_id: str, fields: dict[bytes, bytes], tries: int = 1
    ) -> Steps[ReceivedEvent | None]:
        """The event in an entry, unless it was handled before or can never be."""
        try:
            event = received(stream, stream_id, fields)
        except ValueError as error:
            yield from self._refuse(stream, stream_id, fields, str(error))
            return None
        if event.event_id in self._handled:
            yield from self.acknowledge(event)
            return None
        if tries > self._policy.max_tries:
            reason = f"it was tried {tries - 1} times and never acknowledged"
            yield from self._refuse(stream, stream_id, fields, reason)
            return None
        self._in_hand.add((stream, stream_id))
        return event

    def _refuse(self, stream: str, stream_id: str, fields: dict[bytes, bytes], reason: str) -> Steps[None]:
        kept = dead_letter_fields(stream=stream, entry_id=stream_id, fields=fields, reason=reason)
        yield call("xadd", SET_ASIDE_PREFIX + self._policy.group, kept, maxlen=SET_ASIDE_LENGTH)
        yield call("xack", stream, self._policy.group, stream_id)
        _log.warning("entry %s of %s is set aside: %s", stream_id, stream, reason)

    def _claim(self, waiting: _Waiting) -> Steps[ReceivedEvent | None]:
        """Take one entry. One at a time, because each claim counts as a try, also of those that we would not get to."""
        group, stream, stream_id = self._policy.group, waiting.stream, waiting.stream_id
        reply = yield call("xclaim", stream, group, self._policy.consumer, waiting.min_idle_milliseconds, [stream_id])
        for claimed_id, fields in entries_in(reply):
            return (yield from self._offer(stream, claimed_id, fields, tries=waiting.times_delivered + 1))
        if not (yield call("xrange", stream, stream_id, stream_id)):
            yield call("xack", stream, group, stream_id)  # trimmed away while it was pending
        return None

    # ---------------------------------------------------------------- what was delivered before

    def prepare(self) -> Steps[None]:
        """Have our group on every stream, learn what it has handled, find what we were given and lost."""
        self._fresh.clear()
        self._waiting.clear()
        for stream in self._policy.streams:
            yield from self._create_group(stream)
            passed = yield from self._last_delivered(stream)  # first: a colleague may be given more meanwhile
            pending = yield from self._pending(stream)
            yield from self._learn_handled(stream, passed, {entry["message_id"] for entry in pending})
            ours = [entry for entry in pending if text_of(entry["consumer"]) == self._policy.consumer]
            lost = (_waiting(stream, entry, 0) for entry in ours)
            self._waiting.extend(each for each in lost if (stream, each.stream_id) not in self._in_hand)
        self._first_id = "0"  # a group that disappears later has missed what came meanwhile
        self._is_ready = True

    def _create_group(self, stream: str) -> Steps[None]:
        try:
            yield call("xgroup_create", stream, self._policy.group, id=self._first_id, mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def _last_delivered(self, stream: str) -> Steps[bytes]:
        """The last id that our group was given; 0-0 when somebody has destroyed the group just now."""
        groups = yield call("xinfo_groups", stream)
        found = (group["last-delivered-id"] for group in groups if text_of(group["name"]) == self._policy.group)
        return next(found, b"0-0")

    def _learn_handled(self, stream: str, passed: bytes, pending: set[bytes]) -> Steps[None]:
        """Entries that the group had passed and that are not pending are handled: by an earlier life or a colleague."""
        for stream_id, fields in entries_in((yield call("xrevrange", stream, passed, "-", count=_LOOK_BACK))):
            if stream_id.encode() not in pending and b"event_id" in fields:
                self._handled.add(text_of(fields[b"event_id"]))

    def _find_abandoned(self) -> Steps[None]:
        """Entries that anybody has held for too long, we too."""
        for stream in self._policy.streams:
            known = {(each.stream, each.stream_id) for each in self._waiting}
            idle = yield from self._pending(stream, idle_milliseconds=self._reclaim_milliseconds)
            abandoned = (_waiting(stream, entry, self._reclaim_milliseconds) for entry in idle)
            self._waiting.extend(each for each in abandoned if (stream, each.stream_id) not in known)
        self._reclaim_at = time.monotonic() + self._reclaim_milliseconds / 1000 / 2

    def _pending(self, stream: str, idle_milliseconds: int | None = None) -> Steps[list[dict[str, Any]]]:
        found: list[dict[str, Any]] = []
        start = "-"
        while page := (
            yield call("xpending_range", stream, self._policy.group, start, "+", _PAGE, idle=idle_milliseconds)
        ):
            found += page
            start = f"({text_of(page[-1]['message_id'])}"
        return found

    # ---------------------------------------------------------------- faults

    def _pause_after(self, error: RedisError) -> Pause:
        self._is_ready = False
        if is_no_group(error):  # it is made again at once
            return Pause(0.1)
        if self._problem != (message := self._sentence_of(error)):
            self._problem = message
            _log.warning("%s; events come when that is over", message)
        self._pause_seconds = min(max(2 * self._pause_seconds, 0.25), _LONGEST_PAUSE_SECONDS)
        return Pause(self._pause_seconds)

    def _note_recovery(self) -> None:
        if self._problem is not None:
            _log.info("events can be read again")
        self._problem, self._pause_seconds = None, 0.0


def _waiting(stream: str, entry: dict[str, Any], min_idle_milliseconds: int) -> _Waiting:
    return _Waiting(
        stream=stream,
        stream_id=text_of(entry["message_id"]),
        times_delivered=entry["times_delivered"],
        min_idle_milliseconds=min_idle_milliseconds,
    )
