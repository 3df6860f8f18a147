"""Services of the stack read the events in three styles: flat fields, payload, and the hash of the current model."""

import json
from typing import Any

import pytest
import redis

from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain import events
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Run
from tests.redis_world import Clock, RedisServer, entries_of

FIRST = Deployment(
    deployment_id="20260110_033000",
    run_id="20260110_033000",
    kind=DeploymentKind.PROMOTE,
    version="patchtst_v20260110_033000",
    model_path="/engine/patchtst_v20260110_033000.pth",
    sha256="a" * 64,
    size_bytes=9,
    previous_version=None,
    previous_model_path=None,
    state=DeploymentState.SWAPPED,
    created_at=Clock()(),
    updated_at=Clock()(),
    requested_by="ada",
    reason="loses money",
)
EMPTIED = {"deployment_id": "rollback_1", "kind": DeploymentKind.ROLLBACK, "version": "none", "model_path": ""}


def read_as_bytes(client: redis.Redis, stream: str) -> dict[str, str]:
    """The stack's bus on a client of bytes: handlers get the flat fields, and no payload."""
    [(_, fields)] = entries_of(client, stream)
    return {name.decode(): value.decode() for name, value in fields.items() if name != b"payload"}


def read_decoded(server: RedisServer, stream: str) -> dict[str, Any]:
    """The stack's bus with decode_responses=True: handlers get the fields of the payload."""
    with redis.Redis(unix_socket_path=str(server.socket), decode_responses=True) as client:
        entries: Any = client.xrange(stream)
    payload: dict[str, Any] = json.loads(entries[0][1]["payload"])
    return payload


@pytest.fixture
def published(client: redis.Redis, outbox: StateDb, clock: Clock) -> None:
    """A first model is promoted, and taken out again."""
    run = Run(
        run_id=FIRST.deployment_id,
        requested_by="schedule",
        request_reason="every 24 h",
        created_at=clock(),
        updated_at=clock(),
    )
    back = Deployment(
        **{name: getattr(FIRST, name) for name in FIRST.__dataclass_fields__}
        | EMPTIED
        | {"previous_version": FIRST.version, "previous_model_path": FIRST.model_path, "sha256": "", "size_bytes": 0}
    )
    outbox.record(
        run,
        events=[
            events.promoted(run, FIRST, shadow_only=True, at=clock()),
            *events.with_aliases(events.rolled_back(back, shadow_only=True, at=clock())),
        ],
    )
    assert Relay(client, outbox, clock).relay_once().sent == 3


@pytest.mark.usefixtures("published")
def test_a_consumer_of_flat_fields_gets_text_that_it_can_use(client: redis.Redis, clock: Clock) -> None:
    promoted = read_as_bytes(client, "quantum:stream:model.promoted")

    assert promoted["model_name"] == promoted["model_type"] == "patchtst"
    assert (promoted["old_version"], promoted["new_version"]) == ("", FIRST.version)
    assert promoted["version"] == FIRST.version
    assert float(promoted["promoted_at_ts"]) == pytest.approx(clock().timestamp())
    assert promoted["timestamp"] == clock().isoformat()


@pytest.mark.usefixtures("published")
def test_a_consumer_of_payloads_gets_the_types_of_the_stack_s_schemas(redis_server: RedisServer, clock: Clock) -> None:
    promoted = read_decoded(redis_server, "quantum:stream:model.promoted")

    assert isinstance(promoted["old_version"], str)
    assert promoted["promoted_at_ts"] == clock().timestamp()
    assert promoted["type"] == "model.promoted"
    assert promoted["performance_metrics"].keys() >= {"log_loss", "brier"}


@pytest.mark.usefixtures("published")
def test_the_federation_bridge_gets_a_rollback_under_its_own_name(
    redis_server: RedisServer, client: redis.Redis
) -> None:
    rolled_back = read_decoded(redis_server, "quantum:stream:model.rollback_initiated")

    assert rolled_back["type"] == "model.rollback_initiated"
    assert (rolled_back["old_version"], rolled_back["model_path"]) == (FIRST.version, "")
    flat = read_as_bytes(client, "quantum:stream:model.rollback_initiated")
    original = read_as_bytes(client, "quantum:stream:model.rolled_back")
    assert flat["event_id"] != original["event_id"]


@pytest.mark.usefixtures("published")
def test_a_consumer_of_the_hash_sees_that_no_model_is_in_service(client: redis.Redis) -> None:
    found = {name.decode(): value.decode() for name, value in client.hgetall("quantum:model:patchtst:current").items()}

    assert (found["version"], found["model_path"]) == ("none", "")
