"""`history`: the runs, newest first."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from retrain_worker.cli import options

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("history", help="the runs, newest first, and how they ended")
    options.add_places(parser)
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="the newest N (default 20)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print the runs; nothing when there are none."""
    from retrain_worker.adapters.artifact_store import ArtifactStore
    from retrain_worker.cli.once import as_json
    from retrain_worker.report.live_evaluation import trial_pairs
    from retrain_worker.report.result import RunResult, as_object

    settings = options.read_valid_settings(arguments)
    folders = ArtifactStore(model_path=settings.model_path, checkpoint_path=settings.checkpoint_path)
    store = options.open_state(settings)
    if store is None:
        print("no run yet")
        return 0
    with store:
        for run in store.history(limit=arguments.limit):
            if arguments.json:
                page = folders.report_of(run.run_id)
                print(as_json(as_object(RunResult(run=run, report=page if page.exists() else None))))
            else:
                trials = [f"{name}: {text}" for name, text in trial_pairs(run) if run.is_waiting or name == "forced"]
                reasons = "; ".join((*run.reasons, *trials))
                print(f"{run.run_id}  {run.outcome or 'at ' + run.stage:<12} {run.requested_by:<9} {reasons}".rstrip())
    return 0
