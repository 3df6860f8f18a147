"""Timestamps: every notation names the same instant, and nothing else is taken for one."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_worker.worker.data.instants import DigitsLostError, instant_of, parse_column, to_microseconds

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


def parse_cells(cells: Any) -> pl.Series:
    return pl.Series(map(instant_of, cells), dtype=pl.Int64)


#: what a column of texts may hold; the other cells come one by one
TEXTS = sorted(set(NOTATIONS) - {"seconds", "milliseconds", "float seconds", "datetime", "naive datetime", "bytes"})
WHOLE_SECONDS = INSTANTS.map(lambda at: at.replace(microsecond=0))


@given(st.lists(st.tuples(WHOLE_SECONDS, st.sampled_from(sorted(NOTATIONS)))))
def test_cells_of_all_notations_give_their_instants(column: Any) -> None:
    parsed = parse_cells([NOTATIONS[notation](at) for at, notation in column])
    assert parsed.to_list() == [to_microseconds(at) for at, _ in column]


@given(st.lists(st.tuples(WHOLE_SECONDS, st.sampled_from(TEXTS)), min_size=1))
def test_a_column_of_texts_in_all_notations_gives_their_instants(column: Any) -> None:
    parsed = parse_column(pl.Series([NOTATIONS[notation](at) for at, notation in column]))
    assert parsed.to_list() == [to_microseconds(at) for at, _ in column]


@given(st.lists(INSTANTS, min_size=1), st.sampled_from([1, 1_000, 1_000_000]))
def test_a_column_of_integers_gives_their_instants_in_each_unit(column: Any, per_second: Any) -> None:
    numbers = [to_microseconds(at) * per_second // 1_000_000 for at in column]
    found = parse_column(pl.Series(numbers, dtype=pl.Int64)).to_list()
    assert found == parse_cells(numbers).to_list()
    assert found == [number * 1_000_000 // per_second for number in numbers]


@pytest.mark.parametrize("notation", ["sqlalchemy", "sqlite"])
@given(instants=st.lists(INSTANTS, min_size=1, max_size=40))
def test_the_two_common_notations_are_read_as_alone(notation: str, instants: Any) -> None:
    texts = [NOTATIONS[notation](at) for at in instants]
    assert parse_column(pl.Series(texts)).to_list() == [instant_of(text) for text in texts]


@given(st.lists(st.text(alphabet="0123456789-: .TZ+x²٣", min_size=19, max_size=26), min_size=1, max_size=40))
def test_strange_text_is_read_the_same_way_in_a_column_and_alone(texts: Any) -> None:
    for column in (texts, [text.ljust(26, "0")[:26] for text in texts]):
        assert parse_column(pl.Series(column)).to_list() == [instant_of(text) for text in column]


@given(st.integers(0, 30), st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
def test_a_bad_neighbour_changes_no_good_value(place: Any, junk: Any) -> None:
    good = [f"2025-12-09 03:14:{second:02d}.000000" for second in range(30)]
    parsed = parse_column(pl.Series([*good[:place], junk, *good[place:]])).to_list()
    assert parsed[:place] + parsed[place + 1 :] == parse_column(pl.Series(good)).to_list()


@given(st.lists(st.none() | st.booleans() | st.binary() | st.text() | st.integers() | st.floats(), max_size=30))
def test_any_cell_gives_an_instant_or_none(cells: Any) -> None:
    assert parse_cells(cells).dtype == pl.Int64


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
        "2025-12-01 00:00:60",
        "1_764_541_540",
        "nan",
        float("nan"),
        float("inf"),
        10**25,
        b"\xff\xfe",
    ],
)
def test_what_is_no_instant_is_null(cell: Any) -> None:
    assert parse_cells([cell] * 20).to_list() == [None] * 20
    if isinstance(cell, str | float):
        assert parse_column(pl.Series([cell] * 20)).to_list() == [None] * 20


def test_digits_alone_are_a_number_but_eight_are_a_date() -> None:
    found = parse_cells(["1764541540", "20251209", "1764541540000"]).to_list()
    assert found == [1_764_541_540_000_000, to_microseconds(datetime(2025, 12, 9, tzinfo=UTC)), 1_764_541_540_000_000]


def test_a_real_number_that_the_driver_rendered_among_texts_is_never_taken_for_its_value() -> None:
    with pytest.raises(DigitsLostError):
        parse_column(pl.Series(["2025-12-09 03:14:40.000000", "1.764541e+09"]))


@given(INSTANTS)
def test_seconds_as_floats_keep_their_microseconds(at: Any) -> None:
    micro = to_microseconds(at)
    assert parse_column(pl.Series([micro / 1e6])).to_list() == [micro]
