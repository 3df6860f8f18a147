"""Calibration: two numbers that make probabilities true, folded so that nobody need know of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain_worker.domain.recipe import InputTransform
from retrain_worker.model import patchtst, presets
from retrain_worker.model.patchtst import PatchTST, sigmoid
from retrain_worker.worker import statistics
from retrain_worker.worker.training import calibration
from retrain_worker.worker.training.calibration import Calibration


def world(count: int, *, temperature: float, bias: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model that is wrong by exactly this temperature and bias."""
    random = np.random.default_rng(seed)
    truth = random.normal(0.3, 1.5, count)
    labels = (random.random(count) < sigmoid(truth)).astype(np.int8)
    return (truth - bias) * temperature, labels


@pytest.mark.parametrize(("temperature", "bias"), [(1.0, 0.0), (3.0, 0.0), (0.4, -0.8), (1.0, 0.35)])
def test_fit_finds_the_temperature_and_bias_that_a_model_is_wrong_by(temperature: float, bias: float) -> None:
    logits, labels = world(200_000, temperature=temperature, bias=bias)
    found = calibration.fit(logits, labels)
    assert found.temperature == pytest.approx(temperature, rel=0.02)
    assert found.bias == pytest.approx(bias, abs=0.02)


def test_the_bias_alone_makes_the_mean_probability_the_hit_rate() -> None:
    logits, labels = world(3000, temperature=1.0, bias=-1.0)
    assert sigmoid(logits + calibration.fit_bias(logits, labels)).mean() == pytest.approx(labels.mean(), abs=1e-9)


def test_fit_puts_back_the_prior_that_balancing_took_away() -> None:
    logits, labels = world(3000, temperature=2.0, bias=-1.0)
    found = calibration.fit(logits, labels, expected_bias=-1.0)
    before = statistics.log_losses(labels, sigmoid(logits)).mean()
    after = sigmoid(found.apply(logits))
    assert statistics.log_losses(labels, after).mean() < before
    assert after.mean() == pytest.approx(labels.mean(), abs=0.01)


@pytest.mark.parametrize(("count", "effect", "share"), [(200_000, 1.0, 0.99), (800, 1.0, 0.5), (800, 4.0, 0.25)])
def test_few_or_dependent_rows_move_the_bias_less(count: int, effect: float, share: float) -> None:
    logits, labels = world(count, temperature=1.0, bias=0.5)
    found = calibration.fit(logits, labels, effect=effect)
    whole = calibration.fit(*world(200_000, temperature=1.0, bias=0.5)).bias
    assert found.bias == pytest.approx(share * whole, abs=0.15)
    assert found.bias < whole + 0.01


def test_a_model_of_the_wrong_sign_is_flattened_not_turned_round() -> None:
    logits, labels = world(5000, temperature=1.0, bias=0.0)
    found = calibration.fit(-logits, labels)
    assert found.temperature == pytest.approx(1.0 / calibration.SHARPNESS[0])
    assert np.corrcoef(found.apply(-logits), logits)[0, 1] < 0


@given(
    temperature=st.floats(0.05, 20.0),
    bias=st.floats(-5.0, 5.0),
    preset=st.sampled_from(["engine", "paper"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30)
def test_folding_changes_no_probability_by_more_than_1e_6(
    temperature: float, bias: float, preset: str, seed: int
) -> None:
    config = (
        presets.engine(num_features=4)
        if preset == "engine"
        else presets.paper(num_features=4, context_length=32, input_transform=InputTransform.INSTANCE)
    )
    torch.manual_seed(seed)
    model = PatchTST(config)
    windows = np.random.default_rng(seed).normal(size=(8, config.context_length, 4)).astype(np.float32)
    fix = Calibration(temperature=temperature, bias=bias)
    outside = sigmoid(fix.apply(patchtst.logits(model, windows)))

    calibration.fold(model, fix)

    np.testing.assert_allclose(patchtst.probabilities(model, windows), outside, atol=1e-6, rtol=0)
