"""The flat stream entry of an event: encoding and decoding.

The field names are those of the stack's bus (docs/contracts/events.md). Decoding is tolerant: unknown fields and newer
schema versions are kept, and fields that older producers omit are derived from the entry. Only entries without meaning
are rejected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from retrain_worker.domain.events import SCHEMA_VERSION, SOURCE, STREAM_PREFIX, Event

_ENVELOPE = frozenset(
    {
        "event_type",
        "payload",
        "trace_id",
        "correlation_id",
        "timestamp",
        "source",
        "event_id",
        "schema_version",
        "instance",
        "host",
    }
)
#: a larger number is one of milliseconds: as seconds it would lie after the year 5000
_MILLISECONDS_FROM = 1e11
#: Unix milliseconds and a sequence number
StreamId = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ReceivedEvent:
    """One decoded entry of a stream."""

    event_id: str
    event_type: str
    payload: Mapping[str, Any]
    correlation_id: str
    trace_id: str
    timestamp: datetime
    source: str
    schema_version: int
    #: of the worker; empty: the only one of its prefix
    instance: str = ""
    host: str = ""
    #: every field beside the envelope
    flat: Mapping[str, str] = field(default_factory=dict)
    stream: str
    stream_id: str


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


def received(stream: str, stream_id: str, raw: Mapping[bytes, bytes]) -> ReceivedEvent:
    """The event in an entry. Raises ValueError with the reason when it cannot be decoded."""
    fields = {_text(name): _text(value) for name, value in raw.items()}
    correlation_id = fields.get("correlation_id", "")
    return ReceivedEvent(
        event_id=fields.get("event_id") or f"{stream}/{stream_id}",
        event_type=fields.get("event_type") or stream.removeprefix(STREAM_PREFIX),
        payload=payload_in(fields),
        correlation_id=correlation_id,
        trace_id=fields.get("trace_id") or correlation_id,
        timestamp=instant_of(fields.get("timestamp")) or added_at(stream_id),
        source=fields.get("source", ""),
        instance=fields.get("instance", ""),
        host=fields.get("host", ""),
        schema_version=_schema_version(fields.get("schema_version")),
        flat={name: value for name, value in fields.items() if name not in _ENVELOPE},
        stream=stream,
        stream_id=stream_id,
    )


def payload_in(fields: Mapping[str, str]) -> dict[str, Any]:
    """The payload of an entry; empty when it has none. Raises ValueError when it is not a JSON object."""
    text = fields.get("payload")
    if not text:
        return {}
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("its payload is not JSON") from None
    if not isinstance(payload, dict):
        raise ValueError(f"its payload is a JSON {type(payload).__name__}, not an object")  # noqa: TRY004
    return payload


def parts_of(stream_id: str) -> StreamId:
    """A stream id as numbers, for comparison."""
    milliseconds, _, sequence = stream_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


def added_at(stream_id: str) -> datetime:
    """When Redis added the entry."""
    return datetime.fromtimestamp(parts_of(stream_id)[0] / 1000, UTC)


def instant_of(text: str | None) -> datetime | None:
    """An instant as ISO 8601, or as seconds or milliseconds since the epoch; None where there is none.

    Raises ValueError with the reason when it is none of them.
    """
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    try:
        if math.isfinite(number):
            return datetime.fromtimestamp(number / 1000 if abs(number) >= _MILLISECONDS_FROM else number, UTC)
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"its timestamp {text[:40]!r} is neither ISO 8601 nor a time since the epoch") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _schema_version(text: str | None) -> int:
    if not text:
        return SCHEMA_VERSION
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"its schema_version {text[:40]!r} is not a number")
    return int(text)
