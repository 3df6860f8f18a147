"""Rows that a decision cannot have had as history, outcomes without a time, repeated rows: left out, counted, named."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retrain_worker.domain.audit_findings import Finding, Severity
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.worker.data.audit_rules import labels, rows
from retrain_worker.worker.data.audit_rules.rule import Audited
from retrain_worker.worker.data.instants import to_microseconds
from retrain_worker.worker.data.outcomes import OPEN
from retrain_worker.worker.data.samples import select_samples
from retrain_worker.worker.data.snapshot import Snapshot
from tests.worker.trading_database import NOW, make_row, make_rows, open_row, taken, text_of

NOW_US = to_microseconds(datetime.fromisoformat(NOW))
few = settings(max_examples=6, deadline=None)


def found(snapshot: Snapshot) -> dict[str, Finding]:
    audited = Audited(snapshot, DataPolicy(), NOW_US)
    return {each.name: each for each in (rule(audited) for rule in (*labels.RULES, *rows.RULES_OF_ROWS))}


def at(row: dict[str, Any], name: str = "timestamp") -> datetime:
    return datetime.fromisoformat(row[name]).replace(tzinfo=datetime.fromisoformat(NOW).tzinfo)


def later(row: dict[str, Any], seconds: float, name: str = "timestamp") -> str:
    return text_of(at(row, name) + timedelta(seconds=seconds))


# ---------------------------------------------------------------- history


@few
@given(st.lists(st.integers(1, 60), unique=True, max_size=20), st.floats(90, 3 * 86_400))
def test_a_row_that_carries_an_outcome_into_the_window_is_no_history(
    tmp_path_factory: pytest.TempPathFactory, leaked: list[int], seconds: float
) -> None:
    """A row is stamped a second before the decision, and inserted a minute after the exit."""
    rows = make_rows(200)
    leaks = [
        open_row(
            1000 + row["id"],
            symbol=row["symbol"],
            timestamp=later(row, -1),
            created_at=later(row, seconds),
            features=json.dumps([60.0 if row["target_class"] == "WIN" else 40.0, 0.0, 0.5, 0.0]),
        )
        for row in rows
        if row["id"] in leaked
    ]
    snapshot = taken(tmp_path_factory.mktemp("t"), [*rows, *leaks])

    assert not set(snapshot.ids) & {leak["id"] for leak in leaks}
    assert len(snapshot) == len(rows)
    late = found(snapshot)["time.inserted_late"]
    assert (late.measured, late.severity) == (len(leaks), Severity.WARNING if leaks else Severity.OK)
    assert set(late.examples) <= {f"id {leak['id']} inserted_late" for leak in leaks}
    assert len(late.examples) == min(5, len(leaks))


@few
@given(st.integers(-3600, 86_400 * 200), st.floats(0, 59), st.integers(1, 100))
def test_rows_that_are_imported_together_or_before_their_decisions_are_history(
    tmp_path_factory: pytest.TempPathFactory, import_delay: int, lag: float, imported: int
) -> None:
    """The older rows were inserted at once, the others as they were decided; two days without a row between them."""
    rows = make_rows(200)
    for row in rows:
        if row["id"] > imported:
            row["timestamp"] = later(row, 3 * 86_400)
        row["created_at"] = later(row, lag) if row["id"] > imported else later(rows[0], import_delay + lag)
    assert len(taken(tmp_path_factory.mktemp("t"), rows)) == 200


# ---------------------------------------------------------------- times of outcomes


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"exit_time": "2099-01-01 00:00:00", "updated_at": None, "hold_duration_seconds": None}, "time_future"),
        ({"exit_time": None, "updated_at": None, "hold_duration_seconds": None}, "time_unknown"),
    ],
)
def test_an_outcome_without_a_possible_time_is_no_sample_and_is_named(
    tmp_path: Path, changes: dict[str, Any], name: str
) -> None:
    rows = make_rows(100)
    for row in rows[::12]:
        row.update(changes)
    snapshot = taken(tmp_path, rows)
    untimed = {row["id"] for row in rows[::12]}
    samples = select_samples(snapshot, policy=DataPolicy(), seq_len=1)
    finding = found(snapshot)[f"outcomes.{name}"]

    assert set(snapshot.ids[samples.positions]) == set(range(1, 101)) - untimed
    assert samples.known_at.max() <= NOW_US
    assert (finding.measured, finding.severity) == (len(untimed), Severity.WARNING)
    assert [int(example.split()[1]) for example in finding.examples] == sorted(untimed)[:5]
    assert "history, not samples; correct the service that writes exit_time" in finding.message


seconds = st.integers(-7200, 7200)


@few
@example(exited=1, updated=None, held=7200)
@given(st.none() | seconds | st.just(0) | st.just(10**9), st.none() | seconds, st.none() | st.integers(-10, 7200))
def test_the_later_plausible_instant_counts_for_purging(
    tmp_path_factory: pytest.TempPathFactory, exited: int | None, updated: int | None, held: int | None
) -> None:
    row = make_row(1)
    row |= {
        "exit_time": None if exited is None else later(row, exited),
        "updated_at": None if updated is None else later(row, updated),
        "hold_duration_seconds": held,
    }
    snapshot = taken(tmp_path_factory.mktemp("t"), [row])
    known_after = (int(snapshot.known_at[0]) - int(snapshot.decided_at[0])) / 1e6
    is_plausible = exited is not None and 0 < exited <= 7200
    end = exited if is_plausible else updated if updated is not None and updated > 0 else None
    plausible = [each for each in (end, held) if each is not None and each > 0]

    if plausible:
        assert known_after == max(plausible)
        is_replaced = exited is None or abs(max(plausible) - exited) > 60
        assert found(snapshot)["outcomes.exit_time"].measured == is_replaced
        assert found(snapshot)["outcomes.exit_time"].examples == ("id 1 exit_time_replaced",) * is_replaced
    elif exited == 10**9 or (exited is None and updated is None and (held is None or held < 0)):
        assert snapshot.outcome[0] == OPEN
    else:
        assert known_after == 0


# ---------------------------------------------------------------- repetitions


@few
@given(st.floats(0.5, 59), st.integers(1, 150))
def test_every_row_again_a_moment_later_counts_once(
    tmp_path_factory: pytest.TempPathFactory, delay: float, repeated: int
) -> None:
    rows = make_rows(150)
    again = [
        row | {"id": 1000 + row["id"], "timestamp": later(row, delay), "created_at": later(row, delay)}
        for row in rows[:repeated]
    ]
    snapshot = taken(tmp_path_factory.mktemp("t"), [*rows, *again])

    assert sorted(snapshot.ids) == list(range(1, 151))
    finding = found(snapshot)["duplicates.near"]
    assert (finding.measured, finding.examples[0]) == (repeated, "id 1001 near_copy")


@few
@given(st.integers(60, 200), st.integers(16, 60))
def test_a_replayed_stretch_counts_once(tmp_path_factory: pytest.TempPathFactory, first: int, length: int) -> None:
    """The last rows equal rows from before, but for id and stamps."""
    rows = make_rows(400)
    replay = []
    for number, row in enumerate(rows[first : first + length]):
        stamps = {
            name: later(row, 30 * 86_400, name) for name in ("timestamp", "exit_time", "created_at", "updated_at")
        }
        replay.append(row | stamps | {"id": 1000 + number})
    snapshot = taken(tmp_path_factory.mktemp("t"), [*rows, *replay], max_gap_hours=0)

    assert sorted(snapshot.ids) == list(range(1, 401))
    assert found(snapshot)["duplicates.replayed"].measured == length


def test_rows_of_few_values_and_a_feed_that_stands_still_are_no_replay(tmp_path: Path) -> None:
    still = [1.0, 2.0, 3.0, 4.0]
    coin = np.random.default_rng(1)
    rows = make_rows(600)
    for row in rows:
        row["features"] = json.dumps(still if row["id"] <= 300 else [float(coin.integers(4)), *still[1:]])
        row |= {"realized_pnl": 1.0 if row["target_class"] == "WIN" else -1.0, "exit_price": 101.0}
    snapshot = taken(tmp_path, rows)
    assert len(snapshot) == 600
    assert found(snapshot)["duplicates.repeated"].measured == 0


@pytest.mark.parametrize("changes", [{"symbol": "BTCUSDT_PERP"}, {"timestamp": 7_200.0}])
def test_single_trades_under_another_symbol_or_time_are_counted(tmp_path: Path, changes: dict[str, Any]) -> None:
    rows = make_rows(300)
    for row in [row for row in rows if row["id"] % 10 == 0]:
        stamp = changes.get("timestamp")
        again = {"timestamp": later(row, stamp, "timestamp")} if stamp else changes
        rows.append(row | again | {"id": 1000 + row["id"]})
    finding = found(taken(tmp_path, rows))["duplicates.repeated"]

    assert finding.severity is Severity.WARNING
    assert finding.counts == {"part": 30, "whole": 330}
    assert "id 1010 " in finding.examples[0]


@pytest.mark.parametrize("spelling", ["BTC-USDT", "BTC/USDT", "btc_usdt", "BTC:USDT", "BTC USDT"])
def test_spellings_of_one_symbol_are_named(tmp_path: Path, spelling: str) -> None:
    rows = make_rows(40)
    rows += [row | {"id": 100 + row["id"], "symbol": spelling} for row in rows if row["symbol"] == "BTCUSDT"]
    (example,) = found(taken(tmp_path, rows))["symbols.look_alikes"].examples
    assert "BTCUSDT" in example
    assert spelling in example
