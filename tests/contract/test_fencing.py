"""What a process that no longer leads can still do outside its database: nothing to the slot, nothing to Redis."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from retrain_worker.adapters.model_slot import ModelSlot
from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.postgres_state import PostgresState, connect
from retrain_worker.domain.events import CURRENT_MODEL_KEY, EventType, stream_of
from retrain_worker.domain.lifecycle import DeploymentState
from retrain_worker.errors import AlreadyRunningError, LeadershipLostError
from tests.contract.test_run_store import DEPLOYMENT
from tests.postgres_state import new_place, opened_state
from tests.redis_world import Clock, a_promotion, an_event, enqueue
from tests.worker.postgres_server import PostgresServer

PROMOTED = stream_of(EventType.PROMOTED)


@pytest.fixture
def state(postgres: PostgresServer) -> Iterator[PostgresState]:
    with opened_state(new_place(postgres)) as state:
        yield state


def deposed(state: PostgresState) -> None:
    with connect(state._place) as connection:
        connection.execute("UPDATE leader SET token = token + 1")


def token_in(client: redis.Redis) -> Any:
    return client.hget(CURRENT_MODEL_KEY, "leader_token")


def test_a_leader_publishes_with_its_token(state: PostgresState, client: redis.Redis, clock: Clock) -> None:
    relay = Relay(client, state, clock)
    enqueue(state, an_event(1))
    assert relay.relay_once().problem is None
    assert token_in(client) == b"1", "also before the first model"
    enqueue(state, a_promotion(1, at=clock()))
    report = relay.relay_once()
    assert (report.problem, report.pending) == (None, 0)
    assert (client.xlen(PROMOTED), token_in(client)) == (1, b"1")
    client.flushall()
    clock.advance(60)
    for _ in range(2):
        relay.relay_once(at_once=True)
    assert (client.xlen(PROMOTED), token_in(client)) == (1, b"1"), "a Redis that has lost everything is filled again"


def test_a_deposed_leader_publishes_nothing(state: PostgresState, client: redis.Redis, clock: Clock) -> None:
    relay = Relay(client, state, clock)
    enqueue(state, a_promotion(1, at=clock()))
    deposed(state)
    with pytest.raises(LeadershipLostError):
        relay.relay_once()
    assert client.keys() == []


def test_what_a_later_leader_has_published_is_not_replaced(
    state: PostgresState, client: redis.Redis, clock: Clock
) -> None:
    """The earlier one was stopped after it had asked PostgreSQL: Redis refuses what it sends."""
    relay = Relay(client, state, clock)
    enqueue(state, a_promotion(1, at=clock()))
    client.hset(CURRENT_MODEL_KEY, mapping={"leader_token": "2", "version": "later"})
    with pytest.raises(LeadershipLostError, match="token 2, here 1"):
        relay.relay_once()
    assert client.hgetall(CURRENT_MODEL_KEY) == {b"leader_token": b"2", b"version": b"later"}
    assert client.xlen(PROMOTED) == 0


def test_a_transaction_that_was_open_when_a_later_leader_published_is_refused(
    state: PostgresState, client: redis.Redis, clock: Clock
) -> None:
    relay = Relay(client, state, clock)
    enqueue(state, an_event(1))
    relay.relay_once()
    transaction = relay._current.fenced()
    assert transaction is not None
    client.hset(CURRENT_MODEL_KEY, "leader_token", "2")
    transaction.xadd(PROMOTED, {"a": "b"})
    with pytest.raises(redis.WatchError):
        transaction.execute()
    assert client.xlen(PROMOTED) == 0


def test_a_deposed_leader_changes_no_part_of_the_slot(state: PostgresState, tmp_path: Path) -> None:
    env, models, trigger = tmp_path / "ai-engine.env", tmp_path / "models", tmp_path / "restart"
    models.mkdir()
    for name in ("patchtst_v20260101_000000", "patchtst_v20260102_000000"):
        (models / f"{name}.pth").write_bytes(b"model")
        (models / f"{name}.json").write_text("{}")
    old, new = sorted(models.glob("*.pth"))
    content = f"PATCHTST_MODEL_PATH={old}\nPATCHTST_SHADOW_ONLY=true\n"
    env.write_text(content)
    slot = ModelSlot(
        engine_models_dir=models,
        engine_env_file=env,
        trigger_file=trigger,
        withdrawn_dir=tmp_path / "withdrawn",
        now=lambda: datetime.now(UTC),
        fence=state.fencing_token,
    )
    sha256 = slot.sha256_of(new) or ""
    deposed(state)
    for change in (
        lambda: slot.point_to(new, expected_sha256=sha256, replacing=old),
        lambda: slot.clear(replacing=old),
        lambda: slot.trigger(new),
        lambda: slot.keep_only(old),
        lambda: slot.remove_old_models(keep=0, protected=()),
    ):
        with pytest.raises(LeadershipLostError):
            change()
    assert env.read_text() == content
    assert sorted(models.glob("*.pth")) == [old, new]
    assert not trigger.exists()


def test_a_host_whose_env_line_is_another_one_does_not_follow(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would record its own line as an external change, and publish it."""
    from retrain_worker import settings
    from retrain_worker.daemon.leadership import opened_state as opened

    place = new_place(postgres)
    env = tmp_path / "ai-engine.env"
    environment = {"STATE_URL": place.url, "INSTANCE": place.instance, "ENGINE_ENV_FILE": str(env)}
    here = settings.load(environment, home=tmp_path, db=str(tmp_path / "none.db"))
    serving = replace(DEPLOYMENT, run_id=None, state=DeploymentState.CONFIRMED)
    begun = replace(serving, deployment_id="begun", model_path="/models/next.pth", state=DeploymentState.INTENDED)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("socket.gethostname", lambda: "another-host")
        with opened_state(place) as state:
            env.write_text("PATCHTST_SHADOW_ONLY=true\n")
            assert state.last_deployment() is None
            state.record_deployment(serving)
            state.record_deployment(begun)

    for line, why in (
        ("", "names no model, and the state /models/patchtst_v20260110_033000.pth or /models/next.pth"),
        ("PATCHTST_MODEL_PATH=/models/other.pth", "names /models/other.pth"),
    ):
        env.write_text(f"PATCHTST_SHADOW_ONLY=true\n{line}\n")
        with pytest.raises(AlreadyRunningError, match=why), opened(here, wait=None, on_lost=print):
            pass
    for path in (serving.model_path, begun.model_path):
        env.write_text(f"PATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH={path}\n")
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr("socket.gethostname", lambda: "another-host")
            with opened(here, wait=None, on_lost=print) as (_, leader):
                assert leader is not None
