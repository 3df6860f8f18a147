"""The flat stream entry of an event: encoding and decoding.

The field names are those of the stack's bus (docs/reference/events.md). Decoding is tolerant: unknown fields and newer
schema versions are kept, and fields that older producers omit are derived from the entry. Only entries without meaning
are rejected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from retrain_worker.domain import decoding
from retrain_worker.domain.events import SCHEMA_VERSION, SOURCE, STREAM_PREFIX, Event
from retrain_worker.domain.typed_events import TypedEvent

#: fields of short text
_NAMES = ("event_type", "trace_id", "correlation_id", "source", "event_id", "instance", "host")
_ENVELOPE = frozenset({*_NAMES, "payload", "timestamp", "schema_version"})
#: Unix milliseconds and a sequence number
StreamId = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ReceivedEvent(TypedEvent[str, Mapping[str, Any]]):
    """One decoded entry of a stream."""


def envelope(
    *, event_type: str, payload: str, correlation_id: str, event_id: str, timestamp: datetime, source: str = SOURCE
) -> dict[str, str]:
    """The fields of every entry; `payload` is JSON. One run is one trace."""
    return {
        "event_type": event_type,
        "payload": payload,
        "trace_id": correlation_id,
        "correlation_id": correlation_id,
        "timestamp": timestamp.astimezone(UTC).isoformat(),
        "source": source,
        "event_id": event_id,
        "schema_version": str(SCHEMA_VERSION),
    }


def fields_of(event: Event, payload: str) -> dict[str, str]:
    """The entry of `event`; `payload` is its payload as JSON."""
    return dict(event.flat) | envelope(
        event_type=str(event.event_type),
        payload=payload,
        correlation_id=event.correlation_id,
        event_id=event.event_id,
        timestamp=event.timestamp,
    )


@decoding.raises_malformed_only
def received(stream: str, stream_id: str, raw: Mapping[bytes, bytes]) -> ReceivedEvent:
    """The event in an entry. Raises MalformedError with the reason when it cannot be decoded."""
    fields = decoding.fields_in(raw)
    names = {name: decoding.line(fields.get(name), f"its {name}") for name in _NAMES}
    return ReceivedEvent(
        event_id=names["event_id"] or f"{stream}/{stream_id}",
        event_type=names["event_type"] or stream.removeprefix(STREAM_PREFIX),
        payload=payload_in(fields),
        correlation_id=names["correlation_id"],
        trace_id=names["trace_id"] or names["correlation_id"],
        timestamp=instant_of(fields.get("timestamp")) or added_at(stream_id),
        source=names["source"],
        instance=names["instance"],
        host=names["host"],
        schema_version=_schema_version(fields.get("schema_version")),
        flat={name: value for name, value in fields.items() if name not in _ENVELOPE},
        stream=stream,
        stream_id=stream_id,
    )


def payload_in(fields: Mapping[str, str]) -> dict[str, Any]:
    """The payload of an entry; empty when it has none. Raises MalformedError when it is not a JSON object."""
    text = fields.get("payload")
    return decoding.json_object(text, "its payload") if text else {}


def parts_of(stream_id: str) -> StreamId:
    """A stream id as numbers, for comparison."""
    milliseconds, _, sequence = stream_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def added_at(stream_id: str) -> datetime:
    """When Redis added the entry. Raises MalformedError for an id that names no sane instant."""
    return decoding.instant(str(parts_of(stream_id)[0] / 1000), "the time of its id,")


def instant_of(text: str | None) -> datetime | None:
    """An instant as ISO 8601, or as seconds or milliseconds since the epoch; None where there is none.

    Raises MalformedError with the reason when it is none of them.
    """
    return decoding.instant(text, "its timestamp") if text else None


def _schema_version(text: str | None) -> int:
    return decoding.count(text, "its schema_version") if text else SCHEMA_VERSION
