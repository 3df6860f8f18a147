"""Reads the newest and the following entries of streams, without a consumer group, acknowledgement or write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import redis
from redis.exceptions import RedisError

from retrain_worker.domain.envelope import ReceivedEvent, parts_of, received
from retrain_worker.errors import MalformedError
from retrain_worker.redis_client import PAGE, entries_in, is_no_such_key, streams_in, text_of, unavailable

BLOCK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """An entry that is not an event."""

    stream: str
    stream_id: str
    reason: str


Found = ReceivedEvent | Unreadable


class EventTail:
    """The end of some streams. Raises RedisUnavailableError when Redis does not answer; the call can be repeated."""

    def __init__(self, client: redis.Redis, streams: Sequence[str]) -> None:
        self._client = client
        self._streams = streams
        self._last_ids: dict[str, str] = {}

    def newest(self, count: int) -> list[Found]:
        """The newest `count` entries of all streams together, oldest first. `coming` continues after them."""
        found: list[Found] = []
        with _named_errors(self._client):
            for stream in self._streams:
                self._last_ids[stream] = self._end_of(stream)
                entries = entries_in(self._client.xrevrange(stream, self._last_ids[stream], "-", count=count))
                found += [_found(stream, stream_id, fields) for stream_id, fields in entries]
        return sorted(found, key=lambda each: parts_of(each.stream_id))[-count:] if count else []

    def coming(self) -> list[Found]:
        """The entries added since the last call; waits for them up to BLOCK_SECONDS."""
        with _named_errors(self._client):
            reply = self._client.xread(dict(self._last_ids.items()), count=PAGE, block=int(BLOCK_SECONDS * 1000))
        found = []
        for stream, stream_id, fields in streams_in(reply):
            self._last_ids[stream] = stream_id
            found.append(_found(stream, stream_id, fields))
        return found

    def _end_of(self, stream: str) -> str:
        try:
            return text_of(self._client.xinfo_stream(stream)["last-generated-id"])
        except RedisError as error:
            if is_no_such_key(error):
                return "0-0"
            raise


@contextmanager
def _named_errors(client: redis.Redis) -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise unavailable(error, client, key="quantum:stream:*") from error


def _found(stream: str, stream_id: str, fields: Mapping[bytes, bytes]) -> Found:
    try:
        return received(stream, stream_id, fields)
    except MalformedError as error:
        return Unreadable(stream=stream, stream_id=stream_id, reason=str(error))
