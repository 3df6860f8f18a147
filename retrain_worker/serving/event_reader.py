"""Consumer-group reader: pending entries, de-duplication, dead letters. No I/O; `io_drivers` performs it.

Entries that were delivered before come first: this consumer's own immediately after a restart, those of other consumers
when they have been pending for a while. Redis counts deliveries; after too many the entry is dead-lettered. An event
that this consumer or another member of the group has handled, under any stream id, is acknowledged and skipped.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from retrain_worker.domain.decoding import MAX_NAME
from retrain_worker.domain.envelope import ReceivedEvent, received
from retrain_worker.domain.redis_names import DEAD_LETTER_PREFIX
from retrain_worker.domain.typed_events import TypedEvent
from retrain_worker.errors import MalformedError
from retrain_worker.redis_client import (
    DEAD_LETTER_LENGTH,
    PAGE,
    dead_letter_fields,
    entries_in,
    is_no_group,
    streams_in,
    text_of,
)
from retrain_worker.serving.handled_events import HandledEvents
from retrain_worker.serving.io_drivers import Call, Pause, Steps, call

#: of one blocking read; less than the socket timeout
BLOCK_SECONDS = 1.0
SOCKET_TIMEOUT_SECONDS = BLOCK_SECONDS + 5.0
_LONGEST_PAUSE_SECONDS = 30.0
#: entries of a stream whose ids are read at start
_LOOK_BACK = 1_000
#: pending entries of one reply
_PAGE = 100
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReaderPolicy:
    """Options of a consumer."""

    group: str
    consumer: str
    streams: Sequence[str]
    only_new: bool
    max_tries: int
    reclaim_after_seconds: float


@dataclass(frozen=True, kw_only=True)
class _PendingEntry:
    """An entry that was delivered to a consumer of the group and not acknowledged."""

    stream: str
    stream_id: str
    times_delivered: int
    min_idle_milliseconds: int


class EventReader:
    """Methods that return Steps are executed by a driver of `io_drivers`."""

    def __init__(
        self, policy: ReaderPolicy, handled: HandledEvents, *, message_of: Callable[[RedisError], str]
    ) -> None:
        """`message_of` turns a Redis error into a message without secrets."""
        self._policy = policy
        self._handled = handled
        self._message_of = message_of
        self._first_id = "$" if policy.only_new else "0"
        self._reclaim_milliseconds = int(policy.reclaim_after_seconds * 1000)
        self._pending_entries: deque[_PendingEntry] = deque()
        self._fresh: deque[tuple[str, str, dict[bytes, bytes]]] = deque()
        #: returned by this object and not acknowledged: repeated only after `reclaim_after_seconds`
        self._unacknowledged: set[tuple[str, str]] = set()
        self._is_ready = False
        self._reclaim_at = 0.0
        self._problem: str | None = None
        #: messages about refused commands, each logged once
        self._refusals: set[str] = set()
        self._pause_seconds = 0.0

    def step(self) -> Steps[ReceivedEvent | None]:
        """The next event; None when none arrived within BLOCK_SECONDS, or after the pause that follows a fault."""
        try:
            event = yield from self._next()
        except RedisError as error:
            yield self._pause_after(error)
            return None
        except GeneratorExit:
            self._is_ready = False  # cancelled: an entry that Redis was returning is pending now
            raise
        self._note_recovery()
        return event

    def acknowledge(self, event: TypedEvent[str, Any]) -> Steps[None]:
        """Mark the event as handled. If Redis cannot be reached, it is acknowledged when it is delivered again."""
        self._handled.add(event.event_id)
        self._unacknowledged.discard((event.stream, event.stream_id))
        try:
            yield from self._unless_refused(call("xack", event.stream, self._policy.group, event.stream_id), None)
        except RedisError as error:
            _log.debug("acknowledgement of %s not delivered: %s", event.event_id, self._message_of(error))

    # ---------------------------------------------------------------- one step

    def _next(self) -> Steps[ReceivedEvent | None]:
        if not self._is_ready:
            yield from self.prepare()
        if time.monotonic() >= self._reclaim_at:
            yield from self._find_abandoned()
        if self._pending_entries:
            return (yield from self._claim(self._pending_entries.popleft()))
        if not self._fresh:
            seconds = min(BLOCK_SECONDS, self._reclaim_at - time.monotonic())
            reply = yield call(
                "xreadgroup",
                self._policy.group,
                self._policy.consumer,
                dict.fromkeys(self._policy.streams, ">"),
                count=PAGE,
                block=max(1, int(seconds * 1000)),
            )
            self._fresh.extend(streams_in(reply))
        return (yield from self._offer(*self._fresh.popleft())) if self._fresh else None

    def _offer(
        self, stream: str, stream_id: str, fields: dict[bytes, bytes], tries: int = 1
    ) -> Steps[ReceivedEvent | None]:
        """The event in an entry; None when it was handled before or is dead-lettered."""
        try:
            event = received(stream, stream_id, fields)
        except MalformedError as error:
            yield from self._refuse(stream, stream_id, fields, str(error))
            return None
        if event.event_id in self._handled:
            yield from self.acknowledge(event)
            return None
        if tries > self._policy.max_tries:
            reason = f"it was tried {tries - 1} times and never acknowledged"
            yield from self._refuse(stream, stream_id, fields, reason)
            return None
        self._unacknowledged.add((stream, stream_id))
        return event

    def _unless_refused(self, request: Call, otherwise: Any) -> Steps[Any]:
        """The reply; `otherwise` where an ACL refuses a command that the delivery of new events does not need."""
        try:
            return (yield request)
        except NoPermissionError as error:
            message = self._message_of(error)
            if message not in self._refusals:
                self._refusals.add(message)
                _log.warning("%s", message)
            return otherwise

    def _refuse(self, stream: str, stream_id: str, fields: dict[bytes, bytes], reason: str) -> Steps[None]:
        kept = dead_letter_fields(stream=stream, entry_id=stream_id, fields=fields, reason=reason)
        dead_letters = DEAD_LETTER_PREFIX + self._policy.group
        yield from self._unless_refused(call("xadd", dead_letters, kept, maxlen=DEAD_LETTER_LENGTH), None)
        yield from self._unless_refused(call("xack", stream, self._policy.group, stream_id), None)
        _log.warning("entry %s of %s is dead-lettered: %s", stream_id, stream, reason)

    def _claim(self, waiting: _PendingEntry) -> Steps[ReceivedEvent | None]:
        """Claim one entry. Each claim counts as a delivery, so entries are claimed one at a time."""
        group, stream, stream_id = self._policy.group, waiting.stream, waiting.stream_id
        claim = call("xclaim", stream, group, self._policy.consumer, waiting.min_idle_milliseconds, [stream_id])
        reply = yield from self._unless_refused(claim, None)
        for claimed_id, fields in entries_in(reply):
            return (yield from self._offer(stream, claimed_id, fields, tries=waiting.times_delivered + 1))
        if not (yield from self._unless_refused(call("xrange", stream, stream_id, stream_id), otherwise=True)):
            yield call("xack", stream, group, stream_id)  # trimmed while it was pending
        return None

    # ---------------------------------------------------------------- pending entries

    def prepare(self) -> Steps[None]:
        """Create the group on every stream, read what it has handled, and find this consumer's pending entries."""
        self._fresh.clear()
        self._pending_entries.clear()
        for stream in self._policy.streams:
            yield from self._create_group(stream)
            passed = yield from self._last_delivered(stream)  # first: another consumer may receive entries in between
            pending = yield from self._pending(stream)
            yield from self._learn_handled(stream, passed, {entry["message_id"] for entry in pending})
            ours = [entry for entry in pending if text_of(entry["consumer"]) == self._policy.consumer]
            lost = (_pending_entry(stream, entry, 0) for entry in ours)
            self._pending_entries.extend(each for each in lost if (stream, each.stream_id) not in self._unacknowledged)
        self._first_id = "0"  # a group that disappears later has missed the entries since
        self._is_ready = True

    def _create_group(self, stream: str) -> Steps[None]:
        try:
            yield call("xgroup_create", stream, self._policy.group, id=self._first_id, mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def _last_delivered(self, stream: str) -> Steps[bytes]:
        """The last id delivered to the group; 0-0 when the group has just been destroyed."""
        groups = yield from self._unless_refused(call("xinfo_groups", stream), [])
        found = (group["last-delivered-id"] for group in groups if text_of(group["name"]) == self._policy.group)
        return next(found, b"0-0")

    def _learn_handled(self, stream: str, passed: bytes, pending: set[bytes]) -> Steps[None]:
        """Remember delivered entries that are not pending: a consumer of the group has handled them."""
        newest = text_of(passed)
        for _ in range(_LOOK_BACK // PAGE):
            reply = yield from self._unless_refused(call("xrevrange", stream, newest, "-", count=PAGE), None)
            page = entries_in(reply)
            for stream_id, fields in page:
                if stream_id.encode() not in pending and b"event_id" in fields:
                    self._handled.add(text_of(fields[b"event_id"][:MAX_NAME]))
            if len(page) < PAGE:
                break
            newest = f"({page[-1][0]}"

    def _find_abandoned(self) -> Steps[None]:
        """Entries that any consumer of the group has held for too long."""
        for stream in self._policy.streams:
            known = {(each.stream, each.stream_id) for each in self._pending_entries}
            idle = yield from self._pending(stream, idle_milliseconds=self._reclaim_milliseconds)
            abandoned = (_pending_entry(stream, entry, self._reclaim_milliseconds) for entry in idle)
            self._pending_entries.extend(each for each in abandoned if (stream, each.stream_id) not in known)
        self._reclaim_at = time.monotonic() + self._reclaim_milliseconds / 1000 / 2

    def _pending(self, stream: str, idle_milliseconds: int | None = None) -> Steps[list[dict[str, Any]]]:
        found: list[dict[str, Any]] = []
        start = "-"
        while page := (
            yield from self._unless_refused(
                call("xpending_range", stream, self._policy.group, start, "+", _PAGE, idle=idle_milliseconds), []
            )
        ):
            found += page
            start = f"({text_of(page[-1]['message_id'])}"
        return found

    # ---------------------------------------------------------------- faults

    def _pause_after(self, error: RedisError) -> Pause:
        self._is_ready = False
        if is_no_group(error):  # it is created again immediately
            return Pause(0.1)
        if self._problem != (message := self._message_of(error)):
            self._problem = message
            _log.warning("%s; reading events is retried", message)
        self._pause_seconds = min(max(2 * self._pause_seconds, 0.25), _LONGEST_PAUSE_SECONDS)
        return Pause(self._pause_seconds)

    def _note_recovery(self) -> None:
        if self._problem is not None:
            _log.info("events are read again")
        self._problem, self._pause_seconds = None, 0.0


def _pending_entry(stream: str, entry: dict[str, Any], min_idle_milliseconds: int) -> _PendingEntry:
    return _PendingEntry(
        stream=stream,
        stream_id=text_of(entry["message_id"]),
        times_delivered=entry["times_delivered"],
        min_idle_milliseconds=min_idle_milliseconds,
    )
