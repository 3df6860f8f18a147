"""The consumers in examples/ as a service would run them, against a real Redis and events of the outbox relay."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from retrain_worker.domain.events import Event, EventType, stream_of
from tests.node import needs_node, node_modules
from tests.redis_world import Publish, RedisServer, an_event, entries_of

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = ["consumer.py", "consumer_asyncio.py", pytest.param("consumer.mjs", marks=needs_node)]
GROUP = "my_service"
PROMOTED = stream_of(EventType.PROMOTED)


def promotion(number: int, auc: float | None = 0.8164) -> Event:
    return an_event(
        number,
        EventType.PROMOTED,
        auc=auc,
        new_version=f"v{number}",
        old_version=f"v{number - 1}",
        model_path="/m.pth",
        sha256="00",
        promoted_at=datetime.now(UTC).isoformat(),
    )


@contextmanager
def consumer(script: str, server: RedisServer, folder: Path, *, name: str = "one") -> Iterator[subprocess.Popen[str]]:
    """The script as a process in a folder of its own, ended by SIGTERM."""
    place = folder / name
    place.mkdir(exist_ok=True)
    shutil.copy(EXAMPLES / script, place)
    interpreter = sys.executable
    if script.endswith(".mjs"):
        interpreter = "node"
        if not (place / "node_modules").exists():
            (place / "node_modules").symlink_to(node_modules())
    process = subprocess.Popen(
        [interpreter, script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=place,
        env={
            **os.environ,
            "PYTHONPATH": str(EXAMPLES.parent),
            "REDIS_URL": server.url,
            "CONSUMER": name,
            "RECLAIM_SECONDS": "0.4",
        },
    )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
        assert (rest, process.returncode) == ("", 0)
    finally:
        process.kill()
        process.communicate()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_event_is_handled_once_across_restarts_and_a_loss_of_redis(
    script: str, publish: Publish, redis_server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    publish(promotion(1), an_event(1, EventType.SKIPPED, reasons=["12 new rows, 200 required", "and old"]))
    with consumer(script, redis_server, tmp_path) as process:
        assert sorted(lines(process, 2)) == [
            "learning.retraining.skipped 12 new rows, 200 required",
            "v1 replaces v0, AUC 0.816",
        ]
        client.flushall()  # the relay publishes again what is missing
        publish(promotion(2))
        assert lines(process, 1) == ["v2 replaces v1, AUC 0.816"]

    client.flushall()
    publish(promotion(3))
    with consumer(script, redis_server, tmp_path) as process:
        assert lines(process, 1) == ["v3 replaces v2, AUC 0.816"]
    assert len(entries_of(client, PROMOTED)) == 3


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_event_of_a_consumer_that_has_gone_is_taken_over(
    script: str, publish: Publish, redis_server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    publish(promotion(1))
    client.xgroup_create(PROMOTED, GROUP, id="0")
    client.xreadgroup(GROUP, "gone", {PROMOTED: ">"})

    with consumer(script, redis_server, tmp_path) as process:
        assert lines(process, 1) == ["v1 replaces v0, AUC 0.816"]
    assert client.xpending(PROMOTED, GROUP)["pending"] == 0


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_was_delivered_to_the_same_name_before_a_crash_comes_first(
    script: str, publish: Publish, redis_server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    publish(promotion(1), promotion(2))
    client.xgroup_create(PROMOTED, GROUP, id="0")
    client.xreadgroup(GROUP, "one", {PROMOTED: ">"}, count=1)

    with consumer(script, redis_server, tmp_path) as process:
        assert lines(process, 2) == ["v1 replaces v0, AUC 0.816", "v2 replaces v1, AUC 0.816"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_entry_that_cannot_be_handled_is_dead_lettered_and_does_not_hold_the_others(
    script: str, publish: Publish, redis_server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    client.xadd(PROMOTED, {"event_type": "model.promoted", "event_id": "x", "payload": "{"})
    publish(promotion(1))

    with consumer(script, redis_server, tmp_path) as process:
        assert lines(process, 1) == ["v1 replaces v0, AUC 0.816"]
        while not client.exists(f"quantum:dead_letter:{GROUP}"):
            assert process.poll() is None
    [(_, fields)] = entries_of(client, f"quantum:dead_letter:{GROUP}")
    assert fields[b"dead_letter_from"].decode().startswith(PROMOTED)
    assert client.xpending(PROMOTED, GROUP)["pending"] == 0
