"""Confirmation by the acknowledgement of a follower on a real stream."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from retrain_worker.adapters.event_confirmations import EventConfirmations
from retrain_worker.domain.confirmation import quorum_of
from retrain_worker.domain.events import SERVED_STREAM
from retrain_worker.errors import RedisUnavailableError
from tests.redis_world import RedisServer

SERVED = {
    "version": "patchtst_v1",
    "sha256": "a" * 64,
    "model_path": "/m",
    "consumer": "engine-1",
    "canary_max_error": 2e-7,
}


def acknowledge(client: redis.Redis, **changes: Any) -> None:
    client.xadd(SERVED_STREAM, {"event_type": "model.served", "payload": json.dumps(SERVED | changes)})


def asked(client: redis.Redis, since: Any, **changes: Any) -> Any:
    question: Any = {"version": "patchtst_v1", "sha256": "a" * 64, "model_path": "/other/view/of/m"} | changes
    return EventConfirmations(client).seen_serving(since=since, **question)


@pytest.fixture
def since() -> Any:
    return datetime.now(UTC) - timedelta(seconds=5)


def test_an_acknowledgement_of_these_bytes_since_then_confirms(client: redis.Redis, since: Any) -> None:
    assert asked(client, since) is None
    acknowledge(client, sha256="b" * 64)
    acknowledge(client, version="other")
    assert asked(client, since) is None

    acknowledge(client)

    assert asked(client, since) == "follower engine-1 answers with patchtst_v1, canary within 2e-07"
    assert asked(client, since + timedelta(hours=1)) is None


def test_malformed_entries_are_skipped(client: redis.Redis, since: Any) -> None:
    acknowledge(client, canary_max_error=None, consumer=None)
    client.xadd(SERVED_STREAM, {"payload": "{"})
    client.xadd(SERVED_STREAM, {"event_type": "other", "payload": json.dumps(SERVED)})

    assert asked(client, since) == "follower without a name answers with patchtst_v1"


@pytest.mark.parametrize(
    "forgery",
    [
        {"consumer": "\x1b[31mengine-1\nverdict: can be used"},
        {"consumer": "x" * 201},
        {"consumer": ["engine-1"]},
        {"canary_max_error": 1e-4},
        {"canary_max_error": -1},
        {"canary_max_error": float("nan")},
        {"canary_max_error": 10**400},
        {"canary_max_error": "0"},
        {"canary_max_error": True},
        {"version": "patchtst_v1", "note": "\ud800"},
        {"sha256": "A" * 64},
        {"sha256": None},
    ],
)
def test_a_forged_or_malformed_acknowledgement_does_not_count_and_hides_no_genuine_one(
    client: redis.Redis, since: Any, forgery: dict[str, Any]
) -> None:
    acknowledge(client, **forgery)
    assert asked(client, since) is None

    acknowledge(client)
    for _ in range(30):
        acknowledge(client, **forgery)

    assert asked(client, since) == "follower engine-1 answers with patchtst_v1, canary within 2e-07"


def test_with_named_consumers_others_do_not_count(client: redis.Redis, since: Any) -> None:
    acknowledge(client, consumer="stranger")
    question: Any = {"version": "patchtst_v1", "sha256": "a" * 64, "model_path": "/m", "since": since}
    known = EventConfirmations(client, consumers=("engine-*", "risk"))
    assert (known.has_answered(), known.seen_serving(**question)) == (False, None)

    acknowledge(client, consumer="engine-7")

    assert known.has_answered()
    assert known.seen_serving(**question) == "follower engine-7 answers with patchtst_v1, canary within 2e-07"
    assert [each.consumer for each in known.followers()] == ["engine-7", "stranger"]


def test_an_entry_of_any_size_hides_no_acknowledgement(client: redis.Redis, since: Any) -> None:
    acknowledge(client)
    client.xadd(SERVED_STREAM, {"payload": b"x" * 20_000_000})
    client.xadd(SERVED_STREAM, {str(number): "" for number in range(10_000)})

    assert asked(client, since) == "follower engine-1 answers with patchtst_v1, canary within 2e-07"


def test_while_redis_is_unreachable_it_is_not_known_whether_a_model_is_confirmed(since: Any) -> None:
    server = RedisServer()
    try:
        with pytest.raises(RedisUnavailableError, match="cannot be reached"):
            asked(server.client(), since)
    finally:
        server.remove()


NEW = {"version": "patchtst_v2", "sha256": "b" * 64}


def test_a_quorum_waits_for_that_many_different_followers(client: redis.Redis, since: Any) -> None:
    question: Any = {"version": "patchtst_v1", "sha256": "a" * 64, "model_path": "/m", "since": since}
    three = EventConfirmations(client, quorum=quorum_of("3"))
    for consumer in ("engine-1", "engine-2", "engine-2", "engine-1"):
        acknowledge(client, consumer=consumer)
        assert three.seen_serving(**question) is None

    acknowledge(client, consumer="engine-3", canary_max_error=9e-7)

    assert three.seen_serving(**question) == (
        "3 followers answer with patchtst_v1, canary within 9e-07: engine-1, engine-2, engine-3"
    )


def test_a_share_is_of_those_that_served_the_model_before(client: redis.Redis) -> None:
    for number in range(3):  # gone since an older model
        acknowledge(client, version="patchtst_v0", sha256="0" * 64, consumer=f"gone-{number}")
    for number in range(8):
        acknowledge(client, consumer=f"engine-{number}")
    time.sleep(0.002)  # ids of entries have milliseconds
    question: Any = {**NEW, "model_path": "/m", "since": datetime.now(UTC)}
    half = EventConfirmations(client, quorum=quorum_of("50%"))
    for number in range(4):
        assert half.seen_serving(**question) is None, f"{number} of 8"
        acknowledge(client, **NEW, consumer=f"engine-{number}")

    assert "4 followers answer with patchtst_v2" in str(half.seen_serving(**question))
    assert [one.host for one in half.followers()] == [""] * 11


def test_a_follower_that_reports_a_fault_no_longer_confirms(client: redis.Redis, since: Any) -> None:
    question: Any = {**NEW, "model_path": "/m", "since": since}
    one = EventConfirmations(client)
    acknowledge(client, **NEW)
    assert one.seen_serving(**question)

    acknowledge(client, **NEW, problem="answers NaN", problem_version="patchtst_v2", is_fault=True)

    assert one.seen_serving(**question) is None
    (found,) = one.followers()
    assert (found.problem, found.problem_version, found.is_fault) == ("answers NaN", "patchtst_v2", True)
