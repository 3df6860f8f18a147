"""Retrain requests on the stream `quantum:stream:model.retrain`: read, acknowledged, dead-lettered, and added.

A request stays pending, and every poll returns it, until it is acknowledged; so it is acknowledged after it is stored.
One that names another model is for another worker: it is acknowledged, and nothing follows. An entry that cannot be
read goes to a dead-letter stream, with the reason.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import redis
from redis.exceptions import RedisError, ResponseError

from retrain_worker.domain.artifact import MODEL_NAME
from retrain_worker.domain.envelope import envelope, received
from retrain_worker.domain.events import REQUEST_GROUP, REQUEST_STREAM, STREAM_PREFIX
from retrain_worker.domain.payloads import RetrainRequest
from retrain_worker.redis_client import (
    BackOff,
    RedisProblem,
    add_entry,
    dead_letter,
    is_no_group,
    problem_of,
    streams_in,
    unavailable,
)

CONSUMER = "retraining_worker"
#: entries of one poll
BATCH = 100
#: a pending request of another consumer of the group is claimed after this
ABANDONED_AFTER = timedelta(minutes=5)
_EVENT_TYPE = REQUEST_STREAM.removeprefix(STREAM_PREFIX)
_MAX_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request for a run."""

    #: for `acknowledge`
    stream_id: str
    reason: str
    requested_by: str
    #: the run is to take place although nothing is new
    is_forced: bool


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """An entry that is not a request."""

    stream_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Poll:
    """What one read of the stream found."""

    requests: tuple[Request, ...] = ()
    dead_letters: tuple[DeadLetter, ...] = ()
    #: requests that name other models: the names
    other_models: tuple[str, ...] = ()
    #: why nothing could be read; the same value for as long as it lasts
    problem: RedisProblem | None = None

    @property
    def is_full(self) -> bool:
        """Whether there may be more."""
        return len(self.requests) + len(self.dead_letters) + len(self.other_models) == BATCH


class Requests:
    """Reads the stream as one consumer of its group. Never raises for what Redis does."""

    def __init__(
        self,
        client: redis.Redis,
        now: Callable[[], datetime],
        *,
        instance: str = "",
        consumer: str = CONSUMER,
        abandoned_after: timedelta = ABANDONED_AFTER,
    ) -> None:
        self._client = client
        self._instance = instance
        self._consumer = consumer
        self._abandoned_after = abandoned_after
        self._back_off = BackOff(now)
        self._problem: RedisProblem | None = None

    def poll(self) -> Poll:
        """Every request that is not acknowledged yet, oldest first, at most BATCH of them. Does not block."""
        if not self._back_off.is_over:
            return Poll(problem=self._problem)
        try:
            entries = self._entries()
            found = self._sorted(entries)
        except RedisError as error:
            self._problem = problem_of(error, self._client, key=REQUEST_STREAM)
            self._back_off.after(self._problem)
            return Poll(problem=self._problem)
        self._problem = None
        self._back_off.after(None)
        return found

    def acknowledge(self, stream_ids: Iterable[str]) -> RedisProblem | None:
        """These are stored. Returns the problem if that failed: the next poll returns them again."""
        ids = tuple(stream_ids)
        try:
            if ids:
                self._client.xack(REQUEST_STREAM, REQUEST_GROUP, *ids)
        except RedisError as error:
            return problem_of(error, self._client, key=REQUEST_STREAM)
        return None

    def _entries(self) -> dict[str, Mapping[bytes, bytes]]:
        try:
            return self._read()
        except ResponseError as error:
            if not is_no_group(error):
                raise
        _create_group(self._client)
        return self._read()

    def _read(self) -> dict[str, Mapping[bytes, bytes]]:
        """Pending entries of this consumer, those claimed from others, and new ones; id -> fields."""
        milliseconds = int(self._abandoned_after.total_seconds() * 1000)
        self._client.xautoclaim(REQUEST_STREAM, REQUEST_GROUP, self._consumer, milliseconds, count=BATCH, justid=True)
        found = self._of_group("0", BATCH)
        if len(found) < BATCH:
            found |= self._of_group(">", BATCH - len(found))
        return found

    def _of_group(self, start: str, count: int) -> dict[str, Mapping[bytes, bytes]]:
        reply = self._client.xreadgroup(REQUEST_GROUP, self._consumer, {REQUEST_STREAM: start}, count=count)
        return {entry_id: fields for _, entry_id, fields in streams_in(reply)}

    def _sorted(self, entries: Mapping[str, Mapping[bytes, bytes]]) -> Poll:
        requests, dead_letters, other_models = [], [], {}
        for stream_id, fields in entries.items():
            try:
                content = _content_of(stream_id, fields)
                model = _line(content.get("model") or content.get("model_name"))
                instance = _line(content.get("instance"))
                if instance not in ("", self._instance):
                    other_models[stream_id] = f"{model or MODEL_NAME} of instance {instance}"
                elif model.lower() in ("", MODEL_NAME):
                    requests.append(_request(stream_id, content))
                else:
                    other_models[stream_id] = model
            except ValueError as error:
                dead_letters.append(DeadLetter(stream_id=stream_id, reason=str(error)))
                dead_letter(
                    self._client,
                    group=REQUEST_GROUP,
                    stream=REQUEST_STREAM,
                    entry_id=stream_id,
                    fields=fields,
                    reason=str(error),
                )
        if other_models:
            self._client.xack(REQUEST_STREAM, REQUEST_GROUP, *other_models)
        return Poll(
            requests=tuple(requests), dead_letters=tuple(dead_letters), other_models=tuple(other_models.values())
        )


def trigger(client: redis.Redis, *, reason: str, requested_by: str, is_forced: bool = False, instance: str = "") -> str:
    """Add a retrain request, for one instance if it is named; the id of the entry. Raises RedisUnavailableError.

    After a lost reply the request may have been added although this raises; a second one joins the first.
    """
    event_id = str(uuid.uuid4())
    payload: RetrainRequest = {"reason": reason, "requested_by": requested_by, "force": is_forced}
    fields = envelope(
        event_type=_EVENT_TYPE,
        payload=msgspec.json.encode(payload).decode(),
        correlation_id=event_id,
        event_id=event_id,
        timestamp=datetime.now(UTC),
    )
    try:
        return add_entry(client, REQUEST_STREAM, fields | ({"instance": instance} if instance else {}))
    except RedisError as error:
        raise unavailable(error, client, key=REQUEST_STREAM) from error


def _create_group(client: redis.Redis) -> None:
    """From the first entry on: requests added before the group existed count, too."""
    try:
        client.xgroup_create(REQUEST_STREAM, REQUEST_GROUP, id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


def _content_of(stream_id: str, fields: Mapping[bytes, bytes]) -> Mapping[str, object]:
    """What an envelope or flat fields say. Raises ValueError with the reason when they are no request."""
    if not fields:
        raise ValueError("the entry was deleted before it was read")
    event = received(REQUEST_STREAM, stream_id, fields)
    if event.event_type != _EVENT_TYPE:
        raise ValueError(f"event_type is {event.event_type[:40]!r}, not {_EVENT_TYPE!r}")
    return {"requested_by": event.source, "instance": event.instance, **event.flat, **event.payload}


def _request(stream_id: str, content: Mapping[str, object]) -> Request:
    return Request(
        stream_id=stream_id,
        reason=_line(content.get("reason")) or "no reason given",
        requested_by=_line(content.get("requested_by")) or "unknown",
        is_forced=_line(content.get("force")).lower() in ("true", "1", "yes"),
    )


def _line(value: object) -> str:
    """One short line of printable text, for log and STATUS."""
    words = "".join(c if c.isprintable() else " " for c in str(value or "")).split()
    return " ".join(words)[:_MAX_CHARACTERS]
