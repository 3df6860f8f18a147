"""`report`: outcome and measurements of a run, as text or as an HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.run_selection import chosen_run

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "report",
        help="outcome and measurements of a run, as text or as an HTML page",
        epilog="the folder of each finished run holds its page: report.html; exit: 0, 1 the page could not be written, "
        "2 no such run",
    )
    options.add_places(parser)
    parser.add_argument("run_id", nargs="?", help="the run (default: the newest whose outcome is known)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page to FILE")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print it. Raises UsageError without such a run, SlotError or DiskFullError when FILE cannot be written."""
    from retrain_worker import durable_file
    from retrain_worker.adapters.artifact_store import ArtifactStore
    from retrain_worker.cli.once import as_json
    from retrain_worker.daemon.jobs.serving_monitor import serving_fault
    from retrain_worker.report.page import write_page
    from retrain_worker.report.result import RunResult, as_object
    from retrain_worker.report.run_summary import summary

    settings = options.read_valid_settings(arguments)
    wanted = arguments.run_id
    run = chosen_run(
        settings,
        wanted,
        fits=lambda run: run.outcome is not None or run.run_id == wanted,
        otherwise="no such run, or none has ended yet",
    )
    folders = ArtifactStore(model_path=settings.model_path, checkpoint_path=settings.checkpoint_path)
    page = folders.report_of(run.run_id)
    if arguments.html:
        page = arguments.html.expanduser().absolute()
        with durable_file.named_errors(page):
            write_page(RunResult(run=run, report=page), page)
    result = RunResult(run=run, report=page if page.exists() else None)
    print(as_json(as_object(result)) if arguments.json else summary(result))
    store = None if arguments.json else options.open_state(settings)
    if store is not None:
        with store:
            if fault := serving_fault(store):
                print(f"\nengine now: {fault}")
    return 0
