"""Timestamps: every notation names the same instant, and nothing else is taken for one."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_worker.worker.data.instants import UNREADABLE, _parse_mixed, _parse_one, parse_instants, to_microseconds

INSTANTS = st.datetimes(min_value=datetime(2009, 1, 3), max_value=datetime(2100, 1, 1)).map(
    lambda naive: naive.replace(tzinfo=UTC)
)
EAST, WEST = timezone(timedelta(hours=2)), timezone(timedelta(hours=-5))

NOTATIONS: dict[str, Callable[[datetime], Any]] = {
    "sqlalchemy": lambda at: f"{at:%Y-%m-%d %H:%M:%S.%f}",
    "sqlite": lambda at: f"{at:%Y-%m-%d %H:%M:%S}",
    "zulu": lambda at: f"{at:%Y-%m-%dT%H:%M:%S}Z",
    "utc": lambda at: f"{at:%Y-%m-%dT%H:%M:%S}+00:00",
    "east": lambda at: f"{at.astimezone(EAST):%Y-%m-%d %H:%M:%S}+02:00",
    "west": lambda at: f"{at.astimezone(WEST):%Y-%m-%dT%H:%M:%S}.000-0500",
    "seconds": lambda at: int(at.timestamp()),
    "milliseconds": lambda at: int(at.timestamp()) * 1000,
    "float seconds": lambda at: float(int(at.timestamp())),
    "text of seconds": lambda at: str(int(at.timestamp())),
    "datetime": lambda at: at,
    "naive datetime": lambda at: at.replace(tzinfo=None),
    "bytes": lambda at: f"{at:%Y-%m-%d %H:%M:%S}".encode(),
}


@given(st.lists(st.tuples(INSTANTS.map(lambda at: at.replace(microsecond=0)), st.sampled_from(sorted(NOTATIONS)))))
def test_all_notations_mixed_in_one_column_give_their_instants(column: Any) -> None:
    parsed = parse_instants([NOTATIONS[notation](at) for at, notation in column])
    assert parsed.tolist() == [to_microseconds(at) for at, _ in column]


@pytest.mark.parametrize("notation", ["sqlalchemy", "sqlite"])
@given(instants=st.lists(INSTANTS, min_size=16, max_size=40))
def test_the_fast_way_reads_a_column_of_one_notation_like_the_slow_one(notation: str, instants: Any) -> None:
    texts = [NOTATIONS[notation](at) for at in instants]
    assert parse_instants(texts).tolist() == [_parse_one(text) for text in texts]


@given(st.lists(st.text(alphabet="0123456789-: .TZ+x²٣", min_size=19, max_size=26), min_size=16, max_size=40))
def test_strange_text_is_read_the_same_way_in_a_column_and_alone(texts: Any) -> None:
    assert parse_instants(texts).tolist() == [_parse_one(text) for text in texts]
    padded = [text.ljust(26, "0")[:26] for text in texts]
    assert parse_instants(padded).tolist() == [_parse_one(text) for text in padded]


@given(st.integers(0, 30), st.text(max_size=40))
def test_a_bad_neighbour_changes_no_good_value(place: Any, junk: Any) -> None:
    good = [f"2025-12-09 03:14:{second:02d}.000000" for second in range(30)]
    column = [*good[:place], junk, *good[place:]]
    parsed = parse_instants(column).tolist()
    assert parsed[:place] + parsed[place + 1 :] == parse_instants(good).tolist()


@given(st.lists(st.none() | st.booleans() | st.binary() | st.text() | st.integers() | st.floats(), max_size=30))
def test_any_cell_gives_an_instant_or_is_unreadable(cells: Any) -> None:
    assert parse_instants(cells).dtype == np.int64
    assert _parse_mixed(cells).tolist() == parse_instants(cells).tolist()


@pytest.mark.parametrize(
    "cell",
    [
        None,
        True,
        "",
        "soon",
        "2025-02-30 00:00:00",
        "2025-13-01 00:00:00.000000",
        "2025-12-01 25:00:00",
        "1_764_541_540",
        "nan",
        float("nan"),
        float("inf"),
        10**25,
        b"\xff\xfe",
    ],
)
def test_what_is_no_instant_is_unreadable(cell: Any) -> None:
    assert parse_instants([cell] * 20).tolist() == [UNREADABLE] * 20


@given(INSTANTS)
def test_seconds_as_floats_keep_their_microseconds(at: Any) -> None:
    # as PostgreSQL gives them: extract(epoch)::float8
    micro = to_microseconds(at)
    assert parse_instants([micro / 1e6]).tolist() == [micro]
