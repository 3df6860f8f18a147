"""The faults of the field's list that concern Redis (rows 25-38), each played through from the outbox to a consumer.

Each scenario enqueues events, hurts a real Redis, and lets it recover; its Tally says how many events were enqueued,
how many of them stand in the streams, and how many a consumer has handled that was reading before and after.
`python benchmarks/event_faults.py` prints them all; test_event_faults.py asserts them.
"""

import contextlib
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis
from redis.exceptions import RedisError

from retrain_worker.adapters.outbox_relay import Relay, RelayReport
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.events import Event, EventType, stream_of
from retrain_worker.redis_client import connect
from retrain_worker.serving import ModelEvents, event_reader
from retrain_worker.serving.io_drivers import drive
from tests.redis_world import Clock, LossyWire, RedisDiedError, RedisServer, a_promotion, an_event, enqueue, entries_of
from tests.sentinel_world import SentinelWorld

SKIPPED, PROMOTED = stream_of(EventType.SKIPPED), stream_of(EventType.PROMOTED)
STREAMS = tuple(stream_of(kind) for kind in EventType)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How a scenario ended."""

    #: events committed to the outbox
    enqueued: int
    #: entries of ours in the streams
    in_stream: int
    #: different events among them
    distinct: int
    #: events that the consumer handled, and different ones among them
    handled: int
    handled_distinct: int
    #: the entries of each stream stand in the order in which they were enqueued
    in_order: bool
    #: different sentences about a problem; what was said once about a loss
    problems: tuple[str, ...]
    notices: tuple[str, ...]


@dataclass
class Scene:
    """An outbox, its relay, a Redis and a consumer."""

    folder: Path
    server: RedisServer
    clock: Clock = field(default_factory=Clock)
    enqueued: list[Event] = field(default_factory=list)
    handled: list[str] = field(default_factory=list)
    problems: dict[str, None] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    #: of a scenario that ends on a server of its own
    ended: Tally | None = None

    def __post_init__(self) -> None:
        self.outbox = StateDb(self.folder / "state.db")
        self.url = self.server.url
        self.relay = Relay(self.server.client(), self.outbox, self.clock)
        self.consumer: ModelEvents | None = None

    def connect(self, url: str, **options: Any) -> None:
        """The relay's way to Redis from now on; a new process of ours."""
        self.relay = Relay(self.server.client(url, **options), self.outbox, self.clock)

    def happen(self, count: int, *, seconds_apart: float = 0.0) -> None:
        """Events happen; every fifth is a promotion."""
        for _ in range(count):
            number = len(self.enqueued)
            event = a_promotion(number, at=self.clock()) if number % 5 == 4 else an_event(number, at=self.clock())
            enqueue(self.outbox, event)
            self.enqueued.append(event)
            self.clock.advance(max(seconds_apart, 0.001))
            if seconds_apart:
                self.relay_once()

    def relay_once(self) -> RelayReport:
        report = self.relay.relay_once()
        if report.problem:
            self.problems[report.problem] = None
        self.notices += report.notices
        return report

    def relay_all(self) -> None:
        for _ in range(40):
            if not self.relay_once().pending and not self.relay_once().problem:
                return
            self.clock.advance(31)
        raise AssertionError(f"still pending: {self.problems}")

    def read(self) -> None:
        """The consumer handles what there is."""
        if self.consumer is None:
            self.consumer = ModelEvents(
                self.url, group="my_service", consumer="host-1", handled_file=self.folder / "handled"
            )
        reader, client, stopped = self.consumer._reader, self.consumer._client, self.consumer._stopped
        while True:
            event = drive(reader.step(), client, stopped)
            if event is not None:
                self.handled.append(event.event_id)
                self.consumer.acknowledge(event)
            elif self._has_read_all(self.consumer):
                return

    def _has_read_all(self, consumer: ModelEvents) -> bool:
        """Whether the consumer knows each stream to its end. Redis says so, not a silence: this machine may be slow."""
        reader = consumer._reader
        if not reader._is_ready or reader._pending_entries or reader._fresh:
            return False
        with contextlib.suppress(RedisError), contextlib.closing(connect(self.url)) as asked:
            return all(_is_read(asked, stream) for stream in reader._policy.streams)
        return False

    def restart_consumer(self) -> None:
        if self.consumer is not None:
            self.consumer.__exit__(None, None, None)
            self.consumer = None

    def tally(self) -> Tally:
        ours = {event.event_id: number for number, event in enumerate(self.enqueued)}
        client = self.server.client(self.url)
        found = {
            stream: [ours[event_id] for event_id in _event_ids(client, stream) if event_id in ours]
            for stream in STREAMS
        }
        entries = [number for numbers in found.values() for number in numbers]
        return Tally(
            enqueued=len(self.enqueued),
            in_stream=len(entries),
            distinct=len(set(entries)),
            handled=len(self.handled),
            handled_distinct=len(set(self.handled) & set(ours)),
            in_order=all(numbers == sorted(numbers) for numbers in found.values()),
            problems=tuple(self.problems),
            notices=tuple(dict.fromkeys(self.notices)),
        )

    def close(self) -> None:
        self.restart_consumer()
        self.outbox.close()
        self.server.remove()


def _is_read(client: redis.Redis, stream: str) -> bool:
    last = next(
        (group["last-delivered-id"] for group in client.xinfo_groups(stream) if group["name"] == b"my_service"), None
    )
    return last is not None and not client.xrange(stream, b"(" + last, count=1)


def _event_ids(client: redis.Redis, stream: str) -> list[str]:
    with contextlib.suppress(RedisError):
        return [fields.get(b"event_id", b"").decode() for _, fields in entries_of(client, stream)]
    return []


Act = Callable[[Scene], None]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    act: Act
    #: Redis runs when it begins
    starts: bool
    #: a part of what must be said meanwhile
    said: str


SCENARIOS: dict[str, Scenario] = {}


def scenario(row: str, title: str, *, starts: bool = True, said: str = "") -> Callable[[Act], Act]:
    def enter(act: Act) -> Act:
        SCENARIOS[f"{row} {title}"] = Scenario(act=act, starts=starts, said=said)
        return act

    return enter


def play(name: str) -> Tally:
    """One scenario from beginning to end, in a world of its own."""
    scenario = SCENARIOS[name]
    folder = Path(tempfile.mkdtemp(prefix="events-"))
    server = RedisServer("--appendonly", "no", "--save", "")
    if scenario.starts:
        server.start()
    scene = Scene(folder=folder, server=server)
    block, event_reader.BLOCK_SECONDS = event_reader.BLOCK_SECONDS, 0.05
    try:
        scenario.act(scene)
        return scene.ended or scene.tally()
    finally:
        event_reader.BLOCK_SECONDS = block
        scene.close()
        shutil.rmtree(folder)


# ---------------------------------------------------------------- away


@scenario("25", "Redis is down at the start", starts=False, said="cannot be reached")
def down_at_start(scene: Scene) -> None:
    scene.happen(20, seconds_apart=1)
    scene.server.start()
    scene.relay_all()
    scene.read()


@scenario("26", "Redis is down for 6 h", said="cannot be reached")
def down_for_hours(scene: Scene) -> None:
    scene.happen(10)
    scene.relay_all()
    scene.read()
    scene.server.client().save()
    scene.server.kill()
    scene.happen(360, seconds_apart=60)
    scene.server.start()
    scene.relay_all()
    scene.read()


@scenario("26", "Redis restarts cleanly, several times", said="Redis was restarted")
def restarts(scene: Scene) -> None:
    for _ in range(4):
        scene.happen(10)
        scene.relay_all()
        scene.read()
        scene.server.client().save()
        scene.server.kill()
        scene.relay_once()
        scene.server.start()
        scene.clock.advance(31)
    scene.relay_all()
    scene.read()


@scenario("27", "the replies to three writes are lost", said="cannot be reached")
def lost_replies(scene: Scene) -> None:
    wire = LossyWire(scene.server)
    scene.connect(wire.url)
    wire.lose_replies(b"XADD", 3)
    scene.happen(20, seconds_apart=1)
    scene.relay_all()
    scene.read()
    wire.close()


@scenario("27", "the daemon is killed after each lost reply", said="cannot be reached")
def lost_replies_and_death(scene: Scene) -> None:
    wire = LossyWire(scene.server)
    for _ in range(5):
        scene.happen(10)
        wire.lose_replies(b"XADD", 1)
        scene.connect(wire.url)
        scene.relay_once()
    scene.connect(wire.url)
    scene.relay_all()
    scene.read()
    wire.close()


@scenario("28", "Redis accepts and never answers", said="does not answer in time")
def hangs(scene: Scene) -> None:
    wire = LossyWire(scene.server)
    scene.connect(wire.url, socket_timeout_seconds=0.1)
    scene.happen(5)
    scene.relay_all()
    wire.hanging = True
    scene.happen(10)
    scene.relay_once()
    wire.hanging = False
    scene.relay_all()
    scene.read()
    wire.close()


# ---------------------------------------------------------------- forgotten


@scenario("29", "Redis is killed with snapshots only: an old RDB is loaded", said="published again")
def old_snapshot(scene: Scene) -> None:
    scene.happen(10)
    scene.relay_all()
    scene.server.client().save()
    scene.happen(30)
    scene.relay_all()
    scene.read()
    scene.server.kill()
    scene.server.start()
    scene.relay_all()
    scene.happen(5)
    scene.relay_all()
    scene.read()


@scenario("29", "an old RDB is restored by hand, and the daemon restarts", said="published again")
def restored_backup(scene: Scene) -> None:
    scene.happen(10)
    scene.relay_all()
    client = scene.server.client()
    client.save()
    rdb = scene.server.directory / "data" / "dump.rdb"
    backup = rdb.read_bytes()
    scene.clock.advance(24 * 3600)
    scene.happen(30)
    scene.relay_all()
    scene.read()
    scene.server.kill()
    rdb.write_bytes(backup)
    scene.server.start()
    scene.connect(scene.server.url)
    scene.relay_all()
    scene.read()


@scenario("30", "FLUSHALL", said="published again")
def flushed(scene: Scene) -> None:
    scene.happen(40)
    scene.relay_all()
    scene.read()
    scene.server.client().flushall()
    scene.relay_all()
    scene.happen(5)
    scene.relay_all()
    scene.read()


@scenario("30", "FLUSHALL while the consumer is down", said="published again")
def flushed_while_nobody_reads(scene: Scene) -> None:
    scene.happen(40)
    scene.relay_all()
    scene.read()
    scene.restart_consumer()
    scene.server.client().flushall()
    scene.relay_all()
    scene.happen(5)
    scene.relay_all()
    scene.read()


@scenario("31", "a stream is evicted (allkeys-lru)", said="may evict a whole stream")
def evicted(scene: Scene) -> None:
    scene.happen(40)
    scene.relay_all()
    scene.read()
    client = scene.server.client()
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 200_000)
    scene.connect(scene.server.url)
    scene.relay_once()
    number = 0
    while client.exists(SKIPPED, PROMOTED) == 2:
        client.set(f"somebody-elses-{number}", "x" * 5_000)
        number += 1
    client.config_set("maxmemory", 0)
    scene.relay_all()
    scene.read()


# ---------------------------------------------------------------- refuses


def refused(scene: Scene, hurt: Callable[[redis.Redis], object], mend: Callable[[redis.Redis], object]) -> None:
    scene.happen(10)
    scene.relay_all()
    scene.read()
    client = scene.server.client()
    hurt(client)
    scene.happen(20, seconds_apart=31)
    mend(client)
    scene.relay_all()
    scene.read()


@scenario("32", "out of memory (OOM)", said="is out of memory")
def out_of_memory(scene: Scene) -> None:
    refused(scene, lambda c: c.config_set("maxmemory", 1), lambda c: c.config_set("maxmemory", 0))


@scenario("32", "a read-only replica (READONLY)", said="is a read-only replica")
def read_only(scene: Scene) -> None:
    refused(
        scene,
        lambda c: c.execute_command("REPLICAOF", "127.0.0.1", "1"),
        lambda c: c.execute_command("REPLICAOF", "NO", "ONE"),
    )


@scenario("32", "too few replicas (NOREPLICAS)", said="too few replicas")
def too_few_replicas(scene: Scene) -> None:
    refused(
        scene, lambda c: c.config_set("min-replicas-to-write", 1), lambda c: c.config_set("min-replicas-to-write", 0)
    )


@scenario("32", "snapshots fail (MISCONF)", said="cannot save to its disk")
def failing_snapshots(scene: Scene) -> None:
    def hurt(client: redis.Redis) -> None:
        Path(str(client.config_get("dir")["dir"])).rmdir()
        client.config_set("save", "3600 1")
        client.set("something", "changed")
        client.bgsave()
        while client.info("persistence")["rdb_bgsave_in_progress"]:
            time.sleep(0.01)

    refused(scene, hurt, lambda c: c.config_set("stop-writes-on-bgsave-error", "no"))


@scenario("32", "Redis is loading (LOADING)", said="is still loading")
def loading(scene: Scene) -> None:
    client = scene.server.client()
    scene.happen(10)
    scene.relay_all()
    scene.read()
    for number in range(400):
        client.set(f"filler-{number}", "x" * 100_000)
    client.config_set("rdbcompression", "no")
    client.save()
    scene.server.kill()
    scene.server.start_loading()
    scene.happen(20)
    scene.relay_once()
    scene.server.end_loading()
    while scene.relay_once().pending:
        scene.clock.advance(31)
    scene.read()


@scenario("32", "failing over to a replica that lacks the newest entries", starts=False, said="published again")
def failing_over(scene: Scene) -> None:
    _start_on_a_port(scene.server)
    replica = RedisServer("--appendonly", "no", "--save", "").start()
    address = scene.folder / "address"
    try:
        address.symlink_to(scene.server.socket)
        scene.url = f"unix://{address}"
        scene.connect(scene.url)
        main, other = scene.server.client(), replica.client()
        other.execute_command("REPLICAOF", "127.0.0.1", main.config_get("port")["port"])
        scene.happen(10)
        scene.relay_all()
        while sum(other.xlen(stream) for stream in (SKIPPED, PROMOTED)) < 10:
            time.sleep(0.01)
        other.execute_command("REPLICAOF", "NO", "ONE")  # the network is cut: what follows never reaches the replica
        scene.happen(10)
        scene.relay_all()
        scene.read()
        scene.server.kill()
        scene.relay_once()
        address.unlink()
        address.symlink_to(replica.socket)
        scene.clock.advance(31)
        scene.relay_all()
        scene.happen(5)
        scene.relay_all()
        scene.read()
        scene.ended = scene.tally()
    finally:
        scene.restart_consumer()
        replica.remove()


@scenario("29", "an old RDB is loaded, and another worker adds entries before that is noticed", said="published again")
def hidden_loss(scene: Scene) -> None:
    scene.happen(10)
    scene.relay_all()
    scene.server.client().save()
    scene.clock.advance(5)
    scene.happen(4)  # no promotion, whose loss the hash would show
    scene.relay_all()
    scene.read()
    scene.server.kill()
    scene.server.start()
    scene.clock.advance(31)
    client, milliseconds = scene.server.client(), int(scene.clock().timestamp() * 1000)
    for stream in (SKIPPED, PROMOTED):
        for number in range(5):
            client.xadd(stream, {"payload": "{"}, id=f"{milliseconds}-{number}")
    scene.relay_all()
    scene.read()


@scenario("29", "an old RDB is loaded in the middle of a relay", said="published again")
def restart_between_batches(scene: Scene) -> None:
    scene.happen(1_200)
    batches, pending_events = 0, scene.outbox.pending_events

    def between_batches(*arguments: Any, **options: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 2:
            scene.server.client().save()
        if batches == 3:
            scene.read()
            scene.server.kill()
            scene.server.start()
        return pending_events(*arguments, **options)

    scene.outbox.pending_events = between_batches  # type: ignore[method-assign]
    scene.relay_once()
    scene.clock.advance(31)
    scene.relay_all()
    scene.read()


@scenario(
    "32",
    "Sentinel failover in the middle of a relay, and the newest entries were not replicated",
    starts=False,
    said="published again",
)
def sentinel_failover(scene: Scene) -> None:
    """2,000 events in four transactions; the replica gets the first, the master is killed after the third."""
    world = SentinelWorld().start()
    try:
        scene.url = world.url
        scene.connect(world.url)
        scene.happen(2_000)
        batches, pending_events = 0, scene.outbox.pending_events

        def between_batches(*arguments: Any, **options: Any) -> Any:
            nonlocal batches
            batches += 1
            if batches == 2:
                world.cut_replication()
            if batches == 4:
                scene.read()
                killed.append(world.kill_master())
            return pending_events(*arguments, **options)

        killed: list[int] = []
        scene.outbox.pending_events = between_batches  # type: ignore[method-assign]
        assert scene.relay_once().problem
        world.wait_failover(killed[0])
        scene.clock.advance(31)
        scene.relay_all()
        scene.happen(5)
        scene.relay_all()
        scene.read()
        scene.ended = scene.tally()
    finally:
        scene.restart_consumer()
        world.remove()


def _start_on_a_port(server: RedisServer) -> RedisServer:
    """A free one: which somebody else may have taken before Redis does."""
    while True:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        with contextlib.suppress(RedisDiedError):
            return server.start("--port", str(port), "--repl-diskless-sync-delay", "0")


@scenario("33", "the stream's key is of another type (WRONGTYPE)", said="is of another type")
def wrong_type(scene: Scene) -> None:
    client = scene.server.client()
    client.set(SKIPPED, "theirs")
    scene.happen(20, seconds_apart=31)
    assert client.get(SKIPPED) == b"theirs"
    client.delete(SKIPPED)
    scene.relay_all()
    scene.read()


@scenario("34", "a wrong password", said="refuses the user or password")
def wrong_password(scene: Scene) -> None:
    scene.server.client().config_set("requirepass", "the-right-one")
    scene.connect(f"unix://:s3cret-word@{scene.server.socket}")
    scene.happen(20, seconds_apart=31)
    assert "s3cret-word" not in str(scene.problems)
    right = scene.server.client(f"unix://:the-right-one@{scene.server.socket}")
    right.config_set("requirepass", "s3cret-word")
    scene.relay_all()
    right.config_set("requirepass", "")
    scene.read()


@scenario("34", "no permission to write (NOPERM)", said="grant the rights that `retrain-worker redis-acl` prints")
def no_permission(scene: Scene) -> None:
    client = scene.server.client()
    client.execute_command("ACL", "SETUSER", "worker", "on", ">s3cret-word", "~quantum:*", "+@all", "-xadd")
    scene.connect(f"unix://worker:s3cret-word@{scene.server.socket}")
    scene.happen(20, seconds_apart=31)
    client.execute_command("ACL", "SETUSER", "worker", "+xadd")
    scene.relay_all()
    scene.read()


# ---------------------------------------------------------------- odd


@scenario("35", "the clock goes back 1 h, and a foreign entry is an hour ahead")
def clock_goes_back(scene: Scene) -> None:
    scene.happen(10)
    scene.relay_all()
    scene.clock.advance(-3600)
    scene.happen(10, seconds_apart=1)
    ahead = int((scene.clock() + timedelta(hours=1)).timestamp() * 1000)
    for stream in (SKIPPED, PROMOTED):
        scene.server.client().xadd(stream, {"foreign": "entry", "event_id": "foreign"}, id=f"{ahead}-7")
    scene.happen(10, seconds_apart=1)
    scene.relay_all()
    scene.read()
    scene.handled.remove("foreign")


@scenario("36", "pending entries of a consumer are older than 30 days")
def old_and_pending(scene: Scene) -> None:
    scene.happen(10)
    scene.relay_all()
    client = scene.server.client()
    for stream in (SKIPPED, PROMOTED):
        client.xgroup_create(stream, "my_service", id="0")
    client.xreadgroup("my_service", "host-1", dict.fromkeys((SKIPPED, PROMOTED), ">"))
    scene.clock.advance(timedelta(days=40).total_seconds())
    scene.happen(10, seconds_apart=3700)
    scene.relay_all()
    scene.read()


@scenario("37", "the consumer's group is destroyed")
def group_destroyed(scene: Scene) -> None:
    scene.happen(10)
    scene.relay_all()
    scene.read()
    for stream in (SKIPPED, PROMOTED):
        scene.server.client().xgroup_destroy(stream, "my_service")
    scene.happen(10)
    scene.relay_all()
    scene.read()


@scenario("38", "Redis does not support IDMP: own stream ids", said="IDMP")
def too_old(scene: Scene) -> None:
    client = scene.server.client()
    version = client.info("server")["redis_version"]
    with contextlib.suppress(RedisError):
        client.execute_command("XADD", "probe", "IDMP", "p", "i", "*", "a", "b")
    scene.notices.append(f"Redis {version}" + (" knows IDMP" if client.exists("probe") else " does not know IDMP"))
    client.delete("probe")
    scene.happen(20)
    scene.relay_all()
    scene.relay_all()
    scene.read()
