"""The columns of a row besides its outcome: prices, times, the ensemble's vote, features in natural units.

Only the features carry information about the outcome; the other columns make the rows realistic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain_worker.errors import UsageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rows = NDArray[Any]

SYMBOLS = ("ADAUSDT", "BNBUSDT", "BTCUSDT", "ETHUSDT", "SOLUSDT")
#: price in USDT, decimals of the price, decimals of the quantity
_LISTINGS = ((0.42, 5, 0), (880.0, 2, 3), (91_000.0, 2, 6), (3_000.0, 2, 5), (136.0, 3, 3))
NAMES = (
    "rsi",
    "ma_cross",
    "volatility",
    "returns_1h",
    "returns_4h",
    "volume_ratio",
    "bb_position",
    "range_pos_24h",
)
MODEL_VERSIONS = ("ensemble_v2.1", "ensemble_v2.2")

_NOTIONAL = 250.0
_FEE = 0.0004
#: below this absolute score the ensemble's action is HOLD
HOLD_SCORE = 0.06
_LONGEST_HOLD_SECONDS = 4 * 3600
_MICROSECONDS = 1_000_000

#: one row of a market; instants in microseconds since the epoch
ROW = np.dtype(
    [
        ("id", np.int64),
        ("symbol_code", np.int8),
        ("decided_at", np.int64),
        # hidden: regime, evidence for the good regime in this row's features, outcome of the trade
        ("is_good", bool),
        ("evidence", np.float64),
        ("is_win", bool),
        ("is_open", bool),
        ("is_contradiction", bool),
        ("score", np.float64),
        ("confidence", np.float64),
        ("is_lower_case", bool),
        ("model_version", np.int8),
        ("side", np.int8),
        ("entry_price", np.float64),
        ("quantity", np.float64),
        ("entry_at", np.int64),
        ("exit_price", np.float64),
        ("exit_at", np.int64),
        ("pnl", np.float64),
        ("net_percent", np.float64),
        ("created_at", np.int64),
        ("updated_at", np.int64),
    ]
)


def names_of(num_features: int) -> tuple[str, ...]:
    """The names of a row's features. Raises UsageError unless there are 4 or 8."""
    if num_features not in (4, 8):
        raise UsageError(f"rows have 4 features or 8, not {num_features}", where="market")
    return NAMES[:num_features]


def features_of(signals: Floats) -> Floats:
    """Standard normal signals (N, F) in realistic units and ranges. Each column is strictly monotone."""
    z = signals.T
    columns = [100 / (1 + np.exp(-0.6 * z[0])), 0.012 * z[1], 0.1 * np.exp(0.35 * z[2]), 0.006 * z[3]]
    if len(z) > len(columns):
        columns += [0.012 * z[4], np.exp(0.5 * z[5]), 1 / (1 + np.exp(-1.2 * z[6])), 1 / (1 + np.exp(-0.9 * z[7]))]
    return np.stack(columns, axis=1)


def instants(random: np.random.Generator, count: int, *, start: int, stop: int) -> Ints:
    """`count` irregular, strictly rising whole seconds in [start, stop), in microseconds since the epoch."""
    if count > stop - start:
        raise UsageError(
            f"{count} rows of one symbol do not fit into {stop - start} whole seconds",
            where="market",
            remedy="more days or fewer rows",
        )
    gaps = np.sort(random.random(count)) * (stop - start - count)
    return (start + gaps.astype(np.int64) + np.arange(count)) * _MICROSECONDS


def fill_trades(random: np.random.Generator, rows: Rows, *, seed: int) -> None:
    """Vote, entry, planned exit and profit of rows of one symbol with given code, time and outcome."""
    count = len(rows)
    score = np.clip(random.normal(0.0, 0.38, count), -1, 1).round(4)
    rows["score"] = score
    rows["confidence"] = np.clip(0.46 + 0.5 * np.abs(score) + random.normal(0, 0.05, count), 0.05, 0.99).round(4)
    rows["is_lower_case"] = random.random(count) < 0.005
    rows["side"] = np.where(score >= 0, 1, -1)
    rows["entry_at"] = rows["decided_at"] + random.integers(1, 31, count) * _MICROSECONDS
    hold_seconds = random.integers(60, _LONGEST_HOLD_SECONDS, count, endpoint=True)
    rows["exit_at"] = rows["entry_at"] + hold_seconds * _MICROSECONDS
    rows["created_at"] = rows["decided_at"] + random.integers(400_000, 3_000_000, count)
    _set_prices(random, rows, seed=seed)


def _set_prices(random: np.random.Generator, rows: Rows, *, seed: int) -> None:
    """Prices and profit. The smallest net return, 0.1 %, is well above the rounding of prices."""
    code = int(rows["symbol_code"][0]) if len(rows) else 0
    _price, price_decimals, quantity_decimals = _LISTINGS[code]
    entry = _prices(random, rows["entry_at"], code=code, seed=seed).round(price_decimals)
    quantity = (_NOTIONAL * random.uniform(0.9, 1.1, len(rows)) / entry).round(quantity_decimals)
    net = (0.001 + random.gamma(2.0, 0.003, len(rows))) * np.where(rows["is_win"], 1, -1)
    exit_price = (entry * (1 + rows["side"] * (net + 2 * _FEE))).round(price_decimals)
    pnl = quantity * (rows["side"] * (exit_price - entry) - _FEE * (entry + exit_price))
    rows["entry_price"], rows["exit_price"], rows["quantity"] = entry, exit_price, quantity
    rows["pnl"] = pnl.round(2)
    rows["net_percent"] = (100 * pnl / (quantity * entry)).round(6)


def _prices(random: np.random.Generator, at: Ints, *, code: int, seed: int) -> Floats:
    """A price that oscillates around the symbol's base price; a function of the time only."""
    phases = np.random.default_rng([seed, code]).uniform(0, 2 * np.pi, 3)
    days = at / (86_400 * _MICROSECONDS)
    waves = zip(phases, (17.0, 2.3, 0.21), (0.06, 0.02, 0.006), strict=True)
    drift = np.sum([size * np.sin(2 * np.pi * days / period + phase) for phase, period, size in waves], axis=0)
    return np.asarray(_LISTINGS[code][0] * np.exp(drift + random.normal(0, 0.0005, len(at))))
