"""`retrain-worker events tail`, as a person sees it."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from retrain_worker.__main__ import main
from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.retrain_requests import trigger
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.events import EventType, stream_of
from tests.known import known
from tests.redis_world import PATIENCE_SECONDS, Clock, RedisServer, a_promotion, an_event, enqueue


@pytest.fixture
def publish(client: redis.Redis, outbox: StateDb, clock: Clock) -> Any:
    relay = Relay(client, outbox, clock)

    def publish(*events: Any) -> None:
        enqueue(outbox, *events)
        assert relay.relay_once(at_once=True).problem is None
        clock.advance(1)

    return publish


@pytest.fixture
def tail(
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Any]:
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setenv("DB_PATH", "/nowhere.db")

    def tail(*arguments: Any) -> tuple[int, Any]:
        monkeypatch.setattr(sys, "argv", ["retrain-worker", "events", "tail", *arguments])
        code = main()
        return code, capsys.readouterr()

    before = signal.getsignal(signal.SIGTERM)
    yield tail
    signal.signal(signal.SIGTERM, before)


def test_the_newest_events_of_all_types_come_in_the_order_in_which_they_were_sent(
    publish: Any,
    tail: Any,
    clock: Clock,
    client: redis.Redis,
) -> None:
    publish(an_event(1, EventType.STARTED, at=clock(), requested_by="schedule", request_reason="every 24 h"))
    publish(a_promotion(2, at=clock()))
    publish(an_event(3, at=clock(), outcome="SKIPPED", reasons=["few rows", "and old"]))
    trigger(client, reason="new data", requested_by="ops")

    code, shown = tail("-n", "3")

    lines = shown.out.splitlines()
    assert code == 0
    assert sorted(line.split()[2] for line in lines) == [
        "learning.retraining.skipped",
        "model.promoted",
        "model.retrain",
    ]
    assert "patchtst_v20260101_000002 replaces no model, shadow only" in shown.out
    assert "run run_3 SKIPPED: few rows (and 1 more)" in shown.out
    assert "run requested by ops: new data" in shown.out


def test_a_slot_that_names_nothing_any_more_is_said_in_words(publish: Any, tail: Any, clock: Clock) -> None:
    emptied = {"new_version": "none", "old_version": "v1", "model_path": "", "reason": "degenerate"}
    publish(an_event(1, EventType.ROLLED_BACK, at=clock(), **emptied))
    publish(an_event(2, EventType.CHANGED_EXTERNALLY, at=clock(), **emptied))

    _, shown = tail()

    assert "v1 removed, the slot names no model: degenerate" in shown.out
    assert "v1 removed externally, the slot names no model" in shown.out


def test_types_are_chosen_by_their_last_word_and_json_is_whole(publish: Any, tail: Any, clock: Clock) -> None:
    publish(an_event(1, at=clock(), reasons=["few"]), a_promotion(2, at=clock()))

    _, shown = tail("--type", "skipped", "--json")

    [event] = json.loads(shown.out)
    assert (event["event_type"], event["payload"]["reasons"]) == ("learning.retraining.skipped", ["few"])
    assert event["flat"] == {"model": "patchtst", "status": "skipped"}


def test_an_unknown_type_is_a_usage_error_that_lists_the_types(tail: Any) -> None:
    code, shown = tail("--type", "nonsense")

    assert code == 2
    assert "model.rolled_back" in shown.err


def test_what_is_no_event_is_shown_as_such_and_nothing_is_written(
    publish: Any,
    tail: Any,
    client: redis.Redis,
) -> None:
    client.xadd(stream_of(EventType.SKIPPED), {"payload": "{"})
    before = client.info("commandstats")

    _, shown = tail()

    assert "is not an event: its payload is not JSON" in shown.out
    assert set(client.info("commandstats")) - set(before) <= {
        "cmdstat_xrevrange",
        "cmdstat_xinfo",  # before Redis 7
        "cmdstat_xinfo|stream",
        "cmdstat_client|setname",
        "cmdstat_client|setinfo",
        "cmdstat_info",
    }


def test_without_redis_it_says_so(monkeypatch: pytest.MonkeyPatch, tail: Any, redis_server: RedisServer) -> None:
    redis_server.kill()

    code, shown = tail()

    assert code == 1
    assert "cannot be reached" in shown.err


def test_followed_it_waits_for_redis_shows_what_comes_and_outlives_a_restart(
    publish: Any,
    redis_server: RedisServer,
    client: redis.Redis,
    clock: Clock,
) -> None:
    redis_server.kill()
    process = subprocess.Popen(
        [sys.executable, "-m", "retrain_worker", "events", "tail", "--follow"],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"REDIS_URL": redis_server.url, "DB_PATH": "/nowhere.db", "PATH": "/usr/bin:/bin"},
    )
    lines: list[Any] = []
    reader = threading.Thread(target=lambda: lines.extend(known(process.stdout)), daemon=True)
    try:
        assert "cannot be reached" in process.stderr.readline()
        redis_server.start()
        publish(an_event(1, at=clock()))
        assert "run_1" in process.stdout.readline()
        redis_server.kill()
        assert "cannot be reached" in process.stderr.readline()
        redis_server.start()
        reader.start()
        publish(an_event(2, at=clock()))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not any("run_2" in line for line in lines):
            assert time.monotonic() < deadline, lines
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
        reader.join(5)
        process.stdout.close()
        process.stderr.close()
