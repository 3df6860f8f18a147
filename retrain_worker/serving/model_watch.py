"""Following the model in service: hash, events, env file, replacement. No I/O; `io_drivers` performs it.

The hash `quantum:model:patchtst:current` names the model in service; an event only triggers reading it. So nothing
depends on having seen an event, no consumer group is needed, and the engine's env file replaces the hash while Redis is
unreachable. A new model is loaded beside the current one and replaces it by one assignment when hash and canary are
right; otherwise it is refused, with the reason in `problem` and in the log. Each replacement is acknowledged on
`model.served`. When the slot names no model, there is none.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from retrain_worker.domain import payloads
from retrain_worker.domain.current_model import CHANGES, CurrentModel, from_fields, named_by
from retrain_worker.domain.envelope import envelope, received
from retrain_worker.domain.events import CURRENT_MODEL_KEY, SERVED_STREAM, STREAM_PREFIX, stream_of
from retrain_worker.errors import RetrainError
from retrain_worker.redis_client import is_no_such_key, streams_in, text_of
from retrain_worker.serving.engine_env import model_in_env_file
from retrain_worker.serving.io_drivers import Pause, Steps, Work, call

if TYPE_CHECKING:
    from retrain_worker.model.bundle import Bundle

#: interval of reading the hash without an event
BLOCK_SECONDS = 1.0
SOCKET_TIMEOUT_SECONDS = BLOCK_SECONDS + 5.0
#: interval after which a refused file is read again: it may have been incomplete
RETRY_SECONDS = 30.0
_STREAMS = tuple(stream_of(kind) for kind in CHANGES)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Served:
    """The model that predicts."""

    bundle: Bundle
    version: str
    model_path: Path
    sha256: str
    served_at: datetime
    #: None for a file of the stack's older scripts, which has no canary
    canary_max_error: float | None
    #: the event that named it
    named: CurrentModel


class ModelWatch:
    """The current model, the one in service, and the replacement. Methods that return Steps need a driver."""

    def __init__(
        self,
        *,
        consumer: str,
        env_file: Path | None,
        feature_names: tuple[str, ...],
        message_of: Callable[[RedisError], str],
        instance: str = "",
    ) -> None:
        """`message_of` turns a Redis error into a message without secrets."""
        self.served: Served | None = None
        self._consumer = consumer
        self._instance = instance
        self._env_file = env_file
        self._feature_names = feature_names
        self._message_of = message_of
        self._acknowledged: Served | None = None
        self._stream_ids: dict[str, str] = {}
        #: the newest model that an event named
        self._newest: CurrentModel | None = None
        self._redis_problem: str | None = None
        self._file_problem: str | None = None
        self._refused: CurrentModel | None = None
        self._retry_at = 0.0

    @property
    def problem(self) -> str | None:
        """Why the current model may not be the one in service; None without a problem."""
        return "; ".join(filter(None, (self._file_problem, self._redis_problem))) or None

    def step(self) -> Steps[None]:
        """Wait for an event, then update. Never raises: after any error the current model continues."""
        try:
            yield from self._await_event()
            yield from self.update()
        except Exception:
            _log.exception("following the model failed; the current model continues")
            yield Pause(BLOCK_SECONDS)

    def update(self) -> Steps[None]:
        """Load the model in service and acknowledge it."""
        named = yield from self._named()
        if named is not None:
            yield from self._follow_to(named)
        yield from self._acknowledge()

    def _await_event(self) -> Steps[None]:
        """Wait for an event or BLOCK_SECONDS."""
        if not self._stream_ids:
            yield Pause(BLOCK_SECONDS)
            return
        try:
            reply = yield call("xread", dict(self._stream_ids), block=int(BLOCK_SECONDS * 1000))
        except RedisError as error:
            self._note_redis(error)
            yield Pause(BLOCK_SECONDS)
            return
        for stream, stream_id, fields in streams_in(reply):
            self._stream_ids[stream] = stream_id
            try:
                event = received(stream, stream_id, fields)
                if event.instance == self._instance:
                    self._note_named(named_by(event.event_type, event.event_id, event.payload))
            except ValueError as error:
                _log.warning("entry %s of %s is skipped: %s", stream_id, stream, error)

    def _note_named(self, named: CurrentModel | None) -> None:
        if named and (self._newest is None or named.promoted_at > self._newest.promoted_at):
            self._newest = named

    def _named(self) -> Steps[CurrentModel | None]:
        """The model in service, from the hash or a newer event, or from the env file while both are unavailable."""
        try:
            yield from self._find_stream_ends()
            self._note_named((yield from self._named_by_hash()))
        except RedisError as error:
            self._note_redis(error)
            return (yield Work(self._named_by_env_file)) or self._newest
        self._note_redis(None)
        return self._newest or (yield Work(self._named_by_env_file))

    def _named_by_hash(self) -> Steps[CurrentModel | None]:
        reply = yield call("hgetall", CURRENT_MODEL_KEY)
        fields = {text_of(name): text_of(value) for name, value in reply.items()}
        try:
            return from_fields(fields) if fields else None
        except ValueError as error:
            _log.warning("the hash %s is ignored: %s", CURRENT_MODEL_KEY, error)
            return None

    def _named_by_env_file(self) -> CurrentModel | None:
        if self._env_file is None:
            return None
        try:
            return model_in_env_file(self._env_file)
        except (RetrainError, OSError) as error:
            self._note_file(f"the env file cannot be read: {error}")
            return None

    def _find_stream_ends(self) -> Steps[None]:
        """Read the ends of the streams, before the hash, so that no event is missed in between."""
        for stream in _STREAMS:
            if stream not in self._stream_ids:
                self._stream_ids[stream] = yield from self._end_of(stream)

    def _end_of(self, stream: str) -> Steps[str]:
        try:
            return text_of((yield call("xinfo_stream", stream))["last-generated-id"])
        except RedisError as error:
            if is_no_such_key(error):
                return "0-0"
            raise

    # ---------------------------------------------------------------- replacement

    def _follow_to(self, named: CurrentModel) -> Steps[None]:
        served = self.served
        is_newer = served is None or named.promoted_at > served.named.promoted_at
        if not named.model_path:
            if is_newer:
                self.served = None
                self._note_file("no model is in service: the engine's slot names none")
            return
        if served is not None and _is_same_file(served, named):
            self._note_file(None)
            if named.event_id and (is_newer or not served.named.event_id):
                self.served = replace(served, named=named)  # acknowledged again for this event
        elif is_newer and (named != self._refused or time.monotonic() >= self._retry_at):
            yield from self._load(named)  # not newer: from a Redis that was restored from an old snapshot

    def _load(self, named: CurrentModel) -> Steps[None]:
        try:
            served: Served = yield Work(lambda: self._verified(named))
        except (RetrainError, OSError, ImportError, MemoryError) as error:
            self._refused, self._retry_at = named, time.monotonic() + RETRY_SECONDS
            keeps = f"; {self.served.version} continues" if self.served else ""
            remedy = "; pip install 'retrain-worker[serving]'" if isinstance(error, ModuleNotFoundError) else ""
            self._note_file(f"{named.version} is refused: {error}{remedy}{keeps}")
            return
        self.served, self._refused = served, None
        self._note_file(None)
        _log.info("%s is in service (%s)", served.version, served.model_path)

    def _verified(self, named: CurrentModel) -> Served:
        """The model in memory, with verified hash and canary and a warm-up prediction. Imports torch."""
        import numpy as np

        from retrain_worker.model import bundle

        path = Path(named.model_path)
        loaded = bundle.read(path, expected_sha256=named.sha256 or None, feature_names=self._feature_names)
        contract = loaded.contract
        loaded.probabilities(np.zeros((1, contract.context_length, len(contract.feature_names)), dtype=np.float32))
        return Served(
            bundle=loaded,
            version=named.version,
            model_path=path,
            sha256=loaded.manifest.sha256,
            served_at=datetime.now(UTC),
            canary_max_error=loaded.canary_error(),
            named=named,
        )

    def _acknowledge(self) -> Steps[None]:
        """Acknowledge the model and its event once; repeated later if Redis cannot be reached."""
        served = self.served
        if served is None or served is self._acknowledged or self._redis_problem is not None:
            return
        payload: payloads.Served = {
            "version": served.version,
            "sha256": served.sha256,
            "model_path": str(served.model_path),
            "consumer": self._consumer,
            "canary_max_error": served.canary_max_error,
            "served_at": served.served_at.isoformat(),
            "event_id": served.named.event_id,
        }
        fields = envelope(
            event_type=SERVED_STREAM.removeprefix(STREAM_PREFIX),
            payload=json.dumps(payload),
            correlation_id=served.named.run_id,
            event_id=str(uuid.uuid4()),
            timestamp=datetime.now(UTC),
            source=self._consumer,
        )
        try:
            yield call("xadd", SERVED_STREAM, fields | {"instance": self._instance})
        except RedisError as error:
            self._note_redis(error)
        else:
            self._acknowledged = served

    # ---------------------------------------------------------------- logging once

    def _note_redis(self, error: RedisError | None) -> None:
        problem = None if error is None else self._message_of(error)
        if problem and problem != self._redis_problem:
            _log.warning("%s; the current model continues", problem)
        self._redis_problem = problem

    def _note_file(self, problem: str | None) -> None:
        if problem and problem != self._file_problem:
            _log.error("%s", problem)
        self._file_problem = problem


def _is_same_file(served: Served, named: CurrentModel) -> bool:
    return served.sha256 == named.sha256 or (not named.sha256 and str(served.model_path) == named.model_path)
