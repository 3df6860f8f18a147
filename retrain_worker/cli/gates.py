"""`gates`: the verdict on a run's candidate, as a person wants it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.errors import UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from retrain_worker.adapters.state_db import StateDb
    from retrain_worker.domain.lifecycle import Run


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("gates", help="the verdict on a run's candidate, gate by gate")
    options.add_places(parser)
    parser.add_argument("run_id", nargs="?", help="the run (default: the newest that was gated)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print the verdict. Raises UsageError when the run is unknown or was never gated."""
    from retrain_worker.cli.once import as_json
    from retrain_worker.report.result import result_of
    from retrain_worker.report.summary import gates_table
    from retrain_worker.report.trials import trial_pairs

    settings = options.read_settings(arguments)
    store = options.open_state(settings)
    if store is None:
        raise UsageError("no run yet", where=str(settings.state_path), remedy="start one: retrain-worker once")
    with store:
        run = _wanted(store, arguments.run_id)
    if arguments.json:
        print(as_json({**run.fact(Stage.GATE), "shadow": run.fact(Stage.SHADOW) or None,
                       "probation": run.fact(Stage.PROBATION) or None}))
    else:
        print(f"run {run.run_id}: {run.fact(Stage.GATE)['decision']}")
        print(gates_table(result_of(run)))
        if run.fact(Stage.SHADOW).get("gates"):
            print(f"\non the rows of its trial: {run.fact(Stage.SHADOW)['decision']}")
            print(gates_table({**result_of(run), "gates": run.fact(Stage.SHADOW)["gates"]}))
        for name, text in trial_pairs(run):
            print(f"{name:<10}{text}")
    return 0


def _wanted(store: StateDb, run_id: str | None) -> Run:
    runs = store.history(limit=1000) if run_id is None else [store.run(run_id)]
    gated = [run for run in runs if run is not None and run.fact(Stage.GATE)]
    if not gated:
        raise UsageError("no such run, or it never came to the gate", where=run_id or "gates",
                         remedy="`retrain-worker history` lists the runs")
    return gated[0]
