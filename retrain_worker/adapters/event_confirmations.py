"""Whether a follower has said on the stream that it answers with a model. Implements stages.ports.Confirmations."""

from __future__ import annotations

from datetime import datetime

import redis
from redis.exceptions import RedisError

from retrain_worker.domain.envelope import ReceivedEvent, received
from retrain_worker.domain.events import SERVED_STREAM, STREAM_PREFIX
from retrain_worker.redis_client import entries_in

#: acknowledgements looked at, newest first
_LOOK_BACK = 200
_EVENT_TYPE = SERVED_STREAM.removeprefix(STREAM_PREFIX)


class EventConfirmations:
    """Looks for the acknowledgement that `serving.follower` writes."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def seen_serving(self, *, version: str, sha256: str, model_path: str, since: datetime) -> str | None:
        """Who answers with exactly these bytes, acknowledged at `since` or later by the clock of Redis.

        None while nobody does, and while Redis cannot be asked. The path is not compared: a follower in a container
        may see the file elsewhere; the hash says that it is the file.
        """
        oldest = str(int(since.timestamp() * 1000))
        try:
            entries = entries_in(self._client.xrevrange(SERVED_STREAM, "+", oldest, count=_LOOK_BACK))
        except RedisError:
            return None
        for stream_id, fields in entries:
            try:
                event = received(SERVED_STREAM, stream_id, fields)
            except ValueError:
                continue
            said = event.payload
            if event.event_type == _EVENT_TYPE and said.get("sha256") == sha256 and said.get("version") == version:
                return _sentence(event, version)
        return None


def _sentence(event: ReceivedEvent, version: str) -> str:
    error = event.payload.get("canary_max_error")
    canary = f", canary within {error:.1g}" if isinstance(error, int | float) else ""
    consumer = event.payload.get("consumer") or event.source or "a follower"
    return f"follower {consumer} answers with {version}{canary}"
