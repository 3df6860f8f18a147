"""Writes the pages of a request."""

from __future__ import annotations

import os
import tempfile

from retrain_worker.domain.report_request import ReportRequest, ReportResult


def write(request: ReportRequest) -> ReportResult:
    """Write each page. Raises DiskFullError, SlotError, RetryLaterError for the first one that cannot be written."""
    # matplotlib lists the fonts of this machine in a folder that it can write to
    with tempfile.TemporaryDirectory(prefix="matplotlib-") as folder:
        os.environ["MPLCONFIGDIR"] = folder
        from retrain_worker.worker.report.comparison_page import write_comparison
        from retrain_worker.worker.report.index_page import write_index
        from retrain_worker.worker.report.run_page import write_run_page

        for run in request.runs:
            write_run_page(run)
        for comparison in request.comparisons:
            write_comparison(comparison)
        if request.index:
            write_index(request.index)
    return ReportResult(output_paths=request.output_paths)
