"""Following the model in service: hash, env file, replacement. No I/O; `io_drivers` performs it.

The hash `quantum:model:patchtst:current` names the model in service; the content of an event is never read, it only
triggers reading the hash. So nothing depends on having seen an event, no consumer group is needed, and the engine's env
file replaces the hash while Redis is unreachable. `slot_entry` decodes and verifies what they name. A new model is
loaded beside the current one and replaces it by one assignment when hash and canary are right; otherwise it is refused,
with the reason in `problem` and in the log. Each replacement is acknowledged on `model.served`, and a model that is
refused is reported there: at once when the model itself is at fault, otherwise when it is refused a second time. When
the slot names no model, there is none.
"""

from __future__ import annotations

import json
import logging
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoPermissionError, RedisError

from retrain_worker import durable_file
from retrain_worker.domain import payloads
from retrain_worker.domain.current_model import CHANGES, CurrentModel
from retrain_worker.domain.envelope import envelope
from retrain_worker.domain.events import CURRENT_MODEL_KEY, SERVED_STREAM, STREAM_PREFIX, stream_of
from retrain_worker.domain.printable import printable
from retrain_worker.errors import MalformedError, RefuseError, RetrainError, install_extra
from retrain_worker.redis_client import is_no_such_key, text_of
from retrain_worker.serving.io_drivers import Pause, Steps, Work, call
from retrain_worker.serving.model_cache import ModelCache
from retrain_worker.serving.slot_entry import FIELDS, SlotEntries

if TYPE_CHECKING:
    from retrain_worker.model.bundle import Bundle

#: interval of reading the hash without an event
BLOCK_SECONDS = 1.0
SOCKET_TIMEOUT_SECONDS = BLOCK_SECONDS + 5.0
#: interval after which a refused file is read again: it may have been incomplete
RETRY_SECONDS = 30.0
#: interval of repeating the acknowledgement, which the stream keeps for 30 days
REPEAT_SECONDS = 86_400.0
#: key of the problems of reading events
_EVENTS = "events"
_MAX_BYTES = 512 << 20
#: characters of a reported problem
_LONGEST_PROBLEM = 1_000
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
    #: the entry of the slot that named it
    named: CurrentModel


@dataclass(frozen=True, kw_only=True)
class _Refusal:
    """A version that is not served, and whether the model itself is at fault."""

    version: str
    #: of the entry: the same version may be promoted or offered again
    promoted_at: datetime
    is_fault: bool
    problem: str = field(compare=False)


class ModelWatch:
    """The current model, the one in service, and the replacement. Methods that return Steps need a driver."""

    def __init__(
        self,
        *,
        consumer: str,
        entries: SlotEntries,
        env_file: Path | None,
        feature_names: tuple[str, ...],
        message_of: Callable[[RedisError], str],
        instance: str = "",
        cache: ModelCache | None = None,
    ) -> None:
        """`message_of` turns a Redis error into a message without secrets.

        `cache`: models are fetched, and the paths of entries do not count.
        """
        self.served: Served | None = None
        self._consumer = consumer
        self._instance = instance
        self._cache = cache
        self._host = socket.gethostname()
        self._entries = entries
        self._env_file = env_file
        self._feature_names = feature_names
        self._message_of = message_of
        self._acknowledged: Served | None = None
        self._repeat_at = 0.0
        self._stream_ids: dict[str, str] = {}
        #: what does not work -> why
        self._redis_problems: dict[str, str] = {}
        self._file_problem: str | None = None
        self._is_reachable = False
        self._refused: CurrentModel | None = None
        #: the last entry of the hash, and its fields
        self._hash: tuple[CurrentModel, dict[bytes, bytes]] | None = None
        #: what the hash offers to this consumer before the slot names it; and the one that is in service
        self._offer: CurrentModel | None = None
        self._followed_offer: CurrentModel | None = None
        #: the refused entry whose file has the right hash
        self._faulty: CurrentModel | None = None
        self._refusal: _Refusal | None = None
        self._reported: _Refusal | None = None
        #: what the service has found, to be reported
        self._fault: _Refusal | None = None
        self._retry_at = 0.0

    @property
    def problem(self) -> str | None:
        """Why the current model may not be the one in service; None without a problem."""
        return "; ".join(filter(None, dict.fromkeys((self._file_problem, *self._redis_problems.values())))) or None

    def report_fault(self, problem: str) -> None:
        """Report with the next step that the model in service answers wrongly, as the service has found."""
        if self.served is not None:
            named = self.served.named
            self._fault = _Refusal(version=named.version, promoted_at=named.promoted_at, is_fault=True, problem=problem)

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
            reply = yield call("xread", dict(self._stream_ids), count=1, block=int(BLOCK_SECONDS * 1000))
        except RedisError as error:
            self._note_redis(_EVENTS, error)
            yield Pause(BLOCK_SECONDS)
            return
        if reply:
            self._stream_ids.clear()  # read again before the hash, so that no event is missed in between

    def _named(self) -> Steps[CurrentModel | None]:
        """The model in service: from the hash, or from the env file while it is unavailable."""
        self._is_reachable = False
        try:
            yield from self._find_stream_ends()
            self._note_redis(_EVENTS, None)
        except NoPermissionError as error:
            self._note_redis(_EVENTS, error)
        except RedisError as error:
            self._note_redis(_EVENTS, error)
            named: CurrentModel | None = yield Work(self._named_offline)
            return named
        self._is_reachable = True
        try:
            named = yield from self._named_by_hash()
        except RedisError as error:
            self._note_redis(CURRENT_MODEL_KEY, error)
            named = None
        return named or (yield Work(self._named_offline))

    def _named_by_hash(self) -> Steps[CurrentModel | None]:
        values = yield call("hmget", CURRENT_MODEL_KEY, FIELDS)
        raw = {name.encode(): value for name, value in zip(FIELDS, values, strict=True) if value is not None}
        problem, named = None, None
        try:
            named = self._entries.from_hash(raw) if raw else None
            # the offer is not part of what is in service
            self._hash = (named, {name: raw[name] for name in raw if name != b"rollout"}) if named else None
        except MalformedError as error:
            problem = f"the hash {CURRENT_MODEL_KEY} is ignored: {error}"
        self._note(CURRENT_MODEL_KEY, problem)
        return self._offered(named, raw) or named

    def _offered(self, named: CurrentModel | None, raw: dict[bytes, bytes]) -> CurrentModel | None:
        """The offer to this consumer that is newer than what the slot names; a malformed one is ignored."""
        problem, self._offer = None, None
        try:
            offer = self._entries.offer_in(raw, consumer=self._consumer)
            self._offer = offer if offer and named and offer.promoted_at > named.promoted_at else None
        except MalformedError as error:
            problem = f"the offer in the hash {CURRENT_MODEL_KEY} is ignored: {error}"
        self._note("rollout", problem)
        return self._offer

    def _named_offline(self) -> CurrentModel | None:
        """From the env file, or at the start from the cache."""
        return self._named_by_env_file() or (self._last_good() if self.served is None else None)

    def _last_good(self) -> CurrentModel | None:
        try:
            fields = self._cache.last_good() if self._cache else {}
            return self._entries.from_hash(fields) if fields else None
        except MalformedError as error:
            self._note_file(f"the last good model is not known: {error}")
            return None

    def _named_by_env_file(self) -> CurrentModel | None:
        if self._env_file is None:
            return None
        try:
            return self._entries.from_env_file(self._env_file)
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
        is_withdrawn = served is not None and served.named == self._followed_offer and named != served.named
        is_newer = served is None or is_withdrawn or self._is_newer(named, served.named)
        if not named.model_path:
            if is_newer:
                self.served = None
                yield Work(lambda: self._keep(named, ""))
                self._note_file("no model is in service: the engine's slot names none")
            return
        if served is not None and served.sha256 == named.sha256:
            self._note_file(None)
            if named.event_id and (is_newer or not served.named.event_id):
                self.served = replace(served, named=named)  # acknowledged again for this event
                yield Work(lambda: self._keep(named, named.sha256))
                self._refusal = self._reported = None
        elif is_newer and (named != self._refused or time.monotonic() >= self._retry_at):
            yield from self._load(named)

    def _is_newer(self, named: CurrentModel, served: CurrentModel) -> bool:
        """Whether `named` replaces `served`: not when it is older, as from a Redis that was restored from a snapshot.

        A date in the future that is not signed proves nothing (a clock that was wrong, a forged entry): what the slot
        names now counts. A signed one is the worker's own, and an older entry a replay.
        """
        is_proved = self._entries.are_signed or served.promoted_at <= datetime.now(UTC)
        return named.promoted_at > served.promoted_at or not is_proved

    def _load(self, named: CurrentModel) -> Steps[None]:
        found = yield from self._attempt(named)
        if isinstance(found, Served):
            yield Work(lambda: self._keep(named, found.sha256))
            self._begin(found, named)
            self._refused = self._refusal = self._reported = None
            self._note_file(None)
            return
        last: CurrentModel | None = None
        if self.served is None:
            last = self._hash[0] if self._hash and named == self._offer else (yield Work(self._last_good))
        if last is not None and last.sha256 != named.sha256:
            instead = yield from self._attempt(last)
            if isinstance(instead, Served):
                self._begin(instead, last)
        keeps = f"; {self.served.version} continues" if self.served else ""
        remedy = f"; {install_extra('serving')}" if isinstance(found, ModuleNotFoundError) else ""
        problem = f"{named.version} is refused: {found}{remedy}{keeps}"
        self._note_file(problem)
        is_fault = named == self._faulty
        if is_fault or named == self._refused:
            self._refusal = _Refusal(
                version=named.version, promoted_at=named.promoted_at, is_fault=is_fault, problem=problem
            )
        self._refused, self._retry_at = named, time.monotonic() + RETRY_SECONDS

    def _begin(self, served: Served, named: CurrentModel) -> None:
        self.served = served
        self._followed_offer = named if named == self._offer else None
        _log.info("%s is in service (%s)", served.version, served.model_path)

    def _attempt(self, named: CurrentModel) -> Steps[Served | Exception]:
        """The model in memory, or why it is not."""
        try:
            served: Served = yield Work(lambda: self._verified(named))
        except (RetrainError, OSError, ImportError, MemoryError) as error:
            return error
        return served

    def _keep(self, named: CurrentModel, sha256: str) -> None:
        """Store the entry beside the cached file. What cannot be stored now is stored with the next model."""
        if self._cache is None or self._hash is None or self._hash[0] != named:
            return
        try:
            self._cache.keep(self._hash[1], sha256)
        except (RetrainError, OSError) as error:
            _log.warning("%s is not kept for a restart: %s", named.version or "the empty slot", error)

    def _verified(self, named: CurrentModel) -> Served:
        """The model in memory, with verified hash and canary and a warm-up prediction. Imports torch."""
        import numpy as np

        from retrain_worker.model import bundle

        if self._cache is None:
            self._entries.verify(named)
        path = Path(named.model_path) if self._cache is None else self._cache.fetched(named)
        try:
            loaded = bundle.read(
                path, expected_sha256=named.sha256, feature_names=self._feature_names, follow_links=False
            )
        except RefuseError:
            with suppress(OSError):
                if durable_file.sha256_of_regular(path, _MAX_BYTES) == named.sha256:
                    self._faulty = named
            raise
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
        """Publish what is served, for each model and event and once a day, and a refusal once.

        Later if Redis is unreachable.
        """
        served, fault = self.served, self._fault
        refusal = fault or (None if self._refusal == self._reported else self._refusal)
        is_due = served is not None and (served is not self._acknowledged or time.monotonic() >= self._repeat_at)
        if not self._is_reachable or not (is_due or refusal):
            return
        payload: payloads.Served = {
            "version": served.version if served else "",
            "sha256": served.sha256 if served else "",
            "model_path": str(served.model_path) if served else "",
            "consumer": self._consumer,
            "canary_max_error": served.canary_max_error if served else None,
            "served_at": (served.served_at if served else datetime.now(UTC)).isoformat(),
            "event_id": served.named.event_id if served else "",
            "host": self._host,
            "instance": self._instance,
        }
        if refusal:
            payload |= {
                "problem": printable(refusal.problem)[:_LONGEST_PROBLEM],
                "problem_version": refusal.version,
                "is_fault": refusal.is_fault,
            }
        fields: dict[str, Any] = envelope(
            event_type=SERVED_STREAM.removeprefix(STREAM_PREFIX),
            payload=json.dumps(payload),
            correlation_id=served.named.run_id if served else "",
            event_id=str(uuid.uuid4()),
            timestamp=datetime.now(UTC),
            source=self._consumer,
        )
        try:
            yield call("xadd", SERVED_STREAM, fields | {"instance": self._instance, "host": self._host})
        except RedisError as error:
            self._note_redis(SERVED_STREAM, error)
        else:
            self._note_redis(SERVED_STREAM, None)
            self._acknowledged, self._repeat_at = served, time.monotonic() + REPEAT_SECONDS
            if fault is None:
                self._reported = refusal or self._reported
            elif self._fault is fault:
                self._fault = None

    # ---------------------------------------------------------------- logging once

    def _note_redis(self, what: str, error: RedisError | None) -> None:
        self._note(what, None if error is None else f"{self._message_of(error)}; the current model continues")

    def _note(self, what: str, problem: str | None) -> None:
        """Note a problem of `what`, or that there is none; each is logged when it begins."""
        if problem is None:
            self._redis_problems.pop(what, None)
            return
        if problem not in self._redis_problems.values():
            _log.warning("%s", problem)
        self._redis_problems[what] = problem

    def _note_file(self, problem: str | None) -> None:
        if problem and problem != self._file_problem:
            _log.error("%s", problem)
        self._file_problem = problem
