"""Whether followers have acknowledged that they serve a model. Implements stages.ports.Confirmations."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import redis
from redis.exceptions import RedisError

from retrain_worker.domain.acknowledgement import (
    Acknowledgement,
    acknowledgement_in,
    confirmed_by,
    is_known,
    newest_of_each,
    serving_most,
)
from retrain_worker.domain.confirmation import Quorum
from retrain_worker.domain.envelope import added_at, received
from retrain_worker.domain.events import SERVED_STREAM
from retrain_worker.errors import MalformedError
from retrain_worker.redis_client import newest_entries, unavailable

#: acknowledgements searched, newest first: a few of each of a thousand followers
_MAX_SEARCHED = 5_000
_EVER = datetime.fromtimestamp(0, UTC)


class EventConfirmations:
    """Searches quantum:stream:model.served for the acknowledgements that `serving.follower` writes."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        instance: str = "",
        consumers: tuple[str, ...] = (),
        quorum: Quorum = Quorum(),  # noqa: B008 - immutable
    ) -> None:
        """`instance`: of the worker; `consumers`: names or patterns. Followers of others do not count.

        `quorum`: how many of them confirm a model.
        """
        self._client = client
        self._instance = instance
        self._consumers = consumers
        self._quorum = quorum
        #: since when, and how many followers there were before
        self._before: tuple[datetime, int] | None = None

    def has_answered(self) -> bool | None:
        """Whether any follower has acknowledged any model, within the retention of the stream; None: not known now."""
        try:
            return any(is_known(found.consumer, self._consumers) for found in self._newest(_EVER))
        except RedisError:
            return None

    def followers(self) -> list[Acknowledgement]:
        """The newest acknowledgement of each follower, by its name. Raises RedisError."""
        return list(newest_of_each(self._newest(_EVER)).values())

    def acknowledgements(self, since: datetime | None) -> list[Acknowledgement]:
        """Those of followers that count, newest first. Raises RedisUnavailableError."""
        try:
            return [one for one in self._newest(since or _EVER) if is_known(one.consumer, self._consumers)]
        except RedisError as error:
            raise unavailable(error, self._client, key=SERVED_STREAM) from error

    def seen_serving(self, *, version: str, sha256: str, model_path: str, since: datetime) -> str | None:
        """The followers that serve exactly these bytes, acknowledged at `since` or later by the clock of Redis.

        None while they are fewer than the quorum. The path is not compared: in the container of a follower the file may
        have another one; the hash identifies it. A share is of the followers that counted before: those that served
        the model that most of them did. Raises RedisUnavailableError.
        """
        try:
            confirmed: dict[str, Acknowledgement] = {}
            faulty: set[str] = set()
            for one in self._newest(since):
                if one.is_fault and one.problem_version == version:
                    faulty.add(one.consumer)
                elif one.confirms(version=version, sha256=sha256, consumers=self._consumers):
                    confirmed.setdefault(one.consumer, one)
            confirmed = {name: one for name, one in confirmed.items() if name not in faulty}
            return confirmed_by(confirmed.values()) if len(confirmed) >= self._required(since) else None
        except RedisError as error:
            raise unavailable(error, self._client, key=SERVED_STREAM) from error

    def _required(self, since: datetime) -> int:
        if not self._quorum.share:
            return self._quorum.count
        if self._before is None or self._before[0] != since:
            before = (one for one in self._newest(_EVER, before=since) if is_known(one.consumer, self._consumers))
            self._before = since, len(serving_most(newest_of_each(before)))
        return self._quorum.required(self._before[1])

    def _newest(self, since: datetime, *, before: datetime | None = None) -> Iterator[Acknowledgement]:
        """Those of the instance, newest first; malformed entries are skipped."""
        for stream_id, fields in newest_entries(self._client, SERVED_STREAM, since=since, limit=_MAX_SEARCHED):
            try:
                if before is not None and added_at(stream_id) >= before:
                    continue
                event = received(SERVED_STREAM, stream_id, fields)
                if event.instance == self._instance:
                    yield acknowledgement_in(event)
            except MalformedError:
                continue
