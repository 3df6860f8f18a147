"""Reads the engine's own entries on quantum:stream:trade.intent, bounded, from where we left off.

Where we are and what was counted is remembered in the state database, so that a restart neither counts twice nor
forgets. Implements stages.ports.Confirmations, too: an engine that names its model in the entry confirms it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import redis
from redis.exceptions import RedisError

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.engine_answers import INTENT_STREAM, EngineAnswer, Tally, answer_in
from retrain_worker.domain.envelope import parts_of, payload_in
from retrain_worker.redis_client import entries_in, problem_of, text_of

#: entries of one pass; a flood is read in several
BATCH = 500
#: entries looked at for a confirmation, newest first
_LOOK_BACK = 200
_CURSOR, _TALLY = "telemetry/cursor", "telemetry/tally"


class ServingMonitor:
    """The tally of what the engine says under the model that is in its slot."""

    def __init__(self, client: redis.Redis, store: StateDb) -> None:
        self._client = client
        self._store = store

    @property
    def tally(self) -> Tally:
        """What was counted up to the last pass."""
        return tally_in(self._store)

    def read(self, *, model_path: str, at: datetime) -> str | None:
        """Count what has come since the last pass; why that was not possible, or None. Another model: a new tally.

        The first pass ever begins at `at`.
        """
        tally, cursor = self.tally, self._store.recall(_CURSOR) or f"{int(at.timestamp() * 1000)}-0"
        if tally.model_path != model_path:
            tally = Tally(model_path=model_path, since=at.isoformat())
        try:
            entries = entries_in(self._client.xrange(INTENT_STREAM, f"({cursor}", "+", count=BATCH))
        except RedisError as error:
            return problem_of(error, self._client, key=INTENT_STREAM).message
        for stream_id, fields in entries:
            tally, cursor = _counted(tally, stream_id, fields), stream_id
        self._store.remember_all({_CURSOR: cursor, _TALLY: msgspec.json.encode(tally).decode()})
        return None

    def seen_serving(self, *, version: str, sha256: str, model_path: str, since: datetime) -> str | None:
        """The engine's own word, where its entries name the model (version, path or sha256). None while none does."""
        try:
            entries = entries_in(
                self._client.xrevrange(INTENT_STREAM, "+", str(int(since.timestamp() * 1000)), count=_LOOK_BACK)
            )
        except RedisError:
            return None
        for stream_id, fields in entries:
            try:
                found = _said(stream_id, fields)
            except ValueError:
                continue
            named = set(found.names if found else ()) & {version, sha256, model_path}
            if named:
                return f"the engine names {min(named, key=len)} in its answer for {found.symbol if found else ''}"
        return None


def tally_in(store: StateDb) -> Tally:
    """What was counted up to the last pass; an empty tally when nothing was, or what is there cannot be read."""
    try:
        return msgspec.json.decode(store.recall(_TALLY) or "{}", type=Tally)
    except msgspec.MsgspecError:
        return Tally()


def _counted(tally: Tally, stream_id: str, fields: Mapping[bytes, bytes]) -> Tally:
    try:
        return tally.with_entry(_said(stream_id, fields))
    except ValueError:
        return tally.with_malformed()


def _said(stream_id: str, fields: Mapping[bytes, bytes]) -> EngineAnswer | None:
    """Raises ValueError when the entry means nothing."""
    flat = {text_of(name): text_of(value) for name, value in fields.items()}
    whole: dict[str, Any] = {**flat, **payload_in(flat)}
    return answer_in(whole, at=_instant(whole, stream_id))


def _instant(whole: Mapping[str, Any], stream_id: str) -> datetime:
    """The entry's own timestamp, where it can be read; else when Redis took it."""
    taken = datetime.fromtimestamp(parts_of(stream_id)[0] / 1000, UTC)
    try:
        found = datetime.fromisoformat(str(whole["timestamp"]))
    except (KeyError, ValueError):
        return taken
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found
