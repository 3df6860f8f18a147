"""The entry of an event: every field of it, and what a reader makes of entries that lack some."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from retrain_worker.domain.decoding import OversizedValue
from retrain_worker.domain.envelope import ReceivedEvent, envelope, fields_of, parts_of, payload_in, received
from retrain_worker.domain.events import Event, EventType
from retrain_worker.errors import MalformedError

pytestmark = pytest.mark.usefixtures("time_zone_of_tokyo")

AT = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)
EVENT = Event(
    event_id="e",
    event_type=EventType.PROMOTED,
    payload={"new_version": "v"},
    correlation_id="20260110_033000",
    timestamp=datetime(2026, 1, 10, 4, 30, tzinfo=timezone(timedelta(hours=1))),
    flat={"model": "patchtst", "source": "overwritten by the envelope"},
)
ENTRY = {
    "event_type": "model.promoted",
    "payload": '{"new_version": "v"}',
    "trace_id": "20260110_033000",
    "correlation_id": "20260110_033000",
    "timestamp": "2026-01-10T03:30:00+00:00",
    "source": "retraining-worker",
    "event_id": "e",
    "schema_version": "1",
    "model": "patchtst",
}
RECEIVED = ReceivedEvent(
    event_id="e",
    event_type="model.promoted",
    payload={"new_version": "v"},
    correlation_id="20260110_033000",
    trace_id="20260110_033000",
    timestamp=AT,
    source="retraining-worker",
    schema_version=1,
    flat={"model": "patchtst"},
    stream="quantum:stream:model.promoted",
    stream_id="1768015800123-4",
)


def read(fields: dict[str, str], stream: str = "quantum:stream:model.promoted") -> ReceivedEvent:
    return received(stream, "1768015800123-4", {key.encode(): value.encode() for key, value in fields.items()})


def test_an_event_is_written_with_every_field_of_the_envelope_and_read_back() -> None:
    assert fields_of(EVENT, json.dumps(EVENT.payload)) == ENTRY
    assert read(ENTRY) == RECEIVED


def test_a_consumer_that_answers_names_itself_as_the_source() -> None:
    made = envelope(
        event_type="model.served", payload="{}", correlation_id="c", event_id="e", timestamp=AT, source="engine-1"
    )

    assert (made["source"], made["event_type"]) == ("engine-1", "model.served")


@pytest.mark.parametrize(
    ("field", "derived"),
    [
        ("event_id", {"event_id": "quantum:stream:model.promoted/1768015800123-4"}),
        ("event_type", {}),
        ("payload", {"payload": {}}),
        ("trace_id", {}),
        ("timestamp", {"timestamp": AT + timedelta(milliseconds=123)}),
        ("source", {"source": ""}),
        ("schema_version", {}),
        ("model", {"flat": {}}),
    ],
)
def test_a_field_that_a_producer_omits_is_derived_from_the_entry(field: str, derived: dict[str, Any]) -> None:
    without = {key: value for key, value in ENTRY.items() if key != field}

    assert read(without) == replace(RECEIVED, **derived)
    if field != "model":
        assert read({**ENTRY, field: ""}) == replace(RECEIVED, **derived)


def test_without_a_correlation_id_the_trace_id_stays() -> None:
    assert read({key: value for key, value in ENTRY.items() if key != "correlation_id"}) == replace(
        RECEIVED, correlation_id=""
    )
    assert read({}, stream="other").event_type == "other"
    assert read({**ENTRY, "event_type": "model.served"}) == replace(RECEIVED, event_type="model.served")
    assert read({**ENTRY, "trace_id": "another"}) == replace(RECEIVED, trace_id="another")
    assert read({}).trace_id == ""


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-01-10T03:30:00", AT),
        ("2026-01-10T04:30:00+01:00", AT),
        ("2026-01-10 03:30:00Z", AT),
        (str(AT.timestamp()), AT),
        (f"{AT.timestamp() * 1000:.0f}", AT),
        ("0", datetime(1970, 1, 1, tzinfo=UTC)),
        ("7258118399", datetime(2199, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("100000000000", datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)),
    ],
)
def test_a_timestamp_is_read_as_utc(text: str, instant: datetime) -> None:
    found = read({**ENTRY, "timestamp": text}).timestamp

    assert (found, found.tzinfo) == (instant, UTC)


def test_newer_schema_versions_are_kept_and_bytes_that_are_no_utf8_are_replaced() -> None:
    assert read({**ENTRY, "schema_version": "12"}).schema_version == 12
    assert received("s", "1-0", {b"no\xff": b"\xfe"}).flat == {"no\ufffd": "\ufffd"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"payload": "{"}, "its payload is not JSON"),
        ({"payload": "[" * 100_000}, "its payload is not JSON"),
        ({"payload": "[1]"}, "its payload is a JSON list, not an object"),
        ({"payload": "null"}, "its payload is a JSON NoneType, not an object"),
        *(
            ({"timestamp": text}, f"its timestamp {text!r} is neither ISO 8601 nor a time since the epoch")
            for text in ("nan", "-inf", "1e30", "2026-13-01", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-01:00")
        ),
        *(
            ({"timestamp": text}, f"its timestamp {text!r} is not between 1970 and 2200")
            for text in ("99999999999", "-100000000000", "-1", "7258118400", "0001-01-01", "9999-12-31T00:00:00")
        ),
        ({"payload": '{"a": "\\ud800"}'}, "its payload holds text that is not valid Unicode"),
        ({"payload": '{"\\ud800": 1}'}, "its payload holds text that is not valid Unicode"),
        ({"payload": '{"a": ' + "[" * 32 + "]" * 32 + "}"}, "its payload is nested deeper than 32 levels"),
        ({"payload": '{"a": "' + "x" * 2**20 + '"}'}, "it has more than 1,048,576 bytes"),
        ({f"field {number}": "" for number in range(512)}, "it has more than 512 fields"),
        ({"event_type": "model\x1b[2J"}, "its event_type 'model\\x1b[2J' holds characters that cannot be printed"),
        ({"source": "x" * 201}, "its source has more than 200 characters"),
        ({"schema_version": "1" * 19}, f"its schema_version {'1' * 19!r} is not a number"),
        (
            {"timestamp": "yesterday" * 10},
            f"its timestamp {('yesterday' * 10)[:40]!r} is neither ISO 8601 nor a time since the epoch",
        ),
        ({"schema_version": "1.0"}, "its schema_version '1.0' is not a number"),
        ({"schema_version": "-1"}, "its schema_version '-1' is not a number"),
        ({"schema_version": "²"}, "its schema_version '²' is not a number"),
        ({"schema_version": "x" * 50}, f"its schema_version {'x' * 40!r} is not a number"),
    ],
)
def test_an_entry_without_meaning_is_rejected_with_the_reason(fields: dict[str, str], reason: str) -> None:
    with pytest.raises(MalformedError) as rejected:
        read({**ENTRY, **fields})
    assert str(rejected.value) == reason


def test_a_number_of_any_size_is_a_number() -> None:
    huge = payload_in(
        {"payload": '{"a": 1' + "0" * 400 + ', "b": -' + "9" * 5000 + ', "c": 1e400, "d": 123456789012345678}'}
    )

    assert huge == {"a": math.inf, "b": -math.inf, "c": math.inf, "d": 123456789012345678}


def test_an_entry_that_was_added_at_an_impossible_time_is_refused() -> None:
    with pytest.raises(MalformedError, match="the time of its id"):
        received("s", "18446744073709551615-1", {})


def test_a_value_that_the_client_has_not_kept_is_named() -> None:
    value = OversizedValue()
    value.length = 50_000_000
    with pytest.raises(MalformedError, match="a field of 50,000,000 bytes; an entry has at most 1,048,576"):
        received("s", "1-0", {b"payload": value})


def test_the_payload_of_an_entry_is_an_object_or_empty() -> None:
    assert payload_in({"payload": '{"a": [1]}'}) == {"a": [1]}
    assert payload_in({"payload": ""}) == payload_in({}) == {}


@pytest.mark.parametrize(
    ("stream_id", "parts"), [("1768015800123-4", (1768015800123, 4)), ("7", (7, 0)), ("7-", (7, 0))]
)
def test_a_stream_id_is_compared_as_two_numbers(stream_id: str, parts: tuple[int, int]) -> None:
    assert parts_of(stream_id) == parts
