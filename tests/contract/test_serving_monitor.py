"""The engine's answers: read from a real stream, in batches, across restarts; and the findings."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.adapters.trade_intents import BATCH, TradeIntents
from retrain_worker.domain.engine_answers import INTENT_STREAM, Finding, Tally, judge
from retrain_worker.domain.labels import Thresholds
from retrain_worker.domain.trial_evaluation import Answer
from tests.daemon_home import opened_components
from tests.redis_world import RedisServer

START = datetime(2020, 1, 1, tzinfo=UTC)
MODEL = "/engine/patchtst_v20260110_033000.pth"


def say(
    client: redis.Redis,
    *,
    confidence: float | str,
    action: str = "BUY",
    side: str = "BUY",
    number: int = 0,
    flat: bool = False,
    **more: object,
) -> None:
    ours = {"action": action, "confidence": confidence, "shadow": True, **more}
    said = {
        "symbol": "BTCUSDT",
        "side": side,
        "confidence": 0.7,
        "model_breakdown": {"patchtst": ours, "xgb": {}},
        "timestamp": (START + timedelta(minutes=number)).isoformat(),
    }
    if flat:
        said["model_breakdown"] = json.dumps(said["model_breakdown"])
        client.xadd(INTENT_STREAM, {name: str(value) for name, value in said.items()})
    else:
        client.xadd(INTENT_STREAM, {"event_type": "trade.intent", "payload": json.dumps(said)})


def finding(
    tally: Tally,
    *,
    model_std: float | None = 0.2,
    answers: tuple[Answer, ...] = (),
) -> Finding:
    return judge(tally, answers=answers, model_std=model_std, thresholds=Thresholds())


def answers_like(numbers: range, probability: Any) -> tuple[Answer, ...]:
    return tuple(
        Answer(
            symbol="BTCUSDT",
            decided_at=round((START + timedelta(minutes=number)).timestamp() * 1e6),
            probability=probability(number),
        )
        for number in numbers
    )


def test_both_forms_of_an_entry_are_counted_and_malformed_ones_as_such(
    client: redis.Redis,
    outbox: StateDb,
) -> None:
    for number in range(30):
        say(client, confidence=0.6 + number / 100, number=number, flat=number % 2 == 0)
    client.xadd(INTENT_STREAM, {"payload": "{"})
    client.xadd(INTENT_STREAM, {"payload": json.dumps({"model_breakdown": [1]})})
    say(client, confidence="high")
    say(client, confidence=0.7, action="UP")
    client.xadd(INTENT_STREAM, {b"\xff": b"\xfe"})
    client.xadd(INTENT_STREAM, {"symbol": "BTCUSDT"})
    trade_intents = TradeIntents(client, outbox)
    assert trade_intents.read(model_path=MODEL, at=START) is None
    tally = trade_intents.tally

    assert (tally.entries, tally.answers, tally.malformed, tally.silent) == (36, 30, 4, 2)


def test_reading_continues_where_the_last_process_stopped(client: redis.Redis, outbox: StateDb) -> None:
    for number in range(BATCH + 20):
        say(client, confidence=0.5 + number / 5000, number=number)
    TradeIntents(client, outbox).read(model_path=MODEL, at=START)
    assert TradeIntents(client, outbox).tally.entries == BATCH
    TradeIntents(client, outbox).read(model_path=MODEL, at=START)
    TradeIntents(client, outbox).read(model_path=MODEL, at=START)

    assert TradeIntents(client, outbox).tally.entries == BATCH + 20


def test_another_model_in_the_slot_begins_another_tally(client: redis.Redis, outbox: StateDb) -> None:
    say(client, confidence=0.7)
    trade_intents = TradeIntents(client, outbox)
    trade_intents.read(model_path=MODEL, at=START)
    trade_intents.read(model_path="/engine/other.pth", at=START)

    assert (trade_intents.tally.model_path, trade_intents.tally.entries) == ("/engine/other.pth", 0)


def test_constant_answers_of_a_model_that_varies_are_a_serving_fault(
    client: redis.Redis,
    outbox: StateDb,
) -> None:
    for number in range(60):
        say(client, confidence=0.615, number=number)
    trade_intents = TradeIntents(client, outbox)
    trade_intents.read(model_path=MODEL, at=START)
    found = finding(trade_intents.tally)

    assert found.is_fault
    assert found.message == (
        "serving fault: the last 60 engine answers are all BUY 0.6150, but the model's vary (standard deviation 0.200)"
    )
    assert not finding(trade_intents.tally, model_std=0.001).is_fault, (
        "then it is the model's, and the probation's matter"
    )


def test_an_engine_that_answers_only_with_fallbacks_is_a_serving_fault(client: redis.Redis, outbox: StateDb) -> None:
    for number in range(60):
        say(client, confidence=0.5, action="HOLD", number=number)
    trade_intents = TradeIntents(client, outbox)
    trade_intents.read(model_path=MODEL, at=START)

    assert "60 of 60 engine answers are fallbacks" in finding(trade_intents.tally).message


@pytest.mark.parametrize("shown", ["probability", "confidence"])
def test_engine_answers_are_matched_with_those_of_the_model_by_symbol_and_time(
    client: redis.Redis,
    outbox: StateDb,
    shown: str,
) -> None:
    def probability(number: int) -> float:
        return 0.05 + 0.9 * (number * 37 % 100) / 100

    for number in range(60):
        p = probability(number)
        action = "BUY" if p > 0.6 else "SELL" if p < 0.4 else "HOLD"
        said = p if shown == "probability" else max(p, 1 - p)
        say(client, confidence=round(said, 3) + 1e-4, action=action, side="SELL", number=number)
    trade_intents = TradeIntents(client, outbox)
    trade_intents.read(model_path=MODEL, at=START)
    ours = finding(trade_intents.tally, answers=answers_like(range(40), probability))
    other = finding(trade_intents.tally, answers=answers_like(range(40), lambda number: 1 - probability(number + 3)))

    assert "40 of 40 matched answers are the model's" in ours.message
    assert not ours.is_fault
    assert other.is_fault
    assert "runs another model" in other.message


def test_few_answers_are_no_finding(client: redis.Redis, outbox: StateDb) -> None:
    say(client, confidence=0.615)
    trade_intents = TradeIntents(client, outbox)
    trade_intents.read(model_path=MODEL, at=START)

    assert not finding(trade_intents.tally).is_fault
    assert "50 required" in finding(trade_intents.tally).message


def test_an_engine_that_names_its_model_confirms_it_and_one_that_does_not_confirms_nothing(
    client: redis.Redis,
    outbox: StateDb,
) -> None:
    trade_intents = TradeIntents(client, outbox)
    wanted: dict[str, Any] = {
        "version": "patchtst_v20260110_033000",
        "sha256": "a" * 64,
        "model_path": MODEL,
        "since": START,
    }
    say(client, confidence=0.7)
    say(client, confidence=0.7, version="patchtst_v20260101_000000")
    assert trade_intents.seen_serving(**wanted) is None

    say(client, confidence=0.7, version="patchtst_v20260110_033000")
    assert (
        trade_intents.seen_serving(**wanted) == "the engine names patchtst_v20260110_033000 in its answer for BTCUSDT"
    )
    later = datetime.now(UTC) + timedelta(minutes=5)
    assert trade_intents.seen_serving(**{**wanted, "since": later}) is None


def test_an_unreachable_redis_is_a_problem_and_loses_no_tally(
    redis_server: RedisServer,
    client: redis.Redis,
    outbox: StateDb,
) -> None:
    trade_intents = TradeIntents(client, outbox)
    say(client, confidence=0.7)
    trade_intents.read(model_path=MODEL, at=START)
    redis_server.kill()

    assert "cannot be reached" in trade_intents.read(model_path=MODEL, at=START).message
    assert trade_intents.tally == replace(trade_intents.tally, entries=1)


def test_a_serving_fault_is_logged_when_it_begins_and_when_it_is_over(
    tmp_path: Path, redis_server: RedisServer, client: redis.Redis
) -> None:
    with opened_components(tmp_path / "home", REDIS_URL=redis_server.url) as components:
        monitor = components.serving_monitor
        components.configuration.settings.engine_env_file.write_text(f"PATCHTST_MODEL_PATH={MODEL}\n")
        monitor.run()  # the first pass begins at the present
        events = []
        for confidence in (lambda _: 0.615, lambda number: 0.2 + number % 7 / 10):
            for number in range(400):
                say(client, confidence=confidence(number), number=number)
            with capture_logs() as logged:
                for _ in range(3):
                    monitor.run()
            events.append([each["event"] for each in logged])

    assert events == [["serving_fault"], ["serving_fault_over"]]
