"""`report`: outcome and measurements of a run, as text or as an HTML page; pages of all runs, and of two."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.cli.run_selection import chosen_run

if TYPE_CHECKING:
    from rich.console import RenderableType

    from retrain_worker.adapters.artifact_store import ArtifactStore
    from retrain_worker.settings import Settings


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "the folder of each finished run holds its page: report.html; exit: 0, 1 the page could not be written, "
        "2 no such run"
    )
    options.add_places(parser)
    parser.add_argument("run_id", nargs="?", help="the run (default: the newest that has ended and was not skipped)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page to FILE")
    several = parser.add_mutually_exclusive_group()
    several.add_argument(
        "--index",
        action="store_true",
        help="write MODEL_PATH/runs/index/index.html, and the pages of runs that lack one",
    )
    several.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="write a page of two runs side by side: --html FILE, or runs/B/compare_A.html",
    )
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print it. Raises UsageError without such a run, SlotError or DiskFullError when FILE cannot be written."""
    from rich.console import Group

    from retrain_worker.adapters.artifact_store import ArtifactStore
    from retrain_worker.cli.screen import show
    from retrain_worker.report.result import RunResult, as_object
    from retrain_worker.report.run_summary import summary

    settings = options.read_valid_settings(arguments)
    folders = ArtifactStore(model_path=settings.model_path, checkpoint_path=settings.checkpoint_path)
    if arguments.index:
        return _show_written(arguments, _site(settings, folders))
    html = arguments.html.expanduser().absolute() if arguments.html else None
    if arguments.compare:
        return _show_written(arguments, _comparison(settings, folders, *arguments.compare, html=html))
    wanted = arguments.run_id
    run = chosen_run(
        settings,
        wanted,
        fits=lambda run: run.outcome is not None or run.run_id == wanted,
        otherwise="no such run, or none has ended yet",
    )
    page = html or folders.report_of(run.run_id)
    if html:
        from retrain_worker.daemon.one_off_task import write_pages
        from retrain_worker.daemon.run_report import run_page
        from retrain_worker.domain.report_request import ReportRequest

        wanted_page = run_page(RunResult(run=run, report=page), folders.path_of(run.run_id))
        write_pages(ReportRequest(runs=(wanted_page,)))
    result = RunResult(run=run, report=page if page.exists() else None)
    show(arguments, as_object(result), lambda: Group(summary(result), *_engine_now(settings)))
    return ExitCode.DONE


def _engine_now(settings: Settings) -> Iterator[RenderableType]:
    """A serving fault; nothing without one."""
    from rich.text import Text

    from retrain_worker.cli.screen import paragraph
    from retrain_worker.daemon.serving_state import serving_fault

    store = options.open_state(settings)
    if store is None:
        return
    with store:
        fault = serving_fault(store)
    if fault:
        yield from (Text(), paragraph(f"engine now: {fault}", "red"))


def _site(settings: Settings, folders: ArtifactStore) -> Path:
    """Write the index, and the page of each run that has a folder and no page."""
    from retrain_worker.daemon.one_off_task import write_pages
    from retrain_worker.daemon.run_report import site_request

    store = options.open_state(settings)
    if store is None:
        raise options.no_run_yet(settings)
    with store:
        missing = [run_id for run_id in folders.run_ids() if not folders.report_of(run_id).exists()]
        write_pages(site_request(store, folders, missing))
    return folders.index_path


def _comparison(settings: Settings, folders: ArtifactStore, *run_ids: str, html: Path | None) -> Path:
    """Write the page of two runs."""
    from retrain_worker.daemon.one_off_task import write_pages
    from retrain_worker.daemon.run_report import comparison_page
    from retrain_worker.domain.report_request import ReportRequest

    before, after = sorted(
        (chosen_run(settings, run_id, fits=lambda _run: True, otherwise="no such run") for run_id in run_ids),
        key=lambda run: run.created_at,
    )
    page = html or folders.run_dir(after.run_id) / f"compare_{before.run_id}.html"
    write_pages(ReportRequest(comparisons=(comparison_page(folders, (before, after), page),)))
    return page


def _show_written(arguments: argparse.Namespace, page: Path) -> int:
    from retrain_worker.cli.results import WrittenReport
    from retrain_worker.cli.screen import paragraph, show

    show(arguments, WrittenReport(report=str(page)), lambda: paragraph(str(page)))
    return ExitCode.DONE
