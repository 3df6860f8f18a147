"""Worlds in which luck persists for hours to days, and the right verdict is known.

A world is 30 days, 6,000 rows, five symbols. 25 % of the variance of the outcomes' latent noise is common to the
market, 15 % to the symbol; both persist for `luck_hours`, and so do the predictions. No network is trained: a model is
given by its probabilities, its backtest folds by those on earlier rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal, special

from retrain_worker.worker.pooled_skill import Answered
from retrain_worker.worker.scoring import Rows

Floats = NDArray[np.float64]

SYMBOLS = np.array(["ADAUSDT", "BNBUSDT", "BTCUSDT", "ETHUSDT", "SOLUSDT"])
HOUR = 3_600_000_000
START = 1_765_000_000_000_000
MARKET_LUCK, SYMBOL_LUCK = 0.25, 0.15
HOLDOUT, VALIDATION, FOLDS = 0.15, 0.15, 3
STEPS_AN_HOUR = 6
#: standard deviation of the log odds of a model without skill: enough for the gates of spread and action diversity
LOUDNESS = 0.5


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a world is like."""

    rows: int = 6000
    days: float = 30.0
    #: 0: independent rows
    luck_hours: float = 2.0
    #: 80 % of the rows in 10 % of the time
    has_bursts: bool = False
    #: share of the first symbol; 0: equal shares
    dominating: float = 0.0
    #: correlation of the signal with the latent outcome; 0: nothing to learn
    edge: float = 0.0
    #: the edge ends where the holdout begins
    dies_at_seam: bool = False
    #: wins close sooner
    has_uneven_delays: bool = False
    #: two symbols begin half-way
    has_late_symbols: bool = False
    #: the outcome's sign is inverted in this share of the oldest rows
    inverted_until: float = 0.0


class World:
    """Rows in time order: `x` is the signal of a model with skill, `z` the scores of one without; unit normal, (N,)."""

    def __init__(self, kind: Kind, seed: int) -> None:
        self.kind = kind
        self.random = random = np.random.default_rng(seed)
        self.hours = self._times()
        self.codes = self._symbols()
        self.x, self.z, self.other = (self.slow(shared=0.5) for _ in range(3))
        luck = (
            np.sqrt(MARKET_LUCK) * self.slow(shared=1.0)
            + np.sqrt(SYMBOL_LUCK) * self.slow(shared=0.0)
            + np.sqrt(1 - MARKET_LUCK - SYMBOL_LUCK) * random.standard_normal(kind.rows)
        )
        edge = np.full(kind.rows, kind.edge)
        if kind.dies_at_seam:
            edge[self.part(0).start :] = 0.0
        edge[: int(kind.rows * kind.inverted_until)] *= -1.0
        self.labels = (edge * self.x + np.sqrt(1 - edge**2) * luck > 0).astype(np.int64)
        delay = random.uniform(1.0, 4.0, kind.rows)
        if kind.has_uneven_delays:
            delay = np.where(self.labels == 1, 0.5 * delay, 2.0 * delay)
        self.decided_at = (START + self.hours * HOUR).astype(np.int64)
        self.known_at = self.decided_at + (delay * HOUR).astype(np.int64)

    def _times(self) -> Floats:
        kind, slots = self.kind, 120
        places = self.random.random(kind.rows)
        if kind.has_bursts:
            busy = np.isin(np.arange(slots), self.random.choice(slots, slots // 10, replace=False))
            weights = np.where(busy, 0.8 / busy.sum(), 0.2 / (~busy).sum())
            places = (self.random.choice(slots, kind.rows, p=weights) + places) / slots
        return np.asarray(np.sort(places) * kind.days * 24)

    def _symbols(self) -> NDArray[np.int64]:
        kind, rest = self.kind, len(SYMBOLS) - 1
        shares = [kind.dominating, *[(1 - kind.dominating) / rest] * rest] if kind.dominating else None
        codes = self.random.choice(len(SYMBOLS), kind.rows, p=shares)
        if kind.has_late_symbols:
            early = np.arange(kind.rows) < kind.rows // 2
            codes[early] %= len(SYMBOLS) - 2
        return np.asarray(codes)

    def slow(self, *, shared: float) -> Floats:
        """A unit normal (N,) that persists for `luck_hours`; the share `shared` of its variance is the market's."""
        kind = self.kind
        if not kind.luck_hours:
            return self.random.standard_normal(kind.rows)
        steps = int(kind.days * 24 * STEPS_AN_HOUR) + 2
        keep = np.exp(-1.0 / (kind.luck_hours * STEPS_AN_HOUR))
        noise = self.random.standard_normal((len(SYMBOLS) + 1, steps))
        noise[:, 1:] *= np.sqrt(1 - keep**2)
        paths = signal.lfilter([1.0], [1.0, -keep], noise, axis=1)
        place = (self.hours * STEPS_AN_HOUR).astype(np.int64)
        return np.asarray(np.sqrt(shared) * paths[-1, place] + np.sqrt(1 - shared) * paths[self.codes, place])

    def part(self, fold: int) -> slice:
        """The rows on which the candidate (fold 0) or a backtest fold is evaluated."""
        before = int(self.kind.rows * (1 - HOLDOUT))
        size = int(before * VALIDATION)
        first, last = (before, self.kind.rows) if fold == 0 else (before - fold * size, before - (fold - 1) * size)
        return slice(first + int(self.kind.rows / self.kind.days / 24), last)

    def rows(self, part: slice) -> Rows:
        """For worker.scoring."""
        size = len(self.labels[part])
        return Rows(
            labels=self.labels[part],
            decided_at=self.decided_at[part],
            known_at=self.known_at[part],
            symbols=SYMBOLS[self.codes[part]],
            actions=np.zeros(size, np.int8),
            confidences=np.full(size, 0.7, np.float32),
        )

    def answered(self, answers: Floats, fold: int) -> Answered:
        """The part of `answers` (N,) on which the candidate (0) or a fold is evaluated."""
        part = self.part(fold)
        return Answered(answers=answers[part], rows=self.rows(part), prior=0.5)

    @property
    def silent(self) -> Floats:
        """The probabilities (N,) of a model without skill."""
        return np.asarray(special.expit(LOUDNESS * self.z))

    @property
    def faint(self) -> Floats:
        """As `silent`, but no further from 0.5 than those of a calibrated model of AUC 0.58."""
        return np.asarray(special.expit(0.3 * self.z))

    @property
    def learned(self) -> Floats:
        """The true probabilities (N,) before the edge ends."""
        return true_probabilities(self.x, self.kind.edge)


def true_probabilities(x: Floats, edge: float) -> Floats:
    """P(outcome = 1) given the signal `x` (N,)."""
    return np.asarray(special.ndtr(edge * x / np.sqrt(1 - edge**2)))
