"""`once`: one run, from rows in a database to an outcome."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.domain.lifecycle import Outcome, Requester

if TYPE_CHECKING:
    from retrain_worker.daemon.wiring import Components
    from retrain_worker.report.result import RunResult

_EXIT_CODES = {
    Outcome.PROMOTED: ExitCode.DONE,
    Outcome.SKIPPED: ExitCode.SKIPPED,
    Outcome.REFUSED: ExitCode.REFUSED,
    Outcome.INTERRUPTED: ExitCode.INTERRUPTED,
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "exit: 0 PROMOTED, 10 SKIPPED, 11 REFUSED, 12 INTERRUPTED, 1 FAILED, 2 usage, 78 settings"
    options.add_places(parser)
    options.add_database(parser)
    parser.add_argument("--force", action="store_true", help="run although nothing is new")
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Run once. An interrupted run of this home is resumed instead of a new one."""
    from retrain_worker.cli.progress import RunActivity
    from retrain_worker.cli.screen import show
    from retrain_worker.daemon.signals import Signals
    from retrain_worker.daemon.wiring import open_components
    from retrain_worker.report.result import as_object
    from retrain_worker.report.run_summary import summary

    signals = Signals()
    settings = options.read_settings(arguments)
    options.prepare_home(settings)
    with RunActivity(options.last_seconds(settings)) as activity:
        # on a terminal the line shows the progress
        options.configure_log(settings, level="WARNING" if activity.is_shown else settings.log_level)
        # the operator waits: what is unreachable now ends the run, and is not waited for
        with open_components(replace(settings, max_retries=0), report=activity.step) as components:
            result = run_with(components, is_forced=arguments.force, is_stopped=lambda: signals.stopping)
    show(arguments, as_object(result), lambda: summary(result))
    return exit_code(result)


def run_with(components: Components, *, is_stopped: Callable[[], bool], is_forced: bool = False) -> RunResult:
    """One run of opened components; an interrupted one is resumed instead of a new one."""
    driver = components.driver
    driver.recover()
    driver.evaluate_waiting_runs(is_stopped=is_stopped)
    run = driver.drive(
        driver.begin(Requester.ONCE, "requested by an operator", is_forced=is_forced), is_stopped=is_stopped
    )
    return components.reports.result_of(run)


def exit_code(result: RunResult) -> ExitCode:
    """The exit code of an outcome; a run on trial has none yet, and is continued later like an interrupted one."""
    return _EXIT_CODES.get(result.run.outcome or Outcome.INTERRUPTED, ExitCode.FAILED)
