"""The asyncio variants: the same logic as the sync ones, so what is tested here is what only they can get wrong."""

import asyncio
import contextlib
import json
import logging
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import torch

from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain import artifact
from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.current_model import named_by, to_fields
from retrain_worker.domain.events import CURRENT_MODEL_KEY, SERVED_STREAM, EventType, stream_of
from retrain_worker.domain.recipe import InputTransform, Preset
from retrain_worker.errors import RetryLaterError
from retrain_worker.model import bundle, presets
from retrain_worker.model.patchtst import PatchTST
from retrain_worker.serving import AsyncModelEvents, AsyncModelFollower, event_reader, model_watch
from tests.known import known
from tests.redis_world import PATIENCE_SECONDS, Clock, RedisServer, an_event, enqueue

SKIPPED = stream_of(EventType.SKIPPED)
CONTRACT = ModelContract(
    preset=Preset.PAPER, context_length=32, feature_names=("rsi", "ma_cross"), input_transform=InputTransform.INSTANCE
)
WINDOWS = np.random.default_rng(3).normal(size=(7, 32, 2)).astype(np.float32)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_reader, "BLOCK_SECONDS", 0.05)
    monkeypatch.setattr(model_watch, "BLOCK_SECONDS", 0.05)


async def take(events: Any, count: int, *, acknowledge: bool = True) -> list[Any]:
    taken = []
    async for event in events:
        taken.append(event.correlation_id)
        if acknowledge:
            await events.acknowledge(event)
        if len(taken) == count:
            return taken
    return taken


def reading(server: RedisServer, **options: Any) -> AsyncModelEvents:
    return AsyncModelEvents(server.url, group="readers", consumer="one", **options)


def test_events_come_typed_and_acknowledged_and_what_was_not_comes_again_first(
    publish: Any,
    redis_server: RedisServer,
    client: redis.Redis,
) -> None:
    publish(an_event(1), an_event(2))

    async def read() -> Any:
        async with reading(redis_server) as events:
            assert await take(events, 2, acknowledge=False) == ["run_1", "run_2"]
        publish(an_event(3))
        async with reading(redis_server) as events:
            return await take(events, 3)

    assert asyncio.run(read()) == ["run_1", "run_2", "run_3"]
    assert client.xpending(SKIPPED, "readers")["pending"] == 0


def test_after_a_flush_nothing_handled_comes_again_and_nothing_new_is_missed(
    publish: Any,
    redis_server: RedisServer,
    client: redis.Redis,
) -> None:
    publish(an_event(1), an_event(2))

    async def read() -> Any:
        async with reading(redis_server) as events:
            first = await take(events, 2)
            client.flushall()
            publish(an_event(3))
            return first + await take(events, 1)

    assert asyncio.run(read()) == ["run_1", "run_2", "run_3"]


def test_a_cancelled_wait_loses_no_event(publish: Any, redis_server: RedisServer) -> None:
    async def note(taken: list[Any], events: Any, event: Any) -> None:
        taken.append(event.correlation_id)
        await events.acknowledge(event)

    async def read() -> Any:
        taken: list[Any] = []
        async with reading(redis_server) as events:
            for number in range(8):
                waiting = asyncio.ensure_future(anext(events))
                while (await asyncio.wait([waiting], timeout=0.03))[0]:
                    await note(taken, events, waiting.result())
                    waiting = asyncio.ensure_future(anext(events))
                publish(an_event(number))  # Redis gives it to us, and we are not there any more
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await note(taken, events, await waiting)
            async with asyncio.timeout(PATIENCE_SECONDS):
                return taken + await take(events, 8 - len(taken))

    assert sorted(asyncio.run(read())) == [f"run_{number}" for number in range(8)]


def test_it_outlives_redis_and_says_so_once(outbox: StateDb, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    server = RedisServer()
    caplog.set_level(logging.INFO, logger="retrain_worker.serving.event_reader")
    enqueue(outbox, an_event(1))

    def come_up() -> None:
        server.start()
        Relay(server.client(), outbox, clock).relay_once(at_once=True)

    async def read() -> Any:
        async with reading(server) as events:
            waiting = asyncio.ensure_future(take(events, 1))
            while not caplog.records:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(come_up)
            return await waiting

    try:
        assert asyncio.run(read()) == ["run_1"]
    finally:
        server.remove()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_stop_ends_the_iteration_also_from_another_thread(redis_server: RedisServer) -> None:
    async def read() -> Any:
        async with reading(redis_server) as events:
            loop = asyncio.get_running_loop()
            threading.Timer(0.1, loop.call_soon_threadsafe, [events.stop]).start()
            return await take(events, 1)

    assert asyncio.run(read()) == []


# ---------------------------------------------------------------- follower


def a_model(folder: Path, seed: int) -> tuple[Any, Any]:
    torch.manual_seed(seed)
    path = artifact.model_file(folder, f"patchtst_v20260101_00000{seed}")
    manifest = bundle.write(
        path,
        model=PatchTST(presets.config_for(CONTRACT, dropout=0.0)),
        contract=CONTRACT,
        canary_windows=WINDOWS,
        origin=bundle.Origin(),
    )
    return path, manifest.sha256


def promote(client: redis.Redis, path: Any, sha256: Any) -> None:
    payload = {
        "new_version": path.stem,
        "model_path": str(path),
        "sha256": sha256,
        "promoted_at": datetime.now(UTC).isoformat(),
    }
    current: dict[Any, Any] = dict(to_fields(known(named_by("model.promoted", str(uuid.uuid4()), payload))))
    client.hset(CURRENT_MODEL_KEY, mapping=current)
    client.xadd("quantum:stream:model.promoted", {"event_type": "model.promoted", "payload": json.dumps(payload)})


async def until(question: Any) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not question():
            await asyncio.sleep(0.005)


def test_it_takes_over_promotions_while_the_event_loop_goes_on_and_a_bad_file_keeps_the_old_model(
    redis_server: RedisServer,
    client: redis.Redis,
    tmp_path: Path,
) -> None:
    first, second = a_model(tmp_path, 1), a_model(tmp_path, 2)

    async def follow() -> Any:
        async with AsyncModelFollower(redis_server.url, consumer="test-1", allowed_directories=[tmp_path]) as model:
            with pytest.raises(RetryLaterError, match="nothing names one yet"):
                model.predict(WINDOWS)
            promote(client, *first)
            assert await model.wait_for_model(PATIENCE_SECONDS)
            promote(client, *second)
            await until(lambda: model.served.sha256 == second[1])
            answers = await asyncio.to_thread(model.predict, WINDOWS)
            promote(client, first[0], "0" * 64)
            await until(lambda: model.problem)
            assert "continues" in known(model.problem)
            assert np.array_equal(model.predict(WINDOWS), answers)
        return answers

    assert np.array_equal(asyncio.run(follow()), bundle.read(second[0]).probabilities(WINDOWS))
    assert client.xlen(SERVED_STREAM) == 2


def test_a_load_never_blocks_the_event_loop(
    redis_server: RedisServer,
    client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loading, may_go_on = threading.Event(), threading.Event()
    real = model_watch.ModelWatch._verified

    def slow(self: Any, named: Any) -> Any:
        loading.set()
        assert may_go_on.wait(PATIENCE_SECONDS)
        return real(self, named)

    monkeypatch.setattr(model_watch.ModelWatch, "_verified", slow)

    async def follow() -> None:
        async with AsyncModelFollower(redis_server.url, consumer="test-1", allowed_directories=[tmp_path]) as model:
            promote(client, *a_model(tmp_path, 1))
            await until(loading.is_set)
            assert model.served is None, "we are here, so the loop runs while the load waits for us"
            may_go_on.set()
            assert await model.wait_for_model(PATIENCE_SECONDS)

    asyncio.run(follow())
