"""Documents, comments and docstrings name only files, settings and tests that exist."""

import re
from datetime import UTC, datetime
from pathlib import Path

from retrain_worker import settings
from retrain_worker.demo.schema import SAMPLE_COLUMNS
from retrain_worker.domain.lifecycle import MOVES, DeploymentState, Run
from retrain_worker.report.result import RunResult, as_object
from retrain_worker.settings import names
from retrain_worker.worker.data.page import PAGE_SCHEMA

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
#: where a module that a page names by a relative path may be
BASES = (ROOT, ROOT / "retrain_worker", ROOT / "tests")


def test_every_relative_link_resolves() -> None:
    broken = [
        (page.name, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]

    assert broken == []


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_anchor_is_a_heading() -> None:
    missing = [
        (page.name, target, anchor)
        for page in PAGES
        for target, anchor in re.findall(r"\]\(([^):#]*)#([^)]+)\)", page.read_text())
        if anchor not in anchors(page.parent / target if target else page)
    ]

    assert missing == []


def test_every_module_that_is_named_exists() -> None:
    missing = [
        (page.name, path)
        for page in PAGES
        for path in re.findall(r"`(?:python )?([a-z_]+(?:/[a-z_]+)+\.py)\b", page.read_text())
        if not any((base / path).exists() for base in BASES)
    ]

    assert missing == []


def test_every_module_that_the_code_names_exists() -> None:
    code = [path for folder in ("retrain_worker", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    missing = [
        (file.name, path)
        for file in code
        for path in re.findall(r"(?<![\w/.\"])([a-z_]+(?:/[a-z_]+)+\.(?:py|md))\b", file.read_text())
        if not any((base / path).exists() for base in BASES)
    ]

    assert missing == []


def test_every_test_that_is_named_exists() -> None:
    tests = {path.stem for path in (ROOT / "tests").rglob("*.py")}
    missing = [(page.name, name) for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())]

    assert [each for each in missing if each[1] not in tests] == []


def test_every_setting_that_is_named_exists() -> None:
    known = {*settings.load({}).names, *names.RENAMED}
    prefix = r"(?:GATE|SHADOW|PROBATION|TRIAL|ENGINE|REDIS|KEEP|MAX|MIN|STAGE|WORKER|CHILD|WARN|TRAIN|LABEL)"
    missing = [
        (page.name, name)
        for page in PAGES
        for name in re.findall(rf"\b{prefix}_[A-Z0-9_]*[A-Z0-9]\b", page.read_text())
        if name not in known
    ]

    assert missing == []


def test_the_data_contract_lists_the_columns_and_those_that_are_required() -> None:
    page = (ROOT / "docs/reference/data-contract.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (yes|no) \|", page, re.MULTILINE)

    assert {name for name, _ in rows} == set(SAMPLE_COLUMNS)
    assert {name for name, required in rows if required == "yes"} == set(PAGE_SCHEMA)


def test_the_diagram_of_states_shows_every_move_of_a_run() -> None:
    shown = set(
        re.findall(r"^ +(\w+) --> (\w+)", (ROOT / "docs/explanation/architecture.md").read_text(), re.MULTILINE)
    )

    assert shown == {(stage, after) for stage, moves in MOVES.items() for after in moves}


def test_the_contract_of_the_swap_names_every_state_of_a_deployment() -> None:
    rows = re.findall(r"^\| ([A-Z_]+) \|", (ROOT / "docs/reference/swap.md").read_text(), re.MULTILINE)

    assert set(rows) == set(DeploymentState)


def test_the_contract_of_the_command_line_names_every_key_of_a_result() -> None:
    at = datetime(2026, 1, 10, tzinfo=UTC)
    run = Run(run_id="20260110_000000", requested_by="once", request_reason="", created_at=at, updated_at=at)
    named = set(re.findall(r"`(\w+)`", (ROOT / "docs/reference/command-line.md").read_text()))

    assert set(as_object(RunResult(run=run))) - named == set()
