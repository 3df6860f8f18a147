"""A line removed from the env file is not in force after a reload, although systemd has put it into the environment."""

import argparse
from pathlib import Path

import pytest

from retrain_worker.cli import options


def test_a_removed_line_is_not_in_force_after_the_next_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = tmp_path / "worker.env"
    env.write_text("MIN_SAMPLES=5000\nMAX_EPOCHS=3\n")
    arguments = argparse.Namespace(env_file=env, home=tmp_path / "home")
    monkeypatch.setenv("MIN_SAMPLES", "5000")  # EnvironmentFile=
    monkeypatch.setenv("MAX_EPOCHS", "4")  # Environment=, which the file wins over
    outside = options.environment_outside(arguments)
    first = options.read_settings(arguments, outside)
    env.write_text("# nothing\n")
    second = options.read_settings(arguments, outside)

    assert (first.data.min_samples, first.recipe.max_epochs) == (5000, 3)
    assert (second.data.min_samples, second.recipe.max_epochs) == (1000, 4)
