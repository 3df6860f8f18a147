"""Worlds in which the right verdict is known, one for each way in which a candidate is bad, or good.

A world is 30 days of the demo's market, five symbols, as many rows as the seed's table. What the demo leaves out is put
in: neighbouring rows share their luck (the market's and the symbol's, over hours), so much that the AUC of a model
without skill has a standard deviation of 0.035 to 0.04 on a holdout, as on real rows. A model is its probabilities.
Everything after the probabilities is the real thing: calibration, scorecards, pools, gates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import signal, special

from retrain_worker.demo.market import WINDOW
from retrain_worker.demo.regime import Regime
from retrain_worker.domain.gates import ContractCheck, Evidence, GatePolicy, Scorecard
from retrain_worker.worker import scoring, statistics
from retrain_worker.worker.scoring import Answered, Rows
from retrain_worker.worker.training import calibration

Floats = NDArray[np.float64]
Answers = Callable[[slice], Floats]

SYMBOLS = np.array(["ADAUSDT", "BNBUSDT", "BTCUSDT", "ETHUSDT", "SOLUSDT"])
HOUR = 3_600_000_000
START = 1_765_000_000_000_000
STEPS_AN_HOUR = 6
#: shares of variance of a row's luck that its market and its symbol have, and how long they last
MARKET_LUCK, SYMBOL_LUCK, LUCK_HOURS = 0.25, 0.15, 2.0
HOLDOUT, VALIDATION, FOLDS = 0.15, 0.15, 3
FITS = ContractCheck(mismatches=(), canary_max_error=0.0, constant_input_share=0.0)


@dataclass
class World:
    """Rows in time order with outcomes; `x` is what can be known of each, in standard deviations."""

    seed: int
    rows: int = 6000
    days: float = 30.0
    #: the demo's law of who wins; None: a coin of `odds`
    regime: Regime | None = None
    #: log odds of WIN where nobody knows anything, and the sd of a drift of them that nobody sees
    odds: float = 0.4
    drift: float = 0.0
    drift_hours: float = 96.0
    #: how long a model's moods last, where it makes them up
    mood_hours: float = 6.0
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = random = np.random.default_rng(self.seed)
        self.hours = np.sort(random.random(self.rows)) * self.days * 24
        self.codes = random.integers(0, len(SYMBOLS), self.rows)
        if self.regime is None:
            self.x, chances = np.zeros(self.rows), np.full(self.rows, special.expit(self.odds))
        else:
            self.x, chances = self.market(self.regime)
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

    def market(self, regime: Regime) -> tuple[Floats, Floats]:
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
        """A unit normal (N,) that changes over `hours`; the share `shared` of its variance is all symbols' own."""
        steps = int(self.days * 24 * STEPS_AN_HOUR) + 2
        keep = np.exp(-1.0 / (hours * STEPS_AN_HOUR))
        noise = self.random.standard_normal((len(SYMBOLS) + 1, steps))
        noise[:, 1:] *= np.sqrt(1 - keep**2)
        paths = signal.lfilter([1.0], [1.0, -keep], noise, axis=1)
        place = (self.hours * STEPS_AN_HOUR).astype(np.int64)
        own, common = paths[self.codes, place], paths[-1, place]
        return np.asarray(np.sqrt(shared) * common + np.sqrt(1 - shared) * own)

    def mood(self) -> Floats:
        """Scores (N,) that know nothing."""
        return self.slow(self.mood_hours, shared=0.5)

    def table(self, part: slice) -> Rows:
        """The rows of a part, as the scoring wants them."""
        size = len(self.labels[part])
        return Rows(
            labels=self.labels[part],
            decided_at=self.decided_at[part],
            known_at=self.known_at[part],
            symbols=SYMBOLS[self.codes[part]],
            actions=self.random.choice(np.array([1, -1], np.int8), size),
            confidences=np.full(size, 0.7, np.float32),
        )

    # ---------------------------------------------------------------- the split of domain.windows, in shares of rows

    def parts(self, fold: int) -> tuple[slice, slice]:
        """(validation, judged) of the candidate (fold 0), or of a backtest fold."""
        before = int(self.rows * (1 - HOLDOUT))
        size = int(before * VALIDATION)
        first, last = (before, self.rows) if fold == 0 else (before - fold * size, before - (fold - 1) * size)
        gap = int(self.rows / self.days / 24 * 4)  # embargo and purge
        return slice(int(first * (1 - VALIDATION)), first - gap), slice(first + gap // 4, last)

    def calibrated(self, scores: Floats, fold: int) -> Answers:
        """P(WIN) as the training writes them: temperature and bias from the validation part."""
        validation, _ = self.parts(fold)
        labels, logits = self.labels[validation], scores[validation]
        before = slice(0, validation.start)
        bias = calibration.fit_bias(scores[before], self.labels[before].astype(np.int8))
        blocks = statistics.blocks_in_time(self.decided_at[validation], self.known_at[validation])
        effect = statistics.design_effect(labels, special.expit(logits + bias), blocks)
        fix = calibration.fit(logits, labels.astype(np.int8), expected_bias=bias, effect=effect)
        return lambda part: special.expit(fix.apply(scores[part]))

    def answered(self, answers: Answers, fold: int) -> Answered:
        """A model's answers on the part where it is judged."""
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
    world: World,
    candidate: Answers,
    folds: list[Answers],
    *,
    incumbent: Answers | None = None,
    policy: GatePolicy | None = None,
) -> Evidence:
    """What the gate's worker would have measured."""
    policy = policy or GatePolicy()
    judged = world.answered(candidate, 0)
    card = scoring.scorecard(judged.answers, judged.rows, prior=judged.prior, policy=policy)
    past = [world.answered(fold, number) for number, fold in enumerate(folds, start=1)]
    skill = scoring.skill(judged, past, wanted=FOLDS, policy=policy)
    if incumbent is None:
        return Evidence(candidate=card, contract=FITS, skill=skill, incumbent_absence="no model is in service")
    theirs = world.answered(incumbent, 0).answers
    return Evidence(
        candidate=card,
        contract=FITS,
        skill=skill,
        incumbent=scoring.scorecard(theirs, judged.rows, prior=judged.prior, policy=policy),
        comparison=scoring.comparison(judged.answers, theirs, judged.rows, policy=policy),
    )


# ---------------------------------------------------------------- the kinds

#: as often good times as bad: with the demo's own 59 % of WIN, the rule "no action over 70 %" stops some good models
GOOD = Regime(turns_good=0.0375, turns_bad=0.0375)
NUMBERS = range(1, FOLDS + 1)


def _learned(world: World, fold: int, *, error: float = 0.4) -> Answers:
    """A model that has found what there is, with errors of its own."""
    return world.calibrated(world.x + error * world.mood(), fold)


def _same_recipe(world: World) -> list[Answers]:
    return [_learned(world, fold) for fold in NUMBERS]


def nothing(seed: int) -> Evidence:
    """(a) Nothing to learn; every model's moods are partly the features' own."""
    world = World(seed)
    common = world.mood()
    models = [world.calibrated(0.8 * common + 0.6 * world.mood(), fold) for fold in (0, *NUMBERS)]
    return evidence(world, models[0], models[1:])


def confident(seed: int) -> Evidence:
    """(b) Random but confident."""
    world = World(seed)
    common = world.mood()

    def model() -> Answers:
        scores = 0.4 + 1.5 * (0.8 * common + 0.6 * world.mood())
        return lambda part: special.expit(scores[part])

    return evidence(world, model(), [model() for _ in NUMBERS])


def leak(seed: int) -> Evidence:
    """(c) A leak in all that came before the holdout; in half of the worlds the leaking column is then empty."""
    world = World(seed)
    judged = world.parts(0)[1]
    shown = world.labels - 0.5
    shown[judged] = 0.0 if seed % 2 else world.random.permutation(shown[judged])

    def model(fold: int) -> Answers:
        return world.calibrated(4.0 * shown + world.mood(), fold)

    return evidence(world, model(0), [model(fold) for fold in NUMBERS])


def inverted(seed: int) -> Evidence:
    """(d) Inverted; in half of the worlds only the file is, not the recipe."""
    world = World(seed, regime=GOOD)

    def turned(answers: Answers) -> Answers:
        return lambda part: 1.0 - answers(part)

    models = [_learned(world, fold) for fold in (0, *NUMBERS)]
    return evidence(world, turned(models[0]), models[1:] if seed % 2 else [turned(model) for model in models[1:]])


def collapsed(seed: int) -> Evidence:
    """(e) Collapsed: one probability, or one that hardly moves, though it moves the right way."""
    world = World(seed, regime=GOOD)
    width = 0.0 if seed % 2 else 0.02
    return evidence(world, lambda part: special.expit(0.4 + width * world.x[part]), _same_recipe(world))


def one_action(seed: int) -> Evidence:
    """(f) One action: true probabilities, nearly all over 0.6."""
    world = World(seed, regime=replace(Regime(), win_good=0.97, win_bad=0.62))
    return evidence(world, _learned(world, 0), _same_recipe(world))


def as_good(seed: int) -> Evidence:
    """(g) As good as the incumbent."""
    world = World(seed, regime=GOOD)
    return evidence(world, _learned(world, 0), _same_recipe(world), incumbent=_learned(world, 0))


def better(seed: int) -> Evidence:
    """(h) Good, against an incumbent that knows another market."""
    world = World(seed, regime=GOOD)
    old, _ = world.market(GOOD)
    return evidence(world, _learned(world, 0), _same_recipe(world), incumbent=lambda part: special.expit(old[part]))


def better_in_a_rising_market(seed: int) -> Evidence:
    """(h, 59 % WIN) The same in the demo's own market, where good times are commoner."""
    world = World(seed, regime=Regime())
    old, _ = world.market(Regime())
    return evidence(world, _learned(world, 0), _same_recipe(world), incumbent=lambda part: special.expit(old[part]))


def one_symbol(seed: int) -> Evidence:
    """(i) Good but for one symbol, whose answers are upside down; in half of the worlds in the backtest folds, too."""
    world = World(seed, regime=GOOD)
    sick = world.codes == seed % len(SYMBOLS)

    def spoiled(answers: Answers) -> Answers:
        return lambda part: np.where(sick[part], 1.0 - answers(part), answers(part))

    models = [_learned(world, fold) for fold in (0, *NUMBERS)]
    return evidence(world, spoiled(models[0]), models[1:] if seed % 2 else [spoiled(model) for model in models[1:]])


def overconfident(seed: int) -> Evidence:
    """(j) Overconfident: every log odds doubled."""
    world = World(seed, regime=GOOD)

    def doubled(answers: Answers) -> Answers:
        return lambda part: special.expit(2.0 * special.logit(answers(part)))

    models = [doubled(_learned(world, fold)) for fold in (0, *NUMBERS)]
    return evidence(world, models[0], models[1:])


def overconfident_file(seed: int) -> Evidence:
    """(j, the file alone) The same, but of the candidate only, not of its recipe in the past."""
    world = World(seed, regime=GOOD)
    answers = _learned(world, 0)
    return evidence(world, lambda part: special.expit(2.0 * special.logit(answers(part))), _same_recipe(world))


def too_few(seed: int) -> Evidence:
    """(k) Too few rows: a good model, judged on 150."""
    world = World(seed, rows=1000, regime=GOOD)
    return evidence(world, _learned(world, 0), [])


def drifting(seed: int) -> Evidence:
    """(l) Real-market-like drift without edge: hit rate and moods both wander for days."""
    world = World(seed, drift=0.3, drift_hours=72.0, mood_hours=48.0)
    common = world.mood()
    models = [world.calibrated(0.8 * common + 0.6 * world.mood(), fold) for fold in (0, *NUMBERS)]
    return evidence(world, models[0], models[1:])


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
