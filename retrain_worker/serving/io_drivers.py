"""Execute the I/O of a generator, in a thread or in an event loop.

The logic of a reader or a follower is a generator that performs no I/O and no long computation. It yields a Call, a
Pause or Work, and is resumed with the result or the exception.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import redis
import redis.asyncio

Value = TypeVar("Value")


@dataclass(frozen=True)
class Call:
    """A command for Redis: a method of its client, by name."""

    name: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Pause:
    """Wait, or less when the driver is stopped."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """A long computation or file access, which must not run in an event loop."""

    compute: Callable[[], Any]


Steps = Generator[Call | Pause | Work, Any, Value]


def call(name: str, *arguments: Any, **options: Any) -> Call:
    """`client.<name>(*arguments, **options)`."""
    return Call(name, arguments, options)


def drive(steps: Steps[Value], client: redis.Redis, stopped: threading.Event) -> Value:
    """Execute `steps` in this thread; their return value."""
    try:
        wanted = next(steps)
        while True:
            try:
                answer = _answer(wanted, client, stopped)
            except Exception as error:
                wanted = steps.throw(error)
            else:
                wanted = steps.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        steps.close()


async def drive_async(steps: Steps[Value], client: redis.asyncio.Redis, stopped: asyncio.Event) -> Value:
    """Execute `steps` in the running event loop. A cancellation closes them."""
    try:
        wanted = next(steps)
        while True:
            try:
                answer = await _answer_async(wanted, client, stopped)
            except Exception as error:
                wanted = steps.throw(error)
            else:
                wanted = steps.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        steps.close()


def _answer(wanted: Call | Pause | Work, client: redis.Redis, stopped: threading.Event) -> Any:
    match wanted:
        case Call():
            return getattr(client, wanted.name)(*wanted.arguments, **wanted.options)
        case Pause():
            return stopped.wait(wanted.seconds)
        case Work():
            return wanted.compute()


async def _answer_async(wanted: Call | Pause | Work, client: redis.asyncio.Redis, stopped: asyncio.Event) -> Any:
    match wanted:
        case Call():
            return await getattr(client, wanted.name)(*wanted.arguments, **wanted.options)
        case Pause():
            with suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), wanted.seconds)
            return None
        case Work():
            return await asyncio.to_thread(wanted.compute)
