"""Fixtures that tests of more than one folder share."""

import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings

from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.events import Event
from tests import fakes
from tests.redis_world import Clock, LossyWire, Publish, RedisServer, enqueue

# The same examples each time: a change that breaks something is to blame for it, not the dice, and no pause of a loaded
# machine is. `pytest --hypothesis-profile=explore` throws the dice.
settings.register_profile(
    "same",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("explore", settings.get_profile("same"), derandomize=False)
settings.load_profile("same")

# `make test-python` has no torch
collect_ignore = (
    []
    if find_spec("torch")
    else [
        "contract/test_async_serving.py",
        "contract/test_model_follower.py",
        "contract/test_models_url.py",
        "contract/test_rollout.py",
        "contract/test_signed_models.py",
        "worker",
    ]
)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.remove()


@pytest.fixture
def wire(redis_server: RedisServer) -> Iterator[LossyWire]:
    wire = LossyWire(redis_server)
    yield wire
    wire.close()


@pytest.fixture
def client(redis_server: RedisServer) -> redis.Redis:
    return redis_server.client()


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[StateDb]:
    with StateDb(tmp_path / "state.db") as state:
        yield state


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def publish(client: redis.Redis, outbox: StateDb, clock: Clock) -> Publish:
    """Events on the streams, as the worker's relay writes them."""
    relay = Relay(client, outbox, clock)

    def publish(*events: Event) -> None:
        enqueue(outbox, *events)
        assert relay.relay_once(at_once=True).problem is None

    return publish


@pytest.fixture
def time_zone_of_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The host's local time is not UTC."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(autouse=True)
def state_databases_are_closed() -> Iterator[None]:
    yield
    fakes.close_all()


@pytest.fixture(autouse=True)
def subnormal_floats_are_as_everywhere() -> Iterator[None]:
    """A training in this process flushes them to zero, which is not what the next test counts on."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
