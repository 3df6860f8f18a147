"""The daemon stops in time, whatever Redis does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import StartsDaemon
from tests.redis_world import LossyWire, RedisServer


@pytest.fixture
def wire() -> Iterator[LossyWire]:
    server = RedisServer()
    server.start()
    wire = LossyWire(server)
    yield wire
    wire.hanging = False
    wire.close()
    server.remove()


def test_the_stop_is_limited_when_redis_answers_slowly(
    daemon_of: StartsDaemon, hopeless: Path, tmp_path: Path, wire: LossyWire
) -> None:
    wire.delay_seconds = 1.5
    daemon = daemon_of(tmp_path / "home", hopeless, REDIS_URL=wire.url, MIN_SAMPLES=1_000_000)
    daemon.wait_for_event("run_started")

    assert daemon.stop() == 0

    assert daemon.events()[-1] == "stop_forced"
    wire.delay_seconds = 0.0
    again = daemon_of(tmp_path / "home", hopeless, REDIS_URL=wire.url, MIN_SAMPLES=1_000_000)
    again.wait_for_event("run_finished")


def test_the_stop_ends_when_redis_does_not_answer(
    daemon_of: StartsDaemon, hopeless: Path, tmp_path: Path, wire: LossyWire
) -> None:
    daemon = daemon_of(tmp_path / "home", hopeless, REDIS_URL=wire.url, MIN_SAMPLES=1_000_000)
    daemon.wait_for_event("run_finished")
    wire.hanging = True

    assert daemon.stop() == 0
    assert daemon.events()[-1] in {"stopped", "stop_forced"}
