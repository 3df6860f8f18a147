"""What no linear function of a window can see, the engine's network learns: the sign of a correlation."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from retrain_worker.demo.regime import Regime, area_under_curve
from retrain_worker.domain.recipe import Recipe
from retrain_worker.model import presets
from retrain_worker.worker.data.samples import Samples, windows
from retrain_worker.worker.training import loop

LAW = Regime(nonlinear=True, correlation=0.9)
SYMBOLS, ROWS, LENGTH = 5, 1_200, 128


def test_the_engines_network_comes_near_the_best_where_a_linear_model_stays_blind() -> None:
    random = np.random.default_rng(5)
    features, positions, labels, best = [], [], [], []
    for symbol in range(SYMBOLS):
        before = LAW.states(random, LAW.lag)
        states = LAW.states(random, ROWS, after=bool(before[-1]))
        decides = np.concatenate([before, states])[:ROWS].astype(np.float64)
        signals = LAW.signals(random, states, 4)
        full = np.arange(LENGTH - 1, ROWS)
        features.append(signals.astype(np.float32))
        positions.append(full + symbol * ROWS)
        labels.append((random.random(ROWS) < LAW.win_probability(decides))[full])
        best.append(LAW.posterior(LAW.evidence(signals), window=LENGTH)[full])
    rows = np.concatenate(features)
    # in time order: the symbols side by side
    by_time = np.arange(SYMBOLS * len(positions[0])).reshape(SYMBOLS, -1).T.ravel()
    ends: np.ndarray = np.concatenate(positions)[by_time]
    is_win: np.ndarray = np.concatenate(labels)[by_time]
    bayes: np.ndarray = np.concatenate(best)[by_time]
    seam = int(0.8 * len(ends))
    samples = Samples(
        positions=ends,
        labels=is_win.astype(np.int8),
        decided_at=np.arange(len(ends)),
        known_at=np.arange(len(ends)),
        symbol_codes=np.zeros(len(ends), dtype=np.int32),
    )
    training_set = loop.TrainingSet(
        features=rows,
        fitting_rows=rows,
        train=samples.where(np.arange(seam - LENGTH * SYMBOLS)),
        validation=samples.where(np.arange(seam, len(ends))),
    )

    torch.set_flush_denormal(True)
    fitted = loop.fit(
        loop.FitAttempt(config=presets.engine(num_features=4, dropout=0.2), seed=1, learning_rate=1e-3),
        training_set,
        Recipe(max_epochs=14, patience=14, batch_size=64, threads=1, device="cpu"),
        device=torch.device("cpu"),
        saved=None,
        after_epoch=lambda _epoch, _state: None,
        stopping=lambda: False,
    )
    flat = [
        windows(rows, part.positions, LENGTH).reshape(len(part), -1)
        for part in (training_set.train, training_set.validation)
    ]
    scaler = StandardScaler().fit(flat[0])
    linear = LogisticRegression(C=0.01, max_iter=200).fit(scaler.transform(flat[0]), training_set.train.labels)

    won = training_set.validation.labels == 1
    possible = area_under_curve(bayes[seam:], won)
    assert possible > 0.75
    assert fitted.best.auc > possible - 0.05
    assert abs(area_under_curve(linear.predict_proba(scaler.transform(flat[1]))[:, 1], won) - 0.5) < 0.06
