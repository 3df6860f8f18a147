"""`check`: what a start needs and does not find, with the command that corrects it. Nothing is created."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from retrain_worker.cli import options, service_checks
from retrain_worker.cli.checks import all_checks
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.cli.results import Check, CheckReport
from retrain_worker.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "By root, on a host with the service: with the rights, the mounts and the settings of the service."
    )
    parser.epilog = "exit: 0 ready to start, 1 not ready, 78 invalid settings"
    options.add_places(parser)
    options.add_database(parser)
    parser.add_argument("--unit", action="store_true", help="only whether the service runs this installation")
    options.add_json(parser)
    #: the process that root's check starts in the sandbox of the service prints one JSON object per line
    parser.add_argument("--in-service", action="store_true", help=argparse.SUPPRESS)


def execute(arguments: argparse.Namespace) -> int:
    """Print every check; 1 when one that blocks a start failed. Raises SettingsError before the first check."""
    from rich.text import Text

    from retrain_worker.cli.screen import as_json, console, print_text, show

    if arguments.unit:
        found = list(service_checks.unit_checks(options.host_names_of(arguments).service))
        screen = console(stderr=bool(_blocking(found)))
        for check in found:
            screen.print(_as_text(check), crop=False)
        return ExitCode.FAILED if _blocking(found) else ExitCode.DONE
    settings = options.read_settings(arguments)
    checks: list[Check] = []
    for check in _checks(arguments, settings):
        checks.append(check)
        if arguments.in_service:
            print(as_json(check), flush=True)
        elif not arguments.json:
            print_text(_as_text(check))
    blocking = _blocking(checks)
    if not arguments.in_service:
        num_warnings = sum(not check.is_ok for check in checks) - len(blocking)
        ending = f"not ready: {len(blocking)} must be corrected first" if blocking else "ready to start"
        report = CheckReport(is_ready=not blocking, checks=tuple(checks))
        text = f"\n{len(checks)} checks, {num_warnings} warnings; {ending}"
        show(arguments, report, lambda: Text(text, "red" if blocking else "green"))
    return ExitCode.FAILED if blocking else ExitCode.DONE


def _checks(arguments: argparse.Namespace, settings: Settings) -> Iterator[Check]:
    if arguments.in_service:
        yield from all_checks(settings)
        return
    yield from _names(settings.deprecations, options.unknown_names(arguments, settings))
    if arguments.home is not None:
        yield from all_checks(settings)
        return
    service = settings.host_names.service
    yield from service_checks.unit_checks(service)
    yield from service_checks.host_checks(arguments, settings)
    if service_checks.can_enter_sandbox(service):
        yield from service_checks.sandbox_checks(arguments, settings.host_names)
    else:
        yield from service_checks.unprivileged_checks(settings)


def _blocking(checks: list[Check]) -> list[Check]:
    return [check for check in checks if check.blocks and not check.is_ok]


def _names(deprecations: tuple[str, ...], unknown: tuple[str, ...]) -> Iterator[Check]:
    for deprecation in deprecations:
        yield Check.warning("settings", deprecation)
    for name in unknown:
        yield Check.warning(
            "settings",
            f"{name} is not a setting and has no effect",
            "remove it, or see etc/quantum/retraining-worker.env for its name",
        )


def _as_text(check: Check) -> RenderableType:
    from retrain_worker.cli.screen import pairs

    mark, style = ("ok", "green") if check.is_ok else ("PROBLEM", "red") if check.blocks else ("warning", "yellow")
    lines = [(f"{mark:<7} {check.name:<15}", check.finding, "" if check.is_ok else style)]
    return pairs([*lines, *([("", f"-> {check.remedy}", "cyan")] if check.remedy else [])])
