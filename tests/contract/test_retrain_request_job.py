"""Retrain requests in the daemon: one run for a flood, and one more for those that come too late."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from retrain_worker.adapters.retrain_requests import BATCH, trigger
from retrain_worker.domain.events import REQUEST_GROUP, REQUEST_STREAM
from retrain_worker.domain.lifecycle import Outcome, Stage
from tests.daemon_home import opened_components
from tests.redis_world import RedisServer


@pytest.fixture
def opened(tmp_path: Path, redis_server: RedisServer) -> Iterator[Any]:
    """The components on the same home, opened anew at each call."""
    resources = ExitStack()

    def opened() -> Any:
        resources.close()
        return resources.enter_context(opened_components(tmp_path / "home", REDIS_URL=redis_server.url))

    with resources:
        yield opened


def ask(client: redis.Redis, *reasons: Any) -> None:
    for reason in reasons:
        trigger(client, reason=reason, requested_by="ops")


def move(components: Any, stage: Any) -> None:
    """Move the run at work to `stage`."""
    run = components.store.unfinished_run()
    for due in list(Stage)[1 : list(Stage).index(stage) + 1]:
        run = run.moved_to(due, at=components.configuration.context.now())
    components.store.record(run)


def end(components: Any) -> None:
    run = components.store.unfinished_run()
    components.store.record(run.ended(Outcome.FAILED, "test", at=components.configuration.context.now()))


def reasons(components: Any) -> list[Any]:
    return [run.request_reason for run in reversed(components.store.history(9))]


def pending(client: redis.Redis) -> Any:
    return client.xpending(REQUEST_STREAM, REQUEST_GROUP)["pending"]


def test_a_request_for_another_model_starts_no_run(opened: Any, client: redis.Redis) -> None:
    components = opened()
    client.xadd(REQUEST_STREAM, {"model": "xgb", "timestamp": "1768016112.25", "source": "strategic_evolution"})
    components.retrain_requests.run()

    assert components.store.unfinished_run() is None
    assert pending(client) == 0


def test_a_flood_of_requests_makes_one_run_and_is_acknowledged(opened: Any, client: redis.Redis) -> None:
    components = opened()
    ask(client, *(f"number {number}" for number in range(BATCH * 2 + 10)))
    client.xadd(REQUEST_STREAM, {"payload": "{"})
    for _ in range(4):
        components.retrain_requests.run()
        if components.store.unfinished_run() is not None:
            end(components)  # as one with nothing new does, at once

    assert reasons(components) == ["ops: number 0"]
    assert pending(client) == 0


def test_a_request_before_the_rows_are_read_joins_the_run(opened: Any, client: redis.Redis) -> None:
    components = opened()
    components.driver.begin("schedule", "every 4 h")
    ask(client, "now")
    components.retrain_requests.run()
    end(components)
    components.driver.run_pass()

    assert reasons(components) == ["every 4 h"]


def test_requests_after_the_rows_are_read_queue_one_more_run_also_across_a_restart(
    opened: Any,
    client: redis.Redis,
) -> None:
    components = opened()
    components.driver.begin("schedule", "every 4 h")
    move(components, Stage.TRAIN)
    ask(client, "newer rows")
    components.retrain_requests.run()
    ask(client, "me too", "and me")
    components.retrain_requests.run()
    assert pending(client) == 0
    assert reasons(components) == ["every 4 h"], "not yet: one run at a time"

    components = opened()
    end(components)
    components.driver.run_pass()
    assert reasons(components) == ["every 4 h", "ops: newer rows"]
    end(components)
    components.driver.run_pass()
    assert reasons(components) == ["every 4 h", "ops: newer rows"], "once"


def test_a_request_during_the_queued_run_queues_another_one(opened: Any, client: redis.Redis) -> None:
    components = opened()
    for _ in range(2):
        if components.store.unfinished_run() is None:
            components.driver.begin("trigger", "first")
        move(components, Stage.GATE)
        ask(client, "again")
        components.retrain_requests.run()
        end(components)
        components.driver.run_pass()

    assert reasons(components) == ["first", "ops: again", "ops: again"]


def test_a_request_is_recorded_before_it_is_acknowledged(
    opened: Any,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    components = opened()
    ask(client, "precious")

    def broken(**_: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(components.store, "open_run", broken)
    with pytest.raises(OSError, match="gone"):
        components.retrain_requests.run()
    assert pending(client) == 1

    components = opened()
    components.retrain_requests.run()
    assert reasons(components) == ["ops: precious"]


def test_a_stream_of_another_type_is_reported_once(opened: Any, client: redis.Redis) -> None:
    components = opened()
    client.set(REQUEST_STREAM, "theirs")
    with capture_logs() as logged:
        for _ in range(3):
            components.retrain_requests._requests._back_off.after(None)
            components.retrain_requests.run()

    assert [line["event"] for line in logged] == ["requests_problem"]


def test_a_request_that_redis_delivers_again_after_a_failover_is_no_new_one(opened: Any, client: redis.Redis) -> None:
    components = opened()
    ask(client, "new data")
    components.retrain_requests.run()
    end(components)
    components = opened()
    client.xgroup_setid(REQUEST_STREAM, REQUEST_GROUP, "0")  # what a replica knows that has missed the newest writes
    components.retrain_requests.run()
    assert (components.store.unfinished_run(), pending(client)) == (None, 0)

    ask(client, "newer data")
    client.xgroup_setid(REQUEST_STREAM, REQUEST_GROUP, "0")
    components.retrain_requests.run()
    assert reasons(components) == ["ops: new data", "ops: newer data"]
    assert pending(client) == 0
