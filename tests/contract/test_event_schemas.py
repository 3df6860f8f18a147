"""The JSON Schemas in docs/events are those of the code, and what the code publishes is what they say."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import redis

from retrain_worker.adapters.event_schemas import as_text, asyncapi, schemas
from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.retrain_requests import trigger
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain import events, facts, gates, payloads, trial_evaluation
from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.events import CURRENT_MODEL_KEY, REQUEST_STREAM, SERVED_STREAM, EventType, stream_of
from retrain_worker.domain.facts import PullFacts, RowCounts
from retrain_worker.domain.gates import GatePolicy, decide
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Run, Stage
from retrain_worker.domain.typed_events import PAYLOADS
from retrain_worker.serving import ModelFollower
from tests.node import needs_node, node_modules
from tests.redis_world import Clock, RedisServer, enqueue, entries_of
from tests.run_facts import gate_facts, train_facts
from tests.unit.test_gates import GOOD

DOCS = Path(__file__).parents[2] / "docs" / "events"
AT = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)
RUN = Run(run_id="20260110_033000", requested_by="schedule", request_reason="every 24 h", created_at=AT, updated_at=AT)
CARD = {
    "auc": 0.71,
    "log_loss": 0.61,
    "accuracy": 0.66,
    "precision": None,
    "recall": 0.5,
    "f1_score": 0.5,
    "brier": 0.2,
    "ece": 0.03,
    "p_std": 0.1,
    "p10_p90": 0.3,
    "n": 900,
}
DEPLOYMENT = Deployment(
    deployment_id=RUN.run_id,
    run_id=RUN.run_id,
    kind=DeploymentKind.PROMOTE,
    version="patchtst_v20260110_033000",
    model_path="/m.pth",
    sha256="0" * 64,
    size_bytes=9,
    previous_version=None,
    previous_model_path=None,
    state=DeploymentState.SWAPPED,
    created_at=AT,
    updated_at=AT,
    requested_by="schedule",
    reason="every gate that counts has passed",
)


def gated() -> Any:
    known = RUN.with_fact(PullFacts(rows=RowCounts(loaded=10, labelled=9, quarantined={"nan": 1})))
    known = known.with_fact(train_facts(final_loss=0.6))
    return known.with_fact(gate_facts(verdict=decide(GOOD, GatePolicy()), candidate=GOOD.candidate))


def published() -> list[Any]:
    """One event of each type, and those ends of a run that leave most empty."""
    ended = replace(gated(), stage=Stage.PROMOTE)
    return [
        events.started(RUN, at=AT),
        events.finished(RUN.ended(Outcome.SKIPPED, "too few rows", at=AT), at=AT),
        events.finished(replace(RUN, run_id="b").ended(Outcome.FAILED, "no database", at=AT), at=AT),
        events.promoted(gated(), DEPLOYMENT, shadow_only=True, at=AT),
        events.finished(ended.ended(Outcome.PROMOTED, "seen serving", at=AT), at=AT),
        events.finished(replace(ended, run_id="c", stage=Stage.GATE).ended(Outcome.REFUSED, "skill", at=AT), at=AT),
        *events.with_aliases(events.rolled_back(DEPLOYMENT, shadow_only=True, at=AT)),
        events.changed_externally(DEPLOYMENT, shadow_only=True, at=AT),
    ]


FORMATS = jsonschema.FormatChecker(formats=())


def is_instant(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


FORMATS.checks("date-time", raises=ValueError)(is_instant)


def check(name: Any, value: Any) -> None:
    schema = json.loads((DOCS / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator, format_checker=FORMATS)


def text(fields: Any) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


def test_the_files_are_up_to_date() -> None:
    """If not: `retrain-worker events schemas --to docs/events` writes them."""
    assert {path.name for path in DOCS.glob("*.json")} == set(schemas())
    for name, schema in schemas().items():
        assert (DOCS / name).read_bytes() == as_text(schema), name


def test_every_document_has_an_id_and_each_field_a_description_and_the_examples_are_valid() -> None:
    found = {name: json.loads((DOCS / name).read_text()) for name in schemas() if name != "asyncapi.json"}

    assert len({schema["$id"] for schema in found.values()}) == len(found)
    for name, schema in found.items():
        [example] = schema["examples"]
        check(name.removesuffix(".json"), example)
        for definition in schema["$defs"].values():
            assert all(field["description"] for field in definition["properties"].values()), definition["title"]
    assert found["model.rolled_back.json"]["examples"][0]["type"] == "model.rolled_back"


@pytest.mark.parametrize(
    ("published_type", "stored_type"),
    [
        (payloads.RowCounts, facts.RowCounts),
        (payloads.Forced, facts.ForcedPromotion),
        (payloads.Contract, ModelContract),
        (payloads.Scorecard, gates.Scorecard),
        (payloads.Bucket, gates.Bucket),
        (payloads.Agreement, gates.Agreement),
        (payloads.Slice, gates.Slice),
        (payloads.GateResult, gates.GateResult),
        (payloads.Check, gates.Check),
        (payloads.AnswerDistribution, trial_evaluation.AnswerDistribution),
    ],
)
def test_the_published_type_has_the_fields_of_the_stored_one(published_type: Any, stored_type: Any) -> None:
    assert list(published_type.__annotations__) == list(stored_type.__dataclass_fields__)


@needs_node
def test_the_asyncapi_document_is_valid_and_has_a_channel_for_each_stream() -> None:
    document = json.loads((DOCS / "asyncapi.json").read_text())
    specification = node_modules() / "@asyncapi/specs/schemas/3.0.0-without-$id.json"

    jsonschema.validate(document, json.loads(specification.read_text()), cls=jsonschema.Draft7Validator)
    assert {channel["address"] for channel in document["channels"].values()} == {stream_of(kind) for kind in PAYLOADS}
    assert document["operations"]["model.retrain"]["action"] == "receive"


def test_the_payloads_of_the_asyncapi_document_are_those_of_the_schemas() -> None:
    components = asyncapi()["components"]
    for name, schema in schemas().items():
        definitions = json.dumps(schema.get("$defs", {})).replace("#/$defs/", "#/components/schemas/")
        assert json.loads(definitions).items() <= {**components["schemas"], **_hash_fields()}.items(), name


def _hash_fields() -> dict[str, Any]:
    """The hash is no message."""
    fields: dict[str, Any] = schemas()["current_model.json"]["$defs"]
    return fields


def test_every_type_has_a_schema() -> None:
    assert {str(kind) for kind in EventType} <= set(PAYLOADS)
    assert {event.event_type for event in published()} == set(EventType)


def test_everything_we_put_into_redis_validates(
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
    redis_server: RedisServer,
) -> None:
    enqueue(outbox, *published())
    Relay(client, outbox, clock).relay_once()
    trigger(client, reason="new data", requested_by="a person")

    streams = [stream_of(kind) for kind in EventType] + [REQUEST_STREAM]
    entries = [text(fields) for stream in streams for _, fields in client.xrange(stream)]
    assert len(entries) == len(published()) + 1
    for entry in entries:
        check("entry", entry)
        check(entry["event_type"], json.loads(entry["payload"]))
    check("current_model", text(client.hgetall(CURRENT_MODEL_KEY)))


def test_the_acknowledgement_of_a_follower_validates(
    client: redis.Redis, redis_server: RedisServer, tmp_path: Path
) -> None:
    import numpy as np

    torch = pytest.importorskip("torch")
    from retrain_worker.domain.artifact import ModelContract
    from retrain_worker.domain.recipe import InputTransform, Preset
    from retrain_worker.model import bundle, presets
    from retrain_worker.model.patchtst import PatchTST

    torch.manual_seed(0)
    contract = ModelContract(
        preset=Preset.PAPER, context_length=32, feature_names=("rsi",), input_transform=InputTransform.INSTANCE
    )
    path = tmp_path / "patchtst_v20260110_033000.pth"
    bundle.write(
        path,
        model=PatchTST(presets.config_for(contract, dropout=0.0)),
        contract=contract,
        canary_windows=np.random.default_rng(0).normal(size=(2, 32, 1)).astype("float32"),
        origin=bundle.Origin(),
    )
    env_file = tmp_path / "ai-engine.env"
    env_file.write_text(f"PATCHTST_MODEL_PATH={path}\n")
    with ModelFollower(redis_server.url, consumer="test", env_file=env_file, allowed_directories=[tmp_path]):
        [(_, fields)] = entries_of(client, SERVED_STREAM)

    check("entry", text(fields))
    check("model.served", json.loads(fields[b"payload"]))


@pytest.mark.parametrize("broken", [{"new_version": None}, {"size_bytes": "9"}])
def test_the_schema_refuses_what_is_wrong_and_tolerates_what_is_new(broken: dict[str, None] | dict[str, str]) -> None:
    event = events.promoted(gated(), DEPLOYMENT, shadow_only=True, at=AT)
    payload = json.loads(msgspec.json.encode(event.payload))
    check("model.promoted", {**payload, "novel": 1})
    with pytest.raises(jsonschema.ValidationError):
        check("model.promoted", {**payload, **broken})
