"""`once`: one run, from rows in a database to an outcome."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.domain.lifecycle import Outcome, Requester
from retrain_worker.domain.printable import printable_texts
from retrain_worker.settings import Settings

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from retrain_worker.daemon.wiring import Components
    from retrain_worker.report.result import RunResult
    from retrain_worker.stages.step import Step

EXIT_CODES = {Outcome.PROMOTED: 0, Outcome.SKIPPED: 10, Outcome.REFUSED: 11, Outcome.INTERRUPTED: 12}
_EXIT_FAILED = 1


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "once",
        help="one run: pull, audit, train, gate, promote",
        epilog="exit: 0 PROMOTED, 10 SKIPPED, 11 REFUSED, 12 INTERRUPTED, 1 FAILED, 2 usage, 78 settings",
    )
    options.add_places(parser)
    options.add_database(parser)
    parser.add_argument("--force", action="store_true", help="run although nothing is new")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Run once. An interrupted run of this home is resumed instead of a new one."""
    from retrain_worker.adapters import journal
    from retrain_worker.daemon.signals import Signals
    from retrain_worker.report.result import as_object
    from retrain_worker.report.run_summary import summary

    signals = Signals()
    settings = options.read_settings(arguments)
    journal.configure(level=settings.log_level, form=settings.log_format)
    result = run_once(settings, is_forced=arguments.force, is_stopped=lambda: signals.stopping, report=_print_progress)
    print(as_json(as_object(result)) if arguments.json else summary(result))
    return exit_code(result)


def run_once(
    settings: Settings, *, is_forced: bool, is_stopped: Callable[[], bool], report: Callable[[Step], None]
) -> RunResult:
    """One run to its end. `is_forced`: although nothing is new. `report` gets each step with a new message."""
    from retrain_worker.daemon.wiring import open_components

    options.prepare_home(settings)
    # The operator waits: what is unreachable now ends the run, and is not waited for.
    with open_components(replace(settings, max_retries=0), report=report) as components:
        return run_with(components, is_forced=is_forced, is_stopped=is_stopped)


def run_with(components: Components, *, is_stopped: Callable[[], bool], is_forced: bool = False) -> RunResult:
    """One run of opened components; an interrupted one is resumed instead of a new one."""
    from retrain_worker.daemon.run_report import write_report

    driver = components.driver
    driver.recover()
    driver.evaluate_waiting_runs(is_stopped=is_stopped)
    run = driver.drive(
        driver.begin(Requester.ONCE, "requested by an operator", is_forced=is_forced), is_stopped=is_stopped
    )
    return write_report(run, components.run_folders)


def exit_code(result: RunResult) -> int:
    """The exit code of an outcome; a run on trial has none yet, and is continued later like an interrupted one."""
    return EXIT_CODES.get(result.run.outcome or Outcome.INTERRUPTED, _EXIT_FAILED)


def as_json(result: object) -> str:
    """One line; a number that is not finite becomes null, what is not UTF-8 an escape."""
    import msgspec

    try:
        return msgspec.json.encode(result).decode()
    except UnicodeEncodeError:
        return msgspec.json.encode(printable_texts(msgspec.to_builtins(result))).decode()


def _print_progress(step: Step) -> None:
    print(step.message, file=sys.stderr, flush=True)
