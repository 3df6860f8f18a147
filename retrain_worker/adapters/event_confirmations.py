"""Whether a follower has acknowledged that it serves a model. Implements stages.ports.Confirmations."""

from __future__ import annotations

from datetime import datetime

import redis
from redis.exceptions import RedisError

from retrain_worker.domain.envelope import ReceivedEvent, received
from retrain_worker.domain.events import SERVED_STREAM, STREAM_PREFIX
from retrain_worker.redis_client import entries_in, text_of

#: acknowledgements searched, newest first
_MAX_SEARCHED = 200
_EVENT_TYPE = SERVED_STREAM.removeprefix(STREAM_PREFIX)


class EventConfirmations:
    """Searches quantum:stream:model.served for the acknowledgement that `serving.follower` writes."""

    def __init__(self, client: redis.Redis, *, instance: str = "") -> None:
        """`instance`: of the worker; followers of another one do not count."""
        self._client = client
        self._instance = instance

    def has_answered(self) -> bool | None:
        """Whether any follower has acknowledged any model, within the retention of the stream; None: not known now."""
        try:
            entries = entries_in(self._client.xrevrange(SERVED_STREAM, count=_MAX_SEARCHED))
        except RedisError:
            return None
        return any(text_of(fields.get(b"instance", b"")) == self._instance for _, fields in entries)

    def seen_serving(self, *, version: str, sha256: str, model_path: str, since: datetime) -> str | None:
        """The follower that serves exactly these bytes, acknowledged at `since` or later by the clock of Redis.

        None while there is none, and while Redis is unreachable. The path is not compared: in the container of a
        follower the file may have another one; the hash identifies it.
        """
        oldest = str(int(since.timestamp() * 1000))
        try:
            entries = entries_in(self._client.xrevrange(SERVED_STREAM, "+", oldest, count=_MAX_SEARCHED))
        except RedisError:
            return None
        for stream_id, fields in entries:
            try:
                event = received(SERVED_STREAM, stream_id, fields)
            except ValueError:
                continue
            payload = event.payload
            if (
                event.event_type == _EVENT_TYPE
                and event.instance == self._instance
                and payload.get("sha256") == sha256
                and payload.get("version") == version
            ):
                return _message(event, version)
        return None


def _message(event: ReceivedEvent, version: str) -> str:
    error = event.payload.get("canary_max_error")
    canary = f", canary within {error:.1g}" if isinstance(error, int | float) else ""
    consumer = event.payload.get("consumer") or event.source or "a follower"
    return f"follower {consumer} answers with {version}{canary}"
