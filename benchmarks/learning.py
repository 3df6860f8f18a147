"""Holdout quality relative to the Bayes-optimal classifier: `python benchmarks/learning.py` (--help for parts of it).

Markets come from the demo's generator, so the Bayes-optimal AUC on the same rows is known (the exact posterior of the
hidden regime). Every learner uses the same training part (time split, purge, embargo) and is evaluated on the same
holdout. Beside the two presets: logistic regression and gradient boosting on the last row and on the flat window, and
the seed's configuration (one row tiled 128 times, shuffled split, 20 epochs of Adam at 3e-4; on the newest 4,000
training rows, first seed only). The engine's min-max transform hides the level of a window; the table has the
Bayes-optimal AUC without it for a regime that shifts levels. Mean over the seeds, then lowest and highest.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np

from retrain_worker import settings
from retrain_worker.demo.market import Market, write_market
from retrain_worker.demo.regime import Regime, area_under_curve

if TYPE_CHECKING:
    from retrain_worker.worker.data.samples import Parts, Samples
    from retrain_worker.worker.data.snapshot import Snapshot

END = datetime(2026, 1, 10, tzinfo=UTC)
RUN_ID = "20260110_000000"
WINDOW = 64
ENGINE_WINDOW = 128
SEED_ROWS, SEED_EPOCHS, SEED_RATE, SEED_BATCH = 4_000, 20, 3e-4, 32

#: rows, days, regime; `planted` has a lag of 16 rows; in `nonlinear` only the sign of correlations changes, and in
#: `current` too, where the label depends on the regime of the same row
MARKETS = {
    "demo": (6_000, 30.0, Regime()),
    "planted": (
        20_000,
        100.0,
        Regime(turns_good=0.0625, turns_bad=0.0416667, win_good=0.87, win_bad=0.17, lag=16, strength=0.45),
    ),
    "nonlinear": (20_000, 100.0, Regime(nonlinear=True, correlation=0.8)),
    "current": (
        20_000,
        100.0,
        Regime(
            turns_good=0.0625,
            turns_bad=0.0416667,
            win_good=0.82,
            win_bad=0.2,
            lag=0,
            nonlinear=True,
            correlation=0.8,
        ),
    ),
}
LEARNERS = ("paper", "engine", "lr row", "lr window", "boosting row", "boosting window", "seed's configuration")
#: largest permitted distance of a preset from the Bayes-optimal AUC
GOALS = {
    ("demo", "paper"): 0.012,
    ("demo", "engine"): 0.034,
    ("planted", "paper"): 0.005,
    ("planted", "engine"): 0.022,
    ("nonlinear", "engine"): 0.05,
    ("current", "paper"): 0.01,
}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One learner on one holdout."""

    auc: float
    best: float
    log_loss: float
    ece: float
    #: exceeded by a perfectly calibrated model on one of twenty such holdouts
    ece_limit: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--markets", nargs="+", choices=list(MARKETS), default=list(MARKETS))
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the trainings")
    asked = parser.parse_args()
    given = dict(pair.split("=", 1) for pair in asked.set)
    settings.load(given)  # reports invalid settings before anything is trained
    with tempfile.TemporaryDirectory(prefix="learning") as folder, ProcessPoolExecutor(asked.workers) as pool:
        tasks = [
            (market, seed, learner, Path(folder), given)
            for market in asked.markets
            for learner in asked.learners
            for seed in range(1, asked.seeds + 1)
            if learner != "seed's configuration" or seed == 1
        ]
        list(
            pool.map(
                prepared,
                [(market, seed, Path(folder)) for market in asked.markets for seed in range(1, asked.seeds + 1)],
            )
        )
        found = dict(zip([task[:3] for task in tasks], pool.map(judged, tasks), strict=True))
        with_engine = asked.markets if "engine" in asked.learners else []
        ceilings = dict(zip(with_engine, pool.map(without_level, with_engine), strict=True))
    print(
        "| market | learner | holdout AUC | Bayes-optimal | short of the Bayes-optimal | goal | log loss | ECE | "
        "ECE of a perfect model, p95 | seconds |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for market in asked.markets:
        for learner in asked.learners:
            print(line(market, learner, [found[key] for key in found if (key[0], key[2]) == (market, learner)]))
        if ceilings.get(market):
            with_level, hidden = ceilings[market]
            print(
                f"| {market} | Bayes-optimal without the level (min-max) | {hidden:.3f} | {with_level:.3f} | "
                f"{with_level - hidden:.3f} | | | | | |"
            )


def line(market: str, learner: str, found: list[Judged]) -> str:
    aucs = [each.auc for each in found]
    distances = [each.best - each.auc for each in found]
    short = mean(distances)
    goal = GOALS.get((market, learner))
    verdict = "" if goal is None else f"{goal:g} {'reached' if short <= goal else 'MISSED'}"
    return (
        f"| {market} | {learner} | {mean(aucs):.3f} ({min(aucs):.3f}..{max(aucs):.3f}) | "
        f"{mean(each.best for each in found):.3f} | {short:.3f} "
        f"({min(distances):.3f}..{max(distances):.3f}) | {verdict} | "
        f"{mean(each.log_loss for each in found):.3f} | {mean(each.ece for each in found):.3f} | "
        f"{mean(each.ece_limit for each in found):.3f} | {mean(each.seconds for each in found):.0f} |"
    )


# ---------------------------------------------------------------- in a process of the pool


def market_of(name: str, seed: int, folder: Path) -> Market:
    rows, days, regime = MARKETS[name]
    path = folder / f"{name}-{seed}-{os.getpid()}-{time.monotonic_ns()}.db"
    market = write_market(path, seed=seed, end=END, rows=rows, days=days, regime=regime, contradictions=0)
    return dataclasses.replace(market, path=path)


def prepared(task: tuple[str, int, Path]) -> None:
    """The snapshot of a market, as the stage PULL writes it."""
    from retrain_worker.domain.data_policy import DataPolicy
    from retrain_worker.domain.worker_protocol import PullRequest
    from retrain_worker.worker.data.pull import pull

    name, seed, folder = task
    market = market_of(name, seed, folder)
    run_dir = folder / f"{name}-{seed}"
    run_dir.mkdir()
    policy = DataPolicy(train_window_days=0)
    pull(
        PullRequest(run_id=RUN_ID, run_dir=str(run_dir), policy=policy, watermark_path=None, now=END.isoformat()),
        f"sqlite:///{market.path}",
        lambda _progress: None,
    )
    for window in (WINDOW, ENGINE_WINDOW):
        np.save(run_dir / f"oracle-{window}.npy", market.oracle(window=window))
    market.path.unlink()


def judged(task: tuple[str, int, str, Path, dict[str, str]]) -> Judged:
    """Train one learner on one market and evaluate it on the holdout."""
    from retrain_worker.domain.data_policy import DataPolicy
    from retrain_worker.domain.gates import GatePolicy
    from retrain_worker.domain.split_policy import SplitPolicy
    from retrain_worker.worker import compute, scoring
    from retrain_worker.worker.data.samples import select_samples, split_samples
    from retrain_worker.worker.data.snapshot import load

    name, seed, learner, folder, given = task
    run_dir = folder / f"{name}-{seed}"
    compute.prepare(device="cpu", threads=1)
    snapshot = load(run_dir)
    window = ENGINE_WINDOW if learner == "engine" else WINDOW
    samples = select_samples(snapshot, policy=DataPolicy(), seq_len=window)
    parts = split_samples(samples, SplitPolicy())
    started = time.perf_counter()
    if learner in ("paper", "engine"):
        answers = ours(run_dir, learner, seed, given, snapshot, parts.holdout)
    elif learner == "seed's configuration":
        answers = seeds_way(snapshot, parts)
    else:
        answers = by_sklearn(learner, snapshot, parts)
    seconds = time.perf_counter() - started
    rows = scoring.rows_of(snapshot, parts.holdout)
    card = scoring.scorecard(answers, rows, prior=float(parts.train.labels.mean()), policy=GatePolicy())
    oracle = np.load(run_dir / f"oracle-{window}.npy")
    places = np.searchsorted(oracle["id"], snapshot.ids[parts.holdout.positions])
    best = area_under_curve(oracle["probability"][places], rows.labels == 1)
    assert card.log_loss is not None
    assert card.ece is not None
    assert card.ece_limit is not None
    return Judged(
        auc=area_under_curve(answers, rows.labels == 1),
        best=best,
        log_loss=card.log_loss,
        ece=card.ece,
        ece_limit=card.ece_limit,
        seconds=seconds,
    )


def ours(
    run_dir: Path, preset: str, seed: int, given: dict[str, str], snapshot: Snapshot, holdout: Samples
) -> np.ndarray:
    """The stage TRAIN with default settings except preset, seed and `--set`."""
    from retrain_worker.domain.worker_protocol import TrainRequest
    from retrain_worker.model import bundle
    from retrain_worker.worker import inference
    from retrain_worker.worker.training.train import train

    asked = settings.load({"SEED": str(seed), "DEVICE": "cpu", "GATE_BACKTEST_FOLDS": "0", **given, "PRESET": preset})
    version = f"patchtst_v{RUN_ID}"
    own_dir = run_dir / preset
    own_dir.mkdir()
    (own_dir / "snapshot.parquet").symlink_to(run_dir / "snapshot.parquet")
    result = train(
        TrainRequest(
            run_id=RUN_ID,
            run_dir=str(own_dir),
            version=version,
            data=asked.data,
            split=asked.split,
            recipe=asked.recipe,
            checkpoint_dir=str(own_dir / "checkpoints"),
            incumbent_path=None,
        ),
        lambda progress: print(f"{run_dir.name} {preset}: {progress.message}", file=sys.stderr),
        lambda: False,
    )
    return inference.answers_of(bundle.read(Path(result.model_path)), snapshot, holdout)


def by_sklearn(learner: str, snapshot: Snapshot, parts: Parts) -> np.ndarray:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from retrain_worker.worker.data.samples import windows

    length = 1 if learner.endswith("row") else WINDOW
    train, holdout = (
        windows(snapshot.features, part.positions, length).reshape(len(part), -1)
        for part in (parts.train, parts.holdout)
    )
    if learner.startswith("lr"):
        # ridge C for a window of noise; irrelevant for one row
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    else:
        model = HistGradientBoostingClassifier(max_iter=300, learning_rate=0.05, max_leaf_nodes=15, random_state=1)
    with contextlib.redirect_stderr(None):
        model.fit(train, parts.train.labels)
    return np.asarray(model.predict_proba(holdout)[:, 1], np.float64)


def seeds_way(snapshot: Snapshot, parts: Parts) -> np.ndarray:
    """One row tiled to a window, balanced, shuffled, split by position, the best epoch by that split."""
    import torch
    from torch.nn import functional

    from retrain_worker.model import patchtst, presets
    from retrain_worker.worker.data.samples import balanced

    newest = parts.train.where(np.arange(max(0, len(parts.train) - SEED_ROWS), len(parts.train)))
    samples = balanced(newest, seed=1)
    order = np.random.default_rng(1).permutation(len(samples))
    last = int(0.8 * len(order))

    def tiled(positions: np.ndarray) -> torch.Tensor:
        rows = torch.from_numpy(np.array(snapshot.features[positions]))
        return rows.repeat(1, 2)[:, None, :].expand(-1, ENGINE_WINDOW, -1)

    torch.manual_seed(1)
    network = patchtst.PatchTST(presets.engine(num_features=len(snapshot.feature_names), dropout=0.1))
    optimiser = torch.optim.Adam(network.parameters(), lr=SEED_RATE)
    best_loss, best_state = np.inf, network.state_dict()
    for _epoch in range(SEED_EPOCHS):
        network.train()
        shuffled = np.random.default_rng(_epoch).permutation(order[:last])
        for start in range(0, last, SEED_BATCH):
            chosen = shuffled[start : start + SEED_BATCH]
            labels = torch.from_numpy(samples.labels[chosen].astype(np.float32))
            logits = network.network(tiled(samples.positions[chosen]))
            loss = functional.binary_cross_entropy_with_logits(logits, labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        network.eval()
        with torch.no_grad():
            labels = torch.from_numpy(samples.labels[order[last:]].astype(np.float32))
            logits = network.network(tiled(samples.positions[order[last:]]))
            validation_loss = float(functional.binary_cross_entropy_with_logits(logits, labels))
        if validation_loss < best_loss:
            best_loss, best_state = (
                validation_loss,
                {name: value.clone() for name, value in network.state_dict().items()},
            )
    network.load_state_dict(best_state)
    with torch.no_grad():
        return patchtst.sigmoid(network.network(tiled(parts.holdout.positions)).double().numpy())


def without_level(market: str) -> tuple[float, float] | None:
    """(best AUC, best AUC when the level of every feature in a window is unknown), on 40,000 fresh rows.

    Only for a regime that shifts levels; where it changes correlations, a level has no information. The scale is
    assumed known: it can be estimated from the standard deviation of a window.
    """
    regime = MARKETS[market][2]
    if regime.nonlinear:
        return None
    random = np.random.default_rng(3)
    count, before = 40_000, regime.states(random, regime.lag)
    states = regime.states(random, count, after=bool(before[-1]))
    is_good = np.concatenate([before, states])[:count]
    signals = regime.signals(random, states, 4)
    is_win = (random.random(count) < regime.win_probability(is_good.astype(float)))[ENGINE_WINDOW - 1 :]
    evidence = regime.evidence(signals)
    known = regime.posterior(evidence, window=ENGINE_WINDOW)[ENGINE_WINDOW - 1 :]
    # evidence is 2 * strength * (the row along the regime's direction): unit noise around +-strength
    along = np.lib.stride_tricks.sliding_window_view(evidence / (2 * regime.strength), ENGINE_WINDOW)
    hidden = np.concatenate([level_unknown(regime, part) for part in np.array_split(along, 10)])
    return area_under_curve(known, is_win), area_under_curve(hidden, is_win)


def level_unknown(regime: Regime, along: np.ndarray) -> np.ndarray:
    """P(WIN) (B,) of windows (B, T) plus an unknown constant, averaged over constants by likelihood."""
    centred = along - along.mean(axis=1, keepdims=True)
    logs, answers = zip(
        *(forward_backward(regime, centred + level) for level in np.linspace(-0.7, 0.7, 29)), strict=True
    )
    weights = np.exp(np.array(logs) - np.max(logs, axis=0))
    return regime.win_probability((weights * np.array(answers)).sum(axis=0) / weights.sum(axis=0))


def forward_backward(regime: Regime, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log likelihood (B,) of windows, and P(good times `lag` rows before the last one) (B,)."""
    in_good, in_bad = (np.exp(-0.5 * (rows - level) ** 2) for level in (regime.strength, -regime.strength))
    count, length = rows.shape
    good, log_likelihood, kept = np.full(count, regime.good_share), np.zeros(count), np.zeros(count)
    for place in range(length):
        if place:
            good = good * (1 - regime.turns_bad) + (1 - good) * regime.turns_good
        total = good * in_good[:, place] + (1 - good) * in_bad[:, place]
        good = good * in_good[:, place] / total
        log_likelihood += np.log(total)
        if place == length - 1 - regime.lag:
            kept = good
    after_good, after_bad = np.ones(count), np.ones(count)
    for place in range(length - 1, length - 1 - regime.lag, -1):
        seen_good, seen_bad = after_good * in_good[:, place], after_bad * in_bad[:, place]
        after_good = (1 - regime.turns_bad) * seen_good + regime.turns_bad * seen_bad
        after_bad = regime.turns_good * seen_good + (1 - regime.turns_good) * seen_bad
        scale = after_good + after_bad
        after_good, after_bad = after_good / scale, after_bad / scale
    weight = kept * after_good
    return log_likelihood, weight / (weight + (1 - kept) * after_bad)


if __name__ == "__main__":
    main()
