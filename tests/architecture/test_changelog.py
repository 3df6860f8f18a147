"""CHANGELOG.md follows Keep a Changelog: Unreleased, then releases, newest first, each with its date and kinds."""

import re

from packaging.version import Version

from retrain_worker import __version__
from tests.reference_pages import ROOT

KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
TEXT = (ROOT / "CHANGELOG.md").read_text()
RELEASE = re.compile(r"\[?(\d+\.\d+\.\d+)\]? - (\d{4}-\d{2}-\d{2})")


def sections() -> list[tuple[str, str]]:
    """(heading, content) of Unreleased and of each release."""
    parts = re.split(r"^## (.*)$", TEXT, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def test_unreleased_is_first_and_releases_are_newest_first() -> None:
    (first, _), *others = sections()
    releases = [RELEASE.fullmatch(heading) for heading, _ in others]

    assert first.strip("[]") == "Unreleased"
    assert None not in releases
    found = [(Version(release[1]), release[2]) for release in releases if release]
    assert found == sorted(found, reverse=True)
    assert str(found[0][0]) == __version__


def test_each_section_has_each_kind_once_and_in_order() -> None:
    for heading, content in sections():
        kinds = re.findall(r"^### (.*)$", content, re.MULTILINE)
        assert kinds == [kind for kind in KINDS if kind in kinds], heading


def test_every_line_belongs_to_an_entry() -> None:
    for heading, content in sections():
        stray = [line for line in content.splitlines() if line and not line.startswith(("- ", "  ", "### "))]
        assert stray == [], heading


def test_no_kind_is_empty() -> None:
    for heading, content in sections():
        for kind in re.split(r"^### .*$", content, flags=re.MULTILINE)[1:]:
            assert re.search(r"^- ", kind, re.MULTILINE), heading
