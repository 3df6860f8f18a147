"""Many followers on one Redis: `python benchmarks/followers.py [--followers N ...]`. About a minute for each number.

Each follower is an AsyncModelFollower with a connection, a cache and a fetch of its own; all share the cores of this
machine. What they do not do is load the model: on hosts of their own they would at the same time. Latencies are
differences of the ids of stream entries, load is from INFO.
"""

import argparse
import asyncio
import hashlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch, sentinel

from redis import Redis

sys.path.insert(0, str(Path(__file__).parents[1]))

from retrain_worker.adapters.event_confirmations import EventConfirmations
from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.confirmation import quorum_of
from retrain_worker.domain.current_model import CurrentModel
from retrain_worker.domain.events import SERVED_STREAM, EventType, stream_of
from retrain_worker.redis_client import entries_in
from retrain_worker.serving import AsyncModelFollower
from retrain_worker.serving.model_watch import ModelWatch, Served
from tests.redis_world import RedisServer, an_event, enqueue

MODEL_BYTES = 2_457_890
PROMOTED = stream_of(EventType.PROMOTED)
COUNTERS = ("total_commands_processed", "total_net_input_bytes", "total_net_output_bytes")


def fetched(watch: ModelWatch, named: CurrentModel) -> Served:
    """What `ModelWatch._verified` does, without torch."""
    assert watch._cache is not None
    return Served(
        bundle=sentinel.bundle,
        version=named.version,
        model_path=watch._cache.fetched(named),
        sha256=named.sha256,
        served_at=datetime.now(UTC),
        canary_max_error=0.0,
        named=named,
    )


async def follow(url: str, models_url: str, folder: Path, numbers: range) -> None:
    """Follow until stdin closes."""
    patch.object(ModelWatch, "_verified", fetched).start()
    followers = [
        AsyncModelFollower(url, consumer=f"engine-{n}", models_url=models_url, cache_directory=folder / f"cache-{n}")
        for n in numbers
    ]
    await asyncio.gather(*(follower.start() for follower in followers))
    await asyncio.to_thread(sys.stdin.read)
    await asyncio.gather(*(follower.stop() for follower in followers))


def sent_at(client: Redis, stream: str, count: int) -> list[int]:
    """Milliseconds of the newest entries, in time order."""
    return sorted(int(entry_id.partition("-")[0]) for entry_id, _ in entries_in(client.xrevrange(stream, count=count)))


def load(client: Redis) -> list[float]:
    """Commands, bytes in, bytes out, processor seconds, until now."""
    stats, cpu = client.info("stats"), client.info("cpu")
    return [*(float(stats[name]) for name in COUNTERS), cpu["used_cpu_user"] + cpu["used_cpu_sys"]]


def promote(number: int, relay: Relay, outbox: StateDb, folder: Path) -> tuple[str, str]:
    """Publish a model as the daemon does; its version and sha256."""
    content, version = os.urandom(MODEL_BYTES), f"patchtst_v20260101_{number:06}"
    (folder / f"{version}.pth").write_bytes(content)
    sha256, now = hashlib.sha256(content).hexdigest(), datetime.now(UTC)
    fields = {
        "new_version": version,
        "model_path": f"/opt/quantum/ai_engine/models/{version}.pth",
        "sha256": sha256,
        "promoted_at": now.isoformat(),
    }
    enqueue(outbox, an_event(number, EventType.PROMOTED, at=now, **fields))
    relay.relay_once(at_once=True)
    return version, sha256


def measure(count: int, *, rounds: int, idle_seconds: float, processes: int) -> list[tuple[str, str]]:
    server, temporary = RedisServer().start(), tempfile.TemporaryDirectory(prefix="followers-")
    folder = Path(temporary.name)
    models_url = f"file://{folder}"
    client = server.client()
    share = -(-count // processes)
    children = [
        subprocess.Popen(
            [sys.executable, __file__, "--child", server.url, models_url, str(folder), str(first), str(first + share)],
            stdin=subprocess.PIPE,
        )
        for first in range(0, count, share)
    ]
    try:
        with StateDb(folder / "state.db") as outbox:
            relay = Relay(client, outbox, lambda: datetime.now(UTC))
            promote(0, relay, outbox, folder)
            wait_for(client, count)
            time.sleep(2)
            before, began = load(client), time.monotonic()
            time.sleep(idle_seconds)
            spent = time.monotonic() - began
            idle = [(after - start) / spent for start, after in zip(before, load(client), strict=True)]
            firsts, medians, lasts, loads, confirmed = [], [], [], [], []
            for number in range(1, rounds + 1):
                before, since = load(client), datetime.now(UTC)
                version, sha256 = promote(number, relay, outbox, folder)
                own = wait_for(client, count * (number + 1))
                loads.append([after - start for start, after in zip(before, load(client), strict=True)])
                loads[-1][0] -= own
                (at,) = sent_at(client, PROMOTED, 1)
                taken = [served_at - at for served_at in sent_at(client, SERVED_STREAM, count)]
                firsts.append(taken[0])
                medians.append(statistics.median(taken))
                lasts.append(taken[-1])
                began = time.perf_counter()
                all_of_them = EventConfirmations(client, quorum=quorum_of(str(count)))
                seen = all_of_them.seen_serving(version=version, sha256=sha256, model_path="", since=since)
                assert seen is not None, "all have acknowledged"
                confirmed.append((time.perf_counter() - began) * 1000)
            memory = client.info("memory")["used_memory"] / 2**20
    finally:
        for child in children:
            assert child.stdin is not None
            child.stdin.close()
        for child in children:
            child.wait()
        server.remove()
        temporary.cleanup()
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    typical = [statistics.median(values) for values in zip(*loads, strict=True)]
    return [
        ("first, median follower, ms", f"{statistics.median(firsts):.0f}, {statistics.median(medians):.0f}"),
        ("all serve the new model, ms (worst round)", f"{statistics.median(lasts):.0f} ({max(lasts):.0f})"),
        ("Redis for one promotion: commands", f"{typical[0]:,.0f}"),
        ("Redis for one promotion: kB in, kB out", f"{typical[1] / 1e3:,.0f}, {typical[2] / 1e3:,.0f}"),
        ("Redis for one promotion: processor ms", f"{typical[3] * 1e3:.0f}"),
        ("Redis between promotions: commands/s", f"{idle[0]:,.0f}"),
        ("Redis between promotions: kB/s in, out", f"{idle[1] / 1e3:.0f}, {idle[2] / 1e3:.0f}"),
        ("Redis between promotions: % of a core", f"{idle[3] * 100:.1f}"),
        ("Redis memory, MiB", f"{memory:.1f}"),
        ("daemon: confirmation by all of them, ms", f"{statistics.median(confirmed):.0f}"),
        ("processor seconds of all followers so far", f"{cpu.ru_utime + cpu.ru_stime:.0f}"),
    ]


def wait_for(client: Redis, entries: int) -> int:
    """Wait for so many acknowledgements; how often Redis was asked."""
    until, asked = time.monotonic() + 120, 1
    while client.xlen(SERVED_STREAM) < entries:
        assert time.monotonic() < until, f"{client.xlen(SERVED_STREAM)} of {entries} acknowledgements"
        asked += 1
        time.sleep(0.02)
    return asked


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        url, models_url, folder, first, last = sys.argv[2:]
        asyncio.run(follow(url, models_url, Path(folder), range(int(first), int(last))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--followers", type=int, nargs="+", default=[20, 200])
    parser.add_argument("--rounds", type=int, default=5, help="promotions")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds without a promotion")
    parser.add_argument("--processes", type=int, default=2, help="that the followers share")
    asked = parser.parse_args()
    found = [
        measure(count, rounds=asked.rounds, idle_seconds=asked.idle, processes=asked.processes)
        for count in asked.followers
    ]
    print("| what | " + " | ".join(f"{count} followers" for count in asked.followers) + " |")
    print("|---|" + "---:|" * len(found))
    for rows in zip(*found, strict=True):
        print(f"| {rows[0][0]} | " + " | ".join(value for _, value in rows) + " |")


if __name__ == "__main__":
    main()
