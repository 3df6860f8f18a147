"""`audit`: is this data fit to train on; every measurement beside its limit. Trains nothing, writes nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.domain.audit_findings import Finding, Severity
from retrain_worker.domain.printable import printable

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_MARKS = {Severity.REFUSAL: "REFUSED", Severity.WARNING: "warning", Severity.OK: "ok"}
_EXIT_REFUSED = 11


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "audit",
        help="is this data fit to train on, measurement by measurement",
        epilog="exit: 0 fit, 11 refused, 1 the source cannot be reached, 78 wrong settings",
    )
    options.add_places(parser)
    options.add_database(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print the findings in order of weight. A source that is no training database raises SourceUnfitError."""
    from retrain_worker.cli.once import as_json
    from retrain_worker.daemon.source_audit import audit_source
    from retrain_worker.errors import RefuseError

    settings = options.read_settings(arguments)
    try:
        pulled, audited = audit_source(settings, report=lambda text: print(text, file=sys.stderr))
    except RefuseError as error:
        print(
            as_json({"is_fit": False, "reasons": [str(error)], "findings": [], "source": None})
            if arguments.json
            else f"REFUSED  {printable(error)}"
        )
        return _EXIT_REFUSED
    verdict = audited.verdict
    if arguments.json:
        print(
            as_json(
                {"is_fit": verdict.is_fit, "reasons": verdict.reasons, "findings": verdict.findings, "source": pulled}
            )
        )
    else:
        width = max(len(finding.name) for finding in verdict.findings)
        for finding in verdict.findings:
            print(_as_text(finding, width))
        print(
            f"\n{'fit to train on' if verdict.is_fit else 'NOT fit to train on'}: {pulled.loaded} rows, "
            f"{pulled.labelled} labelled, from {pulled.first_at or '-'} to {pulled.last_at or '-'}; "
            f"refusals {_count(verdict.findings, Severity.REFUSAL)}, "
            f"warnings {_count(verdict.findings, Severity.WARNING)}"
        )
    return 0 if verdict.is_fit else _EXIT_REFUSED


def _as_text(finding: Finding, width: int) -> str:
    lines = [f"{_MARKS[finding.severity]:<8} {finding.name:<{width}} {printable(finding.message)}"]
    lines.extend(f"{'':<{9 + width}} {printable(example)}" for example in finding.examples)
    return "\n".join(lines)


def _count(findings: Sequence[Finding], severity: Severity) -> int:
    return sum(finding.severity is severity for finding in findings)
