"""The pages of runs: `report.html` and `compare.html` in the folder of a run, `index/index.html` beside the folders.

A worker process writes them, in a job of its own: a run is over and stored before its page is due, and waits for none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from retrain_worker.adapters.artifact_store import ArtifactStore
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.daemon.one_off_task import write_pages
from retrain_worker.domain.lifecycle import Run
from retrain_worker.domain.report_request import ComparisonPage, IndexPage, ReportRequest, RunPage
from retrain_worker.errors import RetrainError
from retrain_worker.report.indexed_run import indexed, is_judged
from retrain_worker.report.result import RunResult

log = structlog.get_logger()

#: runs in the index, at most
MAX_RUNS = 1000
#: runs without a page that are caught up with after a start, at most
_MAX_MISSING = 20


class ReportWriter:
    """Knows which pages are due. `request` may be called from any thread, `run` from one at a time."""

    def __init__(
        self,
        store: StateDb,
        folders: ArtifactStore,
        *,
        niceness: int = 0,
        is_stopping: Callable[[], bool] = lambda: False,
        on_request: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_request`: a page is due, which `run_job` writes."""
        self._store, self._folders, self._niceness = store, folders, niceness
        self._is_stopping = is_stopping
        self._on_request = on_request
        self._lock = threading.Lock()
        self._due: dict[str, None] = {}
        self._is_index_due = False
        self._has_caught_up = False

    def request(self, run: Run) -> None:
        """The page of this run is due, and the index."""
        with self._lock:
            self._due[run.run_id] = None
        self._on_request()

    def request_index(self) -> None:
        """The index is due: folders of runs were removed."""
        with self._lock:
            self._is_index_due = True
        self._on_request()

    def catch_up(self) -> None:
        """The pages of finished runs that have none are due: an earlier process ended before it wrote them."""
        if self._has_caught_up:
            return
        self._has_caught_up = True
        for run_id in reversed(self._folders.run_ids()[-_MAX_MISSING:]):
            run = None if self._folders.report_of(run_id).exists() else self._store.run(run_id)
            if run is not None and run.is_concluded:
                self.request(run)

    def run_job(self) -> None:
        """One pass of the daemon's job."""
        self.catch_up()
        self.run()

    def run(self) -> None:
        """Write what is due. A page that cannot be written is a warning."""
        with self._lock:
            due, is_index_due = tuple(self._due), self._is_index_due
            self._due, self._is_index_due = {}, False
        if not due and not is_index_due:
            return
        named = f"run {', '.join(due)}" if due else "index"
        try:
            for run_id in due:
                self._folders.run_dir(run_id)
            request = site_request(self._store, self._folders, due)
            write_pages(request, is_stopped=self._is_stopping, niceness=self._niceness)
        except Exception as error:  # the run is over and stored: its page must not make its last stage fail
            if not self._is_stopping():
                log.warning(
                    "report_not_written",
                    message=f"{named}: cannot write the report: {error}",
                    run_id=due[-1] if due else "",
                    exc_info=not isinstance(error, RetrainError),
                )

    def result_of(self, run: Run) -> RunResult:
        """The run as it is shown, with its page, which is written now."""
        self.request(run)
        self.run()
        report = self._folders.report_of(run.run_id)
        return RunResult(run=run, report=report if report.exists() else None)


def site_request(store: StateDb, folders: ArtifactStore, run_ids: Collection[str]) -> ReportRequest:
    """The pages of these runs, each beside the judged run before it, and the index."""
    # by their folders, so that the cost is bounded by KEEP_RUNS
    known = [store.run(run_id) for run_id in reversed(folders.run_ids()[-MAX_RUNS:])]
    runs = [run for run in known if run is not None]
    previous = _previous_of(runs)
    pages, comparisons = [], []
    for run in (run for run in runs if run.run_id in run_ids):
        before = previous.get(run.run_id)
        pages.append(
            RunPage(
                run=run,
                run_dir=str(folders.path_of(run.run_id)),
                output_path=str(folders.report_of(run.run_id)),
                is_in_site=True,
                previous_run_id=before.run_id if before else "",
            )
        )
        if before is not None:
            comparisons.append(comparison_page(folders, (before, run), folders.comparison_of(run.run_id)))
    lines = [
        indexed(
            run,
            has_page=run.run_id in run_ids or folders.report_of(run.run_id).exists(),
            has_comparison=run.run_id in previous
            and (run.run_id in run_ids or folders.comparison_of(run.run_id).exists()),
        )
        for run in runs
    ]
    index = IndexPage(
        runs=tuple(lines),
        deployments=tuple(store.reached_deployments()[-MAX_RUNS:]),
        at=datetime.now(UTC),
        output_path=str(folders.index_dir() / folders.index_path.name),
    )
    return ReportRequest(runs=tuple(pages), comparisons=tuple(comparisons), index=index)


def comparison_page(folders: ArtifactStore, runs: tuple[Run, Run], output: Path) -> ComparisonPage:
    """The page of two runs, the earlier one first."""
    return ComparisonPage(
        runs=runs,
        run_dirs=(str(folders.path_of(runs[0].run_id)), str(folders.path_of(runs[1].run_id))),
        output_path=str(output),
        is_in_site=output.parent.parent == folders.index_path.parent.parent,
    )


def run_page(result: RunResult, run_dir: Path, *, is_in_site: bool = False) -> RunPage:
    """The page of a run with what was seen beside it. `result.report` is where it is written."""
    return RunPage(
        run=result.run,
        run_dir=str(run_dir),
        output_path=str(result.report),
        is_in_site=is_in_site,
        bayes_auc=result.bayes_auc,
        event={name: str(value) for name, value in result.event.items() if value is not None},
        engine=result.engine,
    )


def _previous_of(newest_first: Sequence[Run]) -> dict[str, Run]:
    """Run id -> the judged run before it, for each judged run that has one."""
    found: dict[str, Run] = {}
    later: list[Run] = []
    for run in newest_first:
        if is_judged(run):
            found |= {each.run_id: run for each in later}
            later = [run]
    return found
