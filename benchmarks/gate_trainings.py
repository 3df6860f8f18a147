"""Real trainings: the worker's training and gate measurement on a simulated market."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from retrain_worker.demo.market import write_market
from retrain_worker.demo.regime import Regime
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.gates import Evidence, GatePolicy
from retrain_worker.domain.recipe import Recipe
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.worker_protocol import GateRequest, PullRequest, TrainRequest

TITLES = {"a": "(a) Nothing to learn", "h": "(h) Good, against a stale incumbent"}
END = datetime(2025, 12, 30, 21, tzinfo=UTC)
GOOD = Regime()
CONFIGURATION = Recipe(threads=1, device="cpu")


def train(kind_and_seed: tuple[str, int]) -> Evidence:
    """The evidence of one market: pulled, trained with its backtest folds, measured beside the incumbent."""
    from retrain_worker.worker.gate_measurement import measure

    kind, seed = kind_and_seed
    with tempfile.TemporaryDirectory(prefix="gate-trainings-") as name:
        folder = Path(name)
        incumbent = None
        if kind == "h":
            incumbent = _trained(folder / "old", Regime(turn_degrees=70.0), seed=1000 + seed, rows=2500, folds=0)
        regime = GOOD if kind == "h" else replace(GOOD, edge=0.0)
        candidate = _trained(folder / "new", regime, seed=seed, rows=6000, folds=SplitPolicy().backtest_folds)
        return measure(
            GateRequest(
                run_id="20251230_210000",
                run_dir=str(folder / "new"),
                candidate_path=candidate,
                incumbent_path=incumbent,
                data=DataPolicy(),
                split=SplitPolicy(),
                recipe=CONFIGURATION,
                policy=GatePolicy(),
            ),
            lambda _: None,
        ).evidence


def _trained(folder: Path, regime: Regime, *, seed: int, rows: int, folds: int) -> str:
    from retrain_worker.worker.data.pull import pull
    from retrain_worker.worker.training.train import train as train_stage

    folder.mkdir()
    write_market(folder / "market.db", seed=seed, end=END, rows=rows, days=rows / 200, regime=regime)
    pull(
        PullRequest(
            run_id="20251230_210000", run_dir=str(folder), policy=DataPolicy(), watermark_path=None, now=END.isoformat()
        ),
        f"sqlite:///{folder}/market.db",
        lambda _: None,
    )
    return train_stage(
        TrainRequest(
            run_id="20251230_210000",
            run_dir=str(folder),
            version="patchtst_v20251230_210000",
            data=DataPolicy(),
            split=SplitPolicy(backtest_folds=folds),
            recipe=CONFIGURATION,
            checkpoint_dir=str(folder / "checkpoints"),
            incumbent_path=None,
        ),
        lambda _: None,
        lambda: False,
    ).model_path
