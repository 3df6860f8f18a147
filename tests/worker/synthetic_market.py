"""A small market for the worker tests: each outcome depends on a feature some rows earlier, with a chosen strength."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from retrain_worker.worker.data import snapshot as snapshots
from retrain_worker.worker.data.snapshot import PullFacts, Snapshot

NAMES = ("rsi", "ma_cross", "volatility", "returns_1h")
START = int(datetime(2025, 12, 1, tzinfo=UTC).timestamp() * 1e6)
HOUR = 3_600_000_000


def market(*, per_symbol: int = 800, strength: float = 2.0, lag: int = 5, seed: int = 1, **changes: Any) -> Snapshot:
    """Two symbols, a row every ten minutes; the outcome follows the sign of rsi `lag` rows ago, logit +-`strength`."""
    random = np.random.default_rng(seed)
    count = 2 * per_symbol
    codes = np.repeat(np.arange(2, dtype=np.int32), per_symbol)
    decided_at = START + np.tile(np.arange(per_symbol), 2) * (HOUR // 6) + codes * 1_000_000
    features = random.normal([50, 0, 0.1, 0], [15, 0.01, 0.03, 0.005], (count, 4)).astype(np.float32)
    sign = np.sign(np.roll(features[:, 0], lag) - 50)
    outcome = (random.random(count) < 1 / (1 + np.exp(-strength * sign - 0.3))).astype(np.int8)
    side = random.choice(np.array([1, -1], dtype=np.int8), count)
    values: dict[str, Any] = {
        "ids": np.arange(count, dtype=np.int64),
        "symbol_codes": codes,
        "symbols": ("BTCUSDT", "ETHUSDT"),
        "decided_at": decided_at.astype(np.int64),
        "known_at": (decided_at + HOUR).astype(np.int64),
        "features": features,
        "feature_names": NAMES,
        "outcome": outcome,
        "recorded_outcome": outcome,
        "side": side,
        "action": side,
        "confidence": random.uniform(0.55, 0.9, count).astype(np.float32),
        "pnl": np.where(outcome == 1, 1.0, -1.0),
        "target_label": np.zeros(count, dtype=np.float32),
        "price_move": np.zeros(count, dtype=np.float32),
        "data_sha256": f"test-{seed}-{strength}-{lag}-{per_symbol}",
        "facts": PullFacts(),
    }
    return Snapshot(**(values | changes))


def saved(run_dir: Path, **settings: Any) -> Snapshot:
    """The market as a run's snapshot."""
    run_dir.mkdir(parents=True, exist_ok=True)
    found = market(**settings)
    snapshots.save(found, run_dir)
    return found
