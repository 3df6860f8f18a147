import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from redis.exceptions import ResponseError

from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.events import EventType, stream_of
from retrain_worker.serving import event_reader
from retrain_worker.serving.events import ModelEvents
from retrain_worker.serving.io_drivers import drive
from tests.redis_world import Clock, LossyWire, RedisServer, a_promotion, an_event, enqueue, entries_of

SKIPPED = stream_of(EventType.SKIPPED)
GROUP = "readers"
PASSWORD = "s3cret-word"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_reader, "BLOCK_SECONDS", 0.05)


@pytest.fixture
def relay(client: redis.Redis, outbox: StateDb, clock: Clock) -> Relay:
    return Relay(client, outbox, clock)


@pytest.fixture
def publish(relay: Relay, outbox: StateDb) -> Any:
    def publish(*events: Any) -> None:
        enqueue(outbox, *events)
        assert relay.relay_once(at_once=True).problem is None

    return publish


@pytest.fixture
def open_events(redis_server: RedisServer) -> Iterator[Any]:
    opened = []

    def open_events(consumer: str = "one", **options: Any) -> ModelEvents:
        events = ModelEvents(redis_server.url, group=GROUP, consumer=consumer, **options)
        opened.append(events)
        return events

    yield open_events
    for events in opened:
        events.__exit__(None, None, None)


def take(events: Any, count: int, *, acknowledge: bool = True) -> list[Any]:
    """The correlation ids of the next `count` events."""
    taken = []
    for event in events:
        taken.append(event.correlation_id)
        if acknowledge:
            events.acknowledge(event)
        if len(taken) == count:
            return taken
    return taken


def join(events: ModelEvents, before_each_command: Any = None) -> None:
    """Have the group, without reading."""
    client = Interrupted(events._client, before_each_command) if before_each_command else events._client
    drive(events._reader.prepare(), cast(redis.Redis, client), events._stopped)


class Interrupted:
    """A client, and what others do to the server before each of its commands."""

    def __init__(self, client: redis.Redis, act: Any) -> None:
        self._client, self._act = client, act

    def __getattr__(self, name: Any) -> Any:
        self._act(name)
        return getattr(self._client, name)


def runs(*numbers: Any) -> list[str]:
    return [f"run_{number}" for number in numbers]


def test_events_of_all_types_come_typed_and_are_acknowledged(
    publish: Any,
    open_events: Any,
    client: redis.Redis,
    clock: Clock,
) -> None:
    publish(an_event(1, reasons=["few"]), a_promotion(2, at=clock()))
    events = open_events()

    seen = {}
    for event in events:
        seen[event.event_type] = event
        events.acknowledge(event)
        if len(seen) == 2:
            break

    assert seen["learning.retraining.skipped"].payload["reasons"] == ["few"]
    assert seen["model.promoted"].payload["size_bytes"] == 2
    assert seen["model.promoted"].source == "retraining-worker"
    assert client.xpending(SKIPPED, GROUP)["pending"] == 0


def test_a_new_group_begins_with_everything_or_with_the_present(
    publish: Any,
    open_events: Any,
    redis_server: RedisServer,
) -> None:
    publish(an_event(1))

    assert take(open_events(), 1) == runs(1)
    late = ModelEvents(redis_server.url, group="late", consumer="x", only_new=True)
    with late:
        join(late)
        publish(an_event(2))
        assert take(late, 1) == runs(2)


def test_what_was_not_acknowledged_comes_again_after_a_restart_and_before_what_is_new(
    publish: Any,
    open_events: Any,
) -> None:
    publish(an_event(1), an_event(2))
    take(open_events(), 2, acknowledge=False)
    publish(an_event(3))

    assert take(open_events(), 3) == runs(1, 2, 3)


def test_what_was_not_acknowledged_comes_again_without_a_restart_when_it_has_lain_for_a_while(
    publish: Any,
    open_events: Any,
) -> None:
    publish(an_event(1))

    assert take(open_events(reclaim_after_seconds=0.2), 3, acknowledge=False) == runs(1, 1, 1)


def test_a_colleague_takes_over_what_a_dead_consumer_left(publish: Any, open_events: Any) -> None:
    publish(an_event(1))
    take(open_events("dead"), 1, acknowledge=False)

    assert take(open_events("alive", reclaim_after_seconds=0.2), 1) == runs(1)


def test_an_event_that_is_never_acknowledged_is_dead_lettered_and_the_others_are_delivered(
    publish: Any,
    open_events: Any,
    client: redis.Redis,
) -> None:
    publish(an_event(1), an_event(2))
    for _ in range(3):
        assert take(open_events(max_tries=3), 1, acknowledge=False) == runs(1)

    assert take(open_events(max_tries=3), 1) == runs(2)

    [(_, kept)] = entries_of(client, "quantum:dead_letter:readers")
    assert b"tried 3 times" in kept[b"dead_letter_reason"]
    assert kept[b"correlation_id"] == b"run_1"


def test_an_entry_that_cannot_be_decoded_is_dead_lettered_and_the_others_are_delivered(
    publish: Any,
    open_events: Any,
    client: redis.Redis,
) -> None:
    client.xadd(SKIPPED, {"payload": "{"})
    publish(an_event(1))

    assert take(open_events(), 1) == runs(1)
    assert client.xlen("quantum:dead_letter:readers") == 1


def test_unknown_fields_and_newer_versions_are_tolerated(open_events: Any, client: redis.Redis) -> None:
    client.xadd(SKIPPED, {"schema_version": "99", "correlation_id": "run_1", "payload": '{"new": 1}', "novel": "field"})

    [event] = [next(iter(open_events()))]

    assert (event.schema_version, event.payload, event.flat) == (99, {"new": 1}, {"novel": "field"})
    assert event.event_type == "learning.retraining.skipped"


def test_the_same_event_under_another_id_comes_once(publish: Any, open_events: Any, client: redis.Redis) -> None:
    publish(an_event(1))
    [(_, fields)] = entries_of(client, SKIPPED)
    client.xadd(SKIPPED, cast(dict[Any, Any], fields))
    publish(an_event(2))

    assert take(open_events(), 2) == runs(1, 2)


def test_a_restarted_reader_still_knows_what_was_handled(publish: Any, open_events: Any, client: redis.Redis) -> None:
    publish(an_event(1))
    take(open_events(), 1)
    [(_, fields)] = entries_of(client, SKIPPED)
    client.xadd(SKIPPED, cast(dict[Any, Any], fields))
    publish(an_event(2))

    assert take(open_events(), 1) == runs(2)


def test_what_a_colleague_is_given_while_we_start_is_not_taken_for_handled(
    publish: Any,
    open_events: Any,
    client: redis.Redis,
) -> None:
    publish(an_event(0))
    take(open_events(), 1)
    commands, given = set(), []

    def a_colleague_is_given_one(command: Any) -> None:
        if command not in commands:
            commands.add(command)
            given.append(len(commands))
            publish(an_event(given[-1]))
            client.xreadgroup(GROUP, "colleague that dies", {SKIPPED: ">"})

    events = open_events(types=[EventType.SKIPPED], reclaim_after_seconds=0.1)
    join(events, a_colleague_is_given_one)

    assert not any(an_event(number).event_id in events._reader._handled for number in given)
    assert take(events, len(given)) == runs(*given)


def test_a_group_destroyed_at_any_moment_of_our_start_is_made_again(
    publish: Any,
    open_events: Any,
    client: redis.Redis,
) -> None:
    publish(an_event(1))
    for moment in range(6):
        moments = iter(range(9))

        def destroy(_: Any, moment: Any = moment, moments: Any = moments) -> None:
            if next(moments) == moment:
                client.xgroup_destroy(SKIPPED, GROUP)

        events = open_events(types=[EventType.SKIPPED])
        with contextlib.suppress(ResponseError):
            join(events, destroy)
        assert take(events, 1, acknowledge=False) == runs(1)


def test_after_a_flush_nothing_handled_comes_again_and_nothing_new_is_missed(
    publish: Any,
    open_events: Any,
    client: redis.Redis,
    relay: Relay,
) -> None:
    publish(an_event(1), an_event(2))
    events = open_events()
    assert take(events, 2) == runs(1, 2)
    client.flushall()
    publish(an_event(3))

    assert take(events, 1) == runs(3)
    assert client.xlen(SKIPPED) == 3, "all are in the stream again, under their event ids"


def test_a_destroyed_group_is_created_again_and_no_request_is_lost(
    publish: Any,
    open_events: Any,
    client: redis.Redis,
) -> None:
    publish(an_event(1))
    events = open_events()
    take(events, 1)
    client.xgroup_destroy(SKIPPED, GROUP)
    publish(an_event(2))

    assert take(events, 1) == runs(2)


def test_a_reader_of_new_events_misses_nothing_when_its_group_is_destroyed(
    publish: Any,
    open_events: Any,
    client: redis.Redis,
) -> None:
    events = open_events(only_new=True)
    join(events)
    publish(an_event(1))
    assert take(events, 1) == runs(1)
    client.xgroup_destroy(SKIPPED, GROUP)
    publish(an_event(2))

    assert take(events, 1) == runs(2)


def test_what_is_in_hand_does_not_come_again_because_a_connection_broke(
    publish: Any,
    redis_server: RedisServer,
    wire: LossyWire,
) -> None:
    publish(an_event(1))
    with ModelEvents(wire.url, group=GROUP, consumer="one") as events:
        take(events, 1, acknowledge=False)
        wire.lose_replies(b"XREADGROUP", 1)
        publish(an_event(2))
        assert take(events, 1) == runs(2)


def test_a_group_destroyed_while_we_wait_is_made_again(publish: Any, open_events: Any, client: redis.Redis) -> None:
    publish(an_event(1))
    events = open_events()
    take(events, 1)
    later = threading.Timer(0.3, lambda: (client.delete(SKIPPED), publish(an_event(2))))
    later.start()

    assert take(events, 1) == runs(2)
    later.join()


def test_pending_entries_that_were_trimmed_away_are_let_go(
    publish: Any,
    open_events: Any,
    client: redis.Redis,
) -> None:
    publish(an_event(1), an_event(2))
    take(open_events(), 2, acknowledge=False)
    client.xtrim(SKIPPED, maxlen=0, approximate=False)
    publish(an_event(3))

    assert take(open_events(), 1) == runs(3)
    assert client.xpending(SKIPPED, GROUP)["pending"] == 0


def test_an_unheard_acknowledgement_does_not_bring_the_event_back(
    publish: Any,
    redis_server: RedisServer,
    wire: LossyWire,
    client: redis.Redis,
) -> None:
    publish(an_event(1))
    with ModelEvents(wire.url, group=GROUP, consumer="one", reclaim_after_seconds=0.2) as events:
        event = next(iter(events))
        wire.lose_requests(b"XACK", 1)
        events.acknowledge(event)
        publish(an_event(2))
        assert take(events, 1) == runs(2)

        def publish_when_nothing_is_pending() -> None:
            while client.xpending(SKIPPED, GROUP)["pending"]:
                time.sleep(0.01)
            publish(an_event(3))

        helper = threading.Thread(target=publish_when_nothing_is_pending, daemon=True)
        helper.start()
        assert take(events, 1) == runs(3)
        helper.join()


def test_a_lost_reply_to_a_read_loses_no_event(publish: Any, redis_server: RedisServer, wire: LossyWire) -> None:
    publish(an_event(1))
    wire.lose_replies(b"XREADGROUP", 1)

    with ModelEvents(wire.url, group=GROUP, consumer="one") as events:
        assert take(events, 1) == runs(1)


def test_it_outlives_redis_and_says_so_once(outbox: StateDb, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    server = RedisServer()
    url = f"unix://:{PASSWORD}@{server.socket}"
    caplog.set_level(logging.INFO, logger="retrain_worker.serving.event_reader")
    enqueue(outbox, an_event(1))
    relay = Relay(server.client(url), outbox, clock)

    def come_up() -> None:
        while not caplog.records:
            time.sleep(0.01)
        server.start("--requirepass", PASSWORD)
        relay.relay_once(at_once=True)

    helper = threading.Thread(target=come_up)
    helper.start()
    try:
        with ModelEvents(url, group=GROUP, consumer="one") as events:
            assert take(events, 1) == runs(1)
    finally:
        helper.join()
        server.remove()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert PASSWORD not in caplog.text


def test_stop_ends_the_iteration_from_another_thread(open_events: Any) -> None:
    events = open_events()
    threading.Timer(0.1, events.stop).start()

    assert take(events, 1) == []


def test_the_reader_needs_no_torch() -> None:
    code = (
        "import sys, retrain_worker.serving.events;"
        "print([m for m in ('torch', 'numpy', 'msgspec') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_reader_with_a_file_knows_what_it_handled_even_when_redis_forgot_all_while_it_was_down(
    publish: Any,
    open_events: Any,
    client: redis.Redis,
    tmp_path: Path,
) -> None:
    publish(an_event(1), an_event(2))
    take(open_events(handled_file=tmp_path / "handled"), 2)
    client.flushall()
    publish(an_event(3))
    assert client.xlen(SKIPPED) == 3

    assert take(open_events(handled_file=tmp_path / "handled"), 1) == runs(3)
