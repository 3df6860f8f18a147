"""The pages of runs are written after the run, with their neighbours, and cost it nothing when they fail."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from retrain_worker.daemon import run_report, service
from retrain_worker.daemon.run_report import ReportWriter
from retrain_worker.daemon.wiring import Components
from retrain_worker.domain.facts import GateFacts, RunFacts
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.domain.report_request import ReportRequest
from retrain_worker.errors import WorkerFailedError
from tests.run_facts import forced_gate_facts
from tests.unit.test_report import promoted

AT = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)


def stored(components: Components, day: int, *, gate: GateFacts | str | None = "judged", **changes: Any) -> Run:
    """A run of that day, with a folder."""
    judged = promoted().run.facts.gate if gate == "judged" else gate
    assert not isinstance(judged, str)
    at = AT + timedelta(days=day)
    run = Run(
        run_id=f"{at:%Y%m%d_%H%M%S}",
        requested_by="schedule",
        request_reason="due",
        created_at=at,
        updated_at=at,
        stage=Stage.GATE,
        outcome=Outcome.REFUSED,
        finished_at=at,
        facts=RunFacts(gate=judged),
    )
    run = replace(run, **changes)
    components.store.record(run)
    components.run_folders.run_dir(run.run_id)
    return run


def test_a_run_is_written_with_its_comparison_and_the_index(
    components: Components, written_pages: list[ReportRequest]
) -> None:
    first = stored(components, 1)
    stored(components, 2, gate=None, outcome=Outcome.SKIPPED, stage=Stage.PULL)
    stored(components, 3, gate=forced_gate_facts(first.run_id))
    last = stored(components, 4)
    components.reports.request(last)
    components.reports.run()
    (request,) = written_pages
    folder = components.run_folders.path_of(last.run_id)

    assert [page.output_path for page in request.runs] == [str(folder / "report.html")]
    assert [page.previous_run_id for page in request.runs] == [first.run_id], "neither skipped nor forced"
    assert [page.runs for page in request.comparisons] == [(first, last)]
    assert request.comparisons[0].is_in_site
    assert request.index is not None
    assert request.index.output_path == str(folder.parent / "index/index.html")
    assert next((line.run_id, line.has_page, line.has_comparison) for line in request.index.runs) == (
        last.run_id,
        True,
        True,
    )
    assert [line.has_page for line in request.index.runs] == [True, False, False, False]


def test_nothing_is_written_when_nothing_is_due(components: Components, written_pages: list[ReportRequest]) -> None:
    components.reports.run()

    assert written_pages == []


def test_a_page_that_a_stopped_process_did_not_write_is_written_after_the_start(
    components: Components, written_pages: list[ReportRequest]
) -> None:
    missing, there = stored(components, 1), stored(components, 2)
    components.run_folders.report_of(there.run_id).write_text("a page")
    stored(components, 3, outcome=None, finished_at=None)
    components.reports.run_job()
    components.reports.run_job()

    assert [[page.run.run_id for page in request.runs] for request in written_pages] == [[missing.run_id]]


def test_the_index_follows_the_removal_of_runs(components: Components, written_pages: list[ReportRequest]) -> None:
    runs = [stored(components, day) for day in range(12)]
    service._remove_old_files(components)
    components.reports.run()
    (request,) = written_pages

    assert request.index is not None
    assert [line.run_id for line in request.index.runs] == [run.run_id for run in reversed(runs[2:])]


@pytest.mark.parametrize("error", [WorkerFailedError("the worker was killed"), ValueError("unforeseen")])
def test_a_failure_is_a_warning_and_the_next_page_is_written(
    components: Components, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_request: ReportRequest, **_options: object) -> None:
        raise error

    run = stored(components, 1)
    monkeypatch.setattr(run_report, "write_pages", fail)
    with structlog.testing.capture_logs() as logs:
        result = components.reports.result_of(run)

    assert result.report is None
    (line,) = [line for line in logs if line["event"] == "report_not_written"]
    assert run.run_id in line["message"]
    assert str(error) in line["message"]
    assert line["exc_info"] is isinstance(error, ValueError)
    monkeypatch.setattr(run_report, "write_pages", lambda request, **_: Path(request.output_paths[0]).write_text("it"))
    assert components.reports.result_of(run).report == components.run_folders.report_of(run.run_id)


def test_a_stop_interrupts_the_writing_without_a_warning(
    components: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def stopped(_request: ReportRequest, *, is_stopped: Any, **_options: object) -> None:
        seen.append(is_stopped())
        raise WorkerFailedError("this process is stopping")

    monkeypatch.setattr(run_report, "write_pages", stopped)
    writer = ReportWriter(components.store, components.run_folders, is_stopping=lambda: True)
    writer.request(stored(components, 1))
    with structlog.testing.capture_logs() as logs:
        writer.run()

    assert seen == [True]
    assert logs == []
