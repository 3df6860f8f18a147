"""`status`: the model in the slot, the current, last and next run, pending requests and events. Reads only."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from retrain_worker.cli import options

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("status", help="model in the slot, current, last and next run, what is pending")
    options.add_places(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print the status; 0 also before the first run."""
    from retrain_worker.cli.once import as_json
    from retrain_worker.daemon.status import status_of

    found = status_of(options.read_valid_settings(arguments))
    print(as_json(found) if arguments.json else as_text(found))
    return 0


def as_text(found: dict[str, Any]) -> str:
    """The object of daemon.status.status_of as lines of a label and a text."""
    problems = (("problem", problem) for problem in found["problems"])
    lines = [("daemon", found["daemon"]), *problems, *_slot(found), *_runs(found)]
    events = f"{found['pending_events']} pending"
    if found["oldest_pending_event_at"]:
        events += f", the oldest since {found['oldest_pending_event_at'][:19]} UTC"
    return "\n".join(f"{name:<10}{text}" for name, text in [*lines, ("events", events)])


def _slot(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "serving", found["slot_problem"] or found["serving"] or "no PATCHTST_MODEL_PATH in the env file"
    if deployed := found["last_deployment"]:
        confirmation = f": {deployed['confirmation']}" if deployed["confirmation"] else ""
        version = deployed["version"] if deployed["model_path"] else "no model"
        yield deployed["kind"], f"{version} at {deployed['at'][:19]} UTC, {deployed['state']}{confirmation}"
        if (found["serving"] or "") != deployed["model_path"] and not found["slot_problem"]:
            yield "", "PATCHTST_MODEL_PATH was changed externally since"
    if request := found["slot_request"]:
        yield "request", f"{request['request_id']}: {request['answer']}"
    if found["engine_answers"]:
        yield "engine", found["engine_answers"]


def _runs(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    from retrain_worker.daemon.status import in_words

    if current := found["current_run"]:
        resumes = "" if found["daemon"] == "running" else ", resumes at the next start"
        yield "run", f"{current['run_id']} at {current['stage']} since {current['since'][:19]} UTC{resumes}"
    for run in found["waiting_runs"]:
        trials = "; ".join(text for _, text in run["trials"])
        yield run["stage"].lower(), f"{run['version']} (run {run['run_id']}): {trials}"
    if last := found["last_run"]:
        yield "last run", f"{last['run_id']} {last['outcome']} at {last['finished_at'][:19]} UTC"
        yield from (("", reason) for reason in last["reasons"][:5])
    else:
        yield "last run", "none"
    if found["pause"]:
        yield "paused", found["pause"]
    if found["queued_request"]:
        yield "next run", f"when the current run has finished, requested by {found['queued_request']}"
    elif found["next_run_at"]:
        due = datetime.fromisoformat(found["next_run_at"])
        yield "next run", f"{due:%Y-%m-%d %H:%M} UTC ({in_words(due - datetime.now(UTC))})"
