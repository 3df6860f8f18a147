"""The env example and the table of former names are complete: every setting with its default, every former name."""

import re
from pathlib import Path

from retrain_worker import settings
from retrain_worker.settings import names

EXAMPLE = Path(__file__).parents[2] / "etc/quantum/retraining-worker.env"


def example_lines() -> dict[str, str]:
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


def test_the_example_names_every_setting_and_no_other() -> None:
    assert set(example_lines()) == set(settings.load({}).names)


def test_the_example_shows_the_defaults() -> None:
    defaults = settings.load({}).names
    shown = example_lines()

    assert {name: shown[name] for name in defaults} == dict(defaults)


def test_the_environment_contract_lists_every_former_name() -> None:
    page = (EXAMPLE.parents[2] / "docs/contracts/environment.md").read_text()
    rows = [*names.RENAMED.items(), *((f"{n}={old}", f"{n}={new}") for (n, old), new in names.RENAMED_VALUES.items())]

    assert [row for row in rows if not all(re.search(rf"\b{name}\b", page) for name in row)] == []


def test_every_setting_of_the_example_is_accepted() -> None:
    given = {name: value for name, value in example_lines().items() if value}

    assert settings.load(given) is not None
