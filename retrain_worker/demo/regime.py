"""The hidden regime that determines the outcomes, its signal in the features, and the Bayes-optimal posterior.

Each symbol has a two-state Markov chain, one step per row: a good and a bad regime. P(WIN) of a trade depends on the
regime `lag` rows before it. The features of a row are unit normal noise; the regime shifts them along one direction by
`strength` standard deviations to either side, or, in a nonlinear market, only changes the sign of the correlation
within pairs of features. The evidence of many rows must therefore be combined: the exact posterior over a window (the
forward algorithm; Rabiner, A tutorial on hidden Markov models, Proceedings of the IEEE 77(2), 1989) is Bayes-optimal,
and no model of the same window has a higher expected AUC.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Regime:
    """Parameters of a market. The defaults give a Bayes-optimal AUC of about 0.82 with 64 rows and 0.58 with one."""

    #: probability per row of a change from bad to good, and from good to bad
    turns_good: float = 0.045
    turns_bad: float = 0.03
    #: P(WIN) in the good and in the bad regime
    win_good: float = 0.88
    win_bad: float = 0.15
    #: rows between the regime and the trade that depends on it
    lag: int = 8
    #: standard deviations by which the regime shifts a row's features
    strength: float = 0.4
    #: share of the difference between the regimes that remains; 0: nothing to learn
    edge: float = 1.0
    #: the regime changes the sign of correlations; all means stay the same
    nonlinear: bool = False
    #: correlation inside pairs of features, in a nonlinear market
    correlation: float = 0.5
    #: rotation of the direction of the shift in degrees: another signal, equally learnable
    turn_degrees: float = 0.0

    @property
    def good_share(self) -> float:
        """Stationary share of rows in the good regime."""
        return self.turns_good / (self.turns_good + self.turns_bad)

    @property
    def win_share(self) -> float:
        """Unconditional P(WIN)."""
        return self.good_share * self.win_good + (1 - self.good_share) * self.win_bad

    def win_probability(self, good: Floats) -> Floats:
        """P(WIN) where the probability of the good regime `lag` rows ago is `good`."""
        seen = good * self.win_good + (1 - good) * self.win_bad
        return self.win_share + self.edge * (seen - self.win_share)

    def states(self, random: np.random.Generator, count: int, *, after: bool | None = None) -> Bools:
        """`count` consecutive states (True = good), following the state `after` if given."""
        if after is None:
            starts_good = random.random() < self.good_share
        else:
            starts_good = random.random() < (1 - self.turns_bad if after else self.turns_good)
        # whole spells instead of rows; twice the number expected to fill the rows
        num_spells = int(count * 2 * (self.turns_good + self.turns_bad)) + 64
        is_good = (np.arange(num_spells) + (not starts_good)) % 2 == 0
        lengths = random.geometric(np.where(is_good, self.turns_bad, self.turns_good))
        return np.repeat(is_good, np.minimum(lengths, count))[:count]

    def signals(self, random: np.random.Generator, states: Bools, num_features: int) -> Floats:
        """Standardised features (N, F) of rows in these states."""
        noise = random.standard_normal((len(states), num_features))
        sign = np.where(states, 1.0, -1.0)[:, None]
        if self.nonlinear:
            first, second = noise[:, 0::2], noise[:, 1::2]
            noise[:, 1::2] = sign * self.correlation * first + np.sqrt(1 - self.correlation**2) * second
            hidden = noise
        else:
            hidden = noise + self.strength * sign * _direction(num_features)
        return np.asarray(hidden @ _rotation(num_features, self.turn_degrees).T)

    def evidence(self, signals: Floats) -> Floats:
        """Log likelihood ratio (N,) of the good against the bad regime, from each row alone."""
        num_features = signals.shape[1]
        hidden = signals @ _rotation(num_features, self.turn_degrees)
        if self.nonlinear:
            products = (hidden[:, 0::2] * hidden[:, 1::2]).sum(axis=1)
            return np.asarray(2 * self.correlation / (1 - self.correlation**2) * products)
        return np.asarray(2 * self.strength * (hidden @ _direction(num_features)))

    def posterior(self, evidence: Floats, *, window: int) -> Floats:
        """P(WIN) (N,) of each row of one symbol, in time order, given the features of its last `window` rows, exactly.

        Rows before the first are unknown, not empty: the stationary distribution replaces them.
        """
        likelihood = np.exp(evidence)
        count = len(likelihood)
        good = np.full(count, self.good_share)
        for age in range(window - 1, self.lag - 1, -1):  # forward, up to the row that determines the outcome
            if age < window - 1:
                good = good * (1 - self.turns_bad) + (1 - good) * self.turns_good
            ratio = _earlier(likelihood, age)
            good = good * ratio / (good * ratio + 1 - good)
        # backward: the evidence of later rows
        after_good, after_bad = np.ones(count), np.ones(count)
        for age in range(self.lag):
            if age < window:
                after_good = after_good * _earlier(likelihood, age)
            after_good, after_bad = (
                (1 - self.turns_bad) * after_good + self.turns_bad * after_bad,
                self.turns_good * after_good + (1 - self.turns_good) * after_bad,
            )
        weight = good * after_good
        return self.win_probability(weight / (weight + (1 - good) * after_bad))


def area_under_curve(probabilities: Floats, is_win: Bools) -> float:
    """AUC by mid-ranks; NaN with only one class."""
    _values, inverse, counts = np.unique(probabilities, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    wins = int(is_win.sum())
    pairs = wins * (len(is_win) - wins)
    return float((ranks[is_win].sum() - wins * (wins + 1) / 2) / pairs) if pairs else float("nan")


def _earlier(values: Floats, age: int) -> Floats:
    """The value `age` rows before each row; 1 (no evidence) before the first row."""
    return values if age == 0 else np.concatenate([np.ones(min(age, len(values))), values[:-age]])


def _direction(num_features: int) -> Floats:
    """Unit vector along which the regime shifts the features: some up, some down, none dominant."""
    pattern = np.resize([1.0, 0.8, -0.7, 0.9], num_features)
    return np.asarray(pattern / np.linalg.norm(pattern))


def _rotation(num_features: int, degrees: float) -> Floats:
    """Rotation (F, F) by `degrees` in the plane of the direction and a second one at a right angle to it."""
    first = _direction(num_features)
    second = np.resize([0.9, -0.7, -0.8, -1.0], num_features)
    second = second - (second @ first) * first
    second = second / np.linalg.norm(second)
    plane = np.stack([first, second], axis=1)
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(np.eye(num_features) + plane @ (turn - np.eye(2)) @ plane.T)
