"""mypy knows the payload of each event type; `make lint` checks this file: an `ignore` without an error is one."""

from datetime import UTC, datetime
from typing import assert_type, get_args

from retrain_worker.domain.events import EventType
from retrain_worker.domain.typed_events import PAYLOADS, TypedEvent
from retrain_worker.serving import ModelEvent, payloads


def versions(event: ModelEvent) -> tuple[str, ...]:
    """What a consumer writes, and the mistakes that are errors."""
    if event.event_type == "model.promoted":
        assert_type(event.payload, payloads.Promoted)
        assert_type(event.payload["auc"], float | None)
        return event.payload["new_version"], event.payload["old_version"]
    match event.event_type:
        case "learning.retraining.completed":
            assert_type(event.payload, payloads.Finished)
            for gate in event.payload["gates"]:
                return (gate["reslut"],)  # type: ignore[typeddict-item]
        case "model.rolled_back" | "model.rollback_initiated":
            assert_type(event.payload, payloads.RolledBack)
            return (event.payload["new_versoin"],)  # type: ignore[typeddict-item]
    return ()


def test_the_payload_of_a_promotion_is_typed() -> None:
    payload = {"new_version": "v2", "old_version": "v1", "auc": None}
    event = TypedEvent(
        event_id="x",
        event_type="model.promoted",
        payload=payload,
        correlation_id="",
        trace_id="",
        timestamp=datetime.now(UTC),
        source="",
        schema_version=1,
        stream="s",
        stream_id="1-1",
    )

    assert versions(event) == ("v2", "v1")  # type: ignore[arg-type]


def test_every_event_type_is_typed() -> None:
    assert {str(kind) for kind in EventType} | {"model.retrain", "model.served"} == set(PAYLOADS)
    assert len(get_args(ModelEvent)) == len(PAYLOADS)
