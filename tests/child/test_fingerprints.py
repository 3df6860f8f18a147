"""The watermark: every outcome and every correction is new exactly once, in whatever order the table learns of it."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrain_worker.work.data import fingerprints
from retrain_worker.work.data.pull import pull
from tests.child.trading_database import (
    insert,
    make_database,
    make_row,
    make_rows,
    open_row,
    pulled,
    request_for,
    url_of,
)

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["open", "fill", "correct profit", "correct class", "withdraw", "touch", "late", "pull", "commit"]
        ),
        st.integers(1, 4),
    ),
    min_size=5, max_size=40,
)  # fmt: skip


class Table:
    """A trading table's life, and a model of what a run must find new in it."""

    def __init__(self, folder):
        self.folder, self.path = folder, make_database(folder / "trading.db")
        self.rows, self.seen, self.watermark, self.runs = {}, {}, None, 0

    def write(self, row):
        self.rows[row["id"]] = row
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("PRAGMA synchronous=OFF")
            insert(connection, [row])

    def do(self, step, number):
        old = self.rows.get(number)
        if step == "open" and old is None:
            self.write(open_row(number))
        elif step == "late" and -number not in self.rows:  # committed late, under an id smaller than all
            self.write(make_row(1000 + number, id=-number))
        elif step in ("pull", "commit"):
            self.pull(commits=step == "commit")
        elif old is not None and step == "fill" and old["outcome_known"] == 0:
            self.write(make_row(number))
        elif old is not None and old["outcome_known"] and step.startswith(("correct", "withdraw", "touch")):
            flipped = "LOSS" if old["target_class"] == "WIN" else "WIN"
            self.write(old | {
                "correct profit": {"realized_pnl": old["realized_pnl"] * 1.5},
                "correct class": {"target_class": flipped, "realized_pnl": -old["realized_pnl"]},
                "withdraw": dict.fromkeys(["target_class", "realized_pnl"], None) | {"outcome_known": 0},
                "touch": {"updated_at": "2026-01-05 00:00:00.000000", "model_version": "v9"},
            }[step])  # fmt: skip

    def pull(self, *, commits):
        self.runs += 1
        run_dir = self.folder / f"run{self.runs}"
        result = pull(request_for(run_dir, watermark=self.watermark), url_of(self.path), lambda _: None)
        rows = [row for row in self.rows.values() if row["outcome_known"]]
        known = {row["id"]: (row["target_class"], row["realized_pnl"]) for row in rows}
        assert result.labelled == len(known)
        assert result.new_labelled == sum(self.seen.get(number) != told for number, told in known.items())
        if commits:
            self.watermark, self.seen = run_dir / "fingerprints.npy", known


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_every_outcome_and_correction_is_new_exactly_once(tmp_path_factory, steps):
    table = Table(tmp_path_factory.mktemp("table"))
    for step, number in [*steps, ("commit", 0), ("pull", 0)]:
        table.do(step, number)


@pytest.mark.parametrize(
    ("change", "new"),
    [
        ({"realized_pnl": 77.0}, 1), ({"target_class": "LOSS", "realized_pnl": None}, 1), ({"symbol": "SOLUSDT"}, 1),
        ({"timestamp": "2025-12-01 07:00:00"}, 1), ({"timestamp": "2025-12-01T02:05:00+02:00"}, 0),
        ({"outcome_known": 0}, 0), ({"updated_at": "2026-01-01 00:00:00"}, 0), ({"features": "[1, 2, 3, 4]"}, 0),
        ({"model_version": "v9"}, 0),
    ],
)  # fmt: skip
def test_a_correction_of_what_was_learned_from_is_new_and_other_changes_are_not(tmp_path, change, new):
    rows = [make_row(1, target_class="WIN", realized_pnl=None), *make_rows(30)[1:]]
    pulled(tmp_path, rows)
    watermark = tmp_path / "run" / "fingerprints.npy"
    with closing(sqlite3.connect(tmp_path / "trading.db")) as connection, connection:
        insert(connection, [rows[0] | change])
    result = pull(request_for(tmp_path / "b", watermark=watermark), url_of(tmp_path / "trading.db"), lambda _: None)
    assert result.new_labelled == new


def test_nothing_is_new_after_a_commit_even_with_other_features(tmp_path):
    rows = make_rows(50)
    pulled(tmp_path / "first", rows)
    watermark = tmp_path / "first" / "run" / "fingerprints.npy"
    database = tmp_path / "first" / "trading.db"
    for number, policy in enumerate([{}, {"feature_names": ("volatility", "rsi")}]):
        result = pull(
            request_for(tmp_path / f"again{number}", watermark=watermark, **policy), url_of(database), lambda _: None
        )
        assert (result.labelled, result.new_labelled) == (50, 0)


def test_rows_are_not_new_only_because_the_window_grew(tmp_path):
    rows = make_rows(2000)  # a row each five minutes: a week
    result, _ = pulled(tmp_path, rows, train_window_days=2)
    assert 0 < result.labelled < 1000
    watermark, database = tmp_path / "run" / "fingerprints.npy", tmp_path / "trading.db"
    request = request_for(tmp_path / "b", watermark=watermark, train_window_days=5)
    grown = pull(request, url_of(database), lambda _: None)
    assert grown.labelled > result.labelled
    assert grown.new_labelled == 0


@pytest.mark.parametrize("spoil", ["missing", "empty", "cut", "other"])
def test_a_watermark_that_cannot_be_read_makes_all_rows_new_and_says_so(tmp_path, spoil):
    pulled(tmp_path, make_rows(20))
    watermark = tmp_path / "run" / "fingerprints.npy"
    match spoil:
        case "missing":
            watermark.unlink()
        case "empty":
            watermark.write_bytes(b"")
        case "cut":
            watermark.write_bytes(watermark.read_bytes()[:-40])
        case "other":
            np.save(watermark, np.arange(3))
    said = []
    result = pull(request_for(tmp_path / "b", watermark=watermark), url_of(tmp_path / "trading.db"), said.append)
    assert result.new_labelled == 20
    assert any("watermark cannot be read" in each.sentence for each in said)


def test_the_file_holds_sorted_rows_and_the_start_of_the_window(tmp_path):
    _, snapshot = pulled(tmp_path, reversed(make_rows(30)))
    found = fingerprints.load(tmp_path / "run" / "fingerprints.npy")
    assert found.rows["id"].tolist() == list(range(1, 31))
    assert len(set(found.rows["hash"].tolist())) == 30
    assert found.window_start == snapshot.facts.window_start
