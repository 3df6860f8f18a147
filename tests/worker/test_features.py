"""Features: matched by name, never mixed, never made up; what cannot be used says why."""

import json
import math
import time
from itertools import pairwise
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_worker.worker.data.feature_cells import Reason, decode_cell
from retrain_worker.worker.data.features import FeatureDecoder, choose_names, column_of

NAMES = ["rsi", "ma_cross", "volatility", "returns_1h"]
CELLS = ("features", "feature_names")
NUMBERS = st.floats(-1e6, 1e6).map(lambda number: float(f"{number:.6g}"))
VECTORS = st.lists(NUMBERS, min_size=4, max_size=4)


def as_array(vector: list[float] | list[int], order: Any = NAMES) -> tuple[Any, Any]:
    values = dict(zip(NAMES, vector, strict=True))
    return json.dumps([values[name] for name in order]), json.dumps(order)


def as_object(vector: list[int], order: list[str] = NAMES) -> tuple[Any, None]:
    values = dict(zip(NAMES, vector, strict=True))
    return json.dumps({name: values[name] for name in order}), None


def table_of(
    cells: Any, *, wanted: tuple[()] | list[str] = (), pages: Any = 1, tolerance: float = 0.1
) -> SimpleNamespace:
    """The table with `matrix` and `reasons` in the order of the cells."""
    decoder = FeatureDecoder()
    columns = [
        pl.Series(name, values, dtype=pl.String) for name, values in zip(CELLS, zip(*cells, strict=True), strict=True)
    ]
    rows = pl.DataFrame(columns).with_row_index("row")
    cuts = [len(rows) * page // pages for page in range(pages + 1)]
    decoded = [decoder.decode(rows[first:last]) for first, last in pairwise(cuts)]
    rows, table = decoder.table(pl.concat(decoded), tuple(wanted), tolerance=tolerance)
    rows = rows.sort("row")
    matrix = (
        rows.select(column_of(name) for name in table.names).to_numpy() if table.names else np.empty((len(rows), 0))
    )
    return SimpleNamespace(
        names=table.names,
        left_out=table.left_out,
        noted=table.noted,
        matrix=matrix,
        reasons=rows["reason"].to_numpy(),
    )


FORMS = st.tuples(st.sampled_from([as_array, as_object]), st.permutations(NAMES))
JUNK = st.one_of(
    st.none(),
    st.text(alphabet=st.characters(codec="utf-8"), max_size=20),
    st.integers().map(str),
    st.text(alphabet='[]{},"\n1e:-NaN', max_size=30),
    st.sampled_from(["[1,2],\n[3,4]", "[1", "2]", '{"rsi":1},\n{"rsi":2}', '{"a', 'b":1}', "[[1,2,3,4]]", "[1,2,3]"]),
)


@given(st.lists(st.tuples(VECTORS, FORMS), min_size=1, max_size=40), st.integers(1, 5))
def test_every_vector_arrives_whatever_its_form_and_order(vectors: Any, pages: Any) -> None:
    cells = [form(vector, order) for vector, (form, order) in vectors]
    table = table_of(cells, wanted=NAMES, pages=pages)
    assert table.names == tuple(NAMES)
    assert (table.reasons == Reason.FINE).all()
    np.testing.assert_array_equal(table.matrix, np.array([vector for vector, _ in vectors], dtype=np.float32))


@given(st.lists(st.tuples(VECTORS, FORMS) | JUNK, min_size=1, max_size=30), st.booleans())
def test_junk_stops_nothing_and_changes_no_good_value(rows: Any, with_names: Any) -> None:
    cells, good = [], []
    for place, row in enumerate(rows):
        if isinstance(row, tuple):
            vector, (form, order) = row
            cells.append(form(vector, order))
            good.append((place, vector))
        else:
            cells.append((row, json.dumps(NAMES) if with_names else row))
    table = table_of(cells, wanted=NAMES)
    for place, vector in good:
        assert table.reasons[place] == Reason.FINE
        np.testing.assert_array_equal(table.matrix[place], np.array(vector, dtype=np.float32))
    assert np.isfinite(table.matrix[table.reasons == Reason.FINE]).all()


@given(st.lists(JUNK, min_size=1, max_size=30))
def test_a_page_says_of_each_cell_what_the_cell_alone_says(cells: Any) -> None:
    names = json.dumps(NAMES)
    together = table_of([(cell, names) for cell in cells], wanted=NAMES)
    alone = [table_of([(cell, names)], wanted=NAMES) for cell in cells]
    assert together.reasons.tolist() == [int(each.reasons[0]) for each in alone]


@pytest.mark.parametrize("double", ["[1,2,3,4],[5,6,7,8]", "[1,2,3,4],\n[5,6,7,8]", "[1,2,3,4]\n,[5,6,7,8]"])
def test_cells_that_are_halves_and_doubles_do_not_make_up_for_each_other(double: str) -> None:
    # joined by commas, these three cells are three good vectors
    cells = [("[1", json.dumps(NAMES)), ("2,3,4]", json.dumps(NAMES)), (double, json.dumps(NAMES))]
    assert table_of(cells).reasons.tolist() == [Reason.FEATURES_NOT_JSON] * 3
    halves = [('{"a":1', None), ('"b":2}', None), ('{"a":1,"b":2},{"a":1,"b":2}', None)]
    assert table_of(halves).reasons.tolist() == [Reason.FEATURES_NOT_JSON] * 3


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, Reason.FEATURES_NULL),
        ("null", Reason.FEATURES_NULL),
        ("", Reason.FEATURES_NOT_JSON),
        ("not json", Reason.FEATURES_NOT_JSON),
        ("[1, 2, 3, 4", Reason.FEATURES_NOT_JSON),
        ("7", Reason.FEATURES_NOT_JSON),
        ('"[1,2,3,4]"', Reason.FEATURES_NOT_JSON),
        ("[" * 100_000, Reason.FEATURES_NOT_JSON),
        ("3.5", Reason.FEATURES_NOT_JSON),
        ("[[1, 2, 3, 4]]", Reason.FEATURES_NESTED),
        ("[1, [2], 3, 4]", Reason.FEATURES_NESTED),
        ('{"rsi": {"x": 1}, "ma_cross": 2, "volatility": 3, "returns_1h": 4}', Reason.FEATURES_NESTED),
        ("[]", Reason.FEATURES_WRONG_LENGTH),
        ("{}", Reason.FEATURES_WRONG_LENGTH),
        ("[1, 2, 3]", Reason.FEATURES_WRONG_LENGTH),
        ("[1, 2, 3, 4, 5]", Reason.FEATURES_WRONG_LENGTH),
        ('{"rsi": 1, "ma_cross": 2, "volatility": 3}', Reason.FEATURES_MISSING_NAME),
        ("[1, NaN, 3, 4]", Reason.FEATURES_NOT_FINITE),
        ("[1, 2, -Infinity, 4]", Reason.FEATURES_NOT_FINITE),
        ("[1e400, 2, 3, 4]", Reason.FEATURES_NOT_FINITE),
        ("[1, 1e39, 3, 4]", Reason.FEATURES_NOT_FINITE),
        ("[1, " + "9" * 5000 + ", 3, 4]", Reason.FEATURES_NOT_FINITE),
        ('["nan", 2, 3, 4]', Reason.FEATURES_NOT_FINITE),
        ('["abc", 2, 3, 4]', Reason.FEATURES_NOT_NUMERIC),
        ('["1_0", 2, 3, 4]', Reason.FEATURES_NOT_NUMERIC),
        ("[1, null, 3, 4]", Reason.FEATURES_NOT_NUMERIC),
        ("[1, true, 3, 4]", Reason.FEATURES_NOT_NUMERIC),
    ],
)
def test_what_cannot_be_used_says_why(cell: Any, reason: Any) -> None:
    good = [as_array([1.0, 2.0, 3.0, 4.0])] * 20
    table = table_of([*good, (cell, json.dumps(NAMES))])
    assert Reason(table.reasons[-1]) is reason
    assert (table.reasons[:-1] == Reason.FINE).all()


@pytest.mark.parametrize("names", ["rsi,ma_cross", '{"rsi": 1}', '["a", "a", "b", "c"]', "[1, 2, 3, 4]", "7"])
def test_names_that_cannot_be_read_are_not_guessed_at(names: str) -> None:
    assert decode_cell("[1, 2, 3, 4]", names, {}).reason is Reason.FEATURES_NAMES_UNREADABLE


def test_numbers_written_as_text_are_converted_and_counted() -> None:
    cells = [(json.dumps(["1.5", "2", "-3e-2", "4"]), json.dumps(NAMES)), as_array([1, 2, 3, 4])]
    table = table_of(cells)
    assert table.noted["features_converted"] == 1
    np.testing.assert_array_equal(table.matrix[0], np.array([1.5, 2, -0.03, 4], dtype=np.float32))


def test_huge_but_finite_values_are_kept() -> None:
    table = table_of([as_array([5.6e31, 1e30, -1e38, 0.0])])
    assert table.reasons.tolist() == [Reason.FINE]
    assert math.isclose(float(table.matrix[0, 0]), 5.6e31, rel_tol=1e-6)


def test_an_extended_vector_gives_the_common_names_and_says_what_is_left_out() -> None:
    eight = [*NAMES, "returns_4h", "volume_ratio", "bb_position", "range_pos_24h"]
    longer = (json.dumps(list(range(8))), json.dumps(eight))
    table = table_of([longer] * 5 + [as_array([0, 1, 2, 3])] * 5)
    assert table.names == tuple(NAMES)
    assert (table.reasons == Reason.FINE).all()
    assert (table.matrix == np.arange(4)).all()
    assert table.left_out == {"returns_4h": 5, "volume_ratio": 5, "bb_position": 5, "range_pos_24h": 5}


def test_renamed_features_are_not_taken_for_the_old_ones() -> None:
    renamed = (json.dumps([1, 2, 3, 4]), json.dumps(["a", "b", "c", "d"]))
    table = table_of([as_array([1, 2, 3, 4])] * 6 + [renamed] * 4)
    assert table.names == tuple(NAMES)
    assert table.reasons.tolist() == [Reason.FINE] * 6 + [Reason.FEATURES_MISSING_NAME] * 4


def test_a_value_that_is_no_number_matters_only_where_it_is_trained_on() -> None:
    cell = ('{"rsi": 1, "ma_cross": 2, "note": "calm"}', None)
    assert table_of([cell], wanted=["ma_cross", "rsi"]).matrix.tolist() == [[2.0, 1.0]]
    assert table_of([cell], wanted=["rsi", "note"]).reasons.tolist() == [Reason.FEATURES_NOT_NUMERIC]


def test_a_feature_missing_in_a_few_rows_is_kept_and_those_rows_are_not() -> None:
    short = ('{"rsi": 1, "ma_cross": 2, "volatility": 3}', None)
    table = table_of([as_object([1, 2, 3, 4])] * 19 + [short])
    assert table.names == tuple(NAMES)
    assert table.reasons[-1] == Reason.FEATURES_MISSING_NAME


def test_arrays_without_names_are_read_by_position_when_nothing_names_them() -> None:
    table = table_of([("[1, 2, 3, 4]", None)] * 5 + [("[1, 2, 3]", "")])
    assert table.names == ("f0", "f1", "f2", "f3")
    assert table.noted["features_assumed"] == 5
    assert table.reasons.tolist() == [Reason.FINE] * 5 + [Reason.FEATURES_WRONG_LENGTH]
    assert table_of([("[1, 2, 3, 4]", None)], wanted=NAMES).names == tuple(NAMES)
    assert table_of([("[1, 2]", None)], wanted=NAMES).reasons.tolist() == [Reason.FEATURES_WRONG_LENGTH]


def test_arrays_without_names_take_the_order_of_the_others_only_if_those_agree() -> None:
    unnamed = ("[1, 2, 3, 4]", None)
    agreed = table_of([as_array([1, 2, 3, 4])] * 3 + [unnamed])
    assert agreed.reasons.tolist() == [Reason.FINE] * 4
    assert agreed.noted["features_assumed"] == 1
    differing = table_of([as_array([1, 2, 3, 4]), as_array([1, 2, 3, 4], NAMES[::-1]), unnamed])
    assert differing.reasons.tolist() == [Reason.FINE, Reason.FINE, Reason.FEATURES_UNNAMED]


def test_one_zero_is_the_other() -> None:
    assert not np.signbit(table_of([("[-0.0, 0.0, 1, 2]", None)]).matrix).any()


@given(st.dictionaries(st.permutations(NAMES).map(tuple), st.integers(1, 9), min_size=1), st.randoms())
def test_the_choice_of_names_does_not_depend_on_the_order_of_rows(counts: Any, random: Any) -> None:
    shuffled = list(counts.items())
    random.shuffle(shuffled)
    assert choose_names(counts, tolerance=0.1) == choose_names(dict(shuffled), tolerance=0.1)


@given(st.lists(st.permutations(NAMES), min_size=1, max_size=20), st.booleans())
def test_the_order_of_the_keys_of_objects_has_no_meaning(orders: Any, has_text: Any) -> None:
    cells = [as_object([1, 2, 3, 4], order) for order in orders]
    if has_text:  # one by one
        cells = [(cell.replace("1,", '"1",').replace("1}", '"1"}'), None) for cell, _ in cells]
    table = table_of([*cells, ("[1, 2, 3, 4]", None)])
    assert table.names == tuple(orders[0])
    assert table.noted["features_permuted"] == 0
    assert (table.reasons == Reason.FINE).all()
    assert (table.matrix[:-1] == [1 + NAMES.index(name) for name in table.names]).all()


def test_a_feature_may_have_any_name() -> None:
    keys = ["a{b}", "c[d], e", "é", "x y"]
    assert table_of([(json.dumps(dict(zip(keys, range(4), strict=True))), None)] * 2).names == tuple(keys)


def test_objects_with_keys_in_every_order_take_no_layout_each() -> None:
    names, random = [f"f{number}" for number in range(8)], Random(1)
    cells = [(json.dumps(dict.fromkeys(random.sample(names, 8), 0.5)), None) for _ in range(2_000)]
    table = table_of(cells)
    assert (table.reasons == Reason.FINE).all()
    assert (table.matrix == 0.5).all()


def test_rows_that_each_name_a_value_of_their_own_cost_no_more_than_others() -> None:
    cells = [
        (json.dumps([number, 1, 2]), json.dumps([f"own_{number}", *(("a", "b") if number % 2 else ("b", "a"))]))
        for number in range(3_000)
    ]
    began = time.process_time()
    table = table_of(cells, tolerance=0.1)
    assert time.process_time() - began < 5  # it was 50 s when each order of names was looked up among all rows

    assert table.names == ("b", "a")  # of equally common orders that of own_0
    assert (table.reasons == Reason.FINE).all()
    assert table.matrix.tolist() == [[2, 1] if number % 2 else [1, 2] for number in range(3_000)]
    assert len(table.left_out) == 3_000
