"""What ports.Confirmations promises, asked of two readers of Redis and of the double that tests of the stages use."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import redis

from retrain_worker.adapters.automatic_confirmations import AutomaticConfirmations
from retrain_worker.adapters.engine_unit import UnitConfirmations
from retrain_worker.adapters.event_confirmations import EventConfirmations
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.adapters.trade_intents import TradeIntents
from retrain_worker.domain.confirmation import Confirm
from retrain_worker.domain.engine_answers import INTENT_STREAM
from retrain_worker.domain.events import SERVED_STREAM
from retrain_worker.redis_client import connect
from retrain_worker.stages.ports import Confirmations
from tests.fakes import FakeConfirmations

VERSION, SHA256 = "patchtst_v20260110_033000", "a" * 64


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Someone who may serve the model, and whoever reports it."""

    confirmations: Confirmations
    serves: Callable[[], object]

    def report(self) -> str | None:
        return self.confirmations.seen_serving(
            version=VERSION, sha256=SHA256, model_path="/m.pth", since=datetime.now(UTC) - timedelta(minutes=1)
        )


@pytest.fixture(params=["follower", "engine answers", "double"])
def engine(request: pytest.FixtureRequest, client: redis.Redis, outbox: StateDb) -> Engine:
    def publish(stream: str, content: dict[str, object]) -> None:
        client.xadd(stream, {"event_type": stream.removeprefix("quantum:stream:"), "payload": json.dumps(content)})

    match request.param:
        case "follower":
            served: dict[str, object] = {
                "version": VERSION,
                "sha256": SHA256,
                "model_path": "/m.pth",
                "consumer": "engine-1",
                "canary_max_error": 0.0,
            }
            return Engine(confirmations=EventConfirmations(client), serves=lambda: publish(SERVED_STREAM, served))
        case "engine answers":
            answer = {"patchtst": {"action": "BUY", "confidence": 0.7, "version": VERSION}}
            intent: dict[str, object] = {"symbol": "BTCUSDT", "side": "BUY", "model_breakdown": answer}
            monitor = TradeIntents(client, outbox)
            return Engine(confirmations=monitor, serves=lambda: publish(INTENT_STREAM, intent))
        case _:
            double = FakeConfirmations(seen=None)
            return Engine(confirmations=double, serves=lambda: setattr(double, "seen", "engine-1 serves it"))


def test_a_model_is_reported_once_it_is_served_and_not_before(engine: Engine) -> None:
    assert engine.report() is None
    engine.serves()
    assert engine.report()


class Unit(UnitConfirmations):
    """The engine's unit: whether systemd has it, and that it was started."""

    def __init__(self, is_loaded: bool) -> None:
        super().__init__("quantum-ai-engine.service")
        self.has_unit = is_loaded

    def is_loaded(self) -> bool:
        return self.has_unit

    def seen_serving(self, **_: object) -> str | None:
        return "the unit was started"


@pytest.mark.parametrize(
    ("has_follower", "has_unit", "expected", "seen"),
    [
        (True, True, Confirm.EVENT, None),
        (False, True, Confirm.UNIT, "the unit was started"),
        (False, False, Confirm.NONE, None),
    ],
)
def test_what_can_confirm_is_found_out(
    client: redis.Redis, has_follower: bool, has_unit: bool, expected: Confirm, seen: str | None
) -> None:
    """A follower that has answered for an earlier model has to answer for this one, too."""
    if has_follower:
        other = {"version": "another", "sha256": "b" * 64}
        client.xadd(SERVED_STREAM, {"event_type": "model.served", "payload": json.dumps(other)})
    automatic = AutomaticConfirmations(EventConfirmations(client), Unit(has_unit))

    assert automatic.expected() is expected
    assert Engine(confirmations=automatic, serves=lambda: None).report() == seen


@pytest.mark.parametrize(("has_unit", "expected"), [(True, Confirm.UNIT), (False, Confirm.EVENT)])
def test_while_redis_is_down_a_follower_may_exist(has_unit: bool, expected: Confirm) -> None:
    events = EventConfirmations(connect("unix:///nowhere/redis.sock"))

    assert AutomaticConfirmations(events, Unit(has_unit)).expected() is expected
