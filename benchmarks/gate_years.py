"""Years of daily retraining: false promotions, and days until a better model serves after a change of regime.

Each day a logistic regression on causal averages of the features is trained on the last 30 days, with backtest folds,
calibrated, and evaluated with the program's scorecards, pooling, gates and alpha spending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import gate_markets
import numpy as np
from gate_markets import FITS, FOLDS, GOOD, HOLDOUT, HOUR, POLICY, START, SYMBOLS, VALIDATION, SimulatedMarket
from numpy.typing import NDArray
from scipy import signal, special, stats
from sklearn.linear_model import LogisticRegression

from retrain_worker.demo.regime import Regime
from retrain_worker.domain.alpha_spending import AlphaSpending, spend
from retrain_worker.domain.gates import Decision, Evidence, GatePolicy, decide
from retrain_worker.worker import pooled_skill, scoring, statistics
from retrain_worker.worker.pooled_skill import Answered
from retrain_worker.worker.scoring import Rows
from retrain_worker.worker.training import calibration

Floats = NDArray[np.float64]

WINDOW_DAYS, ROWS_A_DAY = 30, 200
#: rows over which the inputs are averaged
SPANS = (4.0, 12.0, 32.0)
TURN_DEGREES = 70.0
DAYS_AFTER = 45
#: a model is worse when its log loss is higher by this (the incumbent gate's margin)
MARGIN = 0.01


@dataclass(frozen=True)
class Model:
    """A logistic regression and its calibration."""

    weights: Floats
    fix: calibration.Calibration

    def answers(self, inputs: Floats) -> Floats:
        """P(WIN) (N,)."""
        return np.asarray(special.expit(self.fix.apply(inputs @ self.weights)))


@dataclass(frozen=True)
class Table:
    """Rows in time order."""

    inputs: Floats
    rows: Rows

    def between(self, first: int, last: int) -> Table:
        """The rows from `first` to before `last`."""
        rows = {name: each[first:last] for name, each in vars(self.rows).items()}
        return Table(self.inputs[first:last], Rows(**rows))


def averages(signals: Floats, codes: NDArray[np.int64]) -> Floats:
    """Causal exponential averages (N, F * spans + 1) of each symbol's features; the last column is 1."""
    found = np.ones((len(signals), signals.shape[1] * len(SPANS) + 1))
    for code in np.unique(codes):
        mine = codes == code
        for place, span in enumerate(SPANS):
            keep = np.exp(-1.0 / span)
            path = signal.lfilter([1 - keep], [1.0, -keep], signals[mine], axis=0) * np.sqrt(span)
            found[mine, place * signals.shape[1] : (place + 1) * signals.shape[1]] = path
    return found


def table(seed: int, days: int, regimes: list[tuple[int, Regime]], *, edge: bool, drift: float = 0.0) -> Table:
    """`days` of the demo's market; each regime applies from its day on. Without `edge`, outcomes are random."""
    market = SimulatedMarket(seed, rows=days * ROWS_A_DAY, days=float(days), drift=drift, drift_hours=72.0)
    signals, chances = np.empty((market.rows, 4)), np.full(market.rows, special.expit(market.odds))
    day = market.hours / 24
    for code in range(len(SYMBOLS)):
        mine = np.flatnonzero(market.codes == code)
        states = GOOD.states(market.random, len(mine) + GOOD.lag)
        for first, regime in regimes:
            these = day[mine] >= first
            signals[mine[these]] = regime.signals(market.random, states[GOOD.lag :][these], 4)
        if edge:
            chances[mine] = GOOD.win_probability(states[: len(mine)].astype(np.float64))
    if edge:
        alone = market.random.standard_normal(market.rows)
        luck = market.slow(gate_markets.LUCK_HOURS, shared=0.6) * np.sqrt(0.4) + np.sqrt(0.6) * alone
        market.labels = (special.ndtr(luck) < chances).astype(np.int64)
    return Table(averages(signals, market.codes), market.table(slice(None)))


def fitted(rows: Table, judged: int) -> Model:
    """Trained on the rows before `judged`; the newest of them calibrate."""
    gap = ROWS_A_DAY // 6
    seam = int(judged * (1 - VALIDATION))
    train, validation = rows.between(0, seam - gap), rows.between(seam, judged - gap)
    fit = LogisticRegression(C=0.1, fit_intercept=False, class_weight="balanced", max_iter=50)
    weights = fit.fit(train.inputs, train.rows.labels).coef_[0]
    labels = validation.rows.labels.astype(np.int8)
    logits = validation.inputs @ weights
    bias = calibration.fit_bias(train.inputs @ weights, train.rows.labels.astype(np.int8))
    effect = statistics.design_effect(validation.rows.labels, special.expit(logits + bias))
    return Model(weights, calibration.fit(logits, labels, expected_bias=bias, effect=effect))


@dataclass
class Retraining:
    """The model that each method serves, day by day."""

    rows: Table
    last: AlphaSpending | None = None
    ours: Model | None = None
    lone: Model | None = None
    seeds: Model | None = None
    newest: Model | None = None
    promoted: tuple[int, int, int] = (0, 0, 0)

    def day(self, number: int) -> None:
        """Retrain at the end of day `number` and decide: the program, the holdout alone, the seed's rules."""
        now = START + number * 24 * HOUR
        first, last = np.searchsorted(self.rows.rows.decided_at, [now - WINDOW_DAYS * 24 * HOUR, now - 4 * HOUR])
        seen = self.rows.between(int(first), int(last))
        before = int(len(seen.inputs) * (1 - HOLDOUT))
        self.newest = candidate = fitted(seen, before)
        at = datetime.fromtimestamp(now / 1e6, UTC)
        self.last = spend(self.last, at=at, skill_alpha=POLICY.skill_alpha, per_year=POLICY.false_promotions_per_year)
        judged = self._answered(seen, candidate, before, len(seen.inputs), before)
        if judged.answers.std() < POLICY.min_std:
            return  # refused by the confidence spread gate and by the seed's rules
        policy = POLICY.spending(self.last.alpha)
        size = int(before * VALIDATION)
        past = []
        for fold in range(1, FOLDS + 1):
            begins = before - fold * size
            past.append(self._answered(seen, fitted(seen, begins), begins, begins + size, begins))
        ours, lone, seeds = self.promoted
        found = self._evidence(seen, judged, past, self.ours, before, policy)
        if decide(found, policy).decision is Decision.PASS:
            self.ours, ours = candidate, ours + 1
        alone = replace(self._evidence(seen, judged, past, self.lone, before, POLICY), skill=None)
        if decide(alone, POLICY).decision is Decision.PASS:
            self.lone, lone = candidate, lone + 1
        if gate_markets.seed_rules(found.candidate):
            self.seeds, seeds = candidate, seeds + 1
        self.promoted = (ours, lone, seeds)

    @staticmethod
    def _answered(seen: Table, model: Model, first: int, last: int, trained: int) -> Answered:
        part = seen.between(first + ROWS_A_DAY // 24, last)
        return Answered(
            answers=model.answers(part.inputs),
            rows=part.rows,
            prior=float(seen.rows.labels[: int(trained * (1 - VALIDATION))].mean()),
        )

    def _evidence(
        self,
        seen: Table,
        judged: Answered,
        past: list[Answered],
        incumbent: Model | None,
        before: int,
        policy: GatePolicy,
    ) -> Evidence:
        card = scoring.scorecard(judged.answers, judged.rows, prior=judged.prior, policy=policy)
        skill = pooled_skill.skill(judged, past, wanted=FOLDS, policy=policy)
        if incumbent is None:
            return Evidence(candidate=card, contract=FITS, skill=skill)
        theirs = self._answered(seen, incumbent, before, len(seen.inputs), before).answers
        return Evidence(
            candidate=card,
            contract=FITS,
            skill=skill,
            incumbent=scoring.scorecard(theirs, judged.rows, prior=judged.prior, policy=policy),
            comparison=scoring.comparison(judged.answers, theirs, judged.rows, policy=policy),
        )


def nothing_for_a_year(seed_and_drift: tuple[int, float]) -> tuple[int, int, int]:
    """Promotions in a year without anything to learn."""
    seed, drift = seed_and_drift
    history = Retraining(table(seed, WINDOW_DAYS + 365, [(0, GOOD)], edge=False, drift=drift))
    for number in range(WINDOW_DAYS, WINDOW_DAYS + 365):
        history.day(number)
    return history.promoted


def after_a_change(seed: int) -> list[tuple[float, float]]:
    """(days until a better model serves, share of days worse than the best available), per method.

    Better: at least half of the gain of the best model of these days over the stale one.
    """
    changed = WINDOW_DAYS + 5
    turned = replace(GOOD, turn_degrees=TURN_DEGREES)
    history = Retraining(table(seed, changed + DAYS_AFTER, [(0, GOOD), (changed, turned)], edge=True))
    fresh = table(10_000 + seed, 25, [(0, turned)], edge=True)
    for number in range(WINDOW_DAYS, changed + 1):
        history.day(number)
    stale = history.newest
    assert stale is not None, "a model is trained every day"
    history.ours = history.lone = history.seeds = stale

    def loss(model: Model | None) -> float:
        assert model is not None, "every method serves a model"
        return float(statistics.log_losses(fresh.rows.labels, model.answers(fresh.inputs)).mean())

    losses: list[list[float]] = []
    best: list[float] = []
    for number in range(changed + 1, changed + DAYS_AFTER + 1):
        history.day(number)
        served = [loss(model) for model in (history.ours, history.lone, history.seeds, history.newest)]
        losses.append(served)
        best.append(min([*best[-1:], *served, loss(stale)]))
    found = []
    for served in np.array(losses).T:
        better = np.flatnonzero(served < 0.5 * (loss(stale) + best[-1]))
        worse = served > np.array(best) + MARGIN
        found.append((float(better[0] + 1) if len(better) else np.inf, float(worse.mean())))
    return found


WAYS = ("this program", "the holdout alone at 0.001", "the seed's rules", "always the newest (FreqAI)")


def years_table(years: int, run: Callable[..., Iterable[tuple[int, int, int]]]) -> None:
    """False promotions a year, half of the years with an unobservable drift of the hit rate."""
    print(f"\n### Years of daily retraining on the last {WINDOW_DAYS} days, {ROWS_A_DAY} rows a day\n")
    print("| method | false promotions a year, nothing to learn | the same with drift |\n|---|---|---|")
    half = max(1, years // 2)
    plain, drifting = (
        np.array(list(run(nothing_for_a_year, [(seed, drift) for seed in range(number)])))
        for drift, number in ((0.0, half), (0.3, max(1, years - half)))
    )
    for place, way in enumerate(WAYS[:3]):
        print(f"| {way} | {_rate(plain[:, place])} | {_rate(drifting[:, place])} |")
    print(f"| {WAYS[3]} | 365 | 365 |")


def changes_table(count: int, run: Callable[..., Iterable[list[tuple[float, float]]]]) -> None:
    """Days until a better model serves, and days of a worse one, after a change of regime."""
    changes = np.array(list(run(after_a_change, range(count))))
    print(f"\n### After a change of regime (the relation rotates by {TURN_DEGREES:.0f}°), {len(changes)} markets\n")
    print("| method | median days until a better model serves | days served by one worse than the best available |")
    print("|---|---|---|")
    for place, way in enumerate(WAYS):
        days, worse = changes[:, place, 0], changes[:, place, 1]
        print(
            f"| {way} | {np.median(days):.0f} ({np.quantile(days, 0.1, method='lower'):.0f}.."
            f"{np.quantile(days, 0.9, method='higher'):.0f}) | {worse.mean():.0%} |"
        )


def _rate(counts: NDArray[np.int64]) -> str:
    """Events a year with the exact Poisson interval."""
    total, years = int(counts.sum()), len(counts)
    low = stats.chi2.ppf(0.025, 2 * total) / 2 / years if total else 0.0
    high = stats.chi2.ppf(0.975, 2 * total + 2) / 2 / years
    return f"{total / years:.2f} ({low:.2f}..{high:.2f}), {years} years"


# ---------------------------------------------------------------- alpha spending rules


def spending_table(repeats: int) -> None:
    """Daily statistics of overlapping holdouts as normal variables: five days of evidence, one replaced each day."""
    span, years, effect = 5, 5, 4.0
    days = 365 * years
    print(f"\n### Alpha spending: {repeats} times {years} years of overlapping holdouts, simulated\n")
    print("| rule | false promotions a year, first and last year | days until an edge of 4 sigma is promoted |")
    print("|---|---|---|")
    random = np.random.default_rng(1)
    noise = random.standard_normal((repeats, days + span))
    z = np.cumsum(noise, axis=1)
    z = (z[:, span:] - z[:, :-span]) / np.sqrt(span)
    levels = {
        "every decision at 0.001": np.full(days, 0.001),
        "convergent series, 0.5 in all (Lan and DeMets)": 0.5 * 6 / np.pi**2 / np.arange(1, days + 1) ** 2.0,
        "alpha wealth (domain/alpha_spending.py), 0.1 a year": _wealth(days),
    }
    for name, alphas in levels.items():
        limits = stats.norm.isf(alphas)
        false = _onsets(z > limits)
        waits = [_wait(z, limits, start, effect, span) for start in (0, days - 365)]
        print(
            f"| {name} | {false[:, :365].sum(axis=1).mean():.3f}, {false[:, -365:].sum(axis=1).mean():.3f} "
            f"| {waits[0]:.0f}, {waits[1]:.0f} |"
        )
    drift = effect / np.sqrt(span)
    false_sr, wait = _e_detector(noise[:, span:], drift, start=days - 365)
    print(
        f"| e-detector, mean time to a false alarm 10 years (Shin et al.), edge and variance known "
        f"| {false_sr:.3f} | {wait:.0f} |"
    )


def _wealth(days: int) -> Floats:
    last, found = None, []
    for number in range(days):
        at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)
        last = spend(last, at=at, skill_alpha=0.001, per_year=0.1)
        found.append(last.alpha)
    return np.array(found)


def _onsets(over: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return over & ~np.pad(over, ((0, 0), (1, 0)))[:, :-1]


def _wait(z: Floats, limits: Floats, start: int, effect: float, span: int) -> float:
    grown = effect * np.minimum(1.0, np.arange(1, 366) / span)
    over = z[:, start : start + 365] + grown > limits[start : start + 365]
    return float(np.median(np.where(over.any(axis=1), over.argmax(axis=1) + 1, 366)))


def _e_detector(noise: Floats, drift: float, *, start: int) -> tuple[float, float]:
    """Shiryaev-Roberts: (R + 1) * likelihood ratio, alarm at the required mean time between false alarms."""
    limit, value, alarms = 3650.0, np.zeros(len(noise)), 0
    for day in noise.T:
        value = (value + 1) * np.exp(drift * day - drift**2 / 2)
        alarms += int((value > limit).sum())
        value[value > limit] = 0.0
    value, waits = np.zeros(len(noise)), np.full(len(noise), np.inf)
    for number, day in enumerate(noise[:, start:].T, start=1):
        value = (value + 1) * np.exp(drift * (day + drift) - drift**2 / 2)
        waits = np.where((value > limit) & np.isinf(waits), number, waits)
    return alarms / noise.size * 365, float(np.median(waits))
