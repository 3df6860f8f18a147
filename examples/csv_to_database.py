"""A CSV of trades as the SQLite table `ai_training_samples` (docs/tutorials/own-data.md). Standard library only.

    python examples/csv_to_database.py trades.csv trader.db

For another CSV, change the names in COLUMNS. Every column that is named neither there nor in IGNORED is a feature.
"""

import csv
import json
import math
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path

#: what is needed -> the name of its column in the CSV
COLUMNS = {
    "symbol": "symbol",
    "timestamp": "decided_at",
    "execution_side": "side",
    "entry_price": "entry_price",
    "exit_price": "exit_price",
    "exit_time": "exit_at",
    "realized_pnl": "pnl",
}

#: how the CSV writes the side of a trade, in lower case -> what the table takes; "": none was made
SIDES = {"buy": "BUY", "long": "BUY", "sell": "SELL", "short": "SELL", "": ""}

#: columns of the CSV that are no features, as an order id
IGNORED: tuple[str, ...] = ()

TABLE = """CREATE TABLE ai_training_samples (
    id INTEGER PRIMARY KEY, symbol TEXT NOT NULL, timestamp DATETIME NOT NULL, run_id TEXT, predicted_action TEXT,
    prediction_score REAL, prediction_confidence REAL, model_version TEXT, features TEXT NOT NULL, feature_names TEXT,
    executed BOOLEAN, execution_side TEXT, entry_price REAL, entry_quantity REAL, entry_time DATETIME,
    outcome_known BOOLEAN, exit_price REAL, exit_time DATETIME, realized_pnl REAL, hold_duration_seconds REAL,
    target_label REAL, target_class TEXT, created_at DATETIME, updated_at DATETIME)"""


def instant(text: str) -> datetime | None:
    """An ISO 8601 time as naive UTC; a time without an offset is UTC."""
    at = datetime.fromisoformat(text) if text else None
    return at.astimezone(UTC).replace(tzinfo=None) if at is not None and at.tzinfo else at


def number_in(text: str) -> float:
    """The number, NaN where the text is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def sample(number: int, line: dict[str, str]) -> dict[str, object]:
    """One row of the table. Raises ValueError, which names what is wrong."""
    if missing := set(COLUMNS.values()) - set(line):
        raise ValueError(f"no column {', '.join(sorted(missing))} among {', '.join(line)}: correct COLUMNS")
    cell = {name: line[column].strip() for name, column in COLUMNS.items()}
    features = {}
    for name, value in line.items():
        if name not in (*COLUMNS.values(), *IGNORED):
            features[name] = number_in(value)
            if not math.isfinite(features[name]):
                raise ValueError(
                    f'{name} is a feature, and "{value}" is no finite number; no feature: add it to IGNORED'
                )
    decided_at, exit_at = instant(cell["timestamp"]), instant(cell["exit_time"])
    pnl = float(cell["realized_pnl"]) if cell["realized_pnl"] else None
    if decided_at is None:
        raise ValueError(f"{COLUMNS['timestamp']} is empty: a row needs the time of its decision")
    side = SIDES.get(cell["execution_side"].lower())
    if side is None:
        raise ValueError(f'the side "{cell["execution_side"]}" is none of {", ".join(filter(None, SIDES))}: see SIDES')
    if (pnl is None) != (exit_at is None):
        raise ValueError("the profit and the exit time are there together or not at all")
    return {
        "id": number,
        "symbol": cell["symbol"],
        "timestamp": str(decided_at),
        "predicted_action": side or "HOLD",
        "features": json.dumps(list(features.values())),
        "feature_names": json.dumps(list(features)),
        "executed": True,
        "execution_side": side or None,
        "entry_price": float(cell["entry_price"]),
        "entry_time": str(decided_at),
        "outcome_known": pnl is not None,
        "exit_price": float(cell["exit_price"]) if cell["exit_price"] else None,
        "exit_time": str(exit_at) if exit_at else None,
        "realized_pnl": pnl,
        "hold_duration_seconds": (exit_at - decided_at).total_seconds() if exit_at else None,
        "target_class": None if pnl is None else "WIN" if pnl > 0 else "LOSS" if pnl < 0 else "NEUTRAL",
        "updated_at": str(exit_at) if exit_at else None,
    }


def main(csv_file: Path, database: Path) -> None:
    """Write the database, which must not exist."""
    if database.exists():
        sys.exit(f"{database} exists and is not changed")
    rows = []
    with csv_file.open(newline="") as text:
        for number, line in enumerate(csv.DictReader(text), start=1):
            try:
                rows.append(sample(number, line))
            except ValueError as error:
                sys.exit(f"{csv_file}, line {number + 1}: {error}")
    if not rows:
        sys.exit(f"{csv_file} has no rows")
    connection = sqlite3.connect(database)
    with connection:
        connection.execute(TABLE)
        names = ", ".join(rows[0])
        connection.executemany(
            f"INSERT INTO ai_training_samples ({names}) VALUES ({', '.join(f':{name}' for name in rows[0])})", rows
        )
    connection.close()
    print(f"{database}: {len(rows):,} rows, {sum(row['realized_pnl'] is not None for row in rows):,} closed")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
