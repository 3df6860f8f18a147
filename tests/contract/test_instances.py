"""Several workers share one Redis: by a prefix of their own, or as instances of one prefix."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from retrain_worker import settings
from retrain_worker.adapters.current_model_hash import CurrentModelHash
from retrain_worker.adapters.event_confirmations import EventConfirmations
from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.retrain_requests import Requests, trigger
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.current_model import from_fields
from retrain_worker.domain.events import CURRENT_MODEL_KEY, EventType, stream_of
from retrain_worker.domain.redis_names import RedisNames
from retrain_worker.errors import SettingsError
from retrain_worker.serving.events import ModelEvents
from retrain_worker.serving.follower import ModelFollower
from tests.redis_world import Clock, RedisServer, a_promotion, enqueue, entries_of

PRODUCTION, STAGING = RedisNames(), RedisNames(prefix="staging")
BLUE, GREEN = RedisNames(instance="blue"), RedisNames(instance="green")
PROMOTED = stream_of(EventType.PROMOTED)


class Worker:
    """The relay of one worker, with a state of its own."""

    def __init__(self, server: RedisServer, folder: Path, names: RedisNames, clock: Clock) -> None:
        self.names, self.clock = names, clock
        self.client = server.client(names=names)
        self.store = StateDb(folder / f"{names.prefix}{names.instance}.db")
        self.origin = {"instance": names.instance, "host": f"{names.prefix}{names.instance}.example"}
        self.relay = Relay(self.client, self.store, clock, origin=self.origin)

    def promote(self, number: int, version: str) -> None:
        enqueue(self.store, a_promotion(number, at=self.clock(), version=version))
        assert self.relay.relay_once().sent == 1

    def current(self) -> str:
        fields = {name.decode(): value.decode() for name, value in self.client.hgetall(CURRENT_MODEL_KEY).items()}
        assert {name: fields[name] for name in self.origin} == self.origin
        return from_fields(fields).version


@pytest.fixture
def workers(redis_server: RedisServer, tmp_path: Path, clock: Clock, request: pytest.FixtureRequest) -> Any:
    made = [Worker(redis_server, tmp_path, names, clock) for names in request.param]
    yield made
    for one in made:
        one.store.close()


@pytest.mark.parametrize("workers", [(PRODUCTION, STAGING), (BLUE, GREEN)], indirect=True)
def test_each_worker_has_a_current_model_of_its_own_and_repairs_only_that(workers: list[Worker], clock: Clock) -> None:
    first, second = workers
    first.promote(1, "patchtst_v20260110_000001")
    second.promote(2, "patchtst_v20260110_000002")
    for _ in range(3):
        clock.advance(60)
        for worker in workers:
            assert worker.relay.relay_once().sent == 0

    assert [worker.current() for worker in workers] == ["patchtst_v20260110_000001", "patchtst_v20260110_000002"]


@pytest.mark.parametrize("workers", [(PRODUCTION, STAGING)], indirect=True)
def test_no_key_of_a_prefix_is_one_of_another(workers: list[Worker], client: redis.Redis) -> None:
    for number, worker in enumerate(workers):
        worker.promote(number, f"patchtst_v20260110_00000{number}")
        trigger(worker.client, reason="x", requested_by="x")
        Requests(worker.client, worker.clock).poll()

    keys = sorted(key.decode() for key in client.scan_iter())
    names = [key.partition(":")[2] for key in keys if key.startswith("quantum:")]
    assert keys == sorted(f"{prefix}:{name}" for prefix in ("quantum", "staging") for name in names)
    assert len(names) == 3


@pytest.mark.parametrize("workers", [(BLUE, GREEN)], indirect=True)
def test_each_instance_gets_every_request_that_names_none_and_its_own(workers: list[Worker]) -> None:
    blue = workers[0]
    trigger(blue.client, reason="for all", requested_by="x")
    trigger(blue.client, reason="for green", requested_by="x", instance="green")
    polls = [Requests(worker.client, worker.clock, instance=worker.names.instance).poll() for worker in workers]

    assert [[request.reason for request in poll.requests] for poll in polls] == [["for all"], ["for all", "for green"]]
    assert [poll.other_models for poll in polls] == [("patchtst of instance green",), ()]


@pytest.mark.parametrize("workers", [(BLUE, GREEN), (PRODUCTION, STAGING)], indirect=True)
def test_a_follower_follows_its_own_worker_only(workers: list[Worker], redis_server: RedisServer) -> None:
    """Each model is refused, because there is no file; the problem names it."""
    problems = []
    for number, worker in enumerate(workers):
        worker.promote(number, f"patchtst_v20260110_00000{number}")
    for worker in workers:
        names = worker.names
        with ModelFollower(redis_server.url, consumer="x", prefix=names.prefix, instance=names.instance) as follower:
            problems.append(follower.problem or "")

    assert ["000000" in problems[0], "000001" in problems[1]] == [True, True]
    assert ["000001" in problems[0], "000000" in problems[1]] == [False, False]


@pytest.mark.parametrize("workers", [(BLUE, GREEN)], indirect=True)
def test_a_confirmation_comes_from_a_follower_of_the_instance(workers: list[Worker], clock: Clock) -> None:
    blue = workers[0]
    served = json.dumps({"version": "v", "sha256": "a" * 64, "consumer": "engine"})
    blue.client.xadd("quantum:stream:model.served", {"payload": served, "instance": "blue"})
    found = [EventConfirmations(worker.client, instance=worker.names.instance) for worker in workers]

    assert [one.has_answered() for one in found] == [True, False]
    question: dict[str, Any] = {
        "version": "v",
        "sha256": "a" * 64,
        "model_path": "/m",
        "since": clock() - timedelta(hours=1),
    }
    assert [one.seen_serving(**question) is not None for one in found] == [True, False]


@pytest.mark.parametrize("workers", [(BLUE, STAGING)], indirect=True)
def test_each_event_names_instance_and_host(workers: list[Worker], redis_server: RedisServer) -> None:
    blue, staging = workers
    blue.promote(1, "patchtst_v20260110_000001")
    staging.promote(2, "patchtst_v20260110_000002")
    [(_, fields)] = entries_of(blue.client, PROMOTED)
    assert (fields[b"instance"], fields[b"host"]) == (b"blue", b"quantumblue.example")

    with ModelEvents(redis_server.url, group="g", consumer="c", prefix="staging") as events:
        event = next(iter(events))
        events.acknowledge(event)
    assert (event.stream, event.instance, event.host) == (PROMOTED, "", "staging.example")
    assert staging.client.xpending(PROMOTED, "g")["pending"] == 0


def test_the_names_of_a_worker_are_settings() -> None:
    loaded = settings.load({"REDIS_PREFIX": "staging", "INSTANCE": "blue-1"})
    assert loaded.redis_names == RedisNames(prefix="staging", instance="blue-1")
    with pytest.raises(SettingsError) as error:
        settings.load({"REDIS_PREFIX": "a:b", "INSTANCE": "two words"})
    assert len(error.value.problems) == 2


def test_only_the_worker_s_own_keys_are_renamed() -> None:
    names = RedisNames(prefix="staging", instance="blue")
    kept = ("XADD", "quantum", "quantum_trader", "quantumx:stream:y", 5, b"quantum:stream:x")
    assert tuple(map(names.actual, kept)) == kept
    assert names.actual(CURRENT_MODEL_KEY) == "staging:model:patchtst:blue:current"
    assert CurrentModelHash.key == CURRENT_MODEL_KEY
