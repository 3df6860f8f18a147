"""`evaluate`: the verdict of the gates on any model file, beside the incumbent. Promotes nothing, writes nothing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.domain.gates import Decision

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_EXIT_REFUSED = 11


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "evaluate",
        help="the verdict of the gates on a model file; nothing is promoted",
        epilog="exit: 0 PASS, 11 REFUSE or UNDECIDED, or the rows or the file cannot be used",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a model of this program, or of an older layout")
    options.add_places(parser)
    options.add_database(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print the verdict, gate by gate."""
    from retrain_worker.cli.once import as_json
    from retrain_worker.daemon.evaluation import evaluate
    from retrain_worker.errors import RefuseError
    from retrain_worker.report.formatting import spent
    from retrain_worker.report.run_summary import gates_table, hit_rates

    settings = options.read_settings(arguments)
    try:
        found = evaluate(settings, arguments.file, report=lambda text: print(text, file=sys.stderr))
    except RefuseError as error:
        refused = {"file": str(arguments.file), "decision": Decision.REFUSE, "reasons": [str(error)]}
        print(as_json(refused) if arguments.json else f"REFUSED  {error}")
        return _EXIT_REFUSED
    verdict, evidence = found.verdict, found.evidence
    result = {
        "file": str(arguments.file),
        "decision": verdict.decision,
        "reasons": list(verdict.reasons),
        "gates": verdict.gates,
        "candidate": evidence.candidate,
        "incumbent": evidence.incumbent,
        "incumbent_path": str(found.incumbent_path) if found.incumbent_path else None,
        "incumbent_absence": evidence.incumbent_absence,
        "rows_note": evidence.rows_note,
        "policy": verdict.policy,
        "alpha_spending": found.spending,
    }
    if arguments.json:
        print(as_json(result))
    else:
        print(f"{arguments.file}: {verdict.decision}, on {evidence.candidate.n} holdout rows")
        print(evidence.rows_note)
        print(spent(found.spending, is_spent=False))
        print(f"{gates_table(verdict.gates)}\n\n{hit_rates(evidence.candidate)}")
    return 0 if verdict.decision is Decision.PASS else _EXIT_REFUSED
