"""A model that follows promotions: each new file is verified and loaded in the background, predictions never wait.

    with ModelFollower("redis://localhost:6379", consumer="my-service") as model:
        probabilities = model.predict(windows)      # (B, T, F) raw rows -> P(label = 1) (B,)

    async with AsyncModelFollower("redis://localhost:6379", consumer="my-service") as model:
        probabilities = model.predict(windows)      # or: await asyncio.to_thread(model.predict, windows)

The model is the one that the hash `quantum:model:patchtst:current` names, or the engine's env file while Redis is
unreachable (`model_watch`); it must have the sha256 that they name and lie in an allowed directory, or is fetched from
`models_url`. After an invalid entry or file the previous model continues and `problem` has the reason.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import redis
import redis.asyncio
from redis.exceptions import RedisError

from retrain_worker.domain.events import CURRENT_MODEL_KEY
from retrain_worker.domain.redis_names import DEFAULT_PREFIX, RedisNames
from retrain_worker.domain.redis_rights import Role
from retrain_worker.errors import RetryLaterError
from retrain_worker.redis_client import connect, connect_async, problem_of
from retrain_worker.serving.io_drivers import drive, drive_async
from retrain_worker.serving.model_cache import FETCH_SECONDS, ModelCache
from retrain_worker.serving.model_watch import SOCKET_TIMEOUT_SECONDS, ModelWatch, Served
from retrain_worker.serving.slot_entry import SlotEntries, default_directories

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class _Follower:
    """The common part: the current model and its predictions."""

    _connect: ClassVar[Callable[..., Any]]
    _event_class: ClassVar[type[Any]]

    def __init__(
        self,
        redis_url: str,
        *,
        consumer: str,
        env_file: Path | None = None,
        allowed_directories: Iterable[Path] | None = None,
        feature_names: tuple[str, ...] = (),
        prefix: str = DEFAULT_PREFIX,
        instance: str = "",
        require_signature: bool = False,
        public_keys: Iterable[str] = (),
        models_url: str = "",
        cache_directory: Path | None = None,
        fetch_timeout_seconds: float = FETCH_SECONDS,
    ) -> None:
        """`consumer` is the name in acknowledgements. `feature_names` is for files that do not contain their own.

        `allowed_directories`: a model must lie directly in one of them; by default in ENGINE_MODELS_DIR of the
        environment, or where that is not set in /opt/quantum/ai_engine/models, as the daemon's.
        `prefix` and `instance` are REDIS_PREFIX and INSTANCE of the worker that is followed. With `require_signature`
        only models count that the worker has put into service and signed with one of `public_keys` (at most two).

        With `models_url` (file:///, https://, s3://, gs://) models are fetched from that folder, within
        `fetch_timeout_seconds` each, into `cache_directory`, one for each process, and paths in Redis do not count. The
        last good model stays there, for a start without Redis or without the URL. Raises SettingsError.
        """
        verifier = None
        if require_signature:
            from retrain_worker.signing import Verifier

            verifier = Verifier(public_keys)
        self._client = self._connect(
            redis_url,
            names=RedisNames(prefix=prefix, instance=instance),
            role=Role.FOLLOWER,
            socket_timeout_seconds=SOCKET_TIMEOUT_SECONDS,
            client_name=f"model-follower:{consumer}",
        )
        self._stopped = self._event_class()
        self._has_model = self._event_class()
        self._watch = ModelWatch(
            consumer=consumer,
            entries=SlotEntries(
                default_directories() if allowed_directories is None else allowed_directories,
                verifier=verifier,
                instance=instance,
            ),
            env_file=env_file,
            feature_names=feature_names,
            message_of=self._message_of,
            instance=instance,
            cache=ModelCache(models_url, cache_directory, seconds=fetch_timeout_seconds) if models_url else None,
        )

    def predict(self, windows: NDArray[np.float32]) -> NDArray[np.float64]:
        """P(label = 1) (B,) of raw windows (B, T, F), by one model, without waiting.

        May be called from any thread. Raises RetryLaterError while there is no model, ContractError when the windows do
        not fit it.
        """
        served = self._watch.served
        if served is None:
            raise RetryLaterError(f"no model: {self.problem or 'nothing names one yet'}", where=CURRENT_MODEL_KEY)
        return served.bundle.probabilities(windows)

    @property
    def served(self) -> Served | None:
        """The current model."""
        return self._watch.served

    @property
    def problem(self) -> str | None:
        """Why the current model may not be the one in service; None without a problem."""
        return self._watch.problem

    def report_fault(self, problem: str) -> None:
        """Report to the daemon that the model in service answers wrongly: this consumer no longer confirms it.

        May be called from any thread.
        """
        self._watch.report_fault(problem)

    def _note_model(self) -> None:
        if self._watch.served is not None:
            self._has_model.set()

    def _message_of(self, error: RedisError) -> str:
        return problem_of(error, self._client, key=CURRENT_MODEL_KEY).message


class ModelFollower(_Follower):
    """Follows the model in service in a thread."""

    _connect = staticmethod(connect)
    _event_class = threading.Event
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
        """Load the model in service, if it can be determined, and start following."""
        drive(self._watch.update(), self._client, self._stopped)
        self._note_model()
        self._thread = threading.Thread(target=self._follow, name="model-follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following, within a second. The last model still predicts."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self._client.close()

    def wait_for_model(self, timeout_seconds: float) -> bool:
        """Wait for the first model; True when there is one."""
        return bool(self._has_model.wait(timeout_seconds))

    def _follow(self) -> None:
        while not self._stopped.is_set():
            drive(self._watch.step(), self._client, self._stopped)
            self._note_model()


class AsyncModelFollower(_Follower):
    """Follows the model in service in a task of the running event loop; files are read in a thread."""

    _connect = staticmethod(connect_async)
    _event_class = asyncio.Event
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
        """Load the model in service, if it can be determined, and start following."""
        await drive_async(self._watch.update(), self._client, self._stopped)
        self._note_model()
        self._task = asyncio.create_task(self._follow(), name="model-follower")

    async def stop(self) -> None:
        """Stop following. The last model still predicts."""
        self._stopped.set()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._client.aclose()

    async def wait_for_model(self, timeout_seconds: float) -> bool:
        """Wait for the first model; True when there is one."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._has_model.wait(), timeout_seconds)
        return self._watch.served is not None

    async def _follow(self) -> None:
        while not self._stopped.is_set():
            await drive_async(self._watch.step(), self._client, self._stopped)
            self._note_model()
