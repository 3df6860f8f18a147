"""A batch is sent as a whole; a death or a lost reply anywhere leaves each event once, in order."""

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from retrain_worker.adapters import outbox_relay as relay_module
from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.events import Event, EventType, stream_of
from tests.redis_world import Clock, LossyWire, RedisServer, an_event, enqueue, event_ids

SKIPPED, STARTED = stream_of(EventType.SKIPPED), stream_of(EventType.STARTED)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "BATCH", 20)


class DiedError(Exception):
    """The process ended here."""


class MortalOutbox:
    """Dies before or after the n-th commit."""

    def __init__(self, outbox: StateDb, *, dies_at: int, before: bool) -> None:
        self._outbox, self._left, self._before = outbox, dies_at, before

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._outbox, name)
        if name not in ("assign_stream_ids", "mark_sent", "requeue"):
            return real

        def mortal(*arguments: Any, **options: Any) -> None:
            self._left -= 1
            if self._left == 0 and self._before:
                raise DiedError
            real(*arguments, **options)
            if self._left == 0:
                raise DiedError

        return mortal


def assert_each_once_in_order(client: redis.Redis, events: list[Event]) -> None:
    for stream in {event.stream for event in events}:
        assert event_ids(client, stream) == [event.event_id for event in events if event.stream == stream]


def drain(relay: Relay, clock: Clock) -> None:
    while relay.relay_once().pending:
        clock.advance(31)


@pytest.mark.parametrize("before", [True, False])
def test_a_death_at_any_commit_leaves_each_event_once_in_order(
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
    before: bool,
) -> None:
    events = [an_event(number, (EventType.SKIPPED, EventType.STARTED)[number % 3 == 0]) for number in range(70)]
    enqueue(outbox, *events)

    deaths = 0
    for dies_at in (1, 2, 3, 4, 1, 2):
        try:
            Relay(client, MortalOutbox(outbox, dies_at=dies_at, before=before), clock).relay_once()
        except DiedError:
            deaths += 1
        clock.advance(1)
    drain(Relay(client, outbox, clock), clock)

    assert deaths >= 2
    assert_each_once_in_order(client, events)


@pytest.mark.parametrize("lose", ["lose_replies", "lose_requests"])
def test_a_lost_reply_to_a_whole_batch_leaves_each_event_once_in_order(
    redis_server: RedisServer,
    wire: LossyWire,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
    lose: str,
) -> None:
    events = [an_event(number) for number in range(70)]
    enqueue(outbox, *events)
    relay = Relay(redis_server.client(wire.url), outbox, clock)
    for _ in range(3):
        getattr(wire, lose)(b"XADD", 1)
        relay.relay_once()
        clock.advance(31)
    drain(relay, clock)

    assert_each_once_in_order(client, events)


def test_a_stream_that_is_held_up_does_not_hold_up_the_others_however_much_waits_for_it(
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    client.set(SKIPPED, "theirs")
    events = [an_event(number) for number in range(50)] + [an_event(1, EventType.STARTED)]
    enqueue(outbox, *events)

    report = Relay(client, outbox, clock).relay_once()

    assert (report.sent, report.pending) == (1, 50)
    assert event_ids(client, STARTED) == [events[-1].event_id]


def test_memory_out_in_the_middle_of_a_batch_keeps_the_order(
    client: redis.Redis,
    redis_server: RedisServer,
    outbox: StateDb,
    clock: Clock,
) -> None:
    """All of a batch or nothing: what is refused must not be overtaken by what follows it."""
    events = [an_event(number, filler="x" * 20_000) for number in range(40)]
    enqueue(outbox, *events)
    relay = Relay(redis_server.client(), outbox, clock)
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 300_000)
    relay.relay_once()
    assert client.xlen(SKIPPED) % 20 == 0
    clock.advance(31)
    client.config_set("maxmemory", 0)
    drain(relay, clock)

    assert_each_once_in_order(client, events)


def test_an_entry_of_somebody_else_meanwhile_does_not_change_the_order(
    client: redis.Redis,
    redis_server: RedisServer,
    outbox: StateDb,
    clock: Clock,
) -> None:
    events = [an_event(number) for number in range(50)]
    enqueue(outbox, *events)

    class Meddler(MortalOutbox):
        def __getattr__(self, name: str) -> Any:
            if name == "assign_stream_ids" and client.xlen(SKIPPED) < 3:
                client.xadd(SKIPPED, {"event_id": "foreign"})
            return getattr(self._outbox, name)

    drain(Relay(redis_server.client(), Meddler(outbox, dies_at=0, before=True), clock), clock)

    ours = [event_id for event_id in event_ids(client, SKIPPED) if event_id != "foreign"]
    assert ours == [event.event_id for event in events]


def test_killed_again_and_again_while_it_drains_each_event_is_there_once_in_order(
    redis_server: RedisServer,
    client: redis.Redis,
    tmp_path: Path,
) -> None:
    state = tmp_path / "state.db"
    events = [an_event(number) for number in range(6_000)]
    with StateDb(state) as outbox:
        enqueue(outbox, *events)
    chance, deaths = random.Random(7), 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.relay_until_done", state, redis_server.url],
            cwd=Path(__file__).parents[2],
            env={**os.environ},
        )
        try:
            assert process.wait(0.3 + chance.random() * (0.3 + deaths / 10)) == 0
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            deaths += 1

    assert_each_once_in_order(client, events)
