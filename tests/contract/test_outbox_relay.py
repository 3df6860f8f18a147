import json
from datetime import timedelta
from typing import Any

import pytest
import redis

from retrain_worker.adapters.outbox_relay import BATCH, BATCHES, Relay
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.envelope import received
from retrain_worker.domain.events import (
    CURRENT_MODEL_KEY,
    REQUEST_STREAM,
    SERVED_STREAM,
    EventType,
    stream_of,
)
from tests.redis_world import Clock, a_promotion, an_event, enqueue, entries_of, event_ids

SKIPPED = stream_of(EventType.SKIPPED)
PROMOTED = stream_of(EventType.PROMOTED)


@pytest.fixture
def relay(client: redis.Redis, outbox: StateDb, clock: Clock) -> Relay:
    return Relay(client, outbox, clock)


def current(client: redis.Redis) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in client.hgetall(CURRENT_MODEL_KEY).items()}


def test_an_entry_is_the_envelope_of_the_stack_and_the_flat_fields(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    event = an_event(1, at=clock(), reasons=["too few"], share=float("nan"))
    enqueue(outbox, event)

    assert relay.relay_once().sent == 1

    [(stream_id, fields)] = entries_of(client, SKIPPED)
    assert {name.decode(): value.decode() for name, value in fields.items()} == {
        "event_type": "learning.retraining.skipped",
        "payload": '{"run_id":"run_1","reasons":["too few"],"share":null}',
        "trace_id": "run_1",
        "correlation_id": "run_1",
        "timestamp": clock().isoformat(),
        "source": "retraining-worker",
        "event_id": event.event_id,
        "schema_version": "1",
        "model": "patchtst",
        "status": "skipped",
    }
    read = received(SKIPPED, stream_id.decode(), fields)
    assert (read.event_id, read.timestamp, read.payload["reasons"]) == (event.event_id, clock(), ["too few"])


def test_events_are_sent_in_order_once_and_marked(relay: Relay, client: redis.Redis, outbox: StateDb) -> None:
    most = BATCH * BATCHES
    events = [an_event(number) for number in range(most + 5)]
    enqueue(outbox, *events)

    first, second, third = relay.relay_once(), relay.relay_once(), relay.relay_once()

    assert (first.sent, first.pending, second.sent, third.sent, third.pending) == (most, 5, 5, 0, 0)
    assert event_ids(client, SKIPPED) == [event.event_id for event in events]
    assert first.problem is None


def test_ids_increase_although_the_clock_is_set_back(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    for number in range(4):
        enqueue(outbox, an_event(number))
        assert relay.relay_once().sent == 1
        clock.advance(-3600)

    assert len(event_ids(client, SKIPPED)) == 4


def test_a_new_id_is_above_the_entries_of_other_clients(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    enqueue(outbox, an_event(1))
    relay.relay_once()
    ahead = int((clock() + timedelta(days=400)).timestamp() * 1000)
    client.xadd(SKIPPED, {"foreign": "entry"}, id=f"{ahead}-7")
    enqueue(outbox, an_event(2))

    assert relay.relay_once().sent == 1
    assert client.xinfo_stream(SKIPPED)["last-generated-id"] == f"{ahead + 1}-0".encode()


def test_an_id_that_another_client_exceeds_is_assigned_again(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    enqueue(outbox, an_event(1))
    taken = f"{int(clock().timestamp() * 1000)}-0"
    outbox.assign_stream_ids({an_event(1).event_id: taken})
    client.xadd(SKIPPED, {"foreign": "entry"}, id=taken)

    assert relay.relay_once().sent == 1
    assert client.xlen(SKIPPED) == 2


def test_a_stored_id_is_used_again_by_the_next_process(client: redis.Redis, outbox: StateDb, clock: Clock) -> None:
    enqueue(outbox, an_event(1))
    stored = f"{int(clock().timestamp() * 1000) - 5000}-0"
    outbox.assign_stream_ids({an_event(1).event_id: stored})

    Relay(client, outbox, clock).relay_once()

    assert entries_of(client, SKIPPED)[0][0] == stored.encode()


def test_an_event_that_was_pending_for_months_is_not_trimmed_when_it_is_sent(
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    enqueue(outbox, an_event(1))
    outbox.assign_stream_ids({an_event(1).event_id: f"{int(clock().timestamp() * 1000)}-0"})
    clock.advance(timedelta(days=60).total_seconds())

    Relay(client, outbox, clock).relay_once()

    assert client.xlen(SKIPPED) == 1


def test_the_hash_holds_the_newest_model(relay: Relay, client: redis.Redis, outbox: StateDb, clock: Clock) -> None:
    enqueue(outbox, a_promotion(1, at=clock()), a_promotion(2, at=clock() + timedelta(seconds=1)))

    relay.relay_once()

    assert current(client) == {
        "version": "patchtst_v20260101_000002",
        "model_path": "/models/patchtst_v20260101_000002.pth",
        "sha256": f"{2:064x}",
        "size_bytes": "2",
        "run_id": "20260101_000002",
        "promoted_at": (clock() + timedelta(seconds=1)).isoformat(),
        "event_id": a_promotion(2, at=clock()).event_id,
        "shadow_only": "true",
        "confirmed": "false",
        "model_url": "",
    }


def test_a_roll_back_and_a_confirmation_change_the_hash(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    enqueue(outbox, a_promotion(1, at=clock()))
    enqueue(
        outbox, an_event(1, EventType.COMPLETED, at=clock() + timedelta(seconds=1), sha256=f"{1:064x}", confirmed=True)
    )
    relay.relay_once()
    assert current(client)["confirmed"] == "true"

    enqueue(
        outbox,
        a_promotion(9, at=clock() + timedelta(seconds=2), event_type=EventType.ROLLED_BACK, version="engine_old"),
    )
    relay.relay_once()

    assert (current(client)["version"], current(client)["run_id"], current(client)["confirmed"]) == (
        "engine_old",
        "",
        "false",
    )


def test_the_hash_holds_the_newest_model_although_the_clock_was_set_back(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    enqueue(outbox, a_promotion(1, at=clock()), a_promotion(2, at=clock() - timedelta(hours=1)))
    relay.relay_once()
    newest = current(client)
    assert newest["version"] == "patchtst_v20260101_000002"
    assert newest["promoted_at"] > clock().isoformat(), "or followers take it for older than what they have"

    enqueue(
        outbox, an_event(2, EventType.COMPLETED, at=clock() - timedelta(hours=1), sha256=f"{2:064x}", confirmed=True)
    )
    relay.relay_once()
    assert current(client) == {**newest, "confirmed": "true"}

    client.flushall()
    clock.advance(60)
    relay.relay_once()
    assert current(client) == {**newest, "confirmed": "true"}


def test_the_hash_is_empty_of_a_model_when_the_slot_names_none(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    enqueue(outbox, a_promotion(1, at=clock()))
    enqueue(
        outbox,
        an_event(
            1,
            EventType.ROLLED_BACK,
            at=clock(),
            new_version="none",
            model_path="",
            sha256="",
            size_bytes=0,
            rolled_back_at=clock().isoformat(),
        ),
    )
    relay.relay_once()

    assert (current(client)["version"], current(client)["model_path"]) == ("none", "")


def test_a_lost_hash_is_written_again_also_by_a_later_process(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    enqueue(outbox, a_promotion(1, at=clock()))
    relay.relay_once()
    before = current(client)
    client.delete(CURRENT_MODEL_KEY)

    Relay(client, outbox, clock).relay_once()

    assert current(client) == before


def test_fields_of_other_programs_in_the_hash_are_kept(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    enqueue(outbox, a_promotion(1, at=clock()))
    relay.relay_once()
    client.hset(CURRENT_MODEL_KEY, mapping={"note": "theirs", "version": "wrong"})

    relay.relay_once()

    assert current(client)["note"] == "theirs"
    assert current(client)["version"] == "patchtst_v20260101_000001"


def test_entries_older_than_30_days_are_trimmed_but_none_from_the_oldest_pending_on(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    old = int((clock() - timedelta(days=31)).timestamp() * 1000)
    for stream in (SKIPPED, PROMOTED, REQUEST_STREAM, SERVED_STREAM):
        for number in range(4):
            client.xadd(stream, {"old": number}, id=f"{old + number}-0")
        client.xadd(stream, {"young": "1"})
    client.xgroup_create(PROMOTED, "slow", id="0")
    client.xgroup_create(PROMOTED, "done", id="0")
    client.xreadgroup("slow", "c", {PROMOTED: ">"}, count=3)
    client.xack(PROMOTED, "slow", f"{old}-0")
    client.xreadgroup("done", "c", {PROMOTED: ">"}, noack=True)

    relay.relay_once()

    assert [client.xlen(stream) for stream in (SKIPPED, REQUEST_STREAM, SERVED_STREAM)] == [1, 1, 1]
    assert [fields for _, fields in client.xrange(PROMOTED)] == [
        {b"old": b"1"},
        {b"old": b"2"},
        {b"old": b"3"},
        {b"young": b"1"},
    ]


def test_it_reads_and_does_not_write_without_pending_events(relay: Relay, client: redis.Redis) -> None:
    relay.relay_once()
    before = client.info("commandstats")

    relay.relay_once()

    changed = {name for name, stat in client.info("commandstats").items() if stat != before.get(name)}
    assert changed == {"cmdstat_info", "cmdstat_xinfo" if "cmdstat_xinfo" in changed else "cmdstat_xinfo|stream"}


def test_the_payload_of_an_event_arrives_unchanged(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    payload: dict[str, Any] = {"text": 'Δ — \u0000 " \\ \n', "list": [1, 2.5, None, True], "nested": {"a": {"b": []}}}
    enqueue(outbox, an_event(1, **payload))

    relay.relay_once()

    [(_, fields)] = entries_of(client, SKIPPED)
    assert json.loads(fields[b"payload"]) == {"run_id": "run_1", **payload}
