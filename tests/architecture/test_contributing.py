"""CONTRIBUTING.md is true: one of each kind is added to a copy of the tree, in the files that it lists, and works."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.reference_pages import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
COPIED = ("retrain_worker", "tests", "docs", "etc", "examples", "systemd", "benchmarks")
SKIPPED = shutil.ignore_patterns("__pycache__", "v157e5f3", "images")


@dataclass(frozen=True)
class Edit:
    """Text that is put before (or, at the end of the file, without an anchor after) what is there."""

    file: str
    text: str
    before: str = ""


ADDITIONS = {
    "a gate": (
        Edit(
            "retrain_worker/domain/gates/recall.py",
            '''"""Recall: most WINs are found."""

from __future__ import annotations

from retrain_worker.domain.gates.check import Check
from retrain_worker.domain.gates.evidence import Evidence
from retrain_worker.domain.gates.gate import Gate, Measured
from retrain_worker.domain.gates.policy import GatePolicy


def _measure(evidence: Evidence, policy: GatePolicy) -> Measured:
    card = evidence.candidate
    return Measured(
        num_rows=card.n, checks=(Check(name="recall", label="recall", value=card.recall, low=policy.min_recall),)
    )


RECALL = Gate(
    name="recall",
    requirement="recall ≥ {min_recall:g}",
    failure="it misses most WINs",
    thresholds=("min_rows", "min_recall"),
    measure=_measure,
)
''',
        ),
        Edit(
            "retrain_worker/domain/gates/decision.py",
            "from retrain_worker.domain.gates.recall import RECALL\n",
            before="from retrain_worker.domain.gates.skill import",
        ),
        Edit("retrain_worker/domain/gates/decision.py", "    RECALL,\n", before="    SKILL,\n"),
        Edit(
            "retrain_worker/domain/gates/policy.py",
            "    min_recall: float = 0.2\n",
            before="    min_std: float = 0.05\n",
        ),
        Edit(
            "retrain_worker/settings/loading.py",
            '        min_recall=read.share("GATE_MIN_RECALL", default.min_recall),\n',
            before='        min_std=read.number("GATE_MIN_STD"',
        ),
        Edit(
            "etc/quantum/retraining-worker.env",
            "# Share of the WINs that are answered with BUY.\n#GATE_MIN_RECALL=0.2\n",
            before="# Limits of the standard deviation and of P90",
        ),
        Edit("docs/reference/gates.md", "| recall | no test | share of WINs found | |\n", before="| skill | AUC ≤ 0.5"),
        Edit(
            "tests/unit/test_gates.py",
            """

def test_a_new_gate_is_part_of_the_verdict() -> None:
    from retrain_worker.domain.gates.decision import GATES
    from tests.unit.test_report import evidence

    results = {gate.name: gate.result for gate in decide(evidence(), GatePolicy()).gates}

    assert list(results) == [gate.name for gate in GATES]
    assert results["recall"] in ("PASS", "UNDECIDED")
""",
        ),
    ),
    "an audit rule": (
        Edit(
            "retrain_worker/worker/data/audit_rules/rows.py",
            """    counting(
        "prices.exit",
        pl.col("price_move") <= -1,
        "rows have an exit price of zero or less",
        "correct the service that writes exit_price",
    ),
""",
            before="    coverage,\n",
        ),
        Edit(
            "tests/worker/test_audit.py",
            """

def test_an_exit_price_of_zero_is_a_warning(tmp_path: Path) -> None:
    rows = without_edge()
    assert the(audited(tmp_path / "sound", rows), "prices.exit").severity is Severity.OK
    rows[7]["exit_price"] = 0.0
    assert the(audited(tmp_path / "zero", rows), "prices.exit").severity is Severity.WARNING
""",
        ),
    ),
    "a setting": (
        Edit("retrain_worker/settings/loading.py", "    keep_logs: int\n", before="    keep_models: int\n"),
        Edit(
            "retrain_worker/settings/loading.py",
            '        keep_logs=read.count("KEEP_LOGS", 5, low=1),\n',
            before='        keep_models=read.count("KEEP_MODELS"',
        ),
        Edit(
            "etc/quantum/retraining-worker.env",
            "# Number of log files that are kept.\n#KEEP_LOGS=5\n\n",
            before="# ---- Redis\n",
        ),
        Edit(
            "tests/unit/test_settings.py",
            """

def test_a_new_setting_has_limits() -> None:
    from retrain_worker import settings

    problems: list[str] = []
    assert settings.load({}).keep_logs == 5
    assert settings.load({"KEEP_LOGS": "0"}, on_problem=problems.append).keep_logs == 5
    assert len(problems) == 1
""",
        ),
    ),
    "a source": (
        Edit(
            "retrain_worker/worker/data/parquet_source.py",
            '''"""The table in a Parquet file."""

from __future__ import annotations

from collections.abc import Generator

import polars as pl
from sqlalchemy import URL

from retrain_worker.errors import SourceUnfitError
from retrain_worker.worker.data.page import PAGE_SCHEMA, check_columns


def read_parquet(url: URL) -> Generator[pl.DataFrame]:
    """The rows in one page. Raises SourceUnfitError."""
    try:
        page = pl.read_parquet(url.database or "")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SourceUnfitError("no Parquet file", where=str(url.database)) from error
    check_columns(page.columns, where=str(url.database))
    yield page.select(*PAGE_SCHEMA).cast(PAGE_SCHEMA, strict=False)
''',
        ),
        Edit(
            "retrain_worker/worker/data/source.py",
            """    if backend == "parquet":
        from retrain_worker.worker.data.parquet_source import read_parquet

        return _read_ahead(read_parquet(url))
""",
            before='    if backend == "postgresql":\n',
        ),
        Edit(
            "tests/worker/test_parquet_source.py",
            '''"""Parquet: every row, and a file without a column."""

from pathlib import Path

import polars as pl
import pytest

from retrain_worker.errors import SourceUnfitError
from retrain_worker.worker.data.page import PAGE_SCHEMA
from retrain_worker.worker.data.source import read_pages


def test_every_row_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    page = pl.DataFrame({name: pl.Series([None] * 3, dtype=kind) for name, kind in PAGE_SCHEMA.items()})
    page.write_parquet(file)
    assert sum(map(len, read_pages(f"parquet:///{file}", busy_timeout_seconds=1))) == 3

    page.drop("symbol").write_parquet(file)
    with pytest.raises(SourceUnfitError, match="lacks the column symbol"):
        list(read_pages(f"parquet:///{file}", busy_timeout_seconds=1))
''',
        ),
    ),
    "an event": (
        Edit(
            "retrain_worker/domain/payloads.py",
            '''class Paused(TypedDict):
    """model.paused: nothing is promoted."""

    by: Annotated[str, Described("the operator", "anna")]
    reason: Annotated[str, Described("why", "fees change")]


''',
            before="class RetrainRequest(TypedDict):",
        ),
        Edit(
            "retrain_worker/domain/events.py",
            '    #: nothing is promoted until an operator resumes\n    PAUSED = "model.paused"\n',
            before="    #: ROLLED_BACK under the name",
        ),
        Edit(
            "retrain_worker/domain/events.py",
            '''def paused(by: str, reason: str, *, at: datetime) -> Event:
    """Nothing is promoted."""
    payload: payloads.Paused = {"by": by, "reason": reason}
    return _event(EventType.PAUSED, at.isoformat(), at, payload=payload, flat={"status": "paused"})


''',
            before="def with_aliases(",
        ),
        Edit(
            "retrain_worker/domain/typed_events.py",
            '    | TypedEvent[Literal["model.paused"], payloads.Paused]\n',
            before='    | TypedEvent[Literal["model.retrain"]',
        ),
        Edit(
            "docs/how-to/consume-events.md",
            "| `quantum:stream:model.paused` | promotions are paused |\n",
            before="| `quantum:stream:model.served`",
        ),
        Edit(
            "tests/contract/test_event_schemas.py",
            '        events.paused("anna", "fees change", at=AT),\n',
            before="        events.started(RUN, at=AT),\n",
        ),
    ),
    "a chart": (
        Edit(
            "retrain_worker/worker/report/charts.py",
            '''def losses(trained: TrainFacts) -> Chart | None:
    """Training loss by epoch."""
    if not trained.history:
        return None
    with canvas("losses") as drawn:
        drawn.axes[0].plot([float(row[1]) for row in trained.history], color=PALETTE["soft"])
        return Chart(title="Training loss", caption="By epoch.", keys=(), svg=drawn.svg("training loss by epoch"))


''',
            before="def learning(trained",
        ),
        Edit(
            "retrain_worker/worker/report/run_page.py",
            "            lambda: charts.losses(trained) if trained else None,\n",
            before="            lambda: charts.learning(trained)",
        ),
        Edit(
            "tests/unit/test_report.py",
            """

def test_the_page_has_the_new_chart() -> None:
    from tests.report_pages import page_of

    assert "Training loss" in page_of(refused(evidence()))
""",
        ),
    ),
}
CHECKED = (
    "tests/architecture/test_reference_pages.py",
    "tests/architecture/test_settings_example.py",
    "tests/architecture/test_documents.py",
    "tests/architecture/test_packages.py",
    "tests/unit/test_gates.py::test_a_new_gate_is_part_of_the_verdict",
    "tests/unit/test_settings.py::test_a_new_setting_has_limits",
    "tests/unit/test_report.py::test_the_page_has_the_new_chart",
    "tests/worker/test_audit.py::test_an_exit_price_of_zero_is_a_warning",
    "tests/worker/test_audit.py::test_sound_rows_are_fit_and_every_finding_is_a_sentence",
    "tests/worker/test_parquet_source.py",
    "tests/contract/test_event_schemas.py",
)


def listed(kind: str) -> list[str]:
    """The files of the numbered list, in order; `<name>` stands for what is added."""
    section = PAGE.partition(f"### {kind}\n")[2].partition("\n### ")[0]
    return re.findall(r"^\d+\. `([\w./<>-]+)`", section, re.MULTILINE)


@pytest.mark.parametrize("kind", ADDITIONS)
def test_the_files_are_those_of_the_list_in_its_order(kind: str) -> None:
    edited = list(dict.fromkeys(edit.file for edit in ADDITIONS[kind]))

    assert len(edited) == len(listed(kind))
    for file, pattern in zip(edited, listed(kind), strict=True):
        assert re.fullmatch(re.sub(r"<\w+>", r"\\w+", pattern), file)


def test_every_kind_of_the_page_is_added() -> None:
    assert re.findall(r"^### (.*)$", PAGE, re.MULTILINE) == list(ADDITIONS)


@pytest.mark.slow
def test_one_of_each_can_be_added(tmp_path: Path) -> None:
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=SKIPPED)
    for file in (*ROOT.glob("*.md"), *ROOT.glob("*.toml"), ROOT / "Makefile"):
        shutil.copy(file, tmp_path / file.name)
    shutil.copytree(ROOT / "docs/images", tmp_path / "docs/images")
    for edit in (edit for edits in ADDITIONS.values() for edit in edits):
        path = tmp_path / edit.file
        before = path.read_text() if path.exists() else ""
        assert not edit.before or before.count(edit.before) == 1, edit
        path.write_text(before.replace(edit.before, edit.text + edit.before) if edit.before else before + edit.text)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def python(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    python("-m", "tests.reference_pages")
    python("-m", "retrain_worker", "events", "schemas", "--to", "docs/events")
    python("-m", "pytest", "-q", "-p", "no:cacheprovider", *CHECKED)
