"""Settings as the commands read them: the env file beside the environment that systemd has made of it."""

import argparse
from pathlib import Path

import pytest

from retrain_worker import settings
from retrain_worker.cli import options
from retrain_worker.errors import SettingsError


def test_an_invalid_setting_is_a_warning_for_a_verb_that_an_operator_needs_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = tmp_path / "worker.env"
    env.write_text("MIN_SAMPLES=plenty\nENGINE_MODELS_DIR=models\nREDIS_URL=x\nDATABASE_URL=x\nMAX_EPOCS=3\nSEED=7\n")
    arguments = argparse.Namespace(env_file=env, home=None)
    with pytest.raises(SettingsError):
        options.read_settings(arguments, {})
    found = options.read_valid_settings(arguments)
    warnings = capsys.readouterr().err

    assert (found.data.min_samples, found.recipe.seed) == (1000, 7)
    assert found.engine_models_dir == Path("/opt/quantum/ai_engine/models")
    assert (found.redis_url, found.database_url) == (settings.load({}).redis_url, settings.load({}).database_url)
    assert all(
        name in warnings for name in ("MIN_SAMPLES", "ENGINE_MODELS_DIR", "REDIS_URL", "DATABASE_URL", "MAX_EPOCHS")
    )
    assert (
        options.read_valid_settings(argparse.Namespace(env_file=tmp_path / "none", home=None)).data.min_samples == 1000
    )


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
