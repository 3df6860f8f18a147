"""Retrain requests on the stream `quantum:stream:model.retrain`: read, acknowledged, dead-lettered, and added.

A request stays pending, and every poll returns it, until it is acknowledged; so it is acknowledged after it is stored.
One that names another model is for another worker: it is acknowledged, and nothing follows. An entry that cannot be
read goes to a dead-letter stream, with the reason.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import msgspec
import redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from retrain_worker.domain.artifact import MODEL_NAME
from retrain_worker.domain.decoding import raises_malformed_only
from retrain_worker.domain.envelope import envelope, received
from retrain_worker.domain.events import REQUEST_GROUP, REQUEST_STREAM, STREAM_PREFIX
from retrain_worker.domain.payloads import RetrainRequest
from retrain_worker.errors import MalformedError
from retrain_worker.redis_client import (
    PAGE,
    BackOff,
    RedisProblem,
    dead_letter,
    has_sentinels,
    is_no_group,
    problem_of,
    streams_in,
    text_of,
    unavailable,
)

CONSUMER = "retraining_worker"
#: entries of one poll: each may have 1 MiB
BATCH = PAGE
#: a pending request of another consumer of the group is claimed after this
ABANDONED_AFTER = timedelta(minutes=5)
_EVENT_TYPE = REQUEST_STREAM.removeprefix(STREAM_PREFIX)
_MAX_CHARACTERS = 200
#: what a replica has to confirm a request
_REPLICATION_MILLISECONDS = 1000


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
    #: why nothing, or not everything, could be read; the same value for as long as it lasts
    problem: RedisProblem | None = None

    @property
    def is_full(self) -> bool:
        """Whether there may be more."""
        return len(self.requests) + len(self.dead_letters) + len(self.other_models) == BATCH


@dataclass(frozen=True, kw_only=True)
class Added:
    """A request that was added to the stream."""

    entry_id: str
    #: whether a replica has it, so that a failover does not lose it; True where no sentinel can replace the master
    is_replicated: bool


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
        #: an ACL that refuses a command that reading does not need
        self._refused: RedisProblem | None = None
        #: stored, and still pending, because Redis did not acknowledge them: each is returned once
        self._unacknowledged: set[str] = set()

    def poll(self) -> Poll:
        """Every request that is not stored yet, oldest first, at most BATCH of them. Does not block."""
        if not self._back_off.is_over:
            return Poll(problem=self._problem)
        self._refused = None
        try:
            self._acknowledge_again()
            found = self._sorted(self._entries())
        except RedisError as error:
            self._problem = problem_of(error, self._client, key=REQUEST_STREAM)
            self._back_off.after(self._problem)
            return Poll(problem=self._problem)
        self._problem = None
        self._back_off.after(None)
        return replace(found, problem=self._refused)

    def acknowledge(self, stream_ids: Iterable[str]) -> RedisProblem | None:
        """These are stored. Returns the problem if that failed; then they are acknowledged later."""
        self._unacknowledged |= set(stream_ids)
        try:
            self._acknowledge_again()
        except RedisError as error:
            return problem_of(error, self._client, key=REQUEST_STREAM)
        return None

    def _acknowledge_again(self) -> None:
        if self._unacknowledged:
            with self._allowing_refusal():
                self._client.xack(REQUEST_STREAM, REQUEST_GROUP, *self._unacknowledged)
                self._unacknowledged.clear()

    @contextmanager
    def _allowing_refusal(self) -> Iterator[None]:
        """Note that an ACL refuses the command of the block, and go on without it."""
        try:
            yield
        except NoPermissionError as error:
            self._refused = problem_of(error, self._client, key=REQUEST_STREAM)

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
        with self._allowing_refusal():
            self._client.xautoclaim(
                REQUEST_STREAM, REQUEST_GROUP, self._consumer, milliseconds, count=BATCH, justid=True
            )
        pending = self._of_group("0", BATCH)
        found = {entry_id: pending[entry_id] for entry_id in pending if entry_id not in self._unacknowledged}
        if len(found) < BATCH:
            found |= self._of_group(">", BATCH - len(found))
        return found

    def _of_group(self, start: str, count: int) -> dict[str, Mapping[bytes, bytes]]:
        try:
            reply = self._client.xreadgroup(REQUEST_GROUP, self._consumer, {REQUEST_STREAM: start}, count=count)
        except RedisTimeoutError:  # large entries: Redis prepares a whole reply before it sends any of it
            reply = self._client.xreadgroup(REQUEST_GROUP, self._consumer, {REQUEST_STREAM: start}, count=1)
        return {entry_id: fields for _, entry_id, fields in streams_in(reply)}

    def _sorted(self, entries: Mapping[str, Mapping[bytes, bytes]]) -> Poll:
        requests, dead_letters, other_models = list[Request](), list[DeadLetter](), dict[str, str]()
        for stream_id, fields in entries.items():
            try:
                found = _request_in(stream_id, fields, self._instance)
                if isinstance(found, Request):
                    requests.append(found)
                else:
                    other_models[stream_id] = found
            except MalformedError as error:
                dead_letters.append(DeadLetter(stream_id=stream_id, reason=str(error)))
                with self._allowing_refusal():
                    dead_letter(
                        self._client,
                        group=REQUEST_GROUP,
                        stream=REQUEST_STREAM,
                        entry_id=stream_id,
                        fields=fields,
                        reason=str(error),
                    )
                self._unacknowledged.add(stream_id)
        self._unacknowledged |= other_models.keys()
        self._acknowledge_again()
        return Poll(
            requests=tuple(requests), dead_letters=tuple(dead_letters), other_models=tuple(other_models.values())
        )


def trigger(
    client: redis.Redis, *, reason: str, requested_by: str, is_forced: bool = False, instance: str = ""
) -> Added:
    """Add a retrain request, for one instance if it is named. Raises RedisUnavailableError.

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
    fields |= {"instance": instance} if instance else {}
    pipeline = client.pipeline(transaction=False)  # WAIT counts what was written by its own connection
    pipeline.xadd(REQUEST_STREAM, dict(fields.items()))
    if has_sentinels(client):
        pipeline.wait(1, _REPLICATION_MILLISECONDS)
    try:
        added, *replicas = pipeline.execute(raise_on_error=False)
        if isinstance(added, RedisError):
            raise added
    except RedisError as error:
        raise unavailable(error, client, key=REQUEST_STREAM) from error
    # a refused WAIT is no reason to doubt
    return Added(entry_id=text_of(added), is_replicated=replicas != [0])


def _create_group(client: redis.Redis) -> None:
    """From the first entry on: requests added before the group existed count, too."""
    try:
        client.xgroup_create(REQUEST_STREAM, REQUEST_GROUP, id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


@raises_malformed_only
def _request_in(stream_id: str, fields: Mapping[bytes, bytes], our_instance: str) -> Request | str:
    """The request in an entry; for another model or instance its name. Raises MalformedError with the reason."""
    content = _content_of(stream_id, fields)
    model, instance = _line(content.get("model") or content.get("model_name")), _line(content.get("instance"))
    if instance not in ("", our_instance):
        return f"{model or MODEL_NAME} of instance {instance}"
    if model.lower() not in ("", MODEL_NAME):
        return model
    return Request(
        stream_id=stream_id,
        reason=_line(content.get("reason")) or "no reason given",
        requested_by=_line(content.get("requested_by")) or "unknown",
        is_forced=_line(content.get("force")).lower() in ("true", "1", "yes"),
    )


def _content_of(stream_id: str, fields: Mapping[bytes, bytes]) -> Mapping[str, object]:
    """The request in an envelope or in flat fields."""
    if not fields:
        raise MalformedError("the entry was deleted before it was read")
    event = received(REQUEST_STREAM, stream_id, fields)
    if event.event_type != _EVENT_TYPE:
        raise MalformedError(f"event_type is {event.event_type[:40]!r}, not {_EVENT_TYPE!r}")
    return {"requested_by": event.source, "instance": event.instance, **event.flat, **event.payload}


def _line(value: object) -> str:
    """One short line of printable text, for log and STATUS."""
    words = "".join(c if c.isprintable() else " " for c in str(value or "")).split()
    return " ".join(words)[:_MAX_CHARACTERS]
