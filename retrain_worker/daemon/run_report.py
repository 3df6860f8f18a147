"""The page of a run, `report.html` in its folder: written when its outcome is known, and again when that changes."""

from __future__ import annotations

import structlog

from retrain_worker.adapters.artifact_store import ArtifactStore
from retrain_worker.domain.lifecycle import Run
from retrain_worker.report.page import write_page
from retrain_worker.report.result import RunResult

log = structlog.get_logger()


def write_report(run: Run, folders: ArtifactStore) -> RunResult:
    """Write the page; the run as it is shown. A page that cannot be written is a warning."""
    report = folders.report_of(run.run_id)
    result = RunResult(run=run, report=report)
    try:
        folders.run_dir(run.run_id)
        write_page(result, report)
    except Exception as error:
        # the run is over and stored: its page must not make its last stage fail
        log.warning(
            "report_not_written",
            message=f"run {run.run_id}: cannot write {report}: {error}",
            run_id=run.run_id,
            exc_info=not isinstance(error, OSError),
        )
    return result
