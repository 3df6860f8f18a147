"""Rows written twice: one stays, and a row whose copies disagree teaches nothing."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.worker.data import copies
from retrain_worker.worker.data.samples import select_samples, split_samples
from tests.worker.trading_database import make_row, make_rows, open_row, pulled

ROWS = st.lists(st.tuples(*[st.integers(0, 2)] * 3, st.sampled_from([-2, -1, 0, 1, 2])), max_size=40)


@given(ROWS)
def test_of_each_group_one_row_stays_and_knows_what_all_know(rows: Any) -> None:
    rows.sort(key=lambda row: row[:2])
    codes, instants, values, outcomes = (np.array([row[part] for row in rows], dtype=np.int64) for part in range(4))
    frame = pl.DataFrame({"symbol": codes, "decided_at": instants, "a": values, "b": values * 2.0})
    found = copies.marked(frame.with_columns(recorded_outcome=pl.Series(outcomes, dtype=pl.Int8)), ["a", "b"])
    reasons, disputed = found["reason"].to_list(), found["is_disputed"].to_list()
    groups = defaultdict(list)
    for place, row in enumerate(rows):
        groups[row[:3]].append(place)
    for places in groups.values():
        (kept,) = [place for place in places if reasons[place] is None]
        known = {rows[place][3] for place in places if rows[place][3] >= 0}
        assert disputed[kept] == (len(known) > 1)
        assert {reasons[place] for place in places} <= {None, copies.REASONS[len(known) > 1]}
        if len(known) == 1:
            assert kept == min(place for place in places if rows[place][3] in known)


def test_copies_are_dropped_and_counted_and_conflicts_have_no_label(tmp_path: Path) -> None:
    rows = make_rows(40)
    win = next(row for row in rows if row["target_class"] == "WIN" and row["id"] > 3)
    copy, liar = make_row(win["id"]) | {"id": 100}, make_row(3) | {"id": 101}
    liar |= {"target_class": "LOSS" if rows[2]["target_class"] == "WIN" else "WIN", "realized_pnl": None}
    result, snapshot = pulled(tmp_path, [*rows, copy, liar])
    assert result.quarantined == {"duplicate": 1, "duplicate_conflict": 1}
    assert sorted(snapshot.ids) == list(range(1, 41))
    assert snapshot.outcome[snapshot.ids == 3] == -1
    assert (result.labelled, result.open) == (39, 1)


def test_an_open_copy_takes_no_outcome_away(tmp_path: Path) -> None:
    result, snapshot = pulled(tmp_path, [open_row(1), make_row(1) | {"id": 2}])
    assert snapshot.ids.tolist() == [2]
    assert result.quarantined == {"duplicate": 1}
    assert result.labelled == 1


def test_no_copy_is_on_both_sides_of_a_split(tmp_path: Path) -> None:
    rows = make_rows(400)
    again = [row | {"id": 1000 + row["id"]} for row in rows[::3]]
    _, snapshot = pulled(tmp_path, [*rows, *again])
    samples = select_samples(snapshot, policy=DataPolicy(), seq_len=4)
    parts = split_samples(samples, SplitPolicy())
    in_time = (parts.train, parts.validation, parts.holdout)
    vectors = [{snapshot.features[row].tobytes() for row in part.positions} for part in in_time]
    assert len(set.union(*vectors)) == sum(map(len, vectors))
