"""`status`: the model in the slot, the current, last and next run, pending requests and events. Reads only."""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.domain.acknowledgement import named
from retrain_worker.domain.host_names import HostNames
from retrain_worker.errors import RetrainError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from retrain_worker.daemon.status import Status

Line = tuple[str, str, str]
_LINES_OF_REASONS = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "exit: 0 the daemon is running, 3 it is not; with --exit-code 1 when something needs attention"
    options.add_places(parser)
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 when something needs attention")
    options.add_json(parser)
    #: `retrain-worker` alone: also what to do next, and always exit 0
    parser.add_argument("--next", action="store_true", help=argparse.SUPPRESS)


def execute(arguments: argparse.Namespace) -> int:
    """Print the status."""
    from retrain_worker.cli.screen import show
    from retrain_worker.daemon.status import followers_of, status_of

    settings = options.read_valid_settings(arguments)
    found = status_of(settings)
    if found.daemon == "running" or settings.redis_url:
        with contextlib.suppress(RetrainError):
            found = replace(found, followers=followers_of(settings, options.redis_url(settings)))
    show(arguments, found, lambda: as_text(found, next_of=settings.host_names if arguments.next else None))
    if arguments.next:
        return ExitCode.DONE
    if arguments.exit_code and found.needs_attention:
        return ExitCode.FAILED
    return ExitCode.DONE if found.daemon == "running" else ExitCode.NOT_RUNNING


def as_text(found: Status, *, next_of: HostNames | None = None) -> RenderableType:
    """The status as lines of a label and a text; with `next_of`, what to do next with that worker."""
    from retrain_worker.cli.screen import pairs

    return pairs([*_lines(found), *(_next(found, next_of) if next_of else ())])


def _lines(found: Status) -> Iterator[Line]:
    yield "daemon", found.daemon, "green" if found.daemon == "running" else "yellow"
    if found.role or found.leader:
        yield "role", "; ".join(part for part in (found.role, found.leader) if part), ""
    if found.activity:
        yield "now", found.activity, ""
    yield from (("problem", problem, "red") for problem in found.problems)
    yield from _slot(found)
    yield from _runs(found)
    events = f"{found.pending_events} pending"
    if found.oldest_pending_event_at:
        events += f", the oldest since {_instant(found.oldest_pending_event_at)}"
    yield "events", events, "yellow" if found.pending_events else ""


def _slot(found: Status) -> Iterator[Line]:
    if found.slot_problem:
        yield "serving", found.slot_problem, "red"
    else:
        yield "serving", found.serving or "no PATCHTST_MODEL_PATH in the env file", "bold"
    if deployed := found.last_deployment:
        confirmation = f": {deployed.confirmation}" if deployed.confirmation else ""
        version = deployed.version if deployed.model_path else "no model"
        yield deployed.kind, f"{version} at {_instant(deployed.at)}, {deployed.state.words}{confirmation}", ""
        if (found.serving or "") != deployed.model_path and not found.slot_problem:
            yield "", "PATCHTST_MODEL_PATH was changed externally since", "yellow"
    if request := found.slot_request:
        yield "request", f"{request.request_id}: {request.answer}", "yellow"
    if found.engine_answers:
        yield "engine", found.engine_answers, ""
    yield from _followers(found)


def _followers(found: Status) -> Iterator[Line]:
    """The followers by version, most first; those with a problem by name."""
    versions = Counter(one.version or "no model" for one in found.followers)
    for version, num in versions.most_common():
        names = named(one.consumer for one in found.followers if (one.version or "no model") == version)
        yield "follower" if num == 1 else f"{num} followers", f"{version}: {names}", ""
    for one in found.followers:
        if one.problem and one.problem_version != one.version:
            yield "", f"{one.consumer}: {one.problem}", "yellow"


def _runs(found: Status) -> Iterator[Line]:
    from retrain_worker.daemon.status import in_words
    from retrain_worker.report.overview import STYLES, TONES

    if current := found.current_run:
        resumes = "" if found.daemon == "running" else ", resumes at the next start"
        yield "run", f"{current.run_id} at {current.stage} since {_instant(current.since)}{resumes}", ""
    for run in found.waiting_runs:
        trials = "; ".join(text for _, text in run.trials)
        yield run.stage.lower(), f"{run.version} (run {run.run_id}): {trials}", ""
    if last := found.last_run:
        outcome = f"{last.run_id} {last.outcome} at {_instant(last.finished_at)}"
        yield "last run", outcome, STYLES[TONES[last.outcome]]
        yield from (("", reason, "") for reason in last.reasons[:_LINES_OF_REASONS])
    else:
        yield "last run", "none", ""
    if found.pause:
        yield "paused", found.pause, "yellow"
    if found.queued_request:
        yield "next run", f"when the current run has finished, requested by {found.queued_request}", ""
    elif found.next_run_at:
        due = found.next_run_at
        yield "next run", f"{due:%Y-%m-%d %H:%M} UTC ({in_words(due - datetime.now(UTC))})", ""


def _next(found: Status, host: HostNames) -> Iterator[Line]:
    """What to do next."""
    yield "", "", ""
    if found.daemon != "running" and found.last_run is None:
        yield "next", "retrain-worker demo                a run on a simulated market", "cyan"
        yield "", "retrain-worker discover /          where this host has training data", "cyan"
        yield "", "retrain-worker check               what a start needs and does not find", "cyan"
    elif found.daemon != "running" and found.problems:
        yield "next", f"sudo {host.command} check          what is missing, and the remedy", "cyan"
    elif found.daemon != "running":
        yield "next", f"sudo systemctl start {host.service.removesuffix('.service')}", "cyan"
    elif found.needs_attention:
        yield "next", f"{host.command} report              the last run", "cyan"
        yield "", f"{host.command} check               what is missing, and the remedy", "cyan"
    else:
        yield "next", f"nothing to do; {host.command} watch shows the progress", "cyan"
    yield "", "retrain-worker --help              every verb", "cyan"


def _instant(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
