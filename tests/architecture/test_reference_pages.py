"""The generated sections of the documents equal the code, and every row of them says what it means."""

import re

import pytest

from retrain_worker.domain.gates import decision
from tests import reference_pages
from tests.reference_pages import EXAMPLE, ROOT, SECTIONS, described_settings, logged, pattern, setting


@pytest.mark.parametrize(("path", "name"), SECTIONS)
def test_a_generated_section_equals_the_code(path: str, name: str) -> None:
    found = pattern(name).findall((ROOT / path).read_text())

    assert found == [SECTIONS[path, name]()], "python -m tests.reference_pages writes it"


@pytest.mark.parametrize(("path", "name"), SECTIONS)
def test_every_row_of_a_generated_table_has_a_meaning(path: str, name: str) -> None:
    rows = [line for line in SECTIONS[path, name]().splitlines() if line.startswith(("| ", "* "))]

    assert rows
    assert [row for row in rows if re.search(r"\|\s*\|$", row)] == []


def test_the_settings_of_the_gates_are_those_of_the_example_file() -> None:
    example = EXAMPLE.read_text()

    for gate in decision.GATES:
        for name in gate.thresholds:
            assert f"\n#{setting(name)}\n" in example


def test_the_method_of_each_gate_is_documented() -> None:
    page = (ROOT / "docs/reference/gates.md").read_text()
    methods = pattern("gates").sub("", page).partition("## How to tune")[0]

    assert re.findall(r"^\| (?!gate)([a-z ]+) \|", methods, re.MULTILINE) == [gate.name for gate in decision.GATES]


def test_the_log_events_are_found_in_the_code() -> None:
    assert logged()["run_finished"] == {"info", "warning"}
    assert logged()["job_failed"] == {"warning"}
    assert {"serving_fault_over", "reload_rejected", "run_waits"} <= set(logged())


def test_every_setting_has_one_line_in_the_example() -> None:
    named = [name for _, name, _, _ in described_settings()]

    assert len(named) == len(set(named))
    assert reference_pages.all_settings().count("\n| `") == len(named)
