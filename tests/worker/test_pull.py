"""PULL from the table to the snapshot: what is set aside, what is counted, what the window holds."""

import json
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.errors import RetrainError
from retrain_worker.worker.data import pull as module
from retrain_worker.worker.data import sqlite_source
from retrain_worker.worker.data.instants import NEVER, to_microseconds
from retrain_worker.worker.data.intake import Intake
from retrain_worker.worker.data.snapshot import ARRAYS
from retrain_worker.worker.data.source import read_pages
from tests.worker.trading_database import (
    COLUMNS,
    NAMES,
    START,
    make_database,
    make_row,
    make_rows,
    open_row,
    pulled,
    request_for,
    taken,
    url_of,
)

COUNT = 60


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"symbol": None}, "symbol_missing"),
        ({"symbol": " "}, "symbol_missing"),
        ({"timestamp": None}, "timestamp_unreadable"),
        ({"timestamp": "yesterday"}, "timestamp_unreadable"),
        ({"timestamp": "2026-01-11 00:00:01"}, "timestamp_future"),
        ({"timestamp": "2925-05-26 19:07:37"}, "timestamp_future"),
        ({"timestamp": "1999-12-31 00:00:00"}, "timestamp_absurd"),
        ({"timestamp": 0}, "timestamp_absurd"),
        ({"features": None}, "features_null"),
        ({"features": "{}"}, "features_wrong_length"),
        ({"features": "[1, 2, 3, NaN]"}, "features_not_finite"),
        ({"feature_names": "rsi"}, "features_names_unreadable"),
    ],
)
def test_a_row_that_cannot_be_used_is_set_aside_by_reason(tmp_path: Path, change: Any, reason: str) -> None:
    rows = make_rows(COUNT)
    rows[10] |= change
    result, snapshot = pulled(tmp_path, rows)
    assert result.quarantined == {reason: 1}
    assert result.loaded == COUNT
    assert sorted(snapshot.ids) == [number for number in range(1, COUNT + 1) if number != 11]
    assert snapshot.facts.quarantined_examples == (f"id 11 {reason}",)


def test_a_row_just_ahead_of_our_clock_stays(tmp_path: Path) -> None:
    result, _ = pulled(tmp_path, [make_row(1, timestamp="2026-01-10 23:59:59")])
    assert result.labelled == 1


CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.binary(max_size=10),
    st.text(alphabet=st.characters(codec="utf-8"), max_size=30),
    st.sampled_from(["WIN", "BUY", "[1,2,3,4]", "nan"]),
)
SPOILT = st.sampled_from(
    [
        "symbol",
        "timestamp",
        "predicted_action",
        "prediction_confidence",
        "features",
        "feature_names",
        "execution_side",
        "entry_price",
        "outcome_known",
        "exit_price",
        "exit_time",
        "realized_pnl",
        "hold_duration_seconds",
        "target_label",
        "target_class",
        "updated_at",
    ]
)


@settings(max_examples=60)
@given(spoilt=st.lists(st.tuples(st.integers(0, COUNT - 1), SPOILT, CELLS), max_size=30))
def test_any_cell_may_hold_anything_and_good_rows_keep_their_values(
    tmp_path_factory: pytest.TempPathFactory,
    spoilt: Any,
) -> None:
    rows, touched = make_rows(COUNT), set()
    for place, column, value in spoilt:
        rows[place][column] = value
        touched.add(place + 1)
    try:
        snapshot = taken(tmp_path_factory.mktemp("fuzz"), rows, train_window_days=0, feature_names=tuple(NAMES))
    except RetrainError:
        return
    assert snapshot.facts.loaded == len(snapshot) + sum(snapshot.facts.quarantined.values())
    assert np.isfinite(snapshot.features).all()
    places = {number: place for place, number in enumerate(snapshot.ids.tolist())}
    for row in make_rows(COUNT):
        if row["id"] in touched:
            continue
        place = places[row["id"]]
        np.testing.assert_array_equal(snapshot.features[place], np.array(json.loads(row["features"]), dtype=np.float32))
        assert snapshot.symbols[snapshot.symbol_codes[place]] == row["symbol"]
        assert snapshot.decided_at[place] == to_microseconds(START + timedelta(minutes=5 * row["id"]))
        assert snapshot.outcome[place] == (row["target_class"] == "WIN")
        assert snapshot.pnl[place] == row["realized_pnl"]


WILD = st.one_of(
    CELLS,
    st.sampled_from(
        [
            "",
            " ",
            "\n",
            "0",
            "1",
            "1.0",
            "true",
            "2025-12-01 00:00:00",
            "2025-12-01 00:00:00.000000\n",
            "infinity",
            "2025-12-01T00:00:00.000000",
            "0000-00-00 00:00:00.000000",
            "[1,2,3,4],\n[5,6,7,8]",
            "[1,2,3,4]\n",
            "{}",
            '{"rsi":1,"ma_cross":2,"volatility":3,"returns_1h":4}',
            '{"rsi":1,"rsi":2,"ma_cross":2,"volatility":3}',
            "[NaN,2,3,4]",
            "[1e400,2,3,4]",
            '["1","2","3","4"]',
            "a\x00b",
            0.1,
            1e300,
            2**53 + 1,
            -0.0,
            b"\xff\xfe",
            b"WIN",
        ]
    ),
)
#: what SQLite makes of a value depends on the type that the column declares
UNTYPED = dict.fromkeys(COLUMNS, "") | {"id": "INTEGER PRIMARY KEY"}
OWN_ROWID = COLUMNS | {"id": "BIGINT"}


@settings(max_examples=80)
@given(
    spoilt=st.lists(st.tuples(st.integers(0, COUNT - 1), SPOILT, WILD), max_size=12),
    everywhere=st.none() | st.tuples(SPOILT, WILD),
    columns=st.sampled_from([COLUMNS, UNTYPED, OWN_ROWID]),
    held=st.sets(st.integers(0, COUNT - 1), max_size=5),
)
@example(spoilt=[(30, "outcome_known", 1.0000000000000002)], everywhere=None, columns=UNTYPED, held=set())
@example(spoilt=[], everywhere=None, columns=COLUMNS, held={30})
@example(spoilt=[], everywhere=("timestamp", None), columns=COLUMNS, held=set())
def test_pages_of_any_size_give_the_same_snapshot(
    tmp_path_factory: pytest.TempPathFactory,
    spoilt: Any,
    everywhere: Any,
    columns: Any,
    held: Any,
) -> None:
    rows = make_rows(COUNT)
    for place, column, value in spoilt:
        rows[place][column] = value
    for place in held:
        rows[place] |= {"exit_time": None, "updated_at": None}
    if everywhere:
        rows = [row | {everywhere[0]: everywhere[1]} for row in rows]
    path = make_database(tmp_path_factory.mktemp("fuzz") / "trading.db", rows, columns=columns)
    plain, joined = (snapshot_in_pages_of(size, path) for size in (COUNT + 1, 7))
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(joined, name), getattr(plain, name), err_msg=name)
    assert (joined.data_sha256, joined.facts, joined.symbols) == (plain.data_sha256, plain.facts, plain.symbols)


def snapshot_in_pages_of(size: Any, path: Path) -> Any:
    intake = Intake(DataPolicy(train_window_days=0), now=to_microseconds(START + timedelta(days=90)))
    with pytest.MonkeyPatch.context() as patched:
        for name in ("_FIRST_PAGE_ROWS", "_MIN_PAGE_ROWS", "_MAX_PAGE_ROWS", "_CONVERTED_ROWS"):
            patched.setattr(sqlite_source, name, size)
        for page in read_pages(url_of(path), busy_timeout_seconds=1.0):
            intake.add(page)
    return intake.snapshot()


def test_the_window_counts_back_from_the_newest_outcome_whatever_the_order_of_ids(tmp_path: Path) -> None:
    rows = make_rows(4000)
    ids = Random(1).sample(range(1, 10**6), len(rows))
    inside = {number for place, number in enumerate(ids) if timedelta(minutes=5 * (3999 - place)) <= timedelta(days=3)}
    for row, number in zip(rows, ids, strict=True):
        row["id"] = number
    later = [open_row(5000, id=10**6 + 1), make_row(1, id=10**6 + 2, timestamp="2925-01-01 00:00:00")]
    result, snapshot = pulled(tmp_path, [*rows, *later], train_window_days=3)
    assert set(snapshot.ids.tolist()) == inside | {10**6 + 1}
    assert snapshot.facts.before_window == 4000 - len(inside)
    assert result.quarantined == {"timestamp_future": 1}


def test_damage_before_the_window_is_not_held_against_the_rows_inside(tmp_path: Path) -> None:
    rows = make_rows(2000)
    for row in rows[:500]:
        row["features"] = "broken"
    assert pulled(tmp_path / "a", rows, train_window_days=2)[0].quarantined == {}
    assert pulled(tmp_path / "b", rows, train_window_days=0)[0].quarantined == {"features_not_json": 500}


def test_the_outcome_is_known_at_exit_else_update_else_after_the_hold(tmp_path: Path) -> None:
    decided = START + timedelta(minutes=5)
    nothing = {"exit_time": None, "updated_at": None}
    rows = [
        make_row(1),
        make_row(3, exit_time=None, updated_at="2025-12-05 00:00:00"),
        make_row(5, **nothing, hold_duration_seconds=90),
        make_row(7, **nothing, hold_duration_seconds=None),
        make_row(9, exit_time="2025-01-01 00:00:00"),
        open_row(11, updated_at="2025-12-05 00:00:00"),
    ]
    _, snapshot = pulled(tmp_path, rows)
    assert snapshot.known_at.tolist() == [
        to_microseconds(decided + timedelta(hours=1)),
        to_microseconds(START + timedelta(days=4)),
        to_microseconds(START + timedelta(minutes=25, seconds=90)),
        NEVER,
        to_microseconds(START + timedelta(minutes=45, hours=1)),
        NEVER,
    ]
    assert snapshot.facts.noted["outcome_before_decision"] == 1


def test_symbols_are_only_names(tmp_path: Path) -> None:
    odd = ["../../etc/passwd", "$(touch pwned)", "'; DROP TABLE x;--", "BTC\u200dUSDT", "币安", "btcusdt", "x" * 300]
    rows = [make_row(number, symbol=symbol) for number, symbol in enumerate(odd, 1)]
    result, snapshot = pulled(tmp_path, rows)
    assert result.symbols == dict.fromkeys(sorted(odd), 1)
    assert snapshot.symbols == tuple(sorted(odd))
    assert {path.name for path in tmp_path.rglob("*")} == {"trading.db", "run", "snapshot.parquet"}


def test_counts_say_what_the_snapshot_holds(tmp_path: Path) -> None:
    rows = [
        make_row(1, target_class="WIN", realized_pnl=1.0),
        make_row(2, target_class="LOSS", realized_pnl=-1.0),
        make_row(3, target_class="NEUTRAL", realized_pnl=0.0),
        make_row(4, target_class="WIN", realized_pnl=-1.3),
        open_row(5),
    ]
    result, _ = pulled(tmp_path, rows)
    assert (result.win, result.loss, result.neutral, result.open) == (1, 1, 1, 2)
    assert (result.labelled, result.new_labelled, result.contradictions) == (2, 2, 1)
    assert result.first_at == "2025-12-01T00:05:00+00:00"
    relabelled, _ = pulled(tmp_path / "b", rows, label_conflict="relabel")
    assert (relabelled.win, relabelled.loss, relabelled.contradictions) == (1, 2, 1)


def test_a_long_read_reports_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REPORT_EVERY_ROWS", 1000)
    monkeypatch.setattr(sqlite_source, "_CONVERTED_ROWS", 1)
    said: list[Any] = []
    path = make_database(tmp_path / "t.db", make_rows(9000))
    module.pull(request_for(tmp_path / "run"), url_of(path), said.append)
    told = [each.fields["rows"] for each in said]
    assert len(told) >= 3
    assert told == sorted(told)
    assert told[-1] == 9000
