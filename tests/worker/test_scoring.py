"""A scorecard measures what it says, its bounds hold what they promise, and what cannot be measured is None."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats
from sklearn import metrics

from retrain_worker.domain import artifact
from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.gates import Evidence, GatePolicy, Scorecard
from retrain_worker.domain.labels import Label, Thresholds, action_of
from retrain_worker.domain.recipe import InputTransform, Preset, Recipe
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.worker_protocol import GateRequest
from retrain_worker.errors import ArtifactError
from retrain_worker.model import bundle, presets
from retrain_worker.model.patchtst import PatchTST, sigmoid
from retrain_worker.worker import pooled_skill, scoring, statistics
from retrain_worker.worker.gate_measurement import measure
from retrain_worker.worker.scoring import Rows
from tests.known import known
from tests.worker.synthetic_market import HOUR, NAMES, START, market, saved

POLICY = GatePolicy()


def rows(labels: Any, *, hours_apart: float = 0.1, horizon_hours: float = 1.0, **changes: Any) -> Rows:
    labels = np.asarray(labels, dtype=np.int64)
    decided_at = (START + np.arange(len(labels)) * hours_apart * HOUR).astype(np.int64)
    values: dict[str, Any] = {
        "labels": labels,
        "decided_at": decided_at,
        "known_at": decided_at + int(horizon_hours * HOUR),
        "symbols": np.full(len(labels), "BTCUSDT"),
        "actions": np.zeros(len(labels), dtype=np.int8),
        "confidences": np.full(len(labels), 0.7, dtype=np.float32),
    }
    return Rows(**(values | changes))


def world(count: int, *, skill: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """True probabilities and outcomes drawn from them."""
    random = np.random.default_rng(seed)
    truth = sigmoid(random.normal(0.3, skill, count))
    return truth, (random.random(count) < truth).astype(np.int64)


# ---------------------------------------------------------------- numbers


def test_numbers_are_those_of_scikit_learn() -> None:
    answers, labels = world(3000, skill=1.5, seed=1)
    card = scoring.scorecard(answers, rows(labels), prior=0.6, policy=POLICY)
    assert card.auc == pytest.approx(metrics.roc_auc_score(labels, answers), abs=1e-12)
    assert card.log_loss == pytest.approx(metrics.log_loss(labels, answers), abs=1e-9)
    assert card.brier == pytest.approx(metrics.brier_score_loss(labels, answers))
    assert card.prior_log_loss == pytest.approx(metrics.log_loss(labels, np.full(3000, 0.6)))
    assert card.log_loss_gain == pytest.approx(known(card.prior_log_loss) - known(card.log_loss))
    assert sum(bucket.n for bucket in card.buckets) == 3000
    assert card.actions == {
        name: np.mean([action_of(p, Thresholds()) == name for p in answers]) for name in ("BUY", "SELL", "HOLD")
    }


def test_the_hit_rate_of_each_confidence_has_an_interval_as_wide_as_shared_luck_makes_it() -> None:
    answers, labels = world(3000, skill=1.5, seed=1)
    for bucket in scoring.scorecard(answers, rows(labels), prior=0.6, policy=POLICY).buckets:
        assert bucket.hit_rate is not None
        assert bucket.hit_rate_low is not None
        assert bucket.hit_rate_high is not None
        assert 0.0 <= bucket.hit_rate_low < bucket.hit_rate < bucket.hit_rate_high <= 1.0
    wilson = stats.binomtest(7, 50).proportion_ci(0.95, method="wilson")
    few, many = np.repeat([1, 0], [7, 43]), np.repeat([1, 0], [28, 172])
    assert statistics.hit_rate_interval(few, confidence=0.95) == pytest.approx((wilson.low, wilson.high))
    assert statistics.hit_rate_interval(many, confidence=0.95, effect=4.0) == pytest.approx((wilson.low, wilson.high))
    assert statistics.hit_rate_interval(few[:0], confidence=0.95) == (None, None)


def test_ties_count_half_in_the_auc() -> None:
    labels = np.array([0, 1] * 50)
    answers = np.round(np.random.default_rng(1).random(100), 1)
    found = statistics.auc(judged(labels, answers))
    assert found is not None
    assert found.value == pytest.approx(metrics.roc_auc_score(labels, answers), abs=1e-12)


def test_standard_error_of_the_auc_is_that_of_repeated_draws() -> None:
    drawn, told = [], []
    for seed in range(300):
        answers, labels = world(400, skill=1.0, seed=seed)
        found = statistics.auc(judged(labels, answers))
        assert found is not None
        drawn.append(found.value)
        told.append(found.standard_error)
    assert np.median(told) == pytest.approx(np.std(drawn), rel=0.15)


# ---------------------------------------------------------------- bounds


def persistent(random: np.random.Generator, count: int, rows_long: float) -> np.ndarray:
    """A unit normal (count,) whose correlation falls to 1/e within `rows_long` rows; independent for 0."""
    keep = math.exp(-1.0 / rows_long) if rows_long else 0.0
    steps = random.standard_normal(count)
    steps[1:] *= math.sqrt(1.0 - keep**2)
    return np.asarray(signal.lfilter([1.0], [1.0, -keep], steps))


def shared_luck(count: int, rows_long: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """No skill, but both the answers and 40 % of the variance of the outcomes' luck persist for `rows_long` rows."""
    random = np.random.default_rng(seed)
    luck = math.sqrt(0.4) * persistent(random, count, rows_long) + math.sqrt(0.6) * random.standard_normal(count)
    return sigmoid(persistent(random, count, rows_long)), (luck > 0).astype(np.int64)


@pytest.mark.parametrize("measure", ["auc", "gain"])
@pytest.mark.parametrize("rows_long", [0, 20, 200])
def test_bounds_hold_their_error_probability_when_luck_persists(measure: str, rows_long: float) -> None:
    worlds, beyond, naive_beyond = 400, 0, 0
    for seed in range(worlds):
        answers, labels = shared_luck(3200, rows_long, seed=seed)
        if measure == "auc":
            found, truth = known(statistics.auc(judged(labels, answers))), 0.5
        else:
            values = (answers - 0.5) * (labels - 0.5)  # without skill, zero on average
            found, truth = statistics.mean(values), 0.0
            naive_error = values.std() / math.sqrt(len(values))
            naive_beyond += values.mean() - stats.norm.isf(0.01) * naive_error > truth
        beyond += known(found.low(0.01)) > truth
    assert beyond / worlds < 0.025
    if measure == "gain" and rows_long == 200:
        # the test can tell: rows taken for independent are wrong ten times as often
        assert naive_beyond / worlds > 0.15


def test_the_number_of_blocks_follows_from_the_dependence_of_the_values() -> None:
    random = np.random.default_rng(1)
    numbers = {
        rows_long: np.mean([statistics.mean(persistent(random, 3200, rows_long)).num_blocks for _ in range(100)])
        for rows_long in (0, 50, 400)
    }
    assert numbers[0] > 30 > 18 > numbers[50] > numbers[400]
    rising = statistics.blocks_in_time(np.arange(3200.0) - 1599.5)
    assert rising.count == statistics.MIN_BLOCKS
    assert rising.inflation == pytest.approx((1 + statistics.MAX_CORRELATION) / (1 - statistics.MAX_CORRELATION))


@given(num_rows=st.integers(48, 700), seed=st.integers(0, 1000))
def test_blocks_have_equal_numbers_of_rows_in_time_order(num_rows: int, seed: int) -> None:
    blocks = statistics.blocks_in_time(np.random.default_rng(seed).normal(size=num_rows))
    sizes = np.bincount(blocks.numbers)
    assert (np.diff(blocks.numbers) >= 0).all()
    assert blocks.inflation == 1.0 or len(sizes) == statistics.MIN_BLOCKS
    assert statistics.MIN_BLOCKS <= len(sizes) <= statistics.MAX_BLOCKS
    assert sizes.min() >= statistics.MIN_BLOCK_ROWS
    assert sizes.max() - sizes.min() <= 1


def test_stretches_that_differ_count_as_error() -> None:
    stretches = [judged(*world(800, skill=1.0, seed=seed)[::-1]) for seed in (1, 2, 3)]
    inverted = judged(1 - stretches[2].labels, stretches[2].probabilities)
    alike, different = (known(statistics.auc(*stretches[:2], last)) for last in (stretches[2], inverted))
    areas = [metrics.roc_auc_score(each.labels, each.probabilities) for each in stretches]
    assert alike.value == pytest.approx(np.mean(areas))
    assert different.standard_error > 4 * alike.standard_error


def test_the_difference_of_two_parts_is_that_of_their_areas() -> None:
    is_inside = np.arange(1200) % 3 == 0
    drawn, reported = [], []
    for seed in range(200):
        answers, labels = world(1200, skill=1.0, seed=seed)
        found = known(statistics.auc_difference(judged(labels, answers), is_inside))
        inside, rest = (metrics.roc_auc_score(labels[mask], answers[mask]) for mask in (is_inside, ~is_inside))
        assert found.value == pytest.approx(inside - rest)
        drawn.append(found.value)
        reported.append(found.standard_error)
    assert np.median(reported) == pytest.approx(np.std(drawn), rel=0.15)
    assert statistics.auc_difference(judged(labels, answers), np.arange(1200) < 4) is None


def test_too_few_rows_give_no_bound() -> None:
    answers, labels = world(47, skill=1.5, seed=1)
    card = scoring.scorecard(answers, rows(labels), prior=0.5, policy=POLICY)
    assert card.num_blocks < statistics.MIN_BLOCKS
    assert card.auc is not None
    assert card.auc_low is card.log_loss_gain_low is None


def test_real_skill_is_beyond_doubt_and_no_skill_is_not() -> None:
    answers, labels = world(3000, skill=1.5, seed=1)
    card = scoring.scorecard(answers, rows(labels), prior=float(labels.mean()), policy=POLICY)
    assert card.auc_low is not None
    assert card.auc_low > 0.7
    assert card.log_loss_gain_low is not None
    assert card.log_loss_gain_low > 0
    shuffled = np.random.default_rng(2).permutation(labels)
    card = scoring.scorecard(answers, rows(shuffled), prior=float(labels.mean()), policy=POLICY)
    assert card.auc_low is not None
    assert card.auc_low < 0.5


def test_a_constant_model_has_no_skill_and_no_spread() -> None:
    _, labels = world(600, skill=1.5, seed=1)
    card = scoring.scorecard(np.full(600, 0.615), rows(labels), prior=0.6, policy=POLICY)
    assert (card.auc, card.auc_low, card.p10_p90) == (0.5, 0.5, 0)
    assert card.p_std == pytest.approx(0)
    assert card.actions == {"BUY": 1.0, "SELL": 0.0, "HOLD": 0.0}
    assert card.monotonicity_z is None


# ---------------------------------------------------------------- calibration


@pytest.mark.parametrize(("count", "expected"), [(500, 0.06), (2000, 0.03)])
def test_the_ece_limit_of_a_perfect_model_is_as_the_design_says(count: int, expected: float) -> None:
    answers = np.random.default_rng(1).random(count)
    assert statistics.ece_limit(answers, alpha=0.05, seed=1) == pytest.approx(expected, rel=0.15)


def test_a_perfect_model_exceeds_its_ece_limit_as_rarely_as_promised() -> None:
    beyond = 0
    for seed in range(300):
        answers, labels = world(500, skill=1.5, seed=seed)
        beyond += statistics.ece(labels, answers) > statistics.ece_limit(answers, alpha=0.05, seed=7)
    assert 0.02 < beyond / 300 < 0.09


def test_luck_that_neighbours_share_is_no_miscalibration() -> None:
    beyond, naive_beyond = 0, 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        answers = sigmoid(random.normal(0.3, 1.5, 1200))
        # half of the rows go by one coin for twenty neighbours: each probability is true, but they share their luck
        luck = np.where(random.random(1200) < 0.5, np.repeat(random.random(60), 20), random.random(1200))
        labels = (luck < answers).astype(np.int64)
        effect = statistics.design_effect(labels, answers)
        found = statistics.ece(labels, answers)
        beyond += found > statistics.ece_limit(answers, alpha=0.05, seed=7, effect=effect)
        naive_beyond += found > statistics.ece_limit(answers, alpha=0.05, seed=7)
    assert beyond / 200 < 0.13
    assert naive_beyond / 200 > 0.2  # what it would be for rows taken one by one


def test_being_wrong_everywhere_earns_no_excuse() -> None:
    effects = []
    for seed in range(30):
        answers, labels = world(3000, skill=1.0, seed=seed)
        effects.append(statistics.design_effect(labels, sigmoid(np.log(answers / (1 - answers)) * 3.0)))
    assert np.median(effects) < 3.0


def test_the_standard_error_of_a_mean_is_that_of_the_block_means() -> None:
    values = np.random.default_rng(1).normal(size=640)
    found = statistics.mean(values)
    means = values.reshape(found.num_blocks, -1).mean(axis=1)
    inflation = statistics.blocks_in_time((values - values.mean()) / 640).inflation
    assert found.standard_error == pytest.approx(means.std(ddof=1) * np.sqrt(inflation / found.num_blocks))


def test_an_overconfident_model_exceeds_its_ece_limit() -> None:
    answers, labels = world(2000, skill=1.0, seed=1)
    overconfident = sigmoid(np.log(answers / (1 - answers)) * 2.0)
    assert statistics.ece(labels, overconfident) > statistics.ece_limit(overconfident, alpha=0.01, seed=1)


def test_a_fall_of_the_hit_rate_is_seen_anywhere_between_0_and_1() -> None:
    random = np.random.default_rng(1)
    for low, high in ((0.15, 0.25), (0.45, 0.55), (0.85, 0.95)):
        answers = np.repeat([low, high], 400)
        labels = (random.random(800) < np.repeat([0.7, 0.4], 400)).astype(np.int64)
        fall = statistics.monotonicity_z(labels, answers)
        assert fall is not None
        assert fall > 5
        assert statistics.monotonicity_z(1 - labels, answers) == pytest.approx(-fall)


def test_small_buckets_are_merged_before_they_are_compared() -> None:
    answers = np.concatenate([np.full(200, 0.35), np.full(3, 0.45), np.full(200, 0.75), np.full(5, 0.95)])
    labels = np.concatenate([np.tile([0, 0, 0, 1], 50), np.ones(3), np.tile([1, 1, 1, 0], 50), np.zeros(5)])
    fall = statistics.monotonicity_z(labels.astype(np.int64), answers)
    assert fall is not None
    assert fall < 0  # neither the three lucky nor the five unlucky rows make a fall


def test_luck_that_all_confidences_share_is_no_miscalibration() -> None:
    beyond, naive_beyond = 0, 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        answers = sigmoid(random.normal(0.3, 1.5, 1200))
        # half of the rows of a block go by one coin, whatever their probability: all bins move to the same side
        luck = np.where(random.random(1200) < 0.5, np.repeat(random.random(30), 40), random.random(1200))
        labels = (luck < answers).astype(np.int64)
        found = statistics.ece(labels, answers)
        limit = statistics.ece_limit_by_blocks(labels, answers, alpha=0.05, seed=7)
        beyond += found > limit
        naive_beyond += found > statistics.ece_limit(answers, alpha=0.05, seed=7)
    assert beyond / 200 < 0.1
    assert naive_beyond / 200 > 0.3


def doubled_log_odds(answers: np.ndarray) -> np.ndarray:
    doubled: np.ndarray = answers**2 / (answers**2 + (1 - answers) ** 2)
    return doubled


def judged(labels: np.ndarray, answers: np.ndarray) -> statistics.LabelledPredictions:
    return statistics.LabelledPredictions(labels=labels, probabilities=answers)


def test_the_calibration_slope_is_one_for_true_probabilities_and_half_for_doubled_log_odds() -> None:
    answers, labels = world(6000, skill=1.5, seed=1)
    doubled = doubled_log_odds(answers)
    for given_answers, expected in ((answers, 1.0), (doubled, 0.5)):
        found = statistics.calibration_slope([judged(labels, given_answers)])
        assert found is not None
        assert found.value == pytest.approx(expected, abs=0.1)
    card = scoring.scorecard(doubled, rows(labels), prior=0.5, policy=POLICY)
    assert card.calibration_slope_high is not None
    assert card.calibration_slope_high < POLICY.min_calibration_slope


def test_a_constant_model_has_no_calibration_slope() -> None:
    _, labels = world(600, skill=1.5, seed=1)
    assert statistics.calibration_slope([judged(labels, np.full(600, 0.6))]) is None


def test_a_hit_rate_that_differs_from_stretch_to_stretch_is_no_lack_of_confidence() -> None:
    drifting = []
    for seed, drift in enumerate((-1.0, 0.0, 1.0)):
        answers, _ = world(3000, skill=1.5, seed=seed)
        luckier = sigmoid(np.log(answers / (1 - answers)) + drift)
        labels = (np.random.default_rng(seed).random(3000) < luckier).astype(np.int64)
        drifting.append(judged(labels, answers))
    silent = judged(drifting[0].labels, np.full(3000, 0.6))
    found = statistics.calibration_slope(drifting)
    assert found is not None
    assert found.value == pytest.approx(1.0, abs=0.06)
    assert statistics.calibration_slope([*drifting, silent]) == found, "a stretch with one probability tells nothing"


def test_past_folds_make_sure_of_an_overconfidence_that_one_holdout_leaves_in_doubt() -> None:
    policy = dataclasses.replace(POLICY, slope_alpha=0.001)
    stretches = [answered(300, skill=0.6, seed=seed) for seed in range(4)]
    bold = [dataclasses.replace(each, answers=doubled_log_odds(each.answers)) for each in stretches]
    alone = scoring.scorecard(bold[0].answers, bold[0].rows, prior=0.5, policy=policy)
    sound, found = (pooled_skill.skill(each[0], each[1:], wanted=3, policy=policy) for each in (stretches, bold))
    assert found.calibration_slope == pytest.approx(0.5, abs=0.12)
    assert found.calibration_slope_high is not None
    assert alone.calibration_slope_high is not None
    assert found.calibration_slope_high < policy.min_calibration_slope < alone.calibration_slope_high
    assert sound.calibration_slope_high is not None
    assert sound.calibration_slope_high > 1.0
    assert pooled_skill.skill(bold[0], [], wanted=3, policy=policy).calibration_slope_high is None


# ---------------------------------------------------------------- backtest folds


def answered(count: int, *, skill: float, seed: int, noise: bool = False) -> pooled_skill.Answered:
    answers, labels = world(count, skill=skill, seed=seed)
    if noise:
        labels = np.random.default_rng(seed).permutation(labels)
    return pooled_skill.Answered(answers=answers, rows=rows(labels), prior=float(labels.mean()))


def test_past_folds_make_a_weak_edge_sure_that_one_holdout_leaves_in_doubt() -> None:
    stretches = [answered(700, skill=0.45, seed=seed) for seed in range(4)]
    found = pooled_skill.skill(stretches[0], stretches[1:], wanted=3, policy=POLICY)
    assert [pool.num_folds for pool in found.pooled] == [0, 1, 2, 3]
    assert [pool.n for pool in found.pooled] == [700, 1400, 2100, 2800]
    alone, together = found.pooled[0], found.pooled[-1]
    assert alone.auc_low is not None
    assert together.auc_low is not None
    assert alone.auc_low < 0.5 < together.auc_low


def test_a_drift_from_fold_to_fold_is_no_skill() -> None:
    # each fold has its own hit rate, which its answers know; inside a fold they know nothing
    stretches = []
    for seed, chance in enumerate((0.3, 0.7, 0.4, 0.6)):
        random = np.random.default_rng(seed)
        labels = (random.random(700) < chance).astype(np.int64)
        answers = np.clip(chance + random.normal(0, 0.05, 700), 0.01, 0.99)
        stretches.append(pooled_skill.Answered(answers=answers, rows=rows(labels), prior=chance))
    everything = (
        np.concatenate([each.answers for each in stretches]),
        np.concatenate([each.rows.labels for each in stretches]),
    )
    assert metrics.roc_auc_score(everything[1], everything[0]) > 0.6
    found = pooled_skill.skill(stretches[0], stretches[1:], wanted=3, policy=POLICY)
    assert found.pooled[-1].auc == pytest.approx(0.5, abs=0.03)


def test_fewer_folds_than_wanted_ask_for_more() -> None:
    holdout = answered(700, skill=1.5, seed=1)
    found = pooled_skill.skill(holdout, [], wanted=3, policy=POLICY)
    assert [pool.alpha for pool in found.pooled] == [POLICY.skill_alpha / 16]
    assert found.folds == ()


def test_the_gain_is_asked_at_its_own_level() -> None:
    stretches = [answered(700, skill=0.45, seed=seed) for seed in range(4)]
    gains = [
        statistics.log_losses(each.rows.labels, np.full(len(each.answers), each.prior))
        - statistics.log_losses(each.rows.labels, each.answers)
        for each in stretches
    ]
    found = pooled_skill.skill(stretches[0], stretches[1:], wanted=3, policy=POLICY)
    for pool in found.pooled:
        gain = statistics.mean(np.concatenate(gains[pool.num_folds :: -1]))
        assert pool.log_loss_gain_low == gain.low(pool.alpha * POLICY.gain_alpha / POLICY.skill_alpha)
    card = scoring.scorecard(stretches[0].answers, stretches[0].rows, prior=stretches[0].prior, policy=POLICY)
    assert card.log_loss_gain_low == statistics.mean(gains[0]).low(POLICY.gain_alpha)


def test_a_fold_that_collapsed_to_its_prior_speaks_against_skill() -> None:
    holdout, good = (answered(700, skill=0.6, seed=seed) for seed in (1, 2))
    collapsed = dataclasses.replace(good, answers=np.full(700, good.prior))
    with_good, with_collapsed = (
        pooled_skill.skill(holdout, [fold], wanted=1, policy=POLICY).pooled[-1] for fold in (good, collapsed)
    )
    assert with_collapsed.auc == pytest.approx((with_good.auc + 0.5) / 2, abs=0.05)


# ---------------------------------------------------------------- agreement


def test_fallback_confidences_are_set_apart_from_agreement() -> None:
    answers = np.array([0.9, 0.9, 0.1, 0.5, 0.9, 0.9, 0.9, 0.9])
    actions = np.array([1, -1, -1, 0, 1, 1, 1, -128], dtype=np.int8)
    confidences = np.array([0.8, 0.8, 0.8, 0.8, 0.5, 1.05, np.nan, 0.8], dtype=np.float32)
    table = rows(np.tile([0, 1], 4), actions=actions, confidences=confidences)
    found = scoring.scorecard(answers, table, prior=0.5, policy=POLICY).agreement
    assert found is not None
    assert (found.n, found.share, found.opposed, found.fallbacks) == (4, 0.75, 0.25, 3)
    assert found.share_low < 0.75 < found.share_high
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score([1, 1, -1, 0], [1, -1, -1, 0]))


def test_agreement_by_chance_has_no_kappa() -> None:
    random = np.random.default_rng(1)
    table = rows(random.integers(0, 2, 2000), actions=np.where(random.random(2000) < 0.85, 1, -1).astype(np.int8))
    found = scoring.scorecard(np.full(2000, 0.9), table, prior=0.5, policy=POLICY).agreement
    assert found is not None
    assert found.share > 0.8
    assert found.kappa == pytest.approx(0.0)


# ---------------------------------------------------------------- slices


def test_every_symbol_and_both_halves_are_judged() -> None:
    answers, labels = world(2000, skill=1.5, seed=1)
    is_other = np.arange(2000) % 2 == 1
    flipped = np.where(is_other, 1 - labels, labels)
    table = rows(flipped, symbols=np.where(is_other, "ETHUSDT", "BTCUSDT"))
    card = scoring.scorecard(answers, table, prior=0.5, policy=POLICY)
    found = {part.name: part for part in card.slices}
    assert set(found) == {"BTCUSDT", "ETHUSDT", "first half", "second half"}
    high = found["ETHUSDT"].auc_high
    assert high is not None
    assert high < 0.5
    assert found["BTCUSDT"].auc is not None
    assert found["BTCUSDT"].auc > 0.7
    assert found["first half"].n == found["second half"].n == 1000


# ---------------------------------------------------------------- whatever comes


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers_in(inner)]
    if isinstance(value, list | tuple):
        return [number for inner in value for number in numbers_in(inner)]
    return [value] if isinstance(value, float) else []


@given(
    count=st.integers(0, 80),
    kind=st.sampled_from(["one class", "constant", "random", "extreme", "nan", "one instant", "late"]),
    seed=st.integers(0, 100),
)
@settings(max_examples=120)
def test_a_scorecard_never_raises_and_never_holds_nan(count: int, kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    answers, labels = random.random(count), random.integers(0, 2, count)
    changes: dict[str, Any] = {}
    match kind:
        case "one class":
            labels[:] = 1
        case "constant":
            answers[:] = 0.5
        case "extreme":
            answers = np.round(answers)
        case "nan":
            answers[: count // 2] = np.nan
        case "one instant":
            changes = {"decided_at": np.full(count, START), "known_at": np.full(count, START)}
        case "late":
            changes = {"known_at": np.full(count, np.iinfo(np.int64).max)}
    card = scoring.scorecard(answers, rows(labels, **changes), prior=0.0, policy=POLICY)
    both = scoring.comparison(answers, answers, rows(labels, **changes), policy=POLICY)
    assert all(math.isfinite(number) for number in numbers_in(msgspec.to_builtins([card, both])))
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(card)), Scorecard) == card


# ---------------------------------------------------------------- candidate and incumbent


#: a training that ended before the first row of the market
TRAINED_BEFORE = {"seen": [{"start": "2025-06-01T00:00:00Z", "end": "2025-12-01T00:00:00Z"}]}


def write_model(path: Path, contract: ModelContract, *, seed: int, training: Mapping[str, Any] = TRAINED_BEFORE) -> str:
    torch.manual_seed(seed)
    model = PatchTST(presets.config_for(contract, dropout=0.1))
    features = market().features
    if contract.input_transform == InputTransform.STANDARDISE:
        model.standardise_on(features[:, : len(contract.feature_names)])
    windows = np.stack([features[i : i + contract.context_length] for i in range(16)])[
        :, :, : len(contract.feature_names)
    ]
    origin = bundle.Origin(training=training)
    bundle.write(path, model=model, contract=contract, canary_windows=windows, origin=origin)
    return str(path)


PAPER = ModelContract(
    preset=Preset.PAPER, context_length=32, feature_names=NAMES, input_transform=InputTransform.STANDARDISE
)
ENGINE = ModelContract(
    preset=Preset.ENGINE, context_length=128, feature_names=NAMES, input_transform=InputTransform.MINMAX
)


def measured(folder: Path, candidate: ModelContract, incumbent: ModelContract | None, **snapshot: Any) -> Evidence:
    saved(folder, **snapshot)
    first = write_model(artifact.model_file(folder, "patchtst_v20261123_000001"), candidate, seed=1)
    second = (
        write_model(artifact.model_file(folder, "patchtst_v20261123_000002"), incumbent, seed=2) if incumbent else None
    )
    return measure(request(folder, first, second), lambda _: None).evidence


def request(folder: Path, candidate: str, incumbent: str | None) -> GateRequest:
    return GateRequest(
        run_id="20261123_000001",
        run_dir=str(folder),
        candidate_path=candidate,
        incumbent_path=incumbent,
        data=DataPolicy(),
        split=SplitPolicy(),
        recipe=Recipe(threads=1),
        policy=POLICY,
    )


def test_without_an_incumbent_the_candidate_stands_alone(tmp_path: Path) -> None:
    found = measured(tmp_path, PAPER, None)
    assert found.incumbent is None
    assert found.comparison is None
    assert found.incumbent_absence == "no model is in service"
    assert found.contract.mismatches == ()
    assert found.contract.canary_max_error == 0.0
    assert found.contract.constant_input_share == 0.0


def test_models_of_different_windows_are_paired_on_the_rows_both_can_score(tmp_path: Path) -> None:
    # few rows before the holdout: the longer window reaches back over the 48 h gap more often
    found = measured(tmp_path, PAPER, ENGINE, per_symbol=700)
    assert found.incumbent is not None
    assert found.comparison is not None
    assert found.comparison.n == found.incumbent.n <= found.candidate.n
    assert [mismatch.split(":")[0] for mismatch in found.contract.mismatches] == [
        "preset",
        "context_length",
        "input_transform",
    ]


def test_only_shared_rows_are_compared_when_the_incumbent_lacks_some(tmp_path: Path) -> None:
    snapshot = market(per_symbol=700)
    # a gap of four days in the middle of the holdout: the incumbent needs 128 rows after it, the candidate 32
    place = np.tile(np.arange(700), 2)
    shift = np.where(place >= 650, 96 * HOUR, 0)
    found = measured(
        tmp_path,
        PAPER,
        ENGINE,
        per_symbol=700,
        decided_at=snapshot.decided_at + shift,
        known_at=snapshot.known_at + shift,
    )
    assert found.incumbent is not None
    assert found.comparison is not None
    assert 0 < found.comparison.n == found.incumbent.n < found.candidate.n


def test_a_model_beside_itself_is_exactly_as_good(tmp_path: Path) -> None:
    saved(tmp_path)
    path = write_model(artifact.model_file(tmp_path, "patchtst_v20261123_000001"), PAPER, seed=1)
    found = measure(request(tmp_path, path, path), lambda _: None).evidence
    assert found.incumbent == found.candidate
    assert found.comparison is not None
    assert found.comparison.auc_difference == found.comparison.log_loss_gain == found.comparison.log_loss_gain_low == 0
    assert found.contract.mismatches == ()


def test_an_incumbent_that_cannot_be_measured_says_why(tmp_path: Path) -> None:
    saved(tmp_path)
    candidate = write_model(artifact.model_file(tmp_path, "patchtst_v20261123_000001"), PAPER, seed=1)
    damaged = tmp_path / "patchtst_old.pth"
    damaged.write_bytes(b"not a model")
    other = dataclasses.replace(PAPER, label=Label.DIRECTION)
    direction = write_model(artifact.model_file(tmp_path, "patchtst_v20261123_000002"), other, seed=2)
    strange = dataclasses.replace(PAPER, feature_names=("a", "b", "c", "d"))
    unknown = write_model(artifact.model_file(tmp_path, "patchtst_v20261123_000003"), strange, seed=2)
    for path, reason in ((damaged, "it is damaged"), (direction, "predicts direction"), (unknown, "no feature a")):
        found = measure(request(tmp_path, candidate, str(path)), lambda _: None).evidence
        assert found.incumbent is None
        assert reason in found.incumbent_absence
        assert found.candidate.n > 100


def test_a_damaged_candidate_is_an_error_not_a_scorecard(tmp_path: Path) -> None:
    saved(tmp_path)
    path = artifact.model_file(tmp_path, "patchtst_v20261123_000001")
    write_model(path, PAPER, seed=1)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="sha256"):
        measure(request(tmp_path, str(path), None), lambda _: None)


def test_constant_rows_are_seen_by_the_serving_preprocessor(tmp_path: Path) -> None:
    features = market().features.copy()
    features[:800] = features[0]  # the whole first symbol repeats one row
    found = measured(tmp_path, ENGINE, None, features=features)
    assert found.contract.constant_input_share == pytest.approx(0.5, abs=0.1)
