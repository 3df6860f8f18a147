"""A model that keeps itself current: follows promotions, loads what is verified, answers without a pause.

    with ModelFollower("redis://localhost:6379", consumer="my-service") as model:
        probabilities = model.predict(windows)      # (B, T, F) raw rows -> P(label = 1) (B,)

    async with AsyncModelFollower("redis://localhost:6379", consumer="my-service") as model:
        probabilities = model.predict(windows)      # or: await asyncio.to_thread(model.predict, windows)

What serves, the hash `quantum:model:patchtst:current` says, or the engine's env file while Redis is away (`model_watch`
tells how). A bad file keeps the old model and says so in `problem`; `predict` never waits and never sees half a model.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import redis
import redis.asyncio
from redis.exceptions import RedisError

from retrain_worker.domain.events import CURRENT_MODEL_KEY
from retrain_worker.errors import RetryLaterError
from retrain_worker.redis_client import connect, connect_async, problem_of
from retrain_worker.serving.io_drivers import drive, drive_async
from retrain_worker.serving.model_watch import SOCKET_TIMEOUT_SECONDS, ModelWatch, Served

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class _Following:
    """What both kinds have in common: a model that answers."""

    _connect: ClassVar[Callable[..., Any]]
    _flag: ClassVar[type[Any]]

    def __init__(
        self, redis_url: str, *, consumer: str, env_file: Path | None = None, feature_names: tuple[str, ...] = ()
    ) -> None:
        """`consumer` names us in acknowledgements. `feature_names` only for files that do not say their own."""
        self._client = self._connect(
            redis_url, socket_timeout_seconds=SOCKET_TIMEOUT_SECONDS, client_name=f"model-follower:{consumer}"
        )
        self._stopped = self._flag()
        self._has_model = self._flag()
        self._watch = ModelWatch(
            consumer=consumer, env_file=env_file, feature_names=feature_names, sentence_of=self._sentence_of
        )

    def predict(self, windows: NDArray[np.float32]) -> NDArray[np.float64]:
        """P(label = 1) (B,) of raw windows (B, T, F), by one model, without waiting for anything.

        May be called from any thread. Raises RetryLaterError while there is no model, not yet or not any more,
        ContractError when the windows do not fit it.
        """
        served = self._watch.served
        if served is None:
            raise RetryLaterError(f"no model: {self.problem or 'nothing names one yet'}", where=CURRENT_MODEL_KEY)
        return served.bundle.probabilities(windows)

    @property
    def served(self) -> Served | None:
        """What answers now."""
        return self._watch.served

    @property
    def problem(self) -> str | None:
        """Why what answers may not be what should; None when all is well."""
        return self._watch.problem

    def _note_model(self) -> None:
        if self._watch.served is not None:
            self._has_model.set()

    def _sentence_of(self, error: RedisError) -> str:
        return problem_of(error, self._client, key=CURRENT_MODEL_KEY).message


class ModelFollower(_Following):
    """The current model, followed by a thread of its own."""

    _connect = staticmethod(connect)
    _flag = threading.Event
    _client: redis.Redis
    _stopped: threading.Event
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Load what serves now, if that can be found out, and follow from then on."""
        drive(self._watch.look(), self._client, self._stopped)
        self._note_model()
        self._thread = threading.Thread(target=self._follow, name="model-follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End within a second. The last model still answers."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self._client.close()

    def wait_for_model(self, timeout_seconds: float) -> bool:
        """Wait until the first model answers; whether one does."""
        return bool(self._has_model.wait(timeout_seconds))

    def _follow(self) -> None:
        while not self._stopped.is_set():
            drive(self._watch.step(), self._client, self._stopped)
            self._note_model()


class AsyncModelFollower(_Following):
    """The current model, followed by a task of the running event loop; files are read in a thread beside it."""

    _connect = staticmethod(connect_async)
    _flag = asyncio.Event
    _client: redis.asyncio.Redis
    _stopped: asyncio.Event
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Load what serves now, if that can be found out, and follow from then on."""
        await drive_async(self._watch.look(), self._client, self._stopped)
        self._note_model()
        self._task = asyncio.create_task(self._follow(), name="model-follower")

    async def stop(self) -> None:
        """End at once. The last model still answers."""
        self._stopped.set()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._client.aclose()

    async def wait_for_model(self, timeout_seconds: float) -> bool:
        """Wait until the first model answers; whether one does."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._has_model.wait(), timeout_seconds)
        return self._watch.served is not None

    async def _follow(self) -> None:
        while not self._stopped.is_set():
            await drive_async(self._watch.step(), self._client, self._stopped)
            self._note_model()
