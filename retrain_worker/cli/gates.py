"""`gates`: the verdict on a run's candidate, gate by gate."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.cli.run_selection import chosen_run
from retrain_worker.domain.facts import GateFacts

if TYPE_CHECKING:
    from rich.console import RenderableType

    from retrain_worker.domain.lifecycle import Run


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_places(parser)
    parser.add_argument("run_id", nargs="?", help="the run (default: the newest with a verdict)")
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the verdict. Raises UsageError when the run is unknown or has none."""
    from rich.console import Group

    from retrain_worker.cli.results import GatesReport
    from retrain_worker.cli.screen import show

    settings = options.read_valid_settings(arguments)
    run = chosen_run(
        settings,
        arguments.run_id,
        fits=lambda run: run.facts.gate is not None,
        otherwise="no such run, or it has no verdict that can be read",
    )
    facts = run.facts
    found = GatesReport(run_id=run.run_id, gate=facts.gate, shadow=facts.shadow, probation=facts.probation)
    show(arguments, found, lambda: Group(*_as_text(run, facts.require(GateFacts))))
    return ExitCode.DONE


def _as_text(run: Run, gated: GateFacts) -> Iterator[RenderableType]:
    """The verdicts, the alpha that was spent, the gates, the slices, the backtest folds, and the trial."""
    from rich.text import Text

    from retrain_worker.cli.screen import pairs, paragraph
    from retrain_worker.report.formatting import spent
    from retrain_worker.report.live_evaluation import trial_pairs
    from retrain_worker.report.run_summary import folds_table, gates_table, hit_rates, slices_table

    on_trial = run.facts.shadow.verdict if run.facts.shadow else None
    later = f" on the holdout, {on_trial.decision} in the shadow trial" if on_trial else ""
    yield paragraph(f"run {run.run_id}: {gated.verdict.decision}{later}", "bold")
    if gated.alpha_spending:
        yield paragraph(spent(gated.alpha_spending), "dim")
    yield gates_table(gated.verdict.gates)
    yield from (slices_table(gated.candidate), hit_rates(gated.candidate), folds_table(gated.folds))
    if on_trial:
        yield Text(f"\nShadow trial: {on_trial.decision}", "bold")
        yield gates_table(on_trial.gates)
    yield pairs([("", "", ""), *((name, text, "") for name, text in trial_pairs(run))])
