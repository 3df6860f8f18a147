"""A small trading database for tests: the table with its 24 columns, and sound rows that a test may spoil."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import URL

from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.worker_protocol import PullRequest, PullResult
from retrain_worker.worker.data.instants import to_microseconds
from retrain_worker.worker.data.intake import Intake
from retrain_worker.worker.data.pull import pull
from retrain_worker.worker.data.snapshot import Snapshot, load
from retrain_worker.worker.data.source import read_pages

NAMES = ["rsi", "ma_cross", "volatility", "returns_1h"]
START = datetime(2025, 12, 1, tzinfo=UTC)
NOW = "2026-01-10T00:00:00+00:00"

#: without the NOT NULLs of the real table, so that any value can be put anywhere
COLUMNS = {
    "id": "INTEGER PRIMARY KEY",
    "symbol": "VARCHAR",
    "timestamp": "DATETIME",
    "run_id": "INTEGER",
    "predicted_action": "VARCHAR",
    "prediction_score": "FLOAT",
    "prediction_confidence": "FLOAT",
    "model_version": "VARCHAR",
    "features": "TEXT",
    "feature_names": "TEXT",
    "executed": "BOOLEAN",
    "execution_side": "VARCHAR",
    "entry_price": "FLOAT",
    "entry_quantity": "FLOAT",
    "entry_time": "DATETIME",
    "outcome_known": "BOOLEAN",
    "exit_price": "FLOAT",
    "exit_time": "DATETIME",
    "realized_pnl": "FLOAT",
    "hold_duration_seconds": "INTEGER",
    "target_label": "FLOAT",
    "target_class": "VARCHAR",
    "created_at": "DATETIME",
    "updated_at": "DATETIME",
}


def text_of(instant: datetime) -> str:
    """As SQLAlchemy writes it on SQLite."""
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"


def make_row(number: int, **changes: Any) -> dict[str, Any]:
    """Row `number` (its id): two symbols in turn, one row each ten minutes, WIN and LOSS by a fixed coin."""
    coin = Random(number)
    decided = START + timedelta(minutes=5 * number)
    won, side = coin.random() < 0.6, coin.choice(["BUY", "SELL"])
    pnl = coin.uniform(0.2, 3.0) * (1 if won else -1)
    move = pnl / 100 * (1 if side == "BUY" else -1)
    row = {
        "id": number,
        "symbol": ("BTCUSDT", "ETHUSDT")[number % 2],
        "timestamp": text_of(decided),
        "run_id": None,
        "predicted_action": side,
        "prediction_score": 0.3,
        "prediction_confidence": round(coin.uniform(0.5, 0.9), 4),
        "model_version": "ensemble_v2.1",
        "features": json.dumps([coin.gauss(50, 10), coin.gauss(0, 1), coin.random(), coin.gauss(0, 0.01)]),
        "feature_names": json.dumps(NAMES),
        "executed": 1,
        "execution_side": side,
        "entry_price": 100.0,
        "entry_quantity": 1.0,
        "entry_time": text_of(decided),
        "outcome_known": 1,
        "exit_price": 100.0 * (1 + move),
        "exit_time": text_of(decided + timedelta(hours=1)),
        "realized_pnl": pnl,
        "hold_duration_seconds": 3600,
        "target_label": pnl / 100,
        "target_class": "WIN" if won else "LOSS",
        "created_at": text_of(decided),
        "updated_at": text_of(decided + timedelta(hours=1)),
    }
    # a row that a test moves in time was inserted then
    return row | {"created_at": changes.get("timestamp", row["created_at"])} | changes


def open_row(number: int, **changes: Any) -> dict[str, Any]:
    """A row whose position is still open."""
    nothing = dict.fromkeys(
        ("exit_price", "exit_time", "realized_pnl", "hold_duration_seconds", "target_label", "target_class")
    )
    return make_row(number, **nothing, outcome_known=0, updated_at=None) | changes


def make_rows(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [make_row(number, **changes) for number in range(1, count + 1)]


def make_database(
    path: Path,
    rows: Iterable[dict[str, Any]] = (),
    *,
    columns: dict[str, str] = COLUMNS,
    tail: str = "",
    journal: str = "delete",
) -> Path:
    """A database with these rows."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.execute("PRAGMA synchronous=OFF")
        kinds = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        connection.execute(f"CREATE TABLE ai_training_samples ({kinds}) {tail}")
        insert(connection, rows)
    return path


def insert(connection: sqlite3.Connection, rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        marks = ", ".join("?" * len(row))
        connection.execute(
            f"INSERT OR REPLACE INTO ai_training_samples ({', '.join(row)}) VALUES ({marks})", tuple(row.values())
        )


def url_of(path: Path) -> str:
    return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def request_for(run_dir: Path, *, watermark: Path | None = None, now: str = NOW, **policy: Any) -> PullRequest:
    return PullRequest(
        run_id="20260110_000000",
        run_dir=str(run_dir),
        policy=DataPolicy(**policy),
        now=now,
        watermark_path=str(watermark) if watermark else None,
        busy_timeout_seconds=1.0,
    )


def pulled(
    folder: Path,
    rows: Iterable[dict[str, Any]],
    *,
    spoil: Callable[[dict[str, Any]], None] | None = None,
    **policy: Any,
) -> tuple[PullResult, Snapshot]:
    """Write the rows to a database, pull it, load the snapshot."""
    rows = list(rows)
    if spoil is not None:
        for row in rows:
            spoil(row)
    folder.mkdir(parents=True, exist_ok=True)
    database = make_database(folder / "trading.db", rows)
    result = pull(request_for(folder / "run", **policy), url_of(database), lambda _: None)
    return result, load(folder / "run")


def taken(folder: Path, rows: Iterable[dict[str, Any]], **policy: Any) -> Snapshot:
    """The snapshot of these rows in a database, nothing else written."""
    intake = Intake(DataPolicy(**policy), now=to_microseconds(datetime.fromisoformat(NOW)))
    for page in read_pages(url_of(make_database(folder / "trading.db", rows)), busy_timeout_seconds=1.0):
        intake.add(page)
    return intake.snapshot()
