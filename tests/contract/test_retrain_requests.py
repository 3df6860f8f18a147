"""Retrain requests on a real stream: read, acknowledged, claimed, dead-lettered, and added."""

from datetime import timedelta
from typing import Any

import pytest
import redis

from retrain_worker.adapters.retrain_requests import BATCH, Requests, trigger
from retrain_worker.domain.events import REQUEST_GROUP, REQUEST_STREAM
from retrain_worker.errors import RedisUnavailableError
from tests.redis_world import Clock, LossyWire, RedisServer, entries_of

DEAD_LETTERS = "quantum:dead_letter:retraining_workers"


@pytest.fixture
def requests(client: redis.Redis, clock: Clock) -> Requests:
    return Requests(client, clock)


def reasons(poll: Any) -> list[Any]:
    return [request.reason for request in poll.requests]


def acknowledge_all(requests: Requests, poll: Any) -> None:
    assert requests.acknowledge(request.stream_id for request in poll.requests) is None


def test_a_triggered_request_comes_until_it_is_acknowledged(requests: Requests, client: redis.Redis) -> None:
    stream_id = trigger(client, reason="new data", requested_by="a person").entry_id

    first, again = requests.poll(), requests.poll()
    acknowledge_all(requests, again)

    assert first.requests == again.requests
    assert (first.requests[0].stream_id, first.requests[0].requested_by) == (stream_id, "a person")
    assert reasons(first) == ["new data"]
    assert requests.poll().requests == ()
    assert client.xpending(REQUEST_STREAM, REQUEST_GROUP)["pending"] == 0


def test_requests_made_before_the_first_worker_count(client: redis.Redis, clock: Clock) -> None:
    trigger(client, reason="early", requested_by="x")

    assert reasons(Requests(client, clock).poll()) == ["early"]


def test_after_a_restart_unacknowledged_requests_come_before_new_ones(
    requests: Requests,
    client: redis.Redis,
    clock: Clock,
) -> None:
    trigger(client, reason="first", requested_by="x")
    requests.poll()
    trigger(client, reason="second", requested_by="x")

    assert reasons(Requests(client, clock).poll()) == ["first", "second"]


def test_pending_requests_of_another_consumer_are_claimed(
    client: redis.Redis, clock: Clock, requests: Requests
) -> None:
    trigger(client, reason="left behind", requested_by="x")
    Requests(client, clock, consumer="gone").poll()
    assert requests.poll().requests == ()

    assert reasons(Requests(client, clock, abandoned_after=timedelta()).poll()) == ["left behind"]


@pytest.mark.parametrize(
    ("fields", "reason", "requested_by"),
    [
        ({"reason": "flat", "requested_by": "older script"}, "flat", "older script"),
        (
            {"payload": '{"reason": "drift", "extra": 1}', "source": "monitor", "schema_version": "7"},
            "drift",
            "monitor",
        ),
        ({"anything": "else"}, "no reason given", "unknown"),
        ({"reason": "two\nlines\tand \x1b[31mcolour"}, "two lines and [31mcolour", "unknown"),
        ({"reason": "x" * 5000}, "x" * 200, "unknown"),
    ],
)
def test_requests_in_every_accepted_form_are_read(
    requests: Requests,
    client: redis.Redis,
    fields: Any,
    reason: Any,
    requested_by: str,
) -> None:
    client.xadd(REQUEST_STREAM, fields)

    [request] = requests.poll().requests

    assert (request.reason, request.requested_by) == (reason, requested_by)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"payload": "{"}, "not JSON"),
        ({"payload": "[1]"}, "a JSON list"),
        ({"payload": "[" * 100_000}, "not JSON"),
        ({"event_type": "model.promoted"}, "event_type"),
        ({"timestamp": "yesterday"}, "ISO 8601"),
        ({"timestamp": "1e400"}, "ISO 8601"),
        ({b"payload": b"\xff\xfe"}, "not JSON"),
    ],
)
def test_malformed_requests_are_dead_lettered_with_a_reason_and_the_others_are_read(
    requests: Requests,
    client: redis.Redis,
    fields: Any,
    reason: str,
) -> None:
    client.xadd(REQUEST_STREAM, fields)
    trigger(client, reason="good", requested_by="x")

    poll = requests.poll()

    assert reasons(poll) == ["good"]
    assert reason in poll.dead_letters[0].reason
    [(_, kept)] = entries_of(client, DEAD_LETTERS)
    assert reason in kept[b"dead_letter_reason"].decode()
    assert client.xpending(REQUEST_STREAM, REQUEST_GROUP)["pending"] == 1


@pytest.mark.parametrize("timestamp", ["1768016112", "1768016112.25", "1768016112250", "2026-01-10T03:35:12Z"])
def test_requests_of_the_strategic_evolution_service_are_read(
    requests: Requests, client: redis.Redis, timestamp: str
) -> None:
    """Every ten minutes it adds one entry for each model that it mutates."""
    for model in ("xgb", "PatchTST", "nhits"):
        client.xadd(
            REQUEST_STREAM,
            {
                "model": model,
                "learning_rate": "0.0012",
                "mutation": "dropout",
                "timestamp": timestamp,
                "source": "strategic_evolution",
            },
        )

    poll = requests.poll()

    assert [request.requested_by for request in poll.requests] == ["strategic_evolution"]
    assert (poll.other_models, poll.dead_letters) == (("xgb", "nhits"), ())
    acknowledge_all(requests, poll)
    assert client.xpending(REQUEST_STREAM, REQUEST_GROUP)["pending"] == 0


def test_a_timestamp_in_the_payload_may_be_a_number(requests: Requests, client: redis.Redis) -> None:
    client.xadd(REQUEST_STREAM, {"payload": '{"model": "patchtst", "timestamp": 1768016112.25, "reason": "drift"}'})
    client.xadd(REQUEST_STREAM, {"payload": '{"model": "lgbm", "timestamp": 1768016112.25}'})

    poll = requests.poll()

    assert (reasons(poll), poll.other_models) == (["drift"], ("lgbm",))


def test_a_flood_is_read_in_bounded_polls(requests: Requests, client: redis.Redis) -> None:
    for number in range(2 * BATCH + 10):
        client.xadd(REQUEST_STREAM, {"reason": str(number)})

    sizes = []
    while found := requests.poll().requests:
        sizes.append(len(found))
        requests.acknowledge(request.stream_id for request in found)

    assert sizes == [BATCH, BATCH, 10]


def test_a_destroyed_group_is_created_again_and_no_request_is_lost(requests: Requests, client: redis.Redis) -> None:
    requests.poll()
    client.xgroup_destroy(REQUEST_STREAM, REQUEST_GROUP)
    trigger(client, reason="meanwhile", requested_by="x")
    assert reasons(requests.poll()) == ["meanwhile"]

    client.flushall()
    trigger(client, reason="after the flush", requested_by="x")
    assert reasons(requests.poll()) == ["after the flush"]


def test_a_pending_request_that_was_trimmed_is_dead_lettered(requests: Requests, client: redis.Redis) -> None:
    trigger(client, reason="trimmed", requested_by="x")
    requests.poll()
    client.xtrim(REQUEST_STREAM, maxlen=0, approximate=False)

    assert requests.poll().requests == ()
    assert client.xpending(REQUEST_STREAM, REQUEST_GROUP)["pending"] == 0


def test_an_unreachable_redis_is_one_problem_until_it_recovers(clock: Clock) -> None:
    server = RedisServer()
    try:
        requests = Requests(server.client(), clock)
        messages = set()
        for _ in range(5):
            messages.add(requests.poll().problem.message)
            clock.advance(31)
        assert len(messages) == 1
        assert "cannot be reached" in messages.pop()
        assert "cannot be reached" in requests.acknowledge(["1-0"]).message
        with pytest.raises(RedisUnavailableError, match="cannot be reached"):
            trigger(server.client(), reason="x", requested_by="x")

        server.start()
        assert requests.poll().problem is None
    finally:
        server.remove()


def test_after_a_lost_reply_a_trigger_adds_no_second_request(
    redis_server: RedisServer,
    wire: LossyWire,
    client: redis.Redis,
) -> None:
    wire.lose_replies(b"XADD", 1)

    with pytest.raises(RedisUnavailableError):
        trigger(redis_server.client(wire.url), reason="x", requested_by="x")

    assert client.xlen(REQUEST_STREAM) == 1


def test_a_key_of_another_type_is_left_alone(requests: Requests, client: redis.Redis) -> None:
    client.set(REQUEST_STREAM, "theirs")

    assert "another type" in requests.poll().problem.message
    assert client.get(REQUEST_STREAM) == b"theirs"
