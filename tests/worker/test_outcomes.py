"""What a row's outcome, side and action are; and what happens to labels that contradict their profit."""

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_worker.domain.labels import LabelConflict
from retrain_worker.worker.data import outcomes as o
from retrain_worker.worker.data.cells import page_of_cells
from retrain_worker.worker.data.page import PAGE_SCHEMA

CELLS = st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5) | st.binary(max_size=3)


def page_of(**columns: Any) -> pl.DataFrame:
    """A page of these cells, the others missing."""
    length = len(next(iter(columns.values())))
    return page_of_cells({name: columns.get(name, [None] * length) for name in PAGE_SCHEMA})


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
    page = page_of(target_class=[cell], outcome_known=[known])
    assert page.select(o.recorded_outcome()).to_series().to_list() == [code]


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1))
def test_no_cell_but_the_three_words_becomes_an_outcome(rows: Any) -> None:
    page = page_of(target_class=[row[0] for row in rows], outcome_known=[row[1] for row in rows])
    outcome = page.select(o.recorded_outcome()).to_series()
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
    page = page_of(predicted_action=[predicted], execution_side=[executed])
    executed_code, predicted_code = o.action("execution_side"), o.action("predicted_action")
    assert page.select(predicted_code).to_series().to_list() == [action]
    assert page.select(o.side(executed_code, predicted_code)).to_series().to_list() == [side]


def test_contradictions_are_dropped_relabelled_or_kept() -> None:
    outcome = [o.WIN, o.WIN, o.LOSS, o.LOSS, o.NEUTRAL, o.WIN, o.CLASS_WITHOUT_OUTCOME]
    pnl = [1.0, -1.3, -1.0, 0.4, 3.0, None, -5.0]
    rows = pl.DataFrame({"recorded_outcome": pl.Series(outcome, dtype=pl.Int8), "pnl": pnl})
    against = rows.select(o.contradicts("recorded_outcome", pl.col("pnl"))).to_series()
    assert against.to_list() == [False, True, False, True, False, False, False]
    settled = {conflict: rows.select(o.settled(conflict)).to_series().to_list() for conflict in LabelConflict}
    assert settled[LabelConflict.DROP] == [o.WIN, o.OPEN, o.LOSS, o.OPEN, o.NEUTRAL, o.WIN, o.OPEN]
    assert settled[LabelConflict.RELABEL] == [o.WIN, o.LOSS, o.LOSS, o.WIN, o.NEUTRAL, o.WIN, o.OPEN]
    assert settled[LabelConflict.KEEP] == [o.WIN, o.WIN, o.LOSS, o.LOSS, o.NEUTRAL, o.WIN, o.OPEN]


@given(st.lists(CELLS, min_size=1))
def test_what_is_no_number_is_null(cells: Any) -> None:
    found = page_of(realized_pnl=cells)["realized_pnl"]
    assert found.dtype == pl.Float64
    assert len(found) == len(cells)


def test_numbers_beside_text_keep_their_values() -> None:
    assert page_of(realized_pnl=[1.5, "high", None, 2])["realized_pnl"].to_list() == [1.5, None, None, 2.0]
