"""The watermark: every outcome and every correction is new exactly once, in whatever order the table learns of it."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings

from retrain_worker.worker.data.pull import pull
from tests.worker.table_life import STEPS, Life
from tests.worker.trading_database import insert, make_database, make_row, make_rows, pulled, request_for, url_of


@settings(max_examples=40)
@given(steps=STEPS)
def test_every_outcome_and_correction_is_new_exactly_once(
    tmp_path_factory: pytest.TempPathFactory,
    steps: Any,
) -> None:
    folder = tmp_path_factory.mktemp("table")
    path = make_database(folder / "trading.db")

    def upsert(row: Any) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA synchronous=OFF")
            insert(connection, [row])

    life = Life(folder, url_of(path), upsert)
    for step, number in [*steps, ("commit", 0), ("pull", 0)]:
        life.do(step, number)


@pytest.mark.parametrize(
    ("change", "new"),
    [
        ({"realized_pnl": 77.0}, 1),
        ({"target_class": "LOSS", "realized_pnl": None}, 1),
        ({"symbol": "SOLUSDT"}, 1),
        ({"timestamp": "2025-12-01 07:00:00"}, 1),
        ({"timestamp": "2025-12-01T02:05:00+02:00"}, 0),
        ({"outcome_known": 0}, 0),
        ({"updated_at": "2026-01-01 00:00:00"}, 0),
        ({"features": "[1, 2, 3, 4]"}, 0),
        ({"model_version": "v9"}, 0),
    ],
)
def test_a_correction_of_what_was_learned_from_is_new_and_other_changes_are_not(
    tmp_path: Path,
    change: Any,
    new: int,
) -> None:
    rows = [make_row(1, target_class="WIN", realized_pnl=None), *make_rows(30)[1:]]
    pulled(tmp_path, rows)
    watermark = tmp_path / "run" / "snapshot.parquet"
    with closing(sqlite3.connect(tmp_path / "trading.db")) as connection, connection:
        insert(connection, [rows[0] | change])
    result = pull(request_for(tmp_path / "b", watermark=watermark), url_of(tmp_path / "trading.db"), lambda _: None)
    assert result.new_labelled == new


def test_nothing_is_new_after_a_commit_even_with_other_features(tmp_path: Path) -> None:
    rows = make_rows(50)
    pulled(tmp_path / "first", rows)
    watermark = tmp_path / "first" / "run" / "snapshot.parquet"
    database = tmp_path / "first" / "trading.db"
    policies: list[dict[str, Any]] = [{}, {"feature_names": ("volatility", "rsi")}]
    for number, policy in enumerate(policies):
        result = pull(
            request_for(tmp_path / f"again{number}", watermark=watermark, **policy), url_of(database), lambda _: None
        )
        assert (result.labelled, result.new_labelled) == (50, 0)


def test_rows_are_not_new_only_because_the_window_grew(tmp_path: Path) -> None:
    rows = make_rows(2000)  # a row each five minutes: a week
    result, _ = pulled(tmp_path, rows, train_window_days=2)
    assert 0 < result.labelled < 1000
    watermark, database = tmp_path / "run" / "snapshot.parquet", tmp_path / "trading.db"
    request = request_for(tmp_path / "b", watermark=watermark, train_window_days=5)
    grown = pull(request, url_of(database), lambda _: None)
    assert grown.labelled > result.labelled
    assert grown.new_labelled == 0


@pytest.mark.parametrize("spoil", ["missing", "empty", "cut", "other"])
def test_a_watermark_that_cannot_be_read_makes_all_rows_new_and_says_so(tmp_path: Path, spoil: str) -> None:
    pulled(tmp_path, make_rows(20))
    watermark = tmp_path / "run" / "snapshot.parquet"
    match spoil:
        case "missing":
            watermark.unlink()
        case "empty":
            watermark.write_bytes(b"")
        case "cut":
            watermark.write_bytes(watermark.read_bytes()[:-40])
        case "other":
            pl.DataFrame({"id": [1, 2]}).write_parquet(watermark)
    said: list[Any] = []
    result = pull(request_for(tmp_path / "b", watermark=watermark), url_of(tmp_path / "trading.db"), said.append)
    assert result.new_labelled == 20
    assert any("cannot read the watermark" in each.message for each in said)


def test_a_row_whose_profit_is_unknown_is_covered_like_any_other(tmp_path: Path) -> None:
    pulled(tmp_path, make_rows(30, realized_pnl=None))
    request = request_for(tmp_path / "b", watermark=tmp_path / "run" / "snapshot.parquet")
    assert pull(request, url_of(tmp_path / "trading.db"), lambda _: None).new_labelled == 0
