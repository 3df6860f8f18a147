"""Reads the engine's entries on quantum:stream:trade.intent, at most BATCH of them in a pass, in small pages.

The last id read and the tally are kept in the state database, so that a restart counts no entry twice and misses none.
Implements stages.ports.Confirmations, too: an engine that names its model in an entry confirms it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import redis
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from retrain_worker.adapters.answer_tally import COUNTED, CountedAnswers, tally_in
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.decoding import fields_in, raises_malformed_only
from retrain_worker.domain.engine_answers import INTENT_STREAM, EngineAnswer, Tally, answer_in
from retrain_worker.domain.envelope import added_at, instant_of, parts_of, payload_in
from retrain_worker.errors import MalformedError
from retrain_worker.redis_client import PAGE, RedisProblem, entries_in, newest_entries, problem_of, unavailable

#: entries of one pass
BATCH = 500
#: entries searched for a confirmation, newest first
_MAX_SEARCHED = 200


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
        known = self._store.recall(COUNTED, CountedAnswers)
        tally = known.tally if known else Tally()
        cursor = (known.milliseconds, known.sequence) if known else (int(at.timestamp() * 1000), 0)
        if tally.model_path != model_path:
            tally = Tally(model_path=model_path, since=at.isoformat())
        problem, count = None, PAGE
        for _ in range(BATCH // PAGE):
            try:
                page = entries_in(self._client.xrange(INTENT_STREAM, f"({cursor[0]}-{cursor[1]}", "+", count=count))
            except RedisError as error:
                if isinstance(error, RedisTimeoutError) and count > 1:
                    count = 1  # large entries: Redis prepares a whole reply before it sends any of it
                    continue
                problem = problem_of(error, self._client, key=INTENT_STREAM)
                break
            for stream_id, fields in page:
                tally, cursor = _counted(tally, stream_id, fields), parts_of(stream_id)
            if len(page) < count:
                break
        self._store.remember(COUNTED, CountedAnswers(milliseconds=cursor[0], sequence=cursor[1], tally=tally))
        return problem

    def seen_serving(self, *, version: str, sha256: str, model_path: str, since: datetime) -> str | None:
        """The entry in which the engine names the model by version, path or sha256; None while there is none.

        Raises RedisUnavailableError.
        """
        try:
            return self._naming({version, sha256, model_path}, since)
        except RedisError as error:
            raise unavailable(error, self._client, key=INTENT_STREAM) from error

    def _naming(self, names: set[str], since: datetime) -> str | None:
        for stream_id, fields in newest_entries(self._client, INTENT_STREAM, since=since, limit=_MAX_SEARCHED):
            try:
                answer = _answer_in(stream_id, fields)
            except MalformedError:
                continue
            named = names & set(answer.names if answer else ())
            if answer and named:
                return f"the engine names {min(named, key=len)} in its answer for {answer.symbol}"
        return None


def _counted(tally: Tally, stream_id: str, fields: Mapping[bytes, bytes]) -> Tally:
    try:
        return tally.with_entry(_answer_in(stream_id, fields))
    except MalformedError:
        return tally.with_malformed()


@raises_malformed_only
def _answer_in(stream_id: str, fields: Mapping[bytes, bytes]) -> EngineAnswer | None:
    flat = fields_in(fields)
    whole: dict[str, Any] = {**flat, **payload_in(flat)}
    return answer_in(whole, at=_instant(whole, stream_id))


def _instant(whole: Mapping[str, Any], stream_id: str) -> datetime:
    """The entry's own timestamp, where it can be read; else when Redis added it."""
    with contextlib.suppress(MalformedError):
        return instant_of(str(whole.get("timestamp") or "")) or added_at(stream_id)
    return added_at(stream_id)
