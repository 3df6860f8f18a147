"""Entries that any client of Redis can write: no reader stops, none takes memory by their size, genuine ones count."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from retrain_worker.adapters.event_tail import EventTail, Unreadable
from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.retrain_requests import Requests, trigger
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.adapters.trade_intents import TradeIntents
from retrain_worker.domain.decoding import OversizedValue
from retrain_worker.domain.engine_answers import INTENT_STREAM
from retrain_worker.domain.events import CURRENT_MODEL_KEY, REQUEST_STREAM, EventType, stream_of
from retrain_worker.redis_client import entries_in
from retrain_worker.report.event_line import event_line
from retrain_worker.serving import AsyncModelEvents, ModelEvents, event_reader
from tests.daemon_home import one_pass, opened_components
from tests.redis_world import Clock, RedisServer, a_promotion, enqueue

MODEL = "/engine/patchtst_v20260110_033000.pth"
DEAD_LETTERS = "quantum:dead_letter:"
LARGE = 20_000_000
#: an entry -> a part of the reason for which it is refused
HOSTILE: tuple[tuple[dict[Any, Any], str], ...] = (
    ({"timestamp": "0001-01-01T00:00:00+23:59"}, "its timestamp '0001-01-01T00:00:00+23:59' is neither"),
    ({"timestamp": "9999-12-31T23:59:59-23:59"}, "its timestamp"),
    ({"timestamp": "1e308"}, "its timestamp"),
    ({"payload": '{"reason": "\\ud800"}'}, "not valid Unicode"),
    ({"payload": "[" * 100_000}, "its payload is not JSON"),
    ({"payload": '{"a":' * 40 + "1" + "}" * 40}, "nested deeper than 32 levels"),
    ({"payload": "x" * LARGE}, "a field of 20,000,000 bytes"),
    ({str(number): "" for number in range(10_000)}, "more than 512 fields"),
    ({"event_id": "x" * 1000}, "its event_id has more than 200 characters"),
    ({"source": "\x1b]0;title\x07"}, "holds characters that cannot be printed"),
    ({"schema_version": "9" * 5000}, "its schema_version"),
)
#: strange, but entries
STRANGE: tuple[dict[Any, Any], ...] = (
    {"payload": '{"reasons": 5, "auc": 1' + "0" * 400 + "}"},
    {"payload": '{"reason": {"deep": [[[[1]]]]}, "requested_by": [], "force": 1e400}'},
    {b"\xff\xfe": b"\xff"},
    {"payload": '{"reason": "a\\u001b[2Jb\\nc"}'},
)


@pytest.fixture
def publish(client: redis.Redis, outbox: StateDb, clock: Clock) -> Iterator[Any]:
    relay = Relay(client, outbox, clock)

    def publish(number: int) -> None:
        clock.advance(1)
        enqueue(outbox, a_promotion(number, at=clock()))
        assert relay.relay_once(at_once=True).problem is None

    yield publish


def add_hostile(client: redis.Redis, stream: str) -> None:
    for fields, _ in HOSTILE:
        client.xadd(stream, fields)


def test_requests_are_taken_after_entries_that_cannot_be_read(client: redis.Redis, clock: Clock) -> None:
    add_hostile(client, REQUEST_STREAM)
    for fields in STRANGE:
        client.xadd(REQUEST_STREAM, fields)
    trigger(client, reason="genuine", requested_by="ops")
    requests = Requests(client, clock)
    poll = requests.poll()

    assert poll.problem is None
    assert [letter.reason for letter in poll.dead_letters if "unexpected" in letter.reason] == []
    for (_, reason), letter in zip(HOSTILE, poll.dead_letters, strict=True):
        assert reason in letter.reason
    assert [request.reason for request in poll.requests][-1] == "genuine"
    assert all(request.reason.isprintable() and len(request.reason) <= 200 for request in poll.requests)
    requests.acknowledge(request.stream_id for request in poll.requests)
    assert Requests(client, clock).poll().requests == (), "also after a restart"
    kept = entries_in(client.xrange(f"{DEAD_LETTERS}retraining_workers"))
    assert len(kept) == len(HOSTILE)
    assert sum(len(value) for _, fields in kept for value in fields.values()) < 1_000_000


def test_an_unexpected_error_in_one_entry_is_its_reason(
    client: redis.Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrain_worker.adapters import retrain_requests

    real = retrain_requests._content_of

    def broken(stream_id: str, fields: Any) -> Any:
        if b"trap" in fields:
            raise ZeroDivisionError("division by zero")
        return real(stream_id, fields)

    monkeypatch.setattr(retrain_requests, "_content_of", broken)
    client.xadd(REQUEST_STREAM, {"trap": ""})
    trigger(client, reason="genuine", requested_by="ops")
    poll = Requests(client, clock).poll()

    assert [letter.reason for letter in poll.dead_letters] == ["unexpected ZeroDivisionError: 'division by zero'"]
    assert [request.reason for request in poll.requests] == ["genuine"]


def test_events_are_delivered_after_entries_that_cannot_be_read(
    client: redis.Redis, publish: Any, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_reader, "BLOCK_SECONDS", 0.05)
    add_hostile(client, stream_of(EventType.PROMOTED))
    publish(1)
    with ModelEvents(redis_server.url, group="g", consumer="c", types=["model.promoted"]) as events:
        event = next(iter(events))
        events.acknowledge(event)

    assert event.event_type == "model.promoted"
    assert event.payload["new_version"] == "patchtst_v20260101_000001"
    kept = entries_in(client.xrange(f"{DEAD_LETTERS}g"))
    for (_, reason), (_, fields) in zip(HOSTILE, kept, strict=True):
        assert reason in fields[b"dead_letter_reason"].decode()


async def _first_of(url: str) -> Any:
    async with AsyncModelEvents(url, group="a", consumer="c", types=["model.promoted"]) as events:
        event = await anext(events)
        await events.acknowledge(event)
        return event


def test_asyncio_reads_entries_of_any_size(client: redis.Redis, publish: Any, redis_server: RedisServer) -> None:
    import asyncio

    add_hostile(client, stream_of(EventType.PROMOTED))
    publish(1)
    before = psutil.Process().memory_info().rss
    event = asyncio.run(_first_of(redis_server.url))

    assert event.event_type == "model.promoted"
    assert event.payload["new_version"] == "patchtst_v20260101_000001"
    assert psutil.Process().memory_info().rss - before < 10_000_000


def test_events_tail_shows_every_entry_on_one_printable_line(client: redis.Redis, publish: Any) -> None:
    stream = stream_of(EventType.PROMOTED)
    add_hostile(client, stream)
    for fields in STRANGE:
        client.xadd(stream, {"event_type": "learning.retraining.failed", **fields})
    publish(1)
    found = EventTail(client, [stream]).newest(100)

    assert len(found) == len(HOSTILE) + len(STRANGE) + 1
    lines = [each.reason if isinstance(each, Unreadable) else event_line(each) for each in found]
    assert all(line.isprintable() and len(line) < 1000 for line in lines)
    assert "unexpected" not in " ".join(lines)


def test_the_serving_monitor_counts_the_engine_s_answers_among_them(client: redis.Redis, outbox: StateDb) -> None:
    from datetime import UTC, datetime

    add_hostile(client, INTENT_STREAM)
    for confidence in ("1" + "0" * 400, "-1e400", "NaN", "0.7"):
        ours = '{"action": "BUY", "confidence": ' + confidence + "}"
        client.xadd(INTENT_STREAM, {"symbol": "BTCUSDT", "side": "BUY", "model_breakdown": f'{{"patchtst": {ours}}}'})
    client.xadd(
        INTENT_STREAM, {"symbol": "x" * 300, "model_breakdown": '{"patchtst": {"action": "BUY", "confidence": 1}}'}
    )
    intents = TradeIntents(client, outbox)
    intents.read(model_path=MODEL, at=datetime(2020, 1, 1, tzinfo=UTC))
    tally = intents.tally

    assert (tally.answers, tally.fallbacks, len(tally.newest)) == (4, 3, 1)
    assert tally.entries == len(HOSTILE) + 5
    assert TradeIntents(client, outbox).tally == tally, "it is stored"


def test_twelve_entries_of_50_mb_cost_the_daemon_no_memory(tmp_path: Path, redis_server: RedisServer) -> None:
    """Row 7: the daemon took 640 MB, and 200 MB of state.db."""
    client = redis_server.client()
    with opened_components(tmp_path / "home", REDIS_URL=redis_server.url) as components:
        slot = components.configuration.settings.engine_env_file
        slot.write_text(f"PATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH={MODEL}\n")
        one_pass(components, "serving monitor")
        large = "x" * 50_000_000
        for number in range(12):
            name = ("payload", "symbol", "model_breakdown")[number % 3]
            client.xadd(INTENT_STREAM, {name: large})
        del large
        gc.collect()
        process, state = psutil.Process(), components.store._path
        before, size_before = process.memory_info().rss, state.stat().st_size
        for _ in range(20):  # on a loaded host the time for one pass is over before all are read
            one_pass(components, "serving monitor")
            tally = components.serving_monitor._trade_intents.tally
            if tally.entries == 12:
                break
        grown, state_grown = process.memory_info().rss - before, state.stat().st_size - size_before

    assert (tally.entries, tally.malformed) == (12, 12)
    print(f"\nmemory of the daemon {before / 1e6:.0f} MB, {grown / 1e6:+.1f} MB; state.db {state_grown / 1e3:+.0f} kB")
    assert grown < 10_000_000
    assert state_grown < 200_000


def test_a_large_hash_costs_nothing_and_is_written_again(client: redis.Redis, publish: Any) -> None:
    publish(1)
    client.hset(CURRENT_MODEL_KEY, mapping={"sha256": "x" * LARGE, "more": "x" * LARGE})
    before = psutil.Process().memory_info().rss
    publish(2)

    assert client.hget(CURRENT_MODEL_KEY, "version") == b"patchtst_v20260101_000002"
    assert client.hstrlen(CURRENT_MODEL_KEY, "sha256") == 64
    assert psutil.Process().memory_info().rss - before < 10_000_000


def test_a_reply_keeps_its_form_around_what_is_not_kept(client: redis.Redis) -> None:
    client.xadd("s", {"a": "x" * LARGE, "b": "y"}, id="1-1")
    client.xadd("s", {"a": "z"}, id="1-2")
    client.xadd("s", {f"{number}": "" for number in range(10_000)}, id="1-3")
    [(first, large), second, (third, wide)] = entries_in(client.xrange("s"))

    assert (first, second, third) == ("1-1", ("1-2", {b"a": b"z"}), "1-3")
    assert isinstance(large[b"a"], OversizedValue)
    assert (large[b"a"].length, large[b"b"]) == (LARGE, b"y")
    assert len(wide) == 8192
    client.set("text", "x" * LARGE)
    assert [client.get("text"), client.ping(), client.get("none")] == [b"", True, None]
    with client.pipeline() as pipeline:
        replies = pipeline.get("text").xlen("s").get("none").execute()
    assert replies == [b"", 3, None]
