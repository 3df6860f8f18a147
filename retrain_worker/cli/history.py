"""`history`: the runs, newest first."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType

    from retrain_worker.domain.lifecycle import Run
    from retrain_worker.settings import Settings


#: columns of a terminal from which the table has the reasons, and the time beside the id of a run
_WIDTH_FOR_REASONS, _WIDTH_FOR_TIME = 120, 80


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_places(parser)
    options.add_limit(parser)
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the runs, or that there are none."""
    from rich.text import Text

    from retrain_worker.cli.screen import as_json, print_text

    settings = options.read_valid_settings(arguments)
    runs: Sequence[Run] = ()
    store = options.open_state(settings)
    if store is not None:
        with store:
            runs = store.history(limit=arguments.limit)
    if arguments.json:
        print(as_json(_objects(settings, runs)))
    else:
        print_text(history_table(runs) if runs else Text("no run yet"))
    return ExitCode.DONE


def _objects(settings: Settings, runs: Sequence[Run]) -> list[dict[str, Any]]:
    from retrain_worker.adapters.artifact_store import ArtifactStore
    from retrain_worker.report.result import RunResult, as_object

    folders = ArtifactStore(model_path=settings.model_path, checkpoint_path=settings.checkpoint_path)
    pages = ((run, folders.report_of(run.run_id)) for run in runs)
    return [as_object(RunResult(run=run, report=page if page.exists() else None)) for run, page in pages]


def history_table(runs: Sequence[Run]) -> RenderableType:
    """One line for each run; why it ended so, beside it or, on a narrow terminal, below the table."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from retrain_worker.cli.screen import pairs, width
    from retrain_worker.report.formatting import NOTHING, count, duration, number, plain, signed
    from retrain_worker.report.overview import STYLES, TONES

    has_why, has_time = width() >= _WIDTH_FOR_REASONS, width() >= _WIDTH_FOR_TIME
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for name in ("run", *(("begun (UTC)",) if has_time else ()), "outcome"):
        table.add_column(name, no_wrap=True)
    for name in ("AUC", "bound", "gain", "rows", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    if has_why:
        table.add_column("why", overflow="fold")
    for run in runs:
        gated, pulled = run.facts.gate, run.facts.pull
        card, against = (gated.candidate, gated.comparison) if gated else (None, None)
        table.add_row(
            run.run_id,
            *((f"{run.created_at:%Y-%m-%d %H:%M}",) if has_time else ()),
            Text(run.outcome or f"at {run.stage}", STYLES[TONES[run.outcome]]),
            number(card.auc if card else None),
            number(card.auc_low if card else None),
            signed(against.log_loss_gain if against else None),
            count(pulled.rows.labelled if pulled else None),
            duration(sum(run.seconds.values())) if run.seconds else NOTHING,
            *((plain(_why(run)),) if has_why else ()),
        )
    note = "\nbound: lower confidence bound of the AUC; gain: of log loss over the incumbent, on the same rows"
    below = () if has_why else (Text(), pairs((run.run_id, plain(_why(run)), "") for run in runs))
    return Group(table, *below, Text(note, "dim"))


def _why(run: Run) -> str:
    from retrain_worker.report.live_evaluation import trial_pairs

    trials = [f"{name}: {text}" for name, text in trial_pairs(run) if run.is_waiting or name == "forced"]
    return "; ".join((*run.reasons, *trials))
