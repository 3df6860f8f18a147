"""A value that is set applies to every preset; without one each preset has its own."""

import pytest

from retrain_worker import settings
from retrain_worker.domain.recipe import TUNINGS, Balance, ConstantWindow, Preset, Recipe


def test_each_preset_has_its_own_tuning() -> None:
    assert Recipe().tunings(Preset.PAPER) == TUNINGS[Preset.PAPER]
    assert Recipe().tunings(Preset.ENGINE) == TUNINGS[Preset.ENGINE]


def test_an_explicit_setting_overrides_every_preset() -> None:
    recipe = settings.load({"LEARNING_RATE": "0.0005", "DROPOUT": "0"}).recipe

    for preset in (Preset.PAPER, Preset.ENGINE):
        assert {(each.learning_rate, each.dropout) for each in recipe.tunings(preset)} == {(0.0005, 0.0)}


def test_tunings_that_settings_make_equal_are_tried_once() -> None:
    recipe = settings.load({"INPUT_NOISE": "0", "PATCH_SMOOTHING": "5"}).recipe

    assert [each.patch_smoothing for each in recipe.tunings(Preset.ENGINE)] == [5.0]


@pytest.mark.parametrize("preset", Preset)
@pytest.mark.parametrize("setting", ConstantWindow)
def test_only_the_engine_preset_trains_on_constant_windows(preset: Preset, setting: ConstantWindow) -> None:
    is_engine_held = (preset, setting) == (Preset.ENGINE, ConstantWindow.HOLD)

    assert Recipe(constant_window=setting).trains_on_constant_windows(preset) is is_engine_held


def test_balance_accepts_its_former_values_true_and_false() -> None:
    words = {"true": Balance.UNDERSAMPLE, "FALSE": Balance.NONE, "weights": Balance.WEIGHTS, "": Balance.UNDERSAMPLE}

    assert {word: settings.load({"BALANCE": word}).recipe.balance for word in words} == words
