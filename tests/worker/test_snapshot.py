"""The snapshot: canonical, with a hash of its content, written completely or not at all."""

import errno
import json
from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

from retrain_worker.domain.worker_protocol import PullResult
from retrain_worker.errors import DataUnfitError, DiskFullError
from retrain_worker.worker.data.snapshot import ARRAYS, Snapshot, load, save
from tests.worker.trading_database import NAMES, START, make_row, make_rows, pulled


def as_object(row: Any) -> None:
    row["features"] = json.dumps(dict(zip(NAMES, json.loads(row["features"]), strict=True)))


def as_permuted(row: Any) -> None:
    if row["id"] % 2:
        values = dict(zip(NAMES, json.loads(row["features"]), strict=True))
        row["features"] = json.dumps([values[name] for name in NAMES[::-1]])
        row["feature_names"] = json.dumps(NAMES[::-1])


def as_offset(row: Any) -> None:
    decided = START + timedelta(minutes=5 * row["id"])
    row["timestamp"] = decided.astimezone(timezone(timedelta(hours=9))).isoformat()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[PullResult, Snapshot]:
    return pulled(tmp_path_factory.mktemp("plain"), make_rows(300))


@pytest.mark.parametrize("spoil", [as_object, as_permuted, as_offset])
def test_the_same_rows_give_the_same_hash_in_every_notation(
    plain: tuple[PullResult, Snapshot],
    tmp_path: Path,
    spoil: Any,
) -> None:
    assert pulled(tmp_path, make_rows(300), spoil=spoil)[0].data_sha256 == plain[0].data_sha256


def test_the_same_rows_give_the_same_hash_in_every_physical_order(
    plain: tuple[PullResult, Snapshot],
    tmp_path: Path,
) -> None:
    rows = make_rows(300)
    for row in rows:  # the order of ids is the physical order; here it is not the order of time
        row["id"] = {1: 5000, 2: 4000}.get(row["id"], row["id"])
    first, _ = pulled(tmp_path / "a", rows)
    Random(3).shuffle(rows)
    second, _ = pulled(tmp_path / "b", rows)
    assert first.data_sha256 == second.data_sha256
    assert first.data_sha256 != plain[0].data_sha256


@pytest.mark.parametrize(
    "change",
    [
        {"target_class": "NEUTRAL"},
        {"features": "[1, 2, 3, 4]"},
        {"symbol": "BTCUSD"},
        {"realized_pnl": 9e9},
        {"timestamp": "2025-12-02 00:00:01"},
        {"exit_time": "2025-12-31 00:00:01"},
        {"predicted_action": "HOLD"},
    ],
)
def test_any_change_of_a_row_changes_the_hash(
    plain: tuple[PullResult, Snapshot],
    tmp_path: Path,
    change: dict[str, str] | dict[str, float],
) -> None:
    rows = make_rows(300)
    rows[100] |= change
    assert pulled(tmp_path, rows)[0].data_sha256 != plain[0].data_sha256


def test_rows_are_in_canonical_order(plain: tuple[PullResult, Snapshot]) -> None:
    _, snapshot = plain
    keys = list(zip(snapshot.symbol_codes.tolist(), snapshot.decided_at.tolist(), snapshot.ids.tolist(), strict=True))
    assert keys == sorted(keys)
    assert snapshot.symbols == tuple(sorted(snapshot.symbols))


def test_a_saved_snapshot_comes_back_and_replaces_an_older_one(
    plain: tuple[PullResult, Snapshot],
    tmp_path: Path,
) -> None:
    _, snapshot = plain
    for each in (replace(snapshot, data_sha256="old"), snapshot):
        save(each, tmp_path)
    back = load(tmp_path)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(back, name), getattr(snapshot, name))
    assert (back.symbols, back.feature_names, back.data_sha256) == (
        snapshot.symbols,
        snapshot.feature_names,
        snapshot.data_sha256,
    )
    assert back.facts == snapshot.facts
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot.parquet"]


def test_a_snapshot_of_nothing_is_saved_and_loaded(tmp_path: Path) -> None:
    result, snapshot = pulled(tmp_path, [])
    assert (result.loaded, result.labelled, result.first_at, len(snapshot)) == (0, 0, None, 0)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_damaged_snapshot_is_not_used(plain: tuple[PullResult, Snapshot], tmp_path: Path, share: float) -> None:
    save(plain[1], tmp_path)
    path = tmp_path / "snapshot.parquet"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataUnfitError, match="missing or damaged"):
        load(tmp_path)
    path.unlink()
    with pytest.raises(DataUnfitError, match="missing or damaged"):
        load(tmp_path)


def test_a_full_disk_leaves_the_old_snapshot_and_no_scrap(
    plain: tuple[PullResult, Snapshot],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(plain[1], tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(DiskFullError, match=r"(?i)no space"):
        save(replace(plain[1], data_sha256="new"), tmp_path)
    assert load(tmp_path).data_sha256 == plain[1].data_sha256
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot.parquet"]


def test_a_damaged_snapshot_of_version_0_1_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "snapshot.json").write_text("{}")
    with pytest.raises(DataUnfitError, match=r"missing or damaged.*start a new run"):
        load(tmp_path)


def test_the_file_is_one_that_other_programs_read(plain: tuple[PullResult, Snapshot], tmp_path: Path) -> None:
    save(plain[1], tmp_path)
    path = tmp_path / "snapshot.parquet"
    found = duckdb.sql(f"SELECT symbol, outcome, count(*), avg(feature_rsi) FROM '{path}' GROUP BY ALL ORDER BY ALL")
    rows = found.fetchall()
    assert [row[:2] for row in rows] == [(symbol, word) for symbol in plain[1].symbols for word in ("LOSS", "WIN")]
    assert sum(row[2] for row in rows) == len(plain[1])
    first = pl.read_parquet(path).sort("id").row(0, named=True)
    assert first["decided_at"] == START + timedelta(minutes=5)
    assert first["side"] in ("BUY", "SELL")


def test_ties_in_time_are_ordered_by_id(tmp_path: Path) -> None:
    rows = [make_row(number, symbol="BTCUSDT", timestamp="2025-12-01 00:00:00") for number in (5, 3, 9, 1)]
    assert pulled(tmp_path, rows)[1].ids.tolist() == [1, 3, 5, 9]
