"""The model in service: named by an event, written to a hash, read back."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_worker.domain.current_model import CurrentModel, from_fields, named_by, to_fields
from retrain_worker.errors import MalformedError

pytestmark = pytest.mark.usefixtures("time_zone_of_tokyo")

AT = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)
MODEL = CurrentModel(
    version="patchtst_v20260110_033000",
    model_path="/engine/patchtst_v20260110_033000.pth",
    sha256="a" * 64,
    size_bytes=9,
    run_id="20260110_033000",
    promoted_at=AT,
    event_id="e",
    shadow_only=True,
    confirmed=True,
)
FIELDS = {
    "version": "patchtst_v20260110_033000",
    "model_path": "/engine/patchtst_v20260110_033000.pth",
    "sha256": "a" * 64,
    "size_bytes": "9",
    "run_id": "20260110_033000",
    "promoted_at": "2026-01-10T03:30:00+00:00",
    "event_id": "e",
    "shadow_only": "true",
    "confirmed": "true",
    "model_url": "",
}
PAYLOAD: dict[str, Any] = {
    "new_version": "patchtst_v20260110_033000",
    "model_path": "/engine/patchtst_v20260110_033000.pth",
    "sha256": "a" * 64,
    "size_bytes": 9,
    "shadow_only": True,
    "confirmed": True,
}


@pytest.mark.parametrize(
    ("event_type", "instant"),
    [
        ("model.promoted", "promoted_at"),
        ("model.rolled_back", "rolled_back_at"),
        ("model.changed_externally", "changed_at"),
    ],
)
@pytest.mark.parametrize(
    "text", ["2026-01-10T03:30:00+00:00", "2026-01-10T03:30:00", "2026-01-10T04:30:00+01:00", "2026-01-10T03:30:00Z"]
)
def test_each_change_of_the_slot_names_the_model_and_its_instant(event_type: str, instant: str, text: str) -> None:
    named = named_by(event_type, "e", {**PAYLOAD, instant: text})

    assert named == MODEL
    assert named.promoted_at.tzinfo is UTC
    assert named_by(event_type, "e", {**PAYLOAD, "at": text}) is None


def test_an_event_of_another_type_names_no_model() -> None:
    assert named_by("model.retrain", "e", {**PAYLOAD, "promoted_at": "2026-01-10T03:30:00"}) is None


@pytest.mark.parametrize("missing", ["new_version", "model_path", "promoted_at"])
@pytest.mark.parametrize("value", [None, "absent"])
def test_a_payload_without_version_path_or_instant_names_no_model(missing: str, value: str | None) -> None:
    payload = {**PAYLOAD, "promoted_at": "2026-01-10T03:30:00"}
    if value is None:
        payload[missing] = None
    else:
        del payload[missing]

    assert named_by("model.promoted", "e", payload) is None


def test_an_empty_path_names_the_emptied_slot() -> None:
    payload = {"new_version": "none", "model_path": "", "rolled_back_at": "2026-01-10T03:30:00+00:00"}

    assert named_by("model.rolled_back", "e", payload) == CurrentModel(
        version="none",
        model_path="",
        sha256="",
        size_bytes=0,
        run_id="",
        promoted_at=AT,
        event_id="e",
        shadow_only=False,
        confirmed=False,
    )


def test_a_model_of_another_origin_has_no_run() -> None:
    for version in ("patchtst_vfinal", "xgb_v20260110_033000", "by_hand"):
        named = named_by("model.promoted", "e", {**PAYLOAD, "new_version": version, "promoted_at": AT.isoformat()})
        assert named == replace(MODEL, version=version, run_id="")


def test_the_fields_of_the_hash_are_text() -> None:
    assert to_fields(MODEL) == FIELDS
    assert to_fields(replace(MODEL, shadow_only=False, confirmed=False)) == {
        **FIELDS,
        "shadow_only": "false",
        "confirmed": "false",
    }
    assert from_fields(FIELDS) == MODEL


@given(
    text=st.text(st.characters().filter(str.isprintable), max_size=200),
    size=st.integers(0, 10**18 - 1),
    at=st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC)),
    shadow=st.booleans(),
    seen=st.booleans(),
)
def test_what_is_written_to_the_hash_is_read_back(text: str, size: int, at: datetime, shadow: bool, seen: bool) -> None:
    model = replace(MODEL, version=text, size_bytes=size, promoted_at=at, shadow_only=shadow, confirmed=seen)

    assert from_fields(to_fields(model)) == model


@pytest.mark.parametrize("name", [field.name for field in fields(CurrentModel) if field.name != "model_url"])
def test_a_hash_without_a_field_is_rejected_with_the_name_of_the_field(name: str) -> None:
    with pytest.raises(MalformedError) as rejected:
        from_fields({key: value for key, value in FIELDS.items() if key != name})
    assert str(rejected.value) == f"the field {name} is missing"


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (AT - timedelta(microseconds=1), AT),
        (AT, AT + timedelta(microseconds=1)),
        (AT + timedelta(hours=1), AT + timedelta(hours=1, microseconds=1)),
    ],
)
def test_a_model_is_dated_after_the_one_before_it(before: datetime, expected: datetime) -> None:
    assert MODEL.after(replace(MODEL, promoted_at=before)) == replace(MODEL, promoted_at=expected)
    assert MODEL.after(None) is MODEL


@pytest.mark.parametrize(
    ("payload", "confirmed"),
    [
        ({"sha256": "a" * 64, "confirmed": True}, True),
        ({"sha256": "a" * 64, "confirmed": False}, False),
        ({"sha256": "a" * 64, "confirmed": None}, False),
        ({"sha256": "a" * 64}, False),
    ],
)
def test_the_completed_event_of_the_same_bytes_says_whether_they_are_confirmed(
    payload: dict[str, Any], confirmed: bool
) -> None:
    for model in (MODEL, replace(MODEL, confirmed=False)):
        assert model.confirmed_by(payload) == replace(MODEL, confirmed=confirmed)


@pytest.mark.parametrize("payload", [{"sha256": "b" * 64, "confirmed": False}, {"confirmed": False}, {}])
def test_the_completed_event_of_another_model_confirms_nothing(payload: dict[str, Any]) -> None:
    assert MODEL.confirmed_by(payload) is MODEL
