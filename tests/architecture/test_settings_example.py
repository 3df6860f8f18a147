"""The env example is complete: every setting with its default."""

import re
from pathlib import Path

from retrain_worker import settings

EXAMPLE = Path(__file__).parents[2] / "etc/quantum/retraining-worker.env"


def example_lines() -> dict[str, str]:
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


def test_the_example_names_every_setting_and_no_other() -> None:
    assert set(example_lines()) == set(settings.load({}).names)


def test_the_example_shows_the_defaults() -> None:
    defaults = settings.load({}).names
    shown = example_lines()

    assert {name: shown[name] for name in defaults} == dict(defaults)


def test_every_setting_of_the_example_is_accepted() -> None:
    given = {name: value for name, value in example_lines().items() if value}

    assert settings.load(given) is not None
