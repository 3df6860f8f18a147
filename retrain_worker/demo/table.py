"""Rows of a market as the stack's services write them into `ai_training_samples`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain_worker.demo.regime import Floats
from retrain_worker.demo.schema import SAMPLE_COLUMNS, TRAINING_SAMPLES
from retrain_worker.demo.trades import HOLD_SCORE, MODEL_VERSIONS, SYMBOLS, Rows, features_of, names_of

#: rows converted to Python values at a time, so that memory does not grow with the market
_CHUNK_ROWS = 50_000
#: set when the outcome becomes known
_OUTCOME = (
    "outcome_known",
    "exit_price",
    "exit_time",
    "realized_pnl",
    "hold_duration_seconds",
    "target_label",
    "target_class",
    "updated_at",
)


def insert_rows(database: sqlite3.Connection, rows: Rows, signals: Floats, *, as_objects: bool) -> None:
    """Insert rows, by id; open trades without their outcome."""
    places = ", ".join("?" * len(SAMPLE_COLUMNS))
    by_id = np.argsort(rows["id"])
    for chunk in _chunks(by_id):
        columns = _decisions(rows[chunk]) | _outcomes(rows[chunk])
        columns["feature_names"] = [json.dumps(names_of(signals.shape[1]))] * len(chunk)
        columns["features"] = _feature_cells(features_of(signals[chunk]), as_objects=as_objects)
        values = zip(*(columns[name] for name in SAMPLE_COLUMNS), strict=True)
        database.executemany(f"INSERT INTO {TRAINING_SAMPLES} VALUES ({places})", values)  # noqa: S608 (our own names)


def complete_rows(database: sqlite3.Connection, rows: Rows) -> None:
    """Complete the outcome of existing rows."""
    settings = ", ".join(f"{name} = ?" for name in _OUTCOME)
    columns = _outcomes(rows)
    values = zip(*(columns[name] for name in _OUTCOME), rows["id"].tolist(), strict=True)
    database.executemany(f"UPDATE {TRAINING_SAMPLES} SET {settings} WHERE id = ?", values)  # noqa: S608 (our own names)


def _chunks(indices: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(indices), _CHUNK_ROWS):
        yield indices[first : first + _CHUNK_ROWS]


def _decisions(rows: Rows) -> dict[str, Sequence[Any]]:
    """Columns that are set at insertion."""
    is_hold = np.abs(rows["score"]) <= HOLD_SCORE
    actions = np.where(is_hold, "HOLD", np.where(rows["side"] > 0, "BUY", "SELL"))
    written = np.where(rows["is_lower_case"], np.char.lower(actions), actions)
    return {
        "id": rows["id"].tolist(),
        "symbol": np.array(SYMBOLS)[rows["symbol_code"]].tolist(),
        "timestamp": _texts(rows["decided_at"]),
        "run_id": [None] * len(rows),
        "predicted_action": written.tolist(),
        "prediction_score": rows["score"].tolist(),
        "prediction_confidence": rows["confidence"].tolist(),
        "model_version": np.array(MODEL_VERSIONS)[rows["model_version"]].tolist(),
        "executed": (~is_hold).astype(int).tolist(),
        # a trade that was not executed is a paper trade: it has prices and an outcome, but no side
        "execution_side": _blanked(actions.tolist(), is_hold),
        "entry_price": rows["entry_price"].tolist(),
        "entry_quantity": rows["quantity"].tolist(),
        "entry_time": _texts(rows["entry_at"]),
        "created_at": _texts(rows["created_at"]),
    }


def _outcomes(rows: Rows) -> dict[str, Sequence[Any]]:
    """Columns that are NULL while the trade is open (`outcome_known` is 0 then)."""
    is_open = rows["is_open"]
    is_labelled_win = rows["is_win"] | rows["is_contradiction"]
    hold_seconds = (rows["exit_at"] - rows["entry_at"]) // 1_000_000
    known = {
        "exit_price": rows["exit_price"].tolist(),
        "exit_time": _texts(rows["exit_at"]),
        "realized_pnl": rows["pnl"].tolist(),
        "hold_duration_seconds": hold_seconds.tolist(),
        "target_label": rows["net_percent"].tolist(),
        "target_class": np.where(is_labelled_win, "WIN", "LOSS").tolist(),
        "updated_at": _texts(rows["updated_at"]),
    }
    hidden: dict[str, Sequence[Any]] = {name: _blanked(values, is_open) for name, values in known.items()}
    return hidden | {"outcome_known": (~is_open).astype(int).tolist()}


def _blanked(values: Sequence[Any], is_blank: NDArray[np.bool_]) -> list[Any]:
    return [None if blank else value for value, blank in zip(values, is_blank.tolist(), strict=True)]


def _feature_cells(features: Floats, *, as_objects: bool) -> list[str]:
    values = features.tolist()
    if as_objects:
        names = names_of(features.shape[1])
        return [json.dumps(dict(zip(names, row, strict=True))) for row in values]
    return [str(row) for row in values]


def _texts(microseconds: NDArray[np.int64]) -> list[str]:
    """Times as SQLAlchemy writes them into SQLite: `2025-12-09 03:14:40.000000`, UTC."""
    written = np.datetime_as_string(microseconds.astype("datetime64[us]"), unit="us")
    # one blank for the T in the eleventh place of each, without a Python loop
    written.view(np.uint32).reshape(len(written), -1)[:, 10] = ord(" ")
    return list(written.tolist())
