"""The documents name only files, settings and tests that exist."""

import re
from pathlib import Path

from retrain_worker import settings
from retrain_worker.settings import names

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: where a module that a page names by a relative path may be
BASES = (ROOT, ROOT / "retrain_worker", ROOT / "tests")


def test_every_relative_link_resolves():
    broken = [
        (page.name, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]

    assert broken == []


def test_every_module_that_is_named_exists():
    missing = [
        (page.name, path)
        for page in PAGES
        for path in re.findall(r"`(?:python )?([a-z_]+(?:/[a-z_]+)+\.py)\b", page.read_text())
        if not any((base / path).exists() for base in BASES)
    ]

    assert missing == []


def test_every_test_that_is_named_exists():
    tests = {path.stem for path in (ROOT / "tests").rglob("*.py")}
    missing = [(page.name, name) for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())]

    assert [each for each in missing if each[1] not in tests] == []


def test_every_setting_that_is_named_exists():
    known = {*settings.load({}).names, *names.RENAMED}
    prefix = r"(?:GATE|SHADOW|PROBATION|TRIAL|ENGINE|REDIS|KEEP|MAX|MIN|STAGE|WORKER|CHILD|WARN|TRAIN|LABEL)"
    missing = [
        (page.name, name)
        for page in PAGES
        for name in re.findall(rf"\b{prefix}_[A-Z0-9_]*[A-Z0-9]\b", page.read_text())
        if name not in known
    ]

    assert missing == []
