"""`gates`: the verdict on a run's candidate, gate by gate."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.run_selection import chosen_run
from retrain_worker.domain.facts import GateFacts

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from retrain_worker.domain.lifecycle import Run


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("gates", help="the verdict on a run's candidate, gate by gate")
    options.add_places(parser)
    parser.add_argument("run_id", nargs="?", help="the run (default: the newest with a verdict)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print the verdict. Raises UsageError when the run is unknown or has none."""
    from retrain_worker.cli.once import as_json

    settings = options.read_valid_settings(arguments)
    run = chosen_run(
        settings,
        arguments.run_id,
        fits=lambda run: run.facts.gate is not None,
        otherwise="no such run, or it has no verdict that can be read",
    )
    if arguments.json:
        print(as_json({"gate": run.facts.gate, "shadow": run.facts.shadow, "probation": run.facts.probation}))
    else:
        print(as_text(run, run.facts.require(GateFacts)))
    return 0


def as_text(run: Run, gated: GateFacts) -> str:
    """The verdicts, the alpha that was spent, the gates, the backtest folds, and the trial."""
    from retrain_worker.report.formatting import number, signed, spent
    from retrain_worker.report.live_evaluation import trial_pairs
    from retrain_worker.report.run_summary import gates_table, hit_rates

    on_trial = run.facts.shadow.verdict if run.facts.shadow else None
    later = f" on the holdout, {on_trial.decision} in the shadow trial" if on_trial else ""
    lines = [f"run {run.run_id}: {gated.verdict.decision}{later}"]
    if gated.alpha_spending:
        lines.append(spent(gated.alpha_spending))
    lines.append(gates_table(gated.verdict.gates))
    if rates := hit_rates(gated.candidate):
        lines.append(f"\n{rates}")
    if gated.folds:
        lines.append("\nBacktest folds (same configuration, earlier cut-offs):")
        lines.extend(
            f"  {fold.first_at[:16]} to {fold.last_at[:16]}  {fold.n:>6} rows  AUC {number(fold.auc)}  "
            f"log loss gain {signed(fold.log_loss_gain)} over the prior"
            for fold in gated.folds
        )
    if on_trial:
        lines += [f"\nShadow trial: {on_trial.decision}", gates_table(on_trial.gates)]
    lines.extend(f"{name:<10}{text}" for name, text in trial_pairs(run))
    return "\n".join(lines)
