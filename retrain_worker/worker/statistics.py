"""Estimates with confidence bounds for samples whose outcomes are correlated in time and across symbols.

Each estimate is a mean of influence values in time order (for a mean, the deviations; for the AUC, DeLong's
placements), all symbols together. Its variance comes from their sums over blocks of equal numbers of rows, its bounds
from Student's t with as many degrees of freedom as blocks less one: few groups, each nearly independent of the next
(Ibragimov and Müller, J. Bus. Econ. Stat. 28 (2010) 453), which holds for unequal variances as well. How many blocks
there are follows from the dependence of the values themselves. docs/explanation/statistics.md compares the method.
DeLong et al., Biometrics 44 (1988) 837; Obuchowski, Biometrics 53 (1997) 567 (clustered AUC).

Quantiles and ranks are those of scipy.stats, whose import takes longer than all of GATE's computations.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: blocks of the finest division that is tried, and of the coarsest: with fewer there is no bound
MAX_BLOCKS, MIN_BLOCKS = 64, 16
#: rows of a block, at least
MIN_BLOCK_ROWS = 3
#: added to the correlation of neighbouring sums, divided by their number: one part for its bias, three for its sampling
#: error, because to miss a correlation costs more than to see one too many; chosen on benchmarks/gate_claims.py
CORRELATION_ALLOWANCE = 4.0
#: a larger one cannot be distinguished from it by so few sums
MAX_CORRELATION = 0.7
#: with fewer rows of a class, no AUC is estimated
MIN_CLASS_ROWS = 5
#: probabilities are clipped to this distance from 0 and 1 in a log loss
EDGE = 1e-7
#: bins of equal width for ECE and for the hit rate by probability
NUM_BINS = 10
#: rows of a bin whose hit rate is compared; smaller ones are merged
MIN_BIN_ROWS = 30
ECE_DRAWS = 1000
#: with a smaller std of the logits, no slope is estimated
MIN_LOGIT_STD = 1e-3
NEWTON_STEPS = 30
_DRAWN_AT_ONCE = 20_000_000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimate and its standard error."""

    value: float
    standard_error: float
    num_blocks: int

    def low(self, alpha: float) -> float | None:
        """Lower bound with one-sided error probability `alpha`; None with too few blocks."""
        return self._bound(-1.0, alpha)

    def high(self, alpha: float) -> float | None:
        """Upper bound with one-sided error probability `alpha`; None with too few blocks."""
        return self._bound(1.0, alpha)

    def _bound(self, sign: float, alpha: float) -> float | None:
        if self.num_blocks < MIN_BLOCKS:
            return None
        return self.value + sign * student_t(alpha, self.num_blocks - 1) * self.standard_error


@dataclass(frozen=True, kw_only=True)
class LabelledPredictions:
    """Outcomes (N,) 0/1 of one stretch of time, in time order, and their probabilities (N,)."""

    labels: Ints
    probabilities: Floats


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A division of rows in time order."""

    #: (N,) from 0
    numbers: Ints
    #: by how much the variance of the sum of all exceeds that of independent blocks
    inflation: float

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.numbers[-1]) + 1


def student_t(alpha: float, degrees: int) -> float:
    """The value that Student's t exceeds with probability `alpha`."""
    return -float(special.stdtrit(degrees, alpha))


def ranks_of(values: NDArray[Any]) -> Floats:
    """Ranks (N,) from 1; equal values get the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


def area_under_roc(is_win: NDArray[np.bool_], scores: NDArray[Any]) -> float:
    """The AUC of `scores` (N,) without a bound; there must be rows of both classes."""
    num_win = int(is_win.sum())
    above = float(ranks_of(scores)[is_win].sum()) - num_win * (num_win + 1) / 2
    return above / (num_win * (len(is_win) - num_win))


def distance(earlier: NDArray[Any], later: NDArray[Any]) -> tuple[float, float]:
    """The largest distance of two distribution functions (Kolmogorov-Smirnov), and the value at which it is."""
    values = np.sort(np.concatenate([earlier, later]))
    shares = [np.searchsorted(np.sort(each), values, side="right") / len(each) for each in (earlier, later)]
    apart = np.abs(shares[0] - shares[1])
    return float(apart.max()), float(values[apart.argmax()])


def blocks_in_time(influence: Floats) -> Blocks:
    """The division of the influence values (N,), at least one, which are in time order.

    The number of blocks is halved, down to MIN_BLOCKS, until neighbouring sums are not correlated. If they still are,
    the variance is inflated as that of a first-order autoregression.
    """
    number = MAX_BLOCKS
    while number > MIN_BLOCKS and (
        len(influence) < number * MIN_BLOCK_ROWS or _correlation(_sums(influence, number)) > 0.0
    ):
        number //= 2
    number = max(1, min(number, len(influence) // MIN_BLOCK_ROWS))
    correlation = max(0.0, _correlation(_sums(influence, number)))
    return Blocks(numbers=_block_numbers(len(influence), number), inflation=(1.0 + correlation) / (1.0 - correlation))


def _block_numbers(num_rows: int, number: int) -> Ints:
    return np.arange(num_rows, dtype=np.int64) * number // num_rows


def _sums(influence: Floats, number: int) -> Floats:
    return np.bincount(_block_numbers(len(influence), number), weights=influence).astype(np.float64)


def _correlation(sums: Floats) -> float:
    """The correlation of neighbouring sums, with its allowance."""
    deviations = sums - sums.mean()
    variation = float(np.sum(deviations**2))
    found = float(np.sum(deviations[1:] * deviations[:-1])) / variation if variation > 0 else 0.0
    return min(MAX_CORRELATION, found + CORRELATION_ALLOWANCE / len(sums)) if variation > 0 else 0.0


def mean(values: Floats) -> Estimate:
    """Mean of `values` (N,), at least one, in time order."""
    average = float(values.mean())
    return estimate(average, (values - average) / len(values))


def auc(*stretches: LabelledPredictions) -> Estimate | None:
    """Area under the ROC curve within each stretch, averaged by rows; None with too few rows of a class in one.

    Stretches follow one another in time. They are taken for repetitions: that they differ counts as error.
    """
    found = [auc_influence(each) for each in stretches]
    known = [each for each in found if each is not None]
    if len(known) < len(stretches) or not known:
        return None
    num_rows = sum(len(each.labels) for each in stretches)
    area = sum(len(influence) / num_rows * value for value, influence in known)
    return estimate(
        area, np.concatenate([len(each) / num_rows * each + (value - area) / num_rows for value, each in known])
    )


def auc_difference(predictions: LabelledPredictions, is_inside: NDArray[np.bool_]) -> Estimate | None:
    """AUC of the rows where `is_inside` (N,) is true minus that of the others; None with too few rows of a class."""
    influence = np.empty(len(is_inside))
    areas = []
    for mask, sign in ((is_inside, 1.0), (~is_inside, -1.0)):
        part = LabelledPredictions(labels=predictions.labels[mask], probabilities=predictions.probabilities[mask])
        found = auc_influence(part)
        if found is None:
            return None
        areas.append(sign * found[0])
        influence[mask] = sign * found[1]
    return estimate(sum(areas), influence)


def auc_influence(predictions: LabelledPredictions) -> tuple[float, Floats] | None:
    """The AUC and its influence values (N,), of which the sum is 0."""
    is_win, scores = predictions.labels == 1, predictions.probabilities
    num_win, num_loss = int(is_win.sum()), int((~is_win).sum())
    if min(num_win, num_loss) < MIN_CLASS_ROWS:
        return None
    ranks = ranks_of(scores)
    # placement: the share of the other class that a win is ranked above (a loss: below), ties half
    placements = np.empty(len(scores))
    placements[is_win] = (ranks[is_win] - ranks_of(scores[is_win])) / num_loss
    placements[~is_win] = 1.0 - (ranks[~is_win] - ranks_of(scores[~is_win])) / num_win
    area = float(placements[is_win].mean())
    return area, (placements - area) / np.where(is_win, num_win, num_loss)


def estimate(value: float, influence: Floats) -> Estimate:
    """The estimate `value` with influence values (N,), of which the sum is 0, in time order."""
    blocks = blocks_in_time(influence)
    sums = np.bincount(blocks.numbers, weights=influence)
    variance = float(np.sum(sums**2)) * blocks.count / max(1, blocks.count - 1) * blocks.inflation
    return Estimate(value=value, standard_error=math.sqrt(variance), num_blocks=blocks.count)


def log_losses(labels: Ints, probabilities: Floats) -> Floats:
    """Log loss (N,) of each row in nats."""
    kept = np.clip(probabilities, EDGE, 1.0 - EDGE)
    costs: Floats = -np.where(labels == 1, np.log(kept), np.log1p(-kept))
    return costs


# ---------------------------------------------------------------- calibration


def bins_of(probabilities: Floats) -> Ints:
    """The bin (N,) 0 .. NUM_BINS - 1 of each probability; bins are [low, high), the last one closed."""
    return np.clip((probabilities * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)


def ece(labels: Ints, probabilities: Floats) -> float:
    """Expected calibration error: mean |hit rate - mean probability| over the bins, weighted by rows."""
    gaps = np.bincount(bins_of(probabilities), weights=labels - probabilities, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def design_effect(labels: Ints, probabilities: Floats) -> float:
    """How many times the variance of hit rates exceeds that of independent outcomes; rows in time order.

    Neighbouring rows are correlated even under a perfect model: what the window does not show is common to them. The
    mean deviation of each bin is subtracted first, so that miscalibration does not enlarge the effect.
    """
    expected = float(np.sum(probabilities * (1.0 - probabilities)))
    if not expected > 0:
        return 1.0
    bins, residuals = bins_of(probabilities), labels - probabilities
    rows = np.bincount(bins, minlength=NUM_BINS)
    centred = residuals - (np.bincount(bins, weights=residuals, minlength=NUM_BINS) / np.maximum(rows, 1))[bins]
    blocks = blocks_in_time(centred)
    sums = np.bincount(bins * blocks.count + blocks.numbers, weights=centred, minlength=NUM_BINS * blocks.count)
    found = float(np.sum(sums**2)) * blocks.count / max(1, blocks.count - 1) * blocks.inflation
    return max(1.0, found / expected)


def hit_rate_interval(labels: Ints, *, confidence: float, effect: float = 1.0) -> tuple[float | None, float | None]:
    """Wilson's interval of the hit rate of `labels` (N,), for N / `effect` effective rows; None without rows."""
    if not len(labels):
        return None, None
    hit_rate, rows = float(labels.mean()), len(labels) / effect
    z2 = float(special.ndtri((1.0 - confidence) / 2.0)) ** 2
    centre = (hit_rate + z2 / (2.0 * rows)) / (1.0 + z2 / rows)
    half = math.sqrt(z2 * hit_rate * (1.0 - hit_rate) / rows + z2**2 / (4.0 * rows**2)) / (1.0 + z2 / rows)
    return max(0.0, centre - half), min(1.0, centre + half)


def ece_limit(probabilities: Floats, *, alpha: float, seed: int, effect: float = 1.0) -> float:
    """The ECE that a perfectly calibrated model exceeds with probability `alpha`, by simulation.

    `effect` is the design effect of the rows.
    """
    order = np.argsort(bins_of(probabilities), kind="stable")
    sorted_p = probabilities[order].astype(np.float32)
    starts = np.flatnonzero(np.diff(bins_of(probabilities)[order], prepend=-1))
    expected = np.add.reduceat(sorted_p.astype(np.float64), starts)
    random = np.random.default_rng(seed)
    at_once = max(1, min(ECE_DRAWS, _DRAWN_AT_ONCE // len(sorted_p)))
    drawn: list[Floats] = []
    for start in range(0, ECE_DRAWS, at_once):
        size = (min(at_once, ECE_DRAWS - start), len(sorted_p))
        wins = np.add.reduceat(random.random(size, dtype=np.float32) < sorted_p, starts, axis=1, dtype=np.int64)
        drawn.append(np.abs(wins - expected).sum(axis=1) / len(sorted_p))
    return float(np.quantile(np.concatenate(drawn), 1.0 - alpha)) * math.sqrt(effect)


def ece_limit_by_blocks(labels: Ints, probabilities: Floats, *, alpha: float, seed: int) -> float:
    """As `ece_limit`, for outcomes that are correlated in time; rows in time order.

    Correlated outcomes shift all bins in the same direction, which a design effect does not represent. So each block
    in time keeps its residuals in all bins and gets a random sign (the wild cluster bootstrap with the null imposed;
    Cameron, Gelbach and Miller, Rev. Econ. Stat. 90 (2008) 414).
    """
    residuals = labels - probabilities
    blocks = blocks_in_time(residuals)
    cells = blocks.numbers * NUM_BINS + bins_of(probabilities)
    sums = np.bincount(cells, weights=residuals, minlength=NUM_BINS * blocks.count)
    signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), (ECE_DRAWS, blocks.count))
    drawn = np.abs(signs @ sums.reshape(blocks.count, NUM_BINS)).sum(axis=1) / len(labels)
    return float(np.quantile(drawn, 1.0 - alpha)) * math.sqrt(blocks.inflation)


def calibration_slope(stretches: Sequence[LabelledPredictions]) -> Estimate | None:
    """The maximum likelihood b of logit P(label = 1) = a + b logit(p): 1 when calibrated, below 1 when overconfident.

    Each stretch has its own a, so that a drift of the hit rate between them does not affect the common b. Cox,
    Biometrika 45 (1958) 562; the standard error is the sandwich estimate over blocks in time. Stretches follow one
    another in time; those with one class or one probability are left out; None without any other.
    """
    logits = [special.logit(np.clip(each.probabilities, EDGE, 1.0 - EDGE)) for each in stretches]
    usable = [
        (each, theirs)
        for each, theirs in zip(stretches, logits, strict=True)
        if 0 < each.labels.sum() < len(each.labels) and float(theirs.std()) >= MIN_LOGIT_STD
    ]
    if not usable:
        return None
    labels = np.concatenate([each.labels for each, _ in usable])
    place = np.repeat(np.arange(len(usable)), [len(each.labels) for each, _ in usable])
    design = np.column_stack([np.eye(len(usable))[place], np.concatenate([theirs for _, theirs in usable])])
    found = np.zeros(len(usable) + 1)
    found[-1] = 1.0
    for _ in range(NEWTON_STEPS):
        fitted = 1.0 / (1.0 + np.exp(-np.clip(design @ found, -30.0, 30.0)))
        hessian = design.T @ (design * (fitted * (1.0 - fitted))[:, None])
        if not np.linalg.cond(hessian) < 1e12:
            return None
        step = np.linalg.solve(hessian, design.T @ (labels - fitted))
        found = found + np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-8:
            break
    return estimate(float(found[-1]), (design * (labels - fitted)[:, None]) @ np.linalg.inv(hessian)[-1])


def monotonicity_z(labels: Ints, probabilities: Floats, *, effect: float = 1.0) -> float | None:
    """Z of the largest drop of the hit rate from one bin to the next higher one; None with fewer than two usable bins.

    Neighbouring bins are merged until each has MIN_BIN_ROWS rows. Negative: the hit rate rises everywhere. `effect` is
    the design effect of the rows.
    """
    counts = np.bincount(bins_of(probabilities), minlength=NUM_BINS)
    wins = np.bincount(bins_of(probabilities), weights=labels, minlength=NUM_BINS)
    merged: list[tuple[float, float]] = []
    rows, hits = 0.0, 0.0
    for count, won in zip(counts, wins, strict=True):
        rows, hits = rows + float(count), hits + float(won)
        if rows >= MIN_BIN_ROWS:
            merged.append((rows, hits))
            rows, hits = 0.0, 0.0
    if merged and rows:
        merged[-1] = (merged[-1][0] + rows, merged[-1][1] + hits)
    drops = [_drop_z(lower, higher) for lower, higher in itertools.pairwise(merged)]
    return max(drops) / math.sqrt(effect) if drops else None


def _drop_z(lower: tuple[float, float], higher: tuple[float, float]) -> float:
    """Two-sample z of a drop between two bins of (rows, hits)."""
    (rows, hits), (more_rows, more_hits) = lower, higher
    pooled = (hits + more_hits) / (rows + more_rows)
    error = math.sqrt(pooled * (1.0 - pooled) * (1.0 / rows + 1.0 / more_rows))
    return (hits / rows - more_hits / more_rows) / error if error else 0.0
