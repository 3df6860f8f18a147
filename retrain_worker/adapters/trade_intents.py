"""Reads the engine's entries on quantum:stream:trade.intent, BATCH at a time.

The last id read and the tally are kept in the state database, so that a restart counts no entry twice and misses none.
Implements stages.ports.Confirmations, too: an engine that names its model in an entry confirms it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import redis
from redis.exceptions import RedisError

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.engine_answers import INTENT_STREAM, EngineAnswer, Tally, answer_in
from retrain_worker.domain.envelope import added_at, instant_of, parts_of, payload_in
from retrain_worker.redis_client import RedisProblem, entries_in, problem_of, text_of

#: entries of one pass
BATCH = 500
#: entries searched for a confirmation, newest first
_MAX_SEARCHED = 200
_PROGRESS = "serving_monitor"


@dataclass(frozen=True, kw_only=True)
class _Progress:
    """Up to which entry of the stream the answers are counted, and the tally of them."""

    milliseconds: int
    sequence: int
    tally: Tally


class TradeIntents:
    """The tally of the engine's answers since the model in its slot was put there."""

    def __init__(self, client: redis.Redis, store: StateDb) -> None:
        self._client = client
        self._store = store

    @property
    def tally(self) -> Tally:
        """What was counted up to the last pass."""
        return tally_in(self._store)

    def read(self, *, model_path: str, at: datetime) -> RedisProblem | None:
        """Count the entries since the last pass; why that was not possible, or None. Another model begins a new tally.

        The first pass ever begins at `at`.
        """
        known = self._store.recall(_PROGRESS, _Progress)
        tally = known.tally if known else Tally()
        cursor = (known.milliseconds, known.sequence) if known else (int(at.timestamp() * 1000), 0)
        if tally.model_path != model_path:
            tally = Tally(model_path=model_path, since=at.isoformat())
        try:
            entries = entries_in(self._client.xrange(INTENT_STREAM, f"({cursor[0]}-{cursor[1]}", "+", count=BATCH))
        except RedisError as error:
            return problem_of(error, self._client, key=INTENT_STREAM)
        for stream_id, fields in entries:
            tally, cursor = _counted(tally, stream_id, fields), parts_of(stream_id)
        self._store.remember(_PROGRESS, _Progress(milliseconds=cursor[0], sequence=cursor[1], tally=tally))
        return None

    def seen_serving(self, *, version: str, sha256: str, model_path: str, since: datetime) -> str | None:
        """The entry in which the engine names the model by version, path or sha256; None while there is none."""
        try:
            entries = entries_in(
                self._client.xrevrange(INTENT_STREAM, "+", str(int(since.timestamp() * 1000)), count=_MAX_SEARCHED)
            )
        except RedisError:
            return None
        for stream_id, fields in entries:
            try:
                answer = _answer_in(stream_id, fields)
            except ValueError:
                continue
            named = set(answer.names if answer else ()) & {version, sha256, model_path}
            if answer and named:
                return f"the engine names {min(named, key=len)} in its answer for {answer.symbol}"
        return None


def tally_in(store: StateDb) -> Tally:
    """The tally up to the last pass; an empty one where there is none, or it cannot be decoded."""
    known = store.recall(_PROGRESS, _Progress)
    return known.tally if known else Tally()


def _counted(tally: Tally, stream_id: str, fields: Mapping[bytes, bytes]) -> Tally:
    try:
        return tally.with_entry(_answer_in(stream_id, fields))
    except ValueError:
        return tally.with_malformed()


def _answer_in(stream_id: str, fields: Mapping[bytes, bytes]) -> EngineAnswer | None:
    """Raises ValueError when the entry is malformed."""
    flat = {text_of(name): text_of(value) for name, value in fields.items()}
    whole: dict[str, Any] = {**flat, **payload_in(flat)}
    return answer_in(whole, at=_instant(whole, stream_id))


def _instant(whole: Mapping[str, Any], stream_id: str) -> datetime:
    """The entry's own timestamp, where it can be read; else when Redis added it."""
    with contextlib.suppress(ValueError):
        return instant_of(str(whole.get("timestamp") or "")) or added_at(stream_id)
    return added_at(stream_id)
