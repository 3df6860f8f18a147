"""Throughput and latency of publishing and following events: `python benchmarks/events.py`. About 90 s.

The baseline is pipelined XADD of the same entries to the same server, without outbox and durable ids.
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redis import Redis

sys.path.insert(0, str(Path(__file__).parents[1]))

from retrain_worker.adapters.outbox_relay import BATCH, Relay
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.current_model import named_by, to_fields
from retrain_worker.domain.envelope import fields_of
from retrain_worker.domain.events import CURRENT_MODEL_KEY, SERVED_STREAM, Event, EventType, stream_of
from retrain_worker.redis_client import connect
from retrain_worker.serving import ModelEvents
from tests.redis_world import RedisServer, an_event, enqueue

STREAM = stream_of(EventType.SKIPPED)
PAYLOAD: dict[str, Any] = {
    "reasons": ["12 new rows, 200 wanted"],
    "rows": {"loaded": 6060, "labelled": 5988},
    "filler": "x" * 600,
}


def now() -> datetime:
    return datetime.now(UTC)


def events(count: int, first: int = 0) -> list[Event]:
    return [an_event(number, **PAYLOAD) for number in range(first, first + count)]


def bare_xadd(client: Redis, count: int) -> float:
    """Entries a second, in pipelines of BATCH."""
    made: list[dict[Any, Any]] = [fields_of(event, json.dumps(dict(event.payload))) for event in events(count)]
    began = time.perf_counter()
    for start in range(0, count, BATCH):
        pipeline = client.pipeline(transaction=False)
        for fields in made[start : start + BATCH]:
            pipeline.xadd(STREAM, fields)
        pipeline.execute()
    rate = count / (time.perf_counter() - began)
    client.delete(STREAM)
    return rate


def drain(client: Redis, folder: Path, count: int) -> tuple[float, float]:
    """Events a second from an outbox of `count`, and the growth of the process in MiB."""
    with StateDb(folder / f"drain-{count}.db") as outbox:
        for start in range(0, count, 1000):
            enqueue(outbox, *events(min(1000, count - start), start))
        relay = Relay(client, outbox, now)
        before = resident()
        began = time.perf_counter()
        while relay.relay_once().pending:
            pass
        rate, grown = count / (time.perf_counter() - began), resident() - before
    assert client.xlen(STREAM) == count
    return rate, grown


def publish_one_by_one(client: Redis, folder: Path, count: int) -> float:
    """Milliseconds from the commit of a single event to its entry, p50."""
    taken = []
    with StateDb(folder / "single.db") as outbox:
        relay = Relay(client, outbox, now)
        for event in events(count, 10_000_000):
            enqueue(outbox, event)
            began = time.perf_counter()
            relay.relay_once()
            taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


def consume(url: str, count: int) -> float:
    """Events a second that a consumer reads and acknowledges one by one."""
    with ModelEvents(url, group="benchmark", consumer="one", types=[EventType.SKIPPED]) as consumer:
        began = time.perf_counter()
        for number, event in enumerate(consumer, start=1):
            consumer.acknowledge(event)
            if number == count:
                return number / (time.perf_counter() - began)
    raise AssertionError


def follow(server: RedisServer, folder: Path, turns: int) -> list[float]:
    """Milliseconds from the XADD of a promotion to the first prediction of the new model, `turns` times."""
    import numpy as np
    import torch

    from retrain_worker.domain import artifact
    from retrain_worker.domain.artifact import ModelContract
    from retrain_worker.domain.recipe import InputTransform, Preset
    from retrain_worker.model import bundle, presets
    from retrain_worker.model.patchtst import PatchTST
    from retrain_worker.serving import ModelFollower

    torch.set_num_threads(1)
    contract = ModelContract(
        preset=Preset.ENGINE,
        context_length=128,
        feature_names=("rsi", "ma_cross", "volatility", "returns_1h"),
        input_transform=InputTransform.MINMAX,
    )
    windows = np.random.default_rng(1).normal(size=(1, 128, 4)).astype(np.float32)
    made = []
    for number in range(2):
        torch.manual_seed(number)
        path = artifact.model_file(folder, f"patchtst_v20260101_00000{number}")
        manifest = bundle.write(
            path,
            model=PatchTST(presets.config_for(contract, dropout=0.0)),
            contract=contract,
            canary_windows=np.repeat(windows, 16, axis=0),
            origin=bundle.Origin(),
        )
        made.append((path, manifest.sha256))
    client, taken = server.client(), []
    with ModelFollower(server.url, consumer="benchmark", allowed_directories=[folder]) as follower:
        for turn in range(turns + 1):
            path, sha256 = made[turn % 2]
            payload = {
                "new_version": path.stem,
                "model_path": str(path),
                "sha256": sha256,
                "promoted_at": now().isoformat(),
            }
            entry: dict[Any, Any] = {"event_type": "model.promoted", "payload": json.dumps(payload)}
            named = named_by("model.promoted", f"event-{turn}", payload)
            assert named is not None, "the payload names a model"
            fields: dict[Any, Any] = dict(to_fields(named).items())
            began = time.perf_counter()
            client.hset(CURRENT_MODEL_KEY, mapping=fields)
            client.xadd(stream_of(EventType.PROMOTED), entry)
            while follower.served is None or follower.served.sha256 != sha256:
                time.sleep(0.0002)
            follower.predict(windows)
            taken.append((time.perf_counter() - began) * 1000)
    assert client.xlen(SERVED_STREAM) >= turns
    return sorted(taken[1:])  # the first prediction imports torch's lazy modules


def resident() -> float:
    """MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def disk_commits_a_second(folder: Path) -> float:
    """Duration of one synchronous SQLite commit: the lower limit of a durable outbox."""
    with StateDb(folder / "commits.db") as state:
        began = time.perf_counter()
        for number in range(200):
            state.remember("number", str(number))
        return 200 / (time.perf_counter() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=20_000, help="events of each round (default 20000)")
    parser.add_argument("--pending", type=int, default=100_000, help="events of the long outage (default 100000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=100, help="promotions for the follower (default 100)")
    arguments = parser.parse_args()
    server = RedisServer().start()
    client = connect(server.url)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            rate, grown = drain(client, folder, arguments.pending)
            client.flushall()
            bare, drained, consumed = [], [], []
            for number in range(arguments.rounds):
                (folder / str(number)).mkdir()
                bare.append(bare_xadd(client, arguments.events))
                drained.append(drain(client, folder / str(number), arguments.events)[0])
                consumed.append(consume(server.url, arguments.events))
                client.flushall()
            alone = publish_one_by_one(client, folder, 300)
            commits = disk_commits_a_second(folder)
            latency = follow(server, folder, arguments.turns)
        version = client.info("server")["redis_version"]
    finally:
        client.close()
        server.remove()
    best, ours = statistics.median(bare), statistics.median(drained)
    print(f"Redis {version} on a unix socket, entries of about 1 kB, medians of {arguments.rounds} rounds\n")
    print("| what | measured |\n|---|---|")
    print(f"| bare XADD, pipelines of {BATCH} | {best:,.0f} entries/s |")
    print(f"| outbox drained ({arguments.events:,} waiting) | {ours:,.0f} events/s, {ours / best:.0%} of bare |")
    print(f"| outbox drained ({arguments.pending:,} waiting) | {rate:,.0f} events/s, memory grew by {grown:.1f} MiB |")
    print(
        f"| one event, from its commit to its entry, p50 | {alone:.1f} ms (two commits, "
        f"{1000 / commits:.1f} ms each here) |"
    )
    print(f"| consumer, each event acknowledged | {statistics.median(consumed):,.0f} events/s |")
    print(
        f"| follower, from XADD to the new model's first prediction | p50 {statistics.median(latency):.0f} ms, "
        f"p99 {latency[int(0.99 * (len(latency) - 1))]:.0f} ms ({len(latency)} promotions) |"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
