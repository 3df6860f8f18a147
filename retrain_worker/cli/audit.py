"""`audit`: is this data fit to train on; every measurement beside its limit. Trains nothing, writes nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.domain.audit_findings import Finding, Severity

if TYPE_CHECKING:
    from rich.console import RenderableType

    from retrain_worker.domain.worker_protocol import PullResult

_MARKS = {Severity.REFUSAL: ("REFUSED", "red"), Severity.WARNING: ("warning", "yellow"), Severity.OK: ("ok", "green")}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "exit: 0 fit, 11 refused, 1 the source cannot be reached, 78 invalid settings"
    options.add_places(parser)
    options.add_database(parser)
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the findings in order of weight. A source that is no training database raises SourceUnfitError."""
    from retrain_worker.cli.progress import Activity
    from retrain_worker.cli.results import AuditReport
    from retrain_worker.cli.screen import pairs, show
    from retrain_worker.daemon.source_audit import audit_source
    from retrain_worker.errors import RefuseError

    settings = options.read_settings(arguments)
    try:
        with Activity() as activity:
            pulled, audited = audit_source(settings, report=activity.message)
    except RefuseError as error:
        refused = AuditReport(is_fit=False, reasons=(str(error),))
        show(arguments, refused, lambda: pairs([("REFUSED", refused.reasons[0], "red")]))
        return ExitCode.REFUSED
    verdict = audited.verdict
    found = AuditReport(is_fit=verdict.is_fit, reasons=verdict.reasons, findings=verdict.findings, source=pulled)
    show(arguments, found, lambda: _as_text(verdict.findings, pulled, is_fit=verdict.is_fit))
    return ExitCode.DONE if verdict.is_fit else ExitCode.REFUSED


def _as_text(findings: Sequence[Finding], pulled: PullResult, *, is_fit: bool) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from retrain_worker.cli.screen import pairs, paragraph

    name_width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        mark, style = _MARKS[finding.severity]
        lines.append((f"{mark:<8} {finding.name:<{name_width}}", finding.message, style if mark != "ok" else ""))
        lines.extend(("", example, "dim") for example in finding.examples)
    refusals, warnings = (
        sum(finding.severity is severity for finding in findings) for severity in (Severity.REFUSAL, Severity.WARNING)
    )
    ending = (
        f"{'fit to train on' if is_fit else 'NOT fit to train on'}: {pulled.loaded} rows, {pulled.labelled} labelled, "
        f"from {pulled.first_at or '-'} to {pulled.last_at or '-'}; refusals {refusals}, warnings {warnings}"
    )
    return Group(pairs(lines), Text(), paragraph(ending, "green" if is_fit else "red"))
