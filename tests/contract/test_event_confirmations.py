"""Confirmation by the acknowledgement of a follower on a real stream."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from retrain_worker.adapters.event_confirmations import EventConfirmations
from retrain_worker.domain.events import SERVED_STREAM
from tests.redis_world import RedisServer

SERVED = {
    "version": "patchtst_v1",
    "sha256": "aa",
    "model_path": "/m",
    "consumer": "engine-1",
    "canary_max_error": 2e-7,
}


def acknowledge(client: redis.Redis, **changes: Any) -> None:
    client.xadd(SERVED_STREAM, {"event_type": "model.served", "payload": json.dumps(SERVED | changes)})


def asked(client: redis.Redis, since: Any, **changes: Any) -> Any:
    question = {"version": "patchtst_v1", "sha256": "aa", "model_path": "/other/view/of/m"} | changes
    return EventConfirmations(client).seen_serving(since=since, **question)


@pytest.fixture
def since() -> Any:
    return datetime.now(UTC) - timedelta(seconds=5)


def test_an_acknowledgement_of_these_bytes_since_then_confirms(client: redis.Redis, since: Any) -> None:
    assert asked(client, since) is None
    acknowledge(client, sha256="other")
    acknowledge(client, version="other")
    assert asked(client, since) is None

    acknowledge(client)

    assert asked(client, since) == "follower engine-1 answers with patchtst_v1, canary within 2e-07"
    assert asked(client, since + timedelta(hours=1)) is None


def test_malformed_entries_are_skipped(client: redis.Redis, since: Any) -> None:
    acknowledge(client, canary_max_error=None, consumer=None)
    client.xadd(SERVED_STREAM, {"payload": "{"})
    client.xadd(SERVED_STREAM, {"event_type": "other", "payload": json.dumps(SERVED)})

    assert asked(client, since) == "follower a follower answers with patchtst_v1"


def test_while_redis_is_unreachable_nothing_is_confirmed(since: Any) -> None:
    server = RedisServer()
    try:
        assert asked(server.client(), since) is None
    finally:
        server.remove()
