"""Waits for new entries on the stream of retrain requests, in a thread of its own and without polling.

It signals that there are some; the consumer of the group reads them (retrain_requests.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self, cast

import redis
from redis.exceptions import RedisError, ResponseError

from retrain_worker.domain.events import REQUEST_STREAM
from retrain_worker.redis_client import RedisProblem, is_no_such_key, problem_of

#: of one XREAD; a connection that is dead without an error is noticed after it
BLOCK_SECONDS = 60.0
#: that the client of this class must have for an answer
SOCKET_SECONDS = BLOCK_SECONDS + 5.0
#: between two attempts to reach Redis
_RETRY_SECONDS = 5.0
#: between two calls in a flood of requests
_FLOOD_SECONDS = 0.2
_JOIN_SECONDS = 0.1
_JOINS = 20


class RequestArrival:
    """As a context manager: waits inside."""

    def __init__(
        self, client: redis.Redis, *, on_arrival: Callable[[], None], on_loss: Callable[[RedisProblem], None]
    ) -> None:
        """`client`: of this object alone, with SOCKET_SECONDS. `on_loss`: it does not wait any more, and why."""
        self._client = client
        self._on_arrival = on_arrival
        self._on_loss = on_loss
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="request arrival", daemon=True)
        #: whether a new entry is noticed at once
        self.is_waiting = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for _attempt in range(_JOINS):  # a thread that has just connected again is disconnected again
            self._client.connection_pool.disconnect()
            self._thread.join(_JOIN_SECONDS)
            if not self._thread.is_alive():
                return

    def _watch(self) -> None:
        known = ""
        while not self._stopped.is_set():
            try:
                last = self._last_id()
                self.is_waiting = True
                if last != known:
                    known = last
                    self._on_arrival()
                    self._stopped.wait(_FLOOD_SECONDS)
                self._client.xread({REQUEST_STREAM: last}, count=1, block=int(BLOCK_SECONDS * 1000))
            except Exception as error:
                if self._stopped.is_set():
                    return  # redis-py meets the disconnection by `__exit__` in several ways
                if not isinstance(error, RedisError | OSError):
                    raise
                was_waiting, self.is_waiting = self.is_waiting, False
                if was_waiting:
                    self._on_loss(problem_of(error, self._client, key=REQUEST_STREAM))
                self._stopped.wait(_RETRY_SECONDS)

    def _last_id(self) -> str:
        try:
            state = self._client.xinfo_stream(REQUEST_STREAM)
        except ResponseError as error:
            if is_no_such_key(error):
                return "0-0"
            raise
        return cast(bytes, state["last-generated-id"]).decode()
