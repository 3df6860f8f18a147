"""SEARCH_TRIALS: suggested tunings are tried within their budget, recorded, and the same after an interruption."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from retrain_worker import settings
from retrain_worker.domain.recipe import Preset, Tuning
from retrain_worker.errors import SettingsError
from retrain_worker.model import bundle
from retrain_worker.settings import loading
from retrain_worker.worker.stop_signal import StoppedError
from retrain_worker.worker.training import tuning_search
from retrain_worker.worker.training.train import train
from tests.worker.synthetic_market import saved
from tests.worker.test_training import RECIPE, Journal, never, request, weights_of

SEARCHED = dataclasses.replace(RECIPE, learning_rate=None, max_epochs=2, search_trials=2)


def attempts_of(model_path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = bundle.read(Path(model_path)).manifest.training["attempts"]
    return found


def test_each_trial_is_recorded_and_the_lowest_validation_log_loss_is_kept(tmp_path: Path) -> None:
    saved(tmp_path)
    journal = Journal()
    result = train(request(tmp_path, recipe=SEARCHED), journal, never)
    attempts = attempts_of(result.model_path)

    assert len(attempts) == 3
    assert len({each["tuning"]["learning_rate"] for each in attempts}) == 3
    assert {each["tuning"]["dropout"] for each in attempts} == {SEARCHED.dropout}, "a setting is not searched"
    kept = min(attempts, key=lambda each: float(each["validation_log_loss"]))
    assert bundle.read(Path(result.model_path)).manifest.training["tuning"] == kept["tuning"]
    assert any("(3 of 3: " in progress.message for progress in journal)


def test_an_interrupted_search_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
        saved(tmp_path / name)
    whole = train(request(tmp_path / "whole", recipe=SEARCHED), Journal(), never)
    for stops_after in (1, 2):
        journal = Journal(stops_after)
        with pytest.raises(StoppedError):
            train(request(tmp_path / "parts", recipe=SEARCHED), journal, journal.stopping)
    parts = train(request(tmp_path / "parts", recipe=SEARCHED), Journal(), never)

    assert attempts_of(parts.model_path) == attempts_of(whole.model_path)
    assert weights_of(parts) == weights_of(whole)


def test_no_trial_begins_after_the_minutes_given(tmp_path: Path) -> None:
    saved(tmp_path)
    recipe = dataclasses.replace(SEARCHED, search_minutes=0.0)
    result = train(request(tmp_path, recipe=recipe), Journal(), never)

    assert len(attempts_of(result.model_path)) == 1


def test_suggestions_approach_the_better_tunings() -> None:
    recipe = dataclasses.replace(RECIPE, learning_rate=None, dropout=None)
    results: list[tuple[Tuning, float | None]] = [(recipe.tunings(Preset.PAPER)[0], 0.69)]
    for _ in range(40):
        tuning = tuning_search.suggest(results, recipe, Preset.PAPER)
        # a collapse at high rates; elsewhere the best dropout is 0.1
        results.append((tuning, None if tuning.learning_rate > 5e-3 else 0.6 + abs(tuning.dropout - 0.1)))
    newest = [tuning for tuning, _ in results[-15:]]

    assert sorted(abs(tuning.dropout - 0.1) for tuning in newest)[7] < 0.1
    assert sum(tuning.learning_rate > 5e-3 for tuning in newest) <= 3


def test_a_search_without_its_package_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match=r"SEARCH_TRIALS needs the extra search \(pip install"):
        settings.load({"SEARCH_TRIALS": "3"})
