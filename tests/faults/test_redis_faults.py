"""The faults of the field's list that concern Redis (rows 25-38): each event enqueued is once in its stream."""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from retrain_worker.adapters.outbox_relay import Relay, RelayReport
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.events import CURRENT_MODEL_KEY, Event, EventType, stream_of
from tests.redis_world import Clock, LossyWire, RedisServer, a_promotion, an_event, enqueue, entries_of, event_ids

SKIPPED = stream_of(EventType.SKIPPED)
PASSWORD = "s3cret-word"


@pytest.fixture
def relay(client: redis.Redis, outbox: StateDb, clock: Clock) -> Relay:
    return Relay(client, outbox, clock)


@pytest.fixture
def snapshot_server() -> Iterator[RedisServer]:
    """A Redis like the stack's: snapshots only."""
    server = RedisServer("--appendonly", "no", "--save", "").start()
    yield server
    server.remove()


def drained(relay: Relay, clock: Clock) -> RelayReport:
    """Relay until nothing is pending; what the last report says."""
    for _ in range(20):
        report = relay.relay_once()
        if not report.pending:
            return report
        clock.advance(31)
    raise AssertionError(f"still pending: {report}")


def assert_each_once(client: redis.Redis, events: Sequence[Event], stream: str = SKIPPED) -> None:
    found = event_ids(client, stream)
    assert found == [event.event_id for event in events]


def test_redis_down_at_start_and_for_hours_then_everything_arrives_once_in_order(
    outbox: StateDb,
    clock: Clock,
) -> None:
    server = RedisServer()
    try:
        relay = Relay(server.client(), outbox, clock)
        events, messages = [], set()
        for number in range(50):
            events.append(an_event(number))
            enqueue(outbox, events[-1])
            report = relay.relay_once()
            messages.add(report.problem)
            clock.advance(432)
        assert len(messages) == 1
        assert "cannot be reached" in str(messages.pop())
        assert report.pending == 50
        assert report.oldest_pending_at == events[0].timestamp

        server.start()
        clock.advance(31)
        assert drained(relay, clock).problem is None
        assert_each_once(server.client(), events)
    finally:
        server.remove()


@pytest.mark.parametrize("num_lost", [1, 2, 5])
def test_a_lost_reply_leaves_one_entry(
    redis_server: RedisServer,
    wire: LossyWire,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
    num_lost: int,
) -> None:
    relay = Relay(redis_server.client(wire.url), outbox, clock)
    events = [an_event(number) for number in range(3)]
    enqueue(outbox, *events)
    wire.lose_replies(b"XADD", num_lost)

    drained(relay, clock)

    assert_each_once(client, events)


def test_a_reply_lost_just_before_we_die_leaves_one_entry(
    redis_server: RedisServer,
    wire: LossyWire,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    enqueue(outbox, an_event(1))
    wire.lose_replies(b"XADD", 1)
    assert Relay(redis_server.client(wire.url), outbox, clock).relay_once().pending == 1
    assert client.xlen(SKIPPED) == 1

    assert Relay(client, outbox, clock).relay_once().pending == 0

    assert_each_once(client, [an_event(1)])


def test_a_timeout_before_the_write_leaves_one_entry(
    redis_server: RedisServer,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    relay = Relay(redis_server.client(socket_timeout_seconds=0.1), outbox, clock)
    relay.relay_once()
    enqueue(outbox, an_event(1))
    client.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")

    assert "does not answer in time" in str(relay.relay_once().problem)
    client.execute_command("CLIENT", "UNPAUSE")
    clock.advance(31)
    drained(relay, clock)

    assert_each_once(client, [an_event(1)])


def test_a_server_that_accepts_and_never_answers_holds_nobody_up(
    redis_server: RedisServer,
    wire: LossyWire,
    outbox: StateDb,
    clock: Clock,
) -> None:
    relay = Relay(redis_server.client(wire.url, socket_timeout_seconds=0.1), outbox, clock)
    enqueue(outbox, an_event(1))
    wire.hanging = True

    report = relay.relay_once()

    assert "does not answer in time" in str(report.problem)
    wire.hanging = False
    clock.advance(31)
    assert drained(relay, clock).problem is None


@pytest.mark.parametrize("same_process", [True, False])
@pytest.mark.parametrize("promotions", [0, 1])
def test_an_old_snapshot_comes_back_and_what_it_lacks_is_published_again(
    snapshot_server: RedisServer,
    outbox: StateDb,
    clock: Clock,
    promotions: int,
    same_process: bool,
) -> None:
    client = snapshot_server.client()
    relay = Relay(client, outbox, clock)
    events = [an_event(number) for number in range(6)] + [a_promotion(1, at=clock())] * promotions
    enqueue(outbox, *events[:2])
    relay.relay_once()
    client.save()
    enqueue(outbox, *events[2:])
    relay.relay_once()
    before = dict(entries_of(client, SKIPPED))
    snapshot_server.kill()
    snapshot_server.start()
    assert client.xlen(SKIPPED) == 2

    report = drained(relay if same_process else Relay(client, outbox, clock), clock)

    assert any("has lost 4 events" in notice for notice in report.notices), report
    assert any("restarted" in notice for notice in report.notices) is same_process
    assert_each_once(client, events[:6])
    assert_each_once(client, events[6:], stream_of(EventType.PROMOTED))
    again = [stream_id for stream_id, _ in entries_of(client, SKIPPED)][2:]
    assert all(stream_id > max(before) for stream_id in again), "a consumer that read on would not see a lower id"
    assert client.hget(CURRENT_MODEL_KEY, "event_id") == (events[6].event_id.encode() if promotions else None)


@pytest.mark.parametrize("same_process", [True, False])
def test_after_flushall_all_is_there_again(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
    same_process: bool,
) -> None:
    events = [an_event(number) for number in range(5)]
    enqueue(outbox, *events, a_promotion(1, at=clock()))
    drained(relay, clock)
    client.flushall()

    report = drained(relay if same_process else Relay(client, outbox, clock), clock)

    assert len(report.notices) == 2
    assert_each_once(client, events)
    assert client.hget(CURRENT_MODEL_KEY, "version") == b"patchtst_v20260101_000001"
    assert relay.relay_once().notices == ()


def test_a_flush_behind_foreign_entries_is_seen_by_the_hash_that_is_gone(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    events = [an_event(number) for number in range(3)]
    enqueue(outbox, *events, a_promotion(1, at=clock()))
    drained(relay, clock)
    client.flushall()
    ahead = int((clock() + timedelta(hours=1)).timestamp() * 1000)
    client.xadd(SKIPPED, {"event_id": "foreign"}, id=f"{ahead}-0")

    drained(relay, clock)

    assert event_ids(client, SKIPPED) == ["foreign", *(event.event_id for event in events)]


def test_an_evicted_stream_is_published_again(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    events = [an_event(number) for number in range(3)]
    enqueue(outbox, *events)
    drained(relay, clock)
    client.delete(SKIPPED)

    assert "has lost 3 events" in drained(relay, clock).notices[0]
    assert_each_once(client, events)


def test_what_a_person_deletes_or_trims_is_not_published_again(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    enqueue(outbox, *(an_event(number) for number in range(5)))
    drained(relay, clock)
    client.xtrim(SKIPPED, maxlen=2, approximate=False)
    client.xdel(SKIPPED, entries_of(client, SKIPPED)[0][0])

    assert relay.relay_once().notices == ()
    assert client.xlen(SKIPPED) == 1


def test_events_older_than_the_retention_are_not_published_again(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    enqueue(outbox, an_event(1))
    drained(relay, clock)
    clock.advance(timedelta(days=31).total_seconds())
    enqueue(outbox, an_event(2))
    drained(relay, clock)
    client.flushall()

    drained(relay, clock)

    assert_each_once(client, [an_event(2)])


def test_a_loss_of_nothing_that_matters_is_looked_into_once(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    enqueue(outbox, an_event(1))
    drained(relay, clock)
    clock.advance(timedelta(days=31).total_seconds())
    client.flushall()
    relay.relay_once()
    trial_evaluation = client.info("commandstats")["cmdstat_xrange"]

    relay.relay_once()

    assert client.info("commandstats")["cmdstat_xrange"] == trial_evaluation


def test_an_older_promotion_that_is_published_again_does_not_turn_the_hash_back(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    older, newer = a_promotion(1, at=clock()), a_promotion(2, at=clock() + timedelta(seconds=1))
    enqueue(outbox, older, newer)
    drained(relay, clock)
    client.xdel(newer.stream, entries_of(client, newer.stream)[0][0])
    client.delete(CURRENT_MODEL_KEY)

    drained(relay, clock)

    assert event_ids(client, newer.stream) == [newer.event_id, older.event_id]
    assert client.hget(CURRENT_MODEL_KEY, "event_id") == newer.event_id.encode()


def test_an_older_confirmation_that_is_published_again_does_not_confirm_a_roll_back(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    enqueue(outbox, a_promotion(1, at=clock()))
    enqueue(outbox, an_event(1, EventType.COMPLETED, at=clock(), sha256=f"{1:064x}", confirmed=True))
    enqueue(outbox, a_promotion(1, at=clock() + timedelta(seconds=9), event_type=EventType.ROLLED_BACK))
    drained(relay, clock)
    assert client.hget(CURRENT_MODEL_KEY, "confirmed") == b"false"
    client.flushall()

    drained(relay, clock)

    assert client.hget(CURRENT_MODEL_KEY, "confirmed") == b"false"


def out_of_memory(client: redis.Redis) -> Callable[[], object]:
    client.config_set("maxmemory", 1)
    return lambda: client.config_set("maxmemory", 0)


def replica(client: redis.Redis) -> Callable[[], object]:
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    return lambda: client.execute_command("REPLICAOF", "NO", "ONE")


def too_few_replicas(client: redis.Redis) -> Callable[[], object]:
    client.config_set("min-replicas-to-write", 1)
    return lambda: client.config_set("min-replicas-to-write", 0)


def failing_snapshots(client: redis.Redis) -> Callable[[], object]:
    Path(str(client.config_get("dir")["dir"])).rmdir()
    client.config_set("save", "3600 1")
    client.set("something", "changed")
    client.bgsave()
    while client.info("persistence")["rdb_bgsave_in_progress"]:
        time.sleep(0.01)
    return lambda: client.config_set("stop-writes-on-bgsave-error", "no")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (out_of_memory, "out of memory"),
        (replica, "read-only replica"),
        (too_few_replicas, "too few replicas"),
        (failing_snapshots, "cannot save to its disk"),
    ],
)
def test_while_redis_takes_no_writes_events_are_kept_and_it_is_said_in_the_same_words(
    relay: Relay,
    redis_server: RedisServer,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
    fault: Callable[[redis.Redis], Callable[[], object]],
    words: str,
) -> None:
    mend = fault(redis_server.client())
    events = [an_event(number) for number in range(3)]
    enqueue(outbox, *events)

    messages = set()
    for _ in range(5):
        messages.add(relay.relay_once().problem)
        clock.advance(31)

    assert len(messages) == 1
    assert words in str(messages.pop())
    mend()
    assert drained(relay, clock).problem is None
    assert_each_once(client, events)


def test_while_redis_loads_events_are_kept(snapshot_server: RedisServer, outbox: StateDb, clock: Clock) -> None:
    client = snapshot_server.client()
    for number in range(400):
        client.set(f"filler-{number}", "x" * 100_000)
    client.config_set("rdbcompression", "no")
    client.save()
    snapshot_server.kill()
    snapshot_server.start_loading()
    enqueue(outbox, an_event(1))
    relay = Relay(client, outbox, clock)

    assert "still loading" in str(relay.relay_once().problem)
    snapshot_server.end_loading()
    while relay.relay_once().pending:
        clock.advance(31)

    assert_each_once(client, [an_event(1)])


def test_a_key_of_another_type_holds_up_only_its_own_stream_and_is_not_touched(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    client.set(SKIPPED, "theirs")
    events = [an_event(1), an_event(2, EventType.STARTED), an_event(3), an_event(4, EventType.STARTED)]
    enqueue(outbox, *events)

    reports = []
    for _ in range(3):
        reports.append(relay.relay_once())
        clock.advance(31)

    assert_each_once(client, [events[1], events[3]], stream_of(EventType.STARTED))
    assert client.get(SKIPPED) == b"theirs"
    assert {report.problem for report in reports} == {reports[0].problem}
    assert "is of another type" in str(reports[0].problem)
    client.delete(SKIPPED)
    assert drained(relay, clock).problem is None
    assert_each_once(client, [events[0], events[2]])


def test_a_hash_key_of_another_type_does_not_hold_up_events(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    client.set(CURRENT_MODEL_KEY, "theirs")
    enqueue(outbox, a_promotion(1, at=clock()), an_event(2))

    report = relay.relay_once()

    assert (report.sent, report.pending) == (2, 0)
    assert CURRENT_MODEL_KEY in str(report.problem)
    client.delete(CURRENT_MODEL_KEY)
    clock.advance(31)
    assert relay.relay_once().problem is None
    assert client.hget(CURRENT_MODEL_KEY, "version") == b"patchtst_v20260101_000001"


def test_a_wrong_password_is_an_alarm_that_never_says_it(
    redis_server: RedisServer,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    client.config_set("requirepass", "the-right-one")
    relay = Relay(redis_server.client(f"unix://:{PASSWORD}@{redis_server.socket}"), outbox, clock)
    enqueue(outbox, an_event(1))

    report = relay.relay_once()

    assert "refuses the user or password" in str(report.problem)
    assert PASSWORD not in str(report)
    assert report.pending == 1
    redis_server.client(f"unix://:the-right-one@{redis_server.socket}").config_set("requirepass", PASSWORD)
    clock.advance(31)
    assert drained(relay, clock).problem is None


def test_a_missing_permission_is_an_alarm_and_the_least_permissions_are_enough(
    redis_server: RedisServer,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    client.execute_command("ACL", "SETUSER", "worker", "on", f">{PASSWORD}", "~quantum:*", "+ping", "+client", "+info")
    relay = Relay(redis_server.client(f"unix://worker:{PASSWORD}@{redis_server.socket}"), outbox, clock)
    enqueue(outbox, an_event(1), a_promotion(1, at=clock()))

    report = relay.relay_once()

    assert "does not permit" in str(report.problem)
    assert PASSWORD not in str(report)
    client.execute_command(
        "ACL",
        "SETUSER",
        "worker",
        "+xadd",
        "+xrange",
        "+xinfo",
        "+xtrim",
        "+xpending",
        "+hset",
        "+hgetall",
        "+multi",
        "+exec",
    )
    clock.advance(3601)
    assert drained(relay, clock).problem is None


def test_after_a_problem_redis_is_left_alone_for_a_while(
    relay: Relay,
    redis_server: RedisServer,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    out_of_memory(redis_server.client())
    enqueue(outbox, an_event(1), an_event(2), an_event(3, EventType.STARTED))
    relay.relay_once()
    calls = client.info("commandstats")["cmdstat_xadd"]
    assert calls.get("rejected_calls", 0) + calls["calls"] == 3, "one batch"

    for _ in range(100):
        relay.relay_once()
        clock.advance(0.009)
    assert client.info("commandstats")["cmdstat_xadd"] == calls
    relay.relay_once(at_once=True)
    assert client.info("commandstats")["cmdstat_xadd"] != calls


def test_a_clock_that_jumps_back_does_not_make_a_pause_endless(outbox: StateDb, clock: Clock) -> None:
    server = RedisServer()
    try:
        relay = Relay(server.client(), outbox, clock)
        enqueue(outbox, an_event(1))
        assert relay.relay_once().problem
        server.start()
        clock.advance(-3600)
        assert relay.relay_once().sent == 1
    finally:
        server.remove()


def test_a_destroyed_group_does_not_concern_the_writer(
    relay: Relay,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    client.xgroup_create(SKIPPED, "readers", mkstream=True)
    client.xgroup_destroy(SKIPPED, "readers")
    enqueue(outbox, an_event(1))

    assert relay.relay_once().problem is None


def test_the_connection_dropped_at_any_moment_leaves_each_event_once(
    redis_server: RedisServer,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    """A property: whatever command loses its reply, and however often, the stream holds each event once."""
    for number, command in enumerate([b"XADD", b"XINFO", b"HSET", b"HGETALL", b"XADD", b"XTRIM", b"XADD"]):
        wire = LossyWire(redis_server)
        (wire.lose_requests if number % 2 else wire.lose_replies)(command, 1 + number % 3)
        enqueue(outbox, an_event(number), a_promotion(number, at=clock()))
        drained(Relay(redis_server.client(wire.url), outbox, clock), clock)
        wire.close()
        wire.socket.unlink()
        clock.advance(3601)

    assert_each_once(client, [an_event(number) for number in range(7)])
    assert len(event_ids(client, stream_of(EventType.PROMOTED))) == 7
