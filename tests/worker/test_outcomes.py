"""What a row's outcome, side and action are; and what happens to labels that contradict their profit."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_worker.domain.labels import LabelConflict
from retrain_worker.worker.data import outcomes as o

CELLS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3)


@pytest.mark.parametrize(
    ("cell", "known", "code"),
    [
        ("WIN", 1, o.WIN),
        ("LOSS", True, o.LOSS),
        ("NEUTRAL", "true", o.NEUTRAL),
        (None, 0, o.OPEN),
        (None, None, o.OPEN),
        ("win", 1, o.UNKNOWN_CLASS),
        ("Loss ", 1, o.UNKNOWN_CLASS),
        ("", 1, o.UNKNOWN_CLASS),
        (1, 1, o.UNKNOWN_CLASS),
        ("WIN", 0, o.CLASS_WITHOUT_OUTCOME),
        ("LOSS", None, o.CLASS_WITHOUT_OUTCOME),
        ("WIN", "no", o.CLASS_WITHOUT_OUTCOME),
        (None, 1, o.OUTCOME_WITHOUT_CLASS),
    ],
)
def test_a_class_counts_only_as_spelled_and_with_a_known_outcome(
    cell: str | int | None,
    known: Any,
    code: Any,
) -> None:
    assert o.recorded_outcomes([cell], [known]).tolist() == [code]


@given(st.lists(st.tuples(CELLS, CELLS)))
def test_no_cell_but_the_three_words_becomes_an_outcome(rows: Any) -> None:
    outcome = o.recorded_outcomes([row[0] for row in rows], [row[1] for row in rows])
    assert all(code < 0 for code, row in zip(outcome, rows, strict=True) if row[0] not in ("WIN", "LOSS", "NEUTRAL"))


@pytest.mark.parametrize(
    ("predicted", "executed", "action", "side"),
    [
        ("BUY", None, o.BUY, o.BUY),
        ("sell", None, o.SELL, o.SELL),
        (" Hold ", None, o.HOLD, o.NO_SIDE),
        ("BUY", "SELL", o.BUY, o.SELL),
        ("HOLD", "buy", o.HOLD, o.BUY),
        ("???", None, o.UNKNOWN_ACTION, o.NO_SIDE),
        (None, "SELL", o.UNKNOWN_ACTION, o.SELL),
        (3, b"x", o.UNKNOWN_ACTION, o.NO_SIDE),
    ],
)
def test_the_executed_side_goes_before_the_predicted_one(
    predicted: str | int | None,
    executed: str | bytes | None,
    action: Any,
    side: Any,
) -> None:
    found = o.actions_and_sides([predicted], [executed])
    assert [array.tolist() for array in found] == [[action], [side]]


def test_contradictions_are_dropped_relabelled_or_kept() -> None:
    outcome = np.array([o.WIN, o.WIN, o.LOSS, o.LOSS, o.NEUTRAL, o.WIN, o.CLASS_WITHOUT_OUTCOME], dtype=np.int8)
    pnl = np.array([1.0, -1.3, -1.0, 0.4, 3.0, np.nan, -5.0])
    assert o.contradictions(outcome, pnl).tolist() == [False, True, False, True, False, False, False]
    settled = {conflict: o.settled(outcome, pnl, conflict).tolist() for conflict in LabelConflict}
    assert settled[LabelConflict.DROP] == [o.WIN, o.OPEN, o.LOSS, o.OPEN, o.NEUTRAL, o.WIN, o.OPEN]
    assert settled[LabelConflict.RELABEL] == [o.WIN, o.LOSS, o.LOSS, o.WIN, o.NEUTRAL, o.WIN, o.OPEN]
    assert settled[LabelConflict.KEEP] == [o.WIN, o.WIN, o.LOSS, o.LOSS, o.NEUTRAL, o.WIN, o.OPEN]


@given(st.lists(CELLS))
def test_what_is_no_number_is_nan(cells: Any) -> None:
    found = o.numbers(cells)
    assert found.dtype == np.float64
    assert found.shape == (len(cells),)


def test_numbers_beside_text_keep_their_values() -> None:
    np.testing.assert_array_equal(o.numbers([1.5, "high", None, 2]), [1.5, np.nan, np.nan, 2])
