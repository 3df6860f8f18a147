"""What a page measures on stored predictions agrees with the scorecards, and its bands with their intervals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import integrate
from sklearn import metrics

from retrain_worker.domain.labels import Thresholds
from retrain_worker.worker.report.measures import Scored


def scored(count: int = 1200, *, skill: float = 1.0, repeated: int = 1, seed: int = 1) -> Scored:
    """Rows of which `repeated` neighbours share outcome and probability."""
    random = np.random.default_rng(seed)
    truth = np.repeat(random.normal(0, 1.5, count // repeated), repeated)
    luck = np.repeat(random.random(count // repeated), repeated)
    labels = (luck < 1 / (1 + np.exp(-truth))).astype(np.int64)
    return Scored(
        labels=labels,
        probabilities=1 / (1 + np.exp(-skill * truth)),
        decided_at=np.arange(count, dtype=np.int64),
        symbols=pl.Series(random.choice(np.array(["A", "B"]), count)),
        pnl=np.where(labels == 1, 1.0, -1.0),
        thresholds=Thresholds(),
    )


def test_the_curves_are_those_of_scikit_learn() -> None:
    model = scored()
    false_rate, true_rate, _ = metrics.roc_curve(model.labels, model.probabilities, drop_intermediate=False)
    roc = model.roc()
    precision, recall, _ = metrics.precision_recall_curve(model.labels, model.probabilities)
    curve = model.precision_recall()

    assert roc.y == pytest.approx(np.interp(roc.x, false_rate, true_rate), abs=0.01)
    assert curve.y == pytest.approx(np.interp(curve.x, recall[::-1], precision[::-1]), abs=0.02)
    assert np.all((roc.low <= roc.y) & (roc.y <= roc.high))


def test_a_band_is_as_wide_as_the_interval_of_the_auc() -> None:
    model = scored(repeated=40)
    roc = model.roc()
    area = model.auc
    assert area is not None
    assert area.low is not None
    assert area.high is not None
    band = float(integrate.trapezoid(roc.high - roc.low, roc.x))

    assert band > 0.7 * (area.high - area.low)
    assert band > 2.0 * float(
        integrate.trapezoid(np.subtract(*[getattr(scored().roc(), end) for end in ("high", "low")]), roc.x)
    )


def test_deciles_hold_every_row_and_rise_with_skill() -> None:
    parts = scored().deciles()

    assert len(parts) == 10
    assert sum(part.n for part in parts) == 1200
    assert parts[-1].hit_rate.value > parts[0].hit_rate.value + 0.4
    assert parts[0].pnl is not None
    assert parts[0].pnl.value < 0
    constant = replace(scored(), probabilities=np.full(1200, 0.5)).deciles()
    assert [part.n for part in constant] == [1200]
    assert replace(scored(), pnl=np.full(1200, np.nan)).deciles()[0].pnl is None


def test_the_confusion_counts_every_row_at_the_thresholds() -> None:
    model = scored()
    found = {action: (ones, zeros) for action, ones, zeros in model.confusion()}
    is_buy = model.probabilities > 0.6

    assert found["BUY"] == (int(model.labels[is_buy].sum()), int((model.labels[is_buy] == 0).sum()))
    assert sum(ones + zeros for ones, zeros in found.values()) == 1200


def test_the_weakest_symbol_comes_first() -> None:
    found = scored().by_symbol()

    assert {each.name for each in found} == {"A", "B"}
    assert found[0].auc.value <= found[1].auc.value
    assert sum(each.n for each in found) == 1200
