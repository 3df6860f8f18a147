"""The site of the documents: every page has its place, every link its target, and `make docs` builds it."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.reference_pages import ROOT

DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]


def listed(nav: Any) -> list[str]:
    """The pages of the navigation."""
    if isinstance(nav, str):
        return [nav]
    return [page for each in (nav.values() if isinstance(nav, dict) else nav) for page in listed(each)]


def test_every_page_is_in_the_navigation() -> None:
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    records = {page for page in pages if re.match(r"decisions/\d", page)}

    assert sorted(listed(PROJECT["nav"])) == sorted(pages - records)


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (page.parent / target).resolve()
        for page in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"))
        for target in re.findall(r"\]\(([^)#:]+\.md)", page.read_text())
    }

    assert {page for page in DOCS.rglob("*.md") if page not in linked} - {DOCS / "index.md"} == set()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("zensical") is None, reason="the extra docs is not installed")
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    text = (ROOT / "zensical.toml").read_text()
    config = tmp_path / "zensical.toml"
    config.write_text(text.replace("build/site", "site").replace('paths = ["."]', f'paths = ["{ROOT}"]'))
    shutil.copytree(DOCS, tmp_path / "docs")

    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", config],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "wait_for_model" in (tmp_path / "site/reference/serving.html").read_text()
    scripts = [
        source
        for page in (tmp_path / "site").rglob("*.html")
        for source in re.findall(r"<(?:script|link)[^>]* (?:src|href)=\"?(https?://[^\">]+)", page.read_text())
    ]
    assert scripts == []
