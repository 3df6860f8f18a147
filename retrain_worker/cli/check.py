"""`check`: what a start needs and does not find, with the command that corrects it. Nothing is created."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from retrain_worker.cli import options, service_checks
from retrain_worker.cli.checks import Check, all_checks
from retrain_worker.domain.printable import printable
from retrain_worker.settings import Settings

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "check",
        help="what a start needs and does not find, and how to correct it",
        description="By root, on a host with the service: with the rights, the mounts and the settings of the service.",
        epilog="exit: 0 ready to start, 1 not ready, 78 wrong settings",
    )
    options.add_places(parser)
    options.add_database(parser)
    parser.add_argument("--unit", action="store_true", help="only whether the service runs this installation")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    #: the process that root's check starts in the sandbox of the service prints one JSON object per line
    parser.add_argument("--in-service", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print every check; 1 when one that blocks a start failed. Raises SettingsError before the first check."""
    from retrain_worker.cli.once import as_json

    if arguments.unit:
        found = list(service_checks.unit_checks())
        print(*map(_as_text, found), sep="\n", file=sys.stderr if _blocking(found) else sys.stdout)
        return 1 if _blocking(found) else 0
    settings = options.read_settings(arguments)
    checks: list[Check] = []
    for check in _checks(arguments, settings):
        checks.append(check)
        if arguments.in_service:
            print(as_json(check), flush=True)
        elif not arguments.json:
            print(_as_text(check), flush=True)
    blocking = _blocking(checks)
    if arguments.json:
        print(as_json({"is_ready": not blocking, "checks": checks}))
    elif not arguments.in_service:
        problems = sum(not check.is_ok for check in checks)
        ending = "ready to start" if not blocking else f"not ready: {len(blocking)} of them must be corrected first"
        print(f"\n{len(checks)} checks, {problems} problems; {ending}")
    return 1 if blocking else 0


def _checks(arguments: argparse.Namespace, settings: Settings) -> Iterator[Check]:
    if arguments.in_service:
        yield from all_checks(settings)
        return
    yield from _names(settings.deprecations, options.unknown_names(arguments, settings))
    if arguments.home is not None:
        yield from all_checks(settings)
        return
    yield from service_checks.unit_checks()
    yield from service_checks.host_checks(arguments, settings)
    if service_checks.can_enter_sandbox():
        yield from service_checks.sandbox_checks(arguments)
    else:
        yield from service_checks.unprivileged_checks(settings)


def _blocking(checks: list[Check]) -> list[Check]:
    return [check for check in checks if check.blocks and not check.is_ok]


def _names(deprecations: tuple[str, ...], unknown: tuple[str, ...]) -> list[Check]:
    remedies = dict.fromkeys(deprecations, "") | {
        f"{name} is not a setting and has no effect": "remove it, or see etc/quantum/retraining-worker.env for its name"
        for name in unknown
    }
    return [
        Check(name="settings", is_ok=False, blocks=False, finding=finding, remedy=remedy)
        for finding, remedy in remedies.items()
    ]


def _as_text(check: Check) -> str:
    mark = "ok     " if check.is_ok else "PROBLEM" if check.blocks else "warning"
    text = f"{mark} {check.name:<16} {printable(check.finding)}"
    return f"{text}\n{'':<24} -> {printable(check.remedy)}" if check.remedy else text
