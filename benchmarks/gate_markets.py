"""Simulated markets in which the right verdict is known, one for each kind of candidate.

A market is 30 days of the demo's market, five symbols, as many rows as the seed's table. In addition, outcomes of
neighbouring rows are correlated (within the market and the symbol, over hours), so that the AUC of a model without
skill has a standard deviation of 0.035 to 0.04 on a holdout, as on real rows. A model is given by its probabilities.
Calibration, scorecards, pooling and gates are the program's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import signal, special

from retrain_worker.demo.market import WINDOW
from retrain_worker.demo.regime import Regime
from retrain_worker.domain.gates import ContractCheck, Evidence, GatePolicy, Scorecard
from retrain_worker.settings import load
from retrain_worker.worker import pooled_skill, scoring, statistics
from retrain_worker.worker.pooled_skill import Answered
from retrain_worker.worker.scoring import Rows
from retrain_worker.worker.training import calibration

Floats = NDArray[np.float64]
Answers = Callable[[slice], Floats]

SYMBOLS = np.array(["ADAUSDT", "BNBUSDT", "BTCUSDT", "ETHUSDT", "SOLUSDT"])
HOUR = 3_600_000_000
START = 1_765_000_000_000_000
STEPS_AN_HOUR = 6
#: shares of the outcome noise's variance that the market and the symbol have, and their duration
MARKET_LUCK, SYMBOL_LUCK, LUCK_HOURS = 0.25, 0.15, 2.0
HOLDOUT, VALIDATION, FOLDS = 0.15, 0.15, 3
#: the defaults, or what the environment sets: GATE_SLOPE_ALPHA=0.1 python benchmarks/gates.py
POLICY = load({name: value for name, value in os.environ.items() if name.startswith("GATE_")}).gate
FITS = ContractCheck(mismatches=(), canary_max_error=0.0, constant_input_share=0.0)


@dataclass
class SimulatedMarket:
    """Rows in time order with outcomes; `x` is the predictable part of each."""

    seed: int
    rows: int = 6000
    days: float = 30.0
    #: the demo's regime; None: constant odds
    regime: Regime | None = None
    #: log odds of WIN without a regime, and the standard deviation of an unobservable drift of them
    odds: float = 0.4
    drift: float = 0.0
    drift_hours: float = 96.0
    #: duration of a model's uninformative deviations
    noise_hours: float = 6.0
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = random = np.random.default_rng(self.seed)
        self.hours = np.sort(random.random(self.rows)) * self.days * 24
        self.codes = random.integers(0, len(SYMBOLS), self.rows)
        if self.regime is None:
            self.x, chances = np.zeros(self.rows), np.full(self.rows, special.expit(self.odds))
        else:
            self.x, chances = self.log_odds(self.regime)
        luck = (
            np.sqrt(MARKET_LUCK) * self.slow(LUCK_HOURS, shared=1.0)
            + np.sqrt(SYMBOL_LUCK) * self.slow(LUCK_HOURS, shared=0.0)
            + np.sqrt(1 - MARKET_LUCK - SYMBOL_LUCK) * random.standard_normal(self.rows)
        )
        if self.drift:
            chances = special.expit(special.logit(chances) + self.drift * self.slow(self.drift_hours, shared=0.5))
        self.labels = (special.ndtr(luck) < chances).astype(np.int64)
        self.decided_at = (START + self.hours * HOUR).astype(np.int64)
        self.known_at = self.decided_at + (random.uniform(1.0, 4.0, self.rows) * HOUR).astype(np.int64)

    def log_odds(self, regime: Regime) -> tuple[Floats, Floats]:
        """(log odds of WIN of the Bayes-optimal model, true chance of WIN), (N,) each."""
        known, chances = np.empty(self.rows), np.empty(self.rows)
        for code in range(len(SYMBOLS)):
            mine = self.codes == code
            count = int(mine.sum())
            states = regime.states(self.random, count + regime.lag)
            evidence = regime.evidence(regime.signals(self.random, states[regime.lag :], 4))
            known[mine] = special.logit(regime.posterior(evidence, window=WINDOW))
            chances[mine] = regime.win_probability(states[:count].astype(np.float64))
        return known, chances

    def slow(self, hours: float, *, shared: float) -> Floats:
        """A unit normal (N,) that changes over `hours`; the share `shared` of its variance is common to all symbols."""
        steps = int(self.days * 24 * STEPS_AN_HOUR) + 2
        keep = np.exp(-1.0 / (hours * STEPS_AN_HOUR))
        noise = self.random.standard_normal((len(SYMBOLS) + 1, steps))
        noise[:, 1:] *= np.sqrt(1 - keep**2)
        paths = signal.lfilter([1.0], [1.0, -keep], noise, axis=1)
        place = (self.hours * STEPS_AN_HOUR).astype(np.int64)
        own, common = paths[self.codes, place], paths[-1, place]
        return np.asarray(np.sqrt(shared) * common + np.sqrt(1 - shared) * own)

    def noise(self) -> Floats:
        """Uninformative scores (N,)."""
        return self.slow(self.noise_hours, shared=0.5)

    def table(self, part: slice) -> Rows:
        """The rows of a part, for worker.scoring."""
        size = len(self.labels[part])
        return Rows(
            labels=self.labels[part],
            decided_at=self.decided_at[part],
            known_at=self.known_at[part],
            symbols=SYMBOLS[self.codes[part]],
            actions=self.random.choice(np.array([1, -1], np.int8), size),
            confidences=np.full(size, 0.7, np.float32),
        )

    # ------------------------------------------------ the split of domain.split_policy, in shares of rows

    def parts(self, fold: int) -> tuple[slice, slice]:
        """(validation, evaluated) part of the candidate (fold 0) or of a backtest fold."""
        before = int(self.rows * (1 - HOLDOUT))
        size = int(before * VALIDATION)
        first, last = (before, self.rows) if fold == 0 else (before - fold * size, before - (fold - 1) * size)
        gap = int(self.rows / self.days / 24 * 4)  # embargo and purge
        return slice(int(first * (1 - VALIDATION)), first - gap), slice(first + gap // 4, last)

    def calibrated(self, scores: Floats, fold: int) -> Answers:
        """P(WIN) as training calibrates it: temperature and bias from the validation part."""
        validation, _ = self.parts(fold)
        labels, logits = self.labels[validation], scores[validation]
        before = slice(0, validation.start)
        bias = calibration.fit_bias(scores[before], self.labels[before].astype(np.int8))
        effect = statistics.design_effect(labels, special.expit(logits + bias))
        fix = calibration.fit(logits, labels.astype(np.int8), expected_bias=bias, effect=effect)
        return lambda part: special.expit(fix.apply(scores[part]))

    def answered(self, answers: Answers, fold: int) -> Answered:
        """A model's answers on the part on which it is evaluated."""
        validation, judged = self.parts(fold)
        return Answered(
            answers=np.asarray(answers(judged)),
            rows=self.table(judged),
            prior=float(self.labels[: validation.start].mean()),
        )


def seed_rules(card: Scorecard) -> bool:
    """Gates 1 and 2 of the seed's proof pack."""
    shares = card.actions.values()
    diverse = max(shares) <= 0.70 and sum(share > 0.10 for share in shares) >= 2
    return diverse and (card.p_std or 0.0) >= 0.05 and (card.p10_p90 or 0.0) >= 0.12


def evidence(
    market: SimulatedMarket,
    candidate: Answers,
    folds: list[Answers],
    *,
    incumbent: Answers | None = None,
    policy: GatePolicy = POLICY,
) -> Evidence:
    """The measurements of the gate worker."""
    judged = market.answered(candidate, 0)
    card = scoring.scorecard(judged.answers, judged.rows, prior=judged.prior, policy=policy)
    past = [market.answered(fold, number) for number, fold in enumerate(folds, start=1)]
    skill = pooled_skill.skill(judged, past, wanted=FOLDS, policy=policy)
    if incumbent is None:
        return Evidence(candidate=card, contract=FITS, skill=skill, incumbent_absence="no model is in service")
    theirs = market.answered(incumbent, 0).answers
    return Evidence(
        candidate=card,
        contract=FITS,
        skill=skill,
        incumbent=scoring.scorecard(theirs, judged.rows, prior=judged.prior, policy=policy),
        comparison=scoring.comparison(judged.answers, theirs, judged.rows, policy=policy),
    )


# ---------------------------------------------------------------- the kinds

#: balanced regimes: with the demo's 59 % of WIN, the limit of 70 % per action refuses some good models
GOOD = Regime(turns_good=0.0375, turns_bad=0.0375)
NUMBERS = range(1, FOLDS + 1)


def _learned(market: SimulatedMarket, fold: int, *, error: float = 0.4) -> Answers:
    """A model that has learned the signal, with independent errors."""
    return market.calibrated(market.x + error * market.noise(), fold)


def _same_configuration(market: SimulatedMarket) -> list[Answers]:
    return [_learned(market, fold) for fold in NUMBERS]


def nothing(seed: int) -> Evidence:
    """(a) Nothing to learn; the deviations of all models are correlated."""
    market = SimulatedMarket(seed)
    common = market.noise()
    models = [market.calibrated(0.8 * common + 0.6 * market.noise(), fold) for fold in (0, *NUMBERS)]
    return evidence(market, models[0], models[1:])


def confident(seed: int) -> Evidence:
    """(b) Random but confident."""
    market = SimulatedMarket(seed)
    common = market.noise()

    def model() -> Answers:
        scores = 0.4 + 1.5 * (0.8 * common + 0.6 * market.noise())
        return lambda part: special.expit(scores[part])

    return evidence(market, model(), [model() for _ in NUMBERS])


def leak(seed: int) -> Evidence:
    """(c) A leak in all rows before the holdout; in half of the markets the leaking column is empty afterwards."""
    market = SimulatedMarket(seed)
    judged = market.parts(0)[1]
    shown = market.labels - 0.5
    shown[judged] = 0.0 if seed % 2 else market.random.permutation(shown[judged])

    def model(fold: int) -> Answers:
        return market.calibrated(4.0 * shown + market.noise(), fold)

    return evidence(market, model(0), [model(fold) for fold in NUMBERS])


def inverted(seed: int) -> Evidence:
    """(d) Inverted; in half of the markets only the file, not the configuration."""
    market = SimulatedMarket(seed, regime=GOOD)

    def turned(answers: Answers) -> Answers:
        return lambda part: 1.0 - answers(part)

    models = [_learned(market, fold) for fold in (0, *NUMBERS)]
    return evidence(market, turned(models[0]), models[1:] if seed % 2 else [turned(model) for model in models[1:]])


def collapsed(seed: int) -> Evidence:
    """(e) Collapsed: one probability, or very small differences in the right direction."""
    market = SimulatedMarket(seed, regime=GOOD)
    width = 0.0 if seed % 2 else 0.02
    return evidence(market, lambda part: special.expit(0.4 + width * market.x[part]), _same_configuration(market))


def one_action(seed: int) -> Evidence:
    """(f) One action: true probabilities, nearly all above 0.6."""
    market = SimulatedMarket(seed, regime=replace(Regime(), win_good=0.97, win_bad=0.62))
    return evidence(market, _learned(market, 0), _same_configuration(market))


def as_good(seed: int) -> Evidence:
    """(g) As good as the incumbent."""
    market = SimulatedMarket(seed, regime=GOOD)
    return evidence(market, _learned(market, 0), _same_configuration(market), incumbent=_learned(market, 0))


def better(seed: int) -> Evidence:
    """(h) Good, against an incumbent of another market."""
    market = SimulatedMarket(seed, regime=GOOD)
    old, _ = market.log_odds(GOOD)
    return evidence(
        market, _learned(market, 0), _same_configuration(market), incumbent=lambda part: special.expit(old[part])
    )


def better_in_a_rising_market(seed: int) -> Evidence:
    """(h, 59 % WIN) The same in the demo's market, in which WIN is more frequent."""
    market = SimulatedMarket(seed, regime=Regime())
    old, _ = market.log_odds(Regime())
    return evidence(
        market, _learned(market, 0), _same_configuration(market), incumbent=lambda part: special.expit(old[part])
    )


def one_symbol(seed: int) -> Evidence:
    """(i) Good except for one symbol with inverted answers; in half of the markets in the backtest folds as well."""
    market = SimulatedMarket(seed, regime=GOOD)
    sick = market.codes == seed % len(SYMBOLS)

    def spoiled(answers: Answers) -> Answers:
        return lambda part: np.where(sick[part], 1.0 - answers(part), answers(part))

    models = [_learned(market, fold) for fold in (0, *NUMBERS)]
    return evidence(market, spoiled(models[0]), models[1:] if seed % 2 else [spoiled(model) for model in models[1:]])


def overconfident(seed: int) -> Evidence:
    """(j) Overconfident: every log odds doubled."""
    market = SimulatedMarket(seed, regime=GOOD)

    def doubled(answers: Answers) -> Answers:
        return lambda part: special.expit(2.0 * special.logit(answers(part)))

    models = [doubled(_learned(market, fold)) for fold in (0, *NUMBERS)]
    return evidence(market, models[0], models[1:])


def overconfident_file(seed: int) -> Evidence:
    """(j, the file alone) The same for the candidate only, not for its configuration on earlier folds."""
    market = SimulatedMarket(seed, regime=GOOD)
    answers = _learned(market, 0)
    return evidence(market, lambda part: special.expit(2.0 * special.logit(answers(part))), _same_configuration(market))


def too_few(seed: int) -> Evidence:
    """(k) Too few rows: a good model, evaluated on 150."""
    market = SimulatedMarket(seed, rows=1000, regime=GOOD)
    return evidence(market, _learned(market, 0), [])


def drifting(seed: int) -> Evidence:
    """(l) Drift without an edge: the hit rate and the model's deviations drift for days."""
    market = SimulatedMarket(seed, drift=0.3, drift_hours=72.0, noise_hours=48.0)
    common = market.noise()
    models = [market.calibrated(0.8 * common + 0.6 * market.noise(), fold) for fold in (0, *NUMBERS)]
    return evidence(market, models[0], models[1:])


KINDS: dict[str, Callable[[int], Evidence]] = {
    "a": nothing,
    "b": confident,
    "c": leak,
    "d": inverted,
    "e": collapsed,
    "f": one_action,
    "g": as_good,
    "h": better,
    "h60": better_in_a_rising_market,
    "i": one_symbol,
    "j": overconfident,
    "j1": overconfident_file,
    "k": too_few,
    "l": drifting,
}
