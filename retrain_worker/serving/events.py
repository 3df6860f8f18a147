"""Typed reading of the event streams, for threads and for asyncio.

    with ModelEvents("redis://localhost:6379", group="my_service", consumer="my-host") as events:
        for event in events:
            handle(event)
            events.acknowledge(event)

    async with AsyncModelEvents("redis://localhost:6379", group="my_service", consumer="my-host") as events:
        async for event in events:
            await handle(event)
            await events.acknowledge(event)

An event is delivered until it is acknowledged: after a restart immediately, otherwise when it has been pending for a
while. Handled events are not repeated although the daemon publishes again what Redis has lost. An entry that cannot be
decoded, or was delivered too often, is dead-lettered. The loop continues after every fault of Redis.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, cast

import redis
import redis.asyncio
from redis.exceptions import RedisError

from retrain_worker.domain.events import EVENT_TYPES, stream_of
from retrain_worker.domain.redis_names import DEFAULT_PREFIX, RedisNames
from retrain_worker.domain.redis_rights import Role
from retrain_worker.domain.typed_events import ModelEvent, TypedEvent
from retrain_worker.redis_client import connect, connect_async, problem_of
from retrain_worker.serving.event_reader import SOCKET_TIMEOUT_SECONDS, EventReader, ReaderPolicy
from retrain_worker.serving.handled_events import HandledEvents
from retrain_worker.serving.io_drivers import drive, drive_async

MAX_TRIES = 5
RECLAIM_AFTER_SECONDS = 60.0


class _EventConsumer:
    """The common part: event types, group and consumer, memory of handled events."""

    _connect: ClassVar[Callable[..., Any]]
    _event_class: ClassVar[type[Any]]

    def __init__(
        self,
        redis_url: str,
        *,
        group: str,
        consumer: str,
        types: Iterable[str] = EVENT_TYPES,
        only_new: bool = False,
        prefix: str = DEFAULT_PREFIX,
        max_tries: int = MAX_TRIES,
        reclaim_after_seconds: float = RECLAIM_AFTER_SECONDS,
        handled_file: Path | None = None,
    ) -> None:
        """`consumer` names this process and must be the same after a restart.

        A new group starts with everything that is retained (30 days), with `only_new` at the present. `prefix` is
        REDIS_PREFIX of the workers; `event.instance` names the worker. `handled_file`, one for each consumer, keeps the
        handled ids even when Redis loses data while this process is down. Raises SettingsError for an invalid URL,
        OSError when that file cannot be read or written.
        """
        self._client = self._connect(
            redis_url,
            names=RedisNames(prefix=prefix),
            role=Role.CONSUMER,
            socket_timeout_seconds=SOCKET_TIMEOUT_SECONDS,
            client_name=f"model-events:{consumer}",
        )
        self._stopped = self._event_class()
        policy = ReaderPolicy(
            group=group,
            consumer=consumer,
            streams=tuple(stream_of(kind) for kind in types),
            only_new=only_new,
            max_tries=max_tries,
            reclaim_after_seconds=reclaim_after_seconds,
        )
        self._streams = policy.streams
        self._reader = EventReader(policy, HandledEvents(handled_file), message_of=self._message_of)

    def stop(self) -> None:
        """End the iteration within a second. From another thread than the event loop's: `call_soon_threadsafe`."""
        self._stopped.set()

    def _message_of(self, error: RedisError) -> str:
        return problem_of(error, self._client, key=" or ".join(self._streams)).message


class ModelEvents(_EventConsumer):
    """An iterator over events, in the order of each stream. One thread iterates; `stop` may come from any other."""

    _connect = staticmethod(connect)
    _event_class = threading.Event
    _client: redis.Redis
    _stopped: threading.Event

    def __iter__(self) -> Iterator[ModelEvent]:
        while not self._stopped.is_set():
            event = drive(self._reader.step(), self._client, self._stopped)
            if event is not None:
                yield cast(ModelEvent, event)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._client.close()

    def acknowledge(self, event: TypedEvent[str, Any]) -> None:
        """Mark the event as handled. If Redis cannot be reached, it is acknowledged when it is delivered again."""
        drive(self._reader.acknowledge(event), self._client, self._stopped)


class AsyncModelEvents(_EventConsumer):
    """The same for asyncio: an asynchronous iterator. A cancelled `anext` loses nothing."""

    _connect = staticmethod(connect_async)
    _event_class = asyncio.Event
    _client: redis.asyncio.Redis
    _stopped: asyncio.Event

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ModelEvent:
        while not self._stopped.is_set():
            event = await drive_async(self._reader.step(), self._client, self._stopped)
            if event is not None:
                return cast(ModelEvent, event)
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        await self._client.aclose()

    async def acknowledge(self, event: TypedEvent[str, Any]) -> None:
        """Mark the event as handled. If Redis cannot be reached, it is acknowledged when it is delivered again."""
        await drive_async(self._reader.acknowledge(event), self._client, self._stopped)
