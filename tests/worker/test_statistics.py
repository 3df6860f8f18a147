"""Ranks, quantiles and distances are those of scipy.stats, which the workers do not import."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from retrain_worker.worker import statistics

#: takes longer to import than all that GATE computes
SLOW = {"scipy.stats", "sklearn", "sympy", "torch._dynamo"}
WORK = """
import sys
import torch
from retrain_worker.domain.recipe import InputTransform
from retrain_worker.model import patchtst, presets
from retrain_worker.worker import gate_measurement
from retrain_worker.worker.data import audit
from retrain_worker.worker.training import adamw, train
patchtst.shapes(presets.engine(num_features=4))
weight = torch.nn.Parameter(torch.ones(3))
weight.sum().backward()
adamw.AdamW([weight], weight_decay=0.1).step(0.1)
print(*sys.modules)
"""


@pytest.mark.parametrize("values", [np.array([3, 1, 3, 3, 0]), np.random.default_rng(1).normal(size=50)])
def test_ranks(values: np.ndarray) -> None:
    assert statistics.ranks_of(values).tolist() == stats.rankdata(values).tolist()


@pytest.mark.parametrize("alpha", [1e-7, 0.001, 0.5, 0.9])
def test_student_t(alpha: float) -> None:
    assert statistics.student_t(alpha, 15) == float(stats.t.isf(alpha, 15))


def test_area_and_distance() -> None:
    random = np.random.default_rng(2)
    scores, is_win = random.integers(0, 9, 300), random.random(300) < 0.4
    expected = stats.ks_2samp(scores[is_win], scores[~is_win] + 1, method="asymp")

    assert statistics.area_under_roc(is_win, scores) == pytest.approx(metrics.roc_auc_score(is_win, scores))
    apart, level = statistics.distance(scores[is_win], scores[~is_win] + 1)
    assert apart == pytest.approx(expected.statistic)
    assert level == expected.statistic_location


def test_stages_import_nothing_that_takes_longer_than_their_work() -> None:
    ran = subprocess.run([sys.executable, "-c", WORK], check=True, capture_output=True, text=True)

    assert SLOW.isdisjoint(ran.stdout.split())
