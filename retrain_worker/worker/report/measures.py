"""What the charts and tables of a page show beyond the facts of its run, measured on the stored predictions.

Intervals are at 95 % and allow for outcomes that are correlated in time (worker/statistics.py). A curve's band is that
of a bootstrap over as many blocks in time as the AUC has, widened as far as the standard error of the AUC exceeds that
of the draws: blocks may be correlated as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from scipy import integrate

from retrain_worker.domain.labels import Thresholds
from retrain_worker.worker import statistics
from retrain_worker.worker.predictions_file import HOLDOUT, Predictions
from retrain_worker.worker.statistics import Estimate, Floats, Ints, LabelledPredictions

#: one-sided error probability of each end of a 95 % interval
TAIL = 0.025
NUM_DECILES = 10

_DRAWS = 200
_SEED = 20260110
_GRID = 101
#: smallest number of rows of a symbol whose AUC is shown
_MIN_ROWS = 20


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate; no ends: there are too few blocks for them."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Named:
    """The AUC of a part of the rows."""

    name: str
    n: int
    auc: Interval


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A curve (G,) with its 95 % band."""

    x: Floats
    y: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, kw_only=True)
class Decile:
    """The rows whose probability is between two deciles."""

    n: int
    probability: float
    hit_rate: Interval
    #: mean realized_pnl of a row; None: no row has one
    pnl: Interval | None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A model's probabilities on rows with outcomes, in time order; arrays are (N,)."""

    labels: Ints
    probabilities: Floats
    #: microseconds
    decided_at: Ints
    symbols: pl.Series
    pnl: Floats
    thresholds: Thresholds

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def auc(self) -> Interval | None:
        """With DeLong's interval; None with too few rows of a class."""
        return _interval(self._area) if self._area else None

    @cached_property
    def _area(self) -> Estimate | None:
        return statistics.auc(LabelledPredictions(labels=self.labels, probabilities=self.probabilities))

    @property
    def num_blocks(self) -> int:
        """The blocks in time that intervals and bands are based on."""
        return self._area.num_blocks if self._area else statistics.MIN_BLOCKS

    @property
    def log_loss(self) -> Interval:
        """Mean log loss in nats."""
        return _interval(statistics.mean(statistics.log_losses(self.labels, self.probabilities)))

    @property
    def hits(self) -> Floats:
        """1 where the more probable class is the outcome."""
        found: Floats = ((self.probabilities > 0.5) == (self.labels == 1)).astype(np.float64)
        return found

    @property
    def accuracy(self) -> Interval:
        """The share of hits."""
        return _interval(statistics.mean(self.hits))

    @property
    def brier(self) -> float:
        """Mean squared error of the probability."""
        return float(np.mean((self.probabilities - self.labels) ** 2))

    def where(self, is_kept: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Scored:
        """The rows under a mask (N,)."""
        return Scored(
            labels=self.labels[is_kept],
            probabilities=self.probabilities[is_kept],
            decided_at=self.decided_at[is_kept],
            symbols=self.symbols.filter(pl.Series(is_kept)),
            pnl=self.pnl[is_kept],
            thresholds=self.thresholds,
        )

    # ---------------------------------------------------------------- parts

    def by_symbol(self) -> list[Named]:
        """The AUC of each symbol that has enough rows, worst first."""
        found = []
        for symbol in self.symbols.unique().sort():
            inside = self.where((self.symbols == symbol).to_numpy())
            area = inside.auc if len(inside) >= _MIN_ROWS else None
            if area is not None:
                found.append(Named(name=str(symbol), n=len(inside), auc=area))
        return sorted(found, key=lambda each: each.auc.value)

    def deciles(self) -> list[Decile]:
        """Ten parts of about equal size by probability, lowest first; fewer where probabilities are equal."""
        edges = np.unique(np.quantile(self.probabilities, np.linspace(0, 1, NUM_DECILES + 1)))
        places = np.clip(np.searchsorted(edges, self.probabilities, side="right") - 1, 0, max(len(edges) - 2, 0))
        effect = statistics.design_effect(self.labels, self.probabilities)
        found = []
        for place in np.unique(places):
            inside = places == place
            low, high = statistics.hit_rate_interval(self.labels[inside], confidence=1 - 2 * TAIL, effect=effect)
            has_pnl = inside & np.isfinite(self.pnl)
            found.append(
                Decile(
                    n=int(inside.sum()),
                    probability=float(self.probabilities[inside].mean()),
                    hit_rate=Interval(value=float(self.labels[inside].mean()), low=low, high=high),
                    pnl=_interval(statistics.mean(self.pnl[has_pnl])) if has_pnl.any() else None,
                )
            )
        return found

    def confusion(self) -> tuple[tuple[str, int, int], ...]:
        """(action, rows with label 1, rows with label 0) at the model's thresholds."""
        is_buy, is_sell = self.probabilities > self.thresholds.buy, self.probabilities < self.thresholds.sell
        masks = (("BUY", is_buy), ("HOLD", ~is_buy & ~is_sell), ("SELL", is_sell))
        return tuple((name, int(self.labels[rows].sum()), int((self.labels[rows] == 0).sum())) for name, rows in masks)

    # ---------------------------------------------------------------- curves

    def roc(self) -> Curve:
        """True positive rate over false positive rate."""
        grid = np.linspace(0.0, 1.0, _GRID)
        curves = [_along(grid, false_rate, true_rate) for true_rate, false_rate, _precision in self._rates]
        return self._curve(grid, curves)

    def precision_recall(self) -> Curve:
        """Precision over recall; below a recall of 5 % it depends on a few rows, so it is not shown."""
        grid = np.linspace(0.05, 1.0, _GRID)
        return self._curve(grid, [np.interp(grid, recall, precision) for recall, _false, precision in self._rates])

    def _curve(self, grid: Floats, curves: list[Floats]) -> Curve:
        """The curve of the rows, and the quantiles of those of the draws about it."""
        areas = [integrate.trapezoid(np.append(0.0, recall), np.append(0.0, false)) for recall, false, _ in self._rates]
        deviation = float(np.std(areas[1:])) if len(areas) > 1 else 0.0
        wider = max(1.0, self._area.standard_error / deviation) if self._area and deviation > 0 else 1.0
        y, draws = curves[0], np.stack(curves[1:] or curves)
        low, high = (np.clip(y + wider * (np.quantile(draws, tail, axis=0) - y), 0, 1) for tail in (TAIL, 1 - TAIL))
        return Curve(x=grid, y=y, low=low, high=high)

    @cached_property
    def _rates(self) -> tuple[tuple[Floats, Floats, Floats], ...]:
        return tuple(self._drawn_rates())

    def _drawn_rates(self) -> Iterator[tuple[Floats, Floats, Floats]]:
        """(recall, false positive rate, precision) by falling threshold: of the rows, then of each bootstrap draw."""
        order = np.argsort(-self.probabilities, kind="stable")
        num_blocks = self.num_blocks
        blocks = (np.arange(len(self), dtype=np.int64) * num_blocks // len(self))[order]
        sorted_p, labels = self.probabilities[order], self.labels[order]
        is_last = np.append(np.diff(sorted_p) != 0, True)
        random = np.random.default_rng(_SEED)
        for draw in range(_DRAWS + 1):
            chosen = random.integers(0, num_blocks, num_blocks)
            weights = np.bincount(chosen, minlength=num_blocks)[blocks] if draw else np.ones(len(order))
            wins, losses = (np.cumsum(weights * (labels == label))[is_last] for label in (1, 0))
            if not wins[-1] or not losses[-1]:
                continue
            with np.errstate(invalid="ignore"):
                precision = np.nan_to_num(wins / (wins + losses), nan=1.0)
            yield wins / wins[-1], losses / losses[-1], precision


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The holdout as both models see it, and the backtest folds."""

    candidate: Scored
    #: on the rows for which it has a window; None: there is none
    incumbent: Scored | None
    #: the AUC of the holdout and of each fold, newest first
    folds: tuple[Named, ...]


def measured(predictions: Predictions) -> Measured | None:
    """None when the holdout is empty or a probability of the candidate is not a number."""
    info = predictions.info
    holdout = predictions.rows.filter(pl.col("part") == HOLDOUT)
    if not holdout.height or not holdout["candidate"].is_finite().all():
        return None
    candidate = _scored(holdout, "candidate", info.candidate_thresholds)
    shared = holdout.filter(pl.col("incumbent").is_not_null() & pl.col("incumbent").is_finite())
    parts = predictions.rows.filter(pl.col("candidate").is_finite()).partition_by("part", maintain_order=True)
    areas = [(rows, _scored(rows, "candidate", info.candidate_thresholds).auc) for rows in parts]
    return Measured(
        candidate=candidate,
        incumbent=_scored(shared, "incumbent", info.incumbent_thresholds) if shared.height else None,
        folds=tuple(Named(name=str(rows["part"][0]), n=rows.height, auc=area) for rows, area in areas if area),
    )


def _scored(rows: pl.DataFrame, model: str, thresholds: Thresholds) -> Scored:
    decided_at = rows["decided_at"].cast(pl.Int64).to_numpy()
    return Scored(
        labels=rows["label"].cast(pl.Int64).to_numpy(),
        probabilities=rows[model].to_numpy(),
        decided_at=decided_at,
        symbols=rows["symbol"],
        pnl=rows["pnl"].cast(pl.Float64).fill_null(float("nan")).to_numpy(),
        thresholds=thresholds,
    )


def _interval(found: Estimate) -> Interval:
    return Interval(value=found.value, low=found.low(TAIL), high=found.high(TAIL))


def _along(grid: Floats, x: Floats, y: Floats) -> Floats:
    """`y` at the places `grid` of a polygon from (0, 0); the highest where several have one x."""
    found: Floats = np.interp(grid, np.append(0.0, x), np.append(0.0, y))
    return found
