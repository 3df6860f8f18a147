"""`evaluate`: the verdict of the gates on any model file, beside the incumbent. Promotes nothing, writes nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.domain.gates import Decision

if TYPE_CHECKING:
    from rich.console import RenderableType

    from retrain_worker.daemon.evaluation import Evaluation


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "exit: 0 PASS, 11 REFUSE or UNDECIDED, or the rows or the file cannot be used"
    parser.add_argument("file", type=Path, metavar="FILE", help="a model of this program, or of an older layout")
    options.add_places(parser)
    options.add_database(parser)
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the verdict, gate by gate."""
    from retrain_worker.cli.progress import Activity
    from retrain_worker.cli.results import EvaluationReport
    from retrain_worker.cli.screen import pairs, show
    from retrain_worker.daemon.evaluation import evaluate
    from retrain_worker.errors import RefuseError

    settings, file = options.read_settings(arguments), str(arguments.file)
    try:
        with Activity() as activity:
            found = evaluate(settings, arguments.file, report=activity.message)
    except RefuseError as error:
        refused = EvaluationReport(file=file, decision=Decision.REFUSE, reasons=(str(error),))
        show(arguments, refused, lambda: pairs([("REFUSED", refused.reasons[0], "red")]))
        return ExitCode.REFUSED
    verdict, evidence = found.verdict, found.evidence
    report = EvaluationReport(
        file=file,
        decision=verdict.decision,
        reasons=tuple(verdict.reasons),
        gates=verdict.gates,
        candidate=evidence.candidate,
        incumbent=evidence.incumbent,
        incumbent_path=str(found.incumbent_path) if found.incumbent_path else None,
        incumbent_absence=evidence.incumbent_absence,
        rows_note=evidence.rows_note,
        policy=verdict.policy,
        alpha_spending=found.spending,
    )
    show(arguments, report, lambda: _as_text(file, found))
    return ExitCode.DONE if verdict.decision is Decision.PASS else ExitCode.REFUSED


def _as_text(file: str, found: Evaluation) -> RenderableType:
    from rich.console import Group

    from retrain_worker.cli.screen import paragraph
    from retrain_worker.report.formatting import spent
    from retrain_worker.report.run_summary import gates_table, hit_rates, slices_table

    verdict, evidence = found.verdict, found.evidence
    return Group(
        paragraph(f"{file}: {verdict.decision}, on {evidence.candidate.n} holdout rows", "bold"),
        paragraph(evidence.rows_note),
        paragraph(spent(found.spending, is_spent=False), "dim"),
        gates_table(verdict.gates),
        slices_table(evidence.candidate),
        hit_rates(evidence.candidate),
    )
