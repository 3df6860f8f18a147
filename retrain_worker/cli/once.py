"""`once`: one run, from rows in a database to an outcome."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from retrain_worker.cli import options
from retrain_worker.domain.lifecycle import Outcome
from retrain_worker.settings import Settings

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from retrain_worker.daemon.app import App

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
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Run once. An interrupted run of this home is resumed first: that is then the run."""
    from retrain_worker.adapters import journal
    from retrain_worker.daemon.service import Signals
    from retrain_worker.report.run_summary import summary

    signals = Signals()
    settings = options.read_settings(arguments)
    journal.configure(level=settings.log_level, form=settings.log_format)
    result = run_once(settings, stopping=lambda: signals.stopping, say=_to_stderr)
    print(as_json(result) if arguments.json else summary(result))
    return exit_code(result)


def run_once(settings: Settings, *, stopping: Callable[[], bool], say: Callable[[str], None]) -> dict[str, Any]:
    """One run to its end; the result of docs/contracts/command-line.md. `say` gets each new sentence."""
    from retrain_worker.daemon.app import App

    options.prepare_home(settings)
    # A person is waiting: what cannot be reached now is an answer, not a reason to wait.
    with App(replace(settings, max_retries=0)) as app:
        return run_in(app, stopping=stopping, say=say)


def run_in(app: App, *, stopping: Callable[[], bool], say: Callable[[str], None]) -> dict[str, Any]:
    """One run of an open app; an interrupted one goes on first."""
    from retrain_worker.daemon.app import ticks
    from retrain_worker.daemon.run_report import write_report

    last = ""
    app.recover()
    app.settle_trials(stopping=stopping, pause=time.sleep)
    run = app.begin("once", "asked for by a person")
    for step in ticks(app, run, stopping=stopping, pause=time.sleep):
        if step.message != last:
            last = step.message
            say(last)
    ended = app.store.run(run.run_id)
    assert ended is not None, "a run that was begun is stored"
    return write_report(ended, app.artifacts)


def exit_code(result: dict[str, Any]) -> int:
    """The exit code of an outcome; a run on trial has none yet, and goes on as an interrupted one does."""
    if result["outcome"] is None:
        return EXIT_CODES[Outcome.INTERRUPTED]
    return EXIT_CODES.get(Outcome(result["outcome"]), _EXIT_FAILED)


def as_json(result: object) -> str:
    """One line; a number that is not finite becomes null."""
    import msgspec

    return msgspec.json.encode(result).decode()


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
