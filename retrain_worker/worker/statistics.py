"""Estimates with confidence bounds for samples whose outcomes are correlated in time.

Each estimate is a mean of influence values (for a mean, the deviations; for the AUC, DeLong's placements). Their sums
over blocks in time, all symbols together, give a cluster-robust variance: sum of squares times G / (G - 1), used with
Student's t at G - 1 degrees of freedom. DeLong et al., Biometrics 44 (1988) 837; Obuchowski, Biometrics 53 (1997) 567
(clustered AUC); Cameron and Miller, J. Human Resources 50 (2015) 317 (few clusters).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: with fewer blocks there is no bound
MIN_BLOCKS = 10
#: intended number of blocks: enough for Student's t, each long enough to be nearly independent of the next
INTENDED_BLOCKS = (20, 60)
#: label horizons in a block, where the span is long enough
HORIZONS_PER_BLOCK = 4
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
    #: estimates that were combined into this one; each takes one degree of freedom
    num_combined: int = 1

    def low(self, alpha: float) -> float | None:
        """Lower bound with one-sided error probability `alpha`; None with too few blocks."""
        return self._bound(-1.0, alpha)

    def high(self, alpha: float) -> float | None:
        """Upper bound with one-sided error probability `alpha`; None with too few blocks."""
        return self._bound(1.0, alpha)

    def _bound(self, sign: float, alpha: float) -> float | None:
        if self.num_blocks < MIN_BLOCKS:
            return None
        return self.value + sign * float(stats.t.isf(alpha, self.num_blocks - self.num_combined)) * self.standard_error


def blocks_in_time(decided_at: Ints, known_at: Ints) -> Ints:
    """The block number (N,) of each row, from 0 without gaps.

    A block is at least as long as the 95th percentile of known_at - decided_at, and several times that where the span
    still contains INTENDED_BLOCKS.
    """
    if not len(decided_at):
        return np.empty(0, dtype=np.int64)
    span = float(decided_at.max() - decided_at.min()) + 1.0
    horizon = max(1.0, float(np.quantile(known_at - decided_at, 0.95)))
    wanted = float(np.clip(span / (HORIZONS_PER_BLOCK * horizon), *INTENDED_BLOCKS))
    length = max(horizon, span / wanted)
    numbers = ((decided_at - decided_at.min()) / length).astype(np.int64)
    dense: Ints = np.unique(numbers, return_inverse=True)[1].astype(np.int64)
    return dense


def mean(values: Floats, blocks: Ints) -> Estimate:
    """Mean of `values` (N,), at least one."""
    average = float(values.mean())
    return _estimate(average, (values - average) / len(values), blocks)


def auc(labels: Ints, scores: Floats, blocks: Ints) -> Estimate | None:
    """Area under the ROC curve of `scores` (N,) for `labels` (N,) 0/1; None with too few rows of a class."""
    is_win = labels == 1
    num_win, num_loss = int(is_win.sum()), int((~is_win).sum())
    if min(num_win, num_loss) < MIN_CLASS_ROWS:
        return None
    ranks = stats.rankdata(scores)
    # placement: the share of the other class that a win is ranked above (a loss: below), ties half
    placements = np.empty(len(labels))
    placements[is_win] = (ranks[is_win] - stats.rankdata(scores[is_win])) / num_loss
    placements[~is_win] = 1.0 - (ranks[~is_win] - stats.rankdata(scores[~is_win])) / num_win
    area = float(placements[is_win].mean())
    influence = (placements - area) / np.where(is_win, num_win, num_loss)
    return _estimate(area, influence, blocks)


def _estimate(value: float, influence: Floats, blocks: Ints) -> Estimate:
    sums = np.bincount(blocks, weights=influence)
    num_blocks = len(sums)
    variance = float(np.sum(sums**2)) * num_blocks / max(1, num_blocks - 1)
    return Estimate(value=value, standard_error=math.sqrt(variance), num_blocks=num_blocks)


def combined(estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """The weighted sum of estimates on disjoint rows, at least one."""
    variance = sum((weight * each.standard_error) ** 2 for weight, each in zip(weights, estimates, strict=True))
    return Estimate(
        value=sum(weight * each.value for weight, each in zip(weights, estimates, strict=True)),
        standard_error=math.sqrt(variance),
        num_blocks=sum(each.num_blocks for each in estimates),
        num_combined=len(estimates),
    )


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


def design_effect(labels: Ints, probabilities: Floats, blocks: Ints) -> float:
    """How many times the variance of hit rates exceeds that of independent outcomes; 1 with too few blocks.

    Neighbouring rows are correlated even under a perfect model: what the window does not show is common to them. The
    mean deviation of each bin is subtracted first, so that miscalibration does not enlarge the effect.
    """
    num_blocks = int(blocks.max()) + 1
    if num_blocks < MIN_BLOCKS:
        return 1.0
    bins, residuals = bins_of(probabilities), labels - probabilities
    rows = np.bincount(bins, minlength=NUM_BINS)
    centred = residuals - (np.bincount(bins, weights=residuals, minlength=NUM_BINS) / np.maximum(rows, 1))[bins]
    sums = np.bincount(bins * num_blocks + blocks, weights=centred, minlength=NUM_BINS * num_blocks)
    expected = float(np.sum(probabilities * (1.0 - probabilities)))
    found = float(np.sum(sums**2)) * num_blocks / (num_blocks - 1)
    return max(1.0, found / expected) if expected > 0 else 1.0


def hit_rate_interval(labels: Ints, *, confidence: float, effect: float = 1.0) -> tuple[float | None, float | None]:
    """Wilson's interval of the hit rate of `labels` (N,), for N / `effect` effective rows; None without rows."""
    if not len(labels):
        return None, None
    hit_rate, rows = float(labels.mean()), len(labels) / effect
    z2 = float(stats.norm.isf((1.0 - confidence) / 2.0)) ** 2
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


def ece_limit_by_blocks(labels: Ints, probabilities: Floats, blocks: Ints, *, alpha: float, seed: int) -> float | None:
    """As `ece_limit`, for outcomes that are correlated within blocks in time; None with too few blocks.

    Correlated outcomes shift all bins in the same direction, which a design effect does not represent. So each block
    keeps its residuals in all bins and gets a random sign (the wild cluster bootstrap with the null imposed; Cameron,
    Gelbach and Miller, Rev. Econ. Stat. 90 (2008) 414).
    """
    num_blocks = int(blocks.max()) + 1
    if num_blocks < MIN_BLOCKS:
        return None
    cells = blocks * NUM_BINS + bins_of(probabilities)
    sums = np.bincount(cells, weights=labels - probabilities, minlength=NUM_BINS * num_blocks)
    signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), (ECE_DRAWS, num_blocks))
    drawn = np.abs(signs @ sums.reshape(num_blocks, NUM_BINS)).sum(axis=1) / len(labels)
    return float(np.quantile(drawn, 1.0 - alpha))


@dataclass(frozen=True, kw_only=True)
class LabelledPredictions:
    """Outcomes (N,) of one stretch of time, their probabilities (N,), and the blocks (N,) of the stretch, from 0."""

    labels: Ints
    probabilities: Floats
    blocks: Ints


def calibration_slope(stretches: Sequence[LabelledPredictions]) -> Estimate | None:
    """The maximum likelihood b of logit P(label = 1) = a + b logit(p): 1 when calibrated, below 1 when overconfident.

    Each stretch has its own a, so that a drift of the hit rate between them does not affect the common b. Cox,
    Biometrika 45 (1958) 562; the standard error is the sandwich estimate over blocks in time. Stretches with one class
    or one probability are left out; None without any other.
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
    first_block = np.cumsum([0, *(int(each.blocks.max()) + 1 for each, _ in usable)])
    blocks = np.concatenate([each.blocks for each, _ in usable]) + first_block[place]
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
    influence = (design * (labels - fitted)[:, None]) @ np.linalg.inv(hessian)[-1]
    return replace(_estimate(float(found[-1]), influence, blocks), num_combined=len(usable))


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
