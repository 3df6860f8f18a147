"""`status`: the model in the slot, the current, last and next run, pending requests and events. Reads only."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from retrain_worker.cli import options

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("status", help="model in the slot, current, last and next run, what is pending")
    options.add_places(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print the status; 0 also before the first run."""
    from retrain_worker.cli.once import as_json

    found = status_of(arguments)
    print(as_json(found) if arguments.json else _as_text(found))
    return 0


def status_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The status as one object."""
    from retrain_worker.adapters.model_slot import ModelSlot
    from retrain_worker.adapters.state_lock import is_held
    from retrain_worker.daemon import queued_request
    from retrain_worker.daemon.jobs.serving_monitor import engine_says
    from retrain_worker.daemon.run_schedule import next_run_at
    from retrain_worker.errors import SlotError
    from retrain_worker.report.live_evaluation import trial_pairs

    settings = options.read_settings(arguments)
    slot = ModelSlot(
        engine_models_dir=settings.engine_models_dir,
        engine_env_file=settings.engine_env_file,
        trigger_file=settings.engine_trigger_file,
    )
    try:
        current, slot_problem = slot.current_path(), None
    except SlotError as error:
        current, slot_problem = None, str(error)
    found: dict[str, Any] = {
        "daemon": "running" if is_held(settings.state_path) else "not running",
        "engine_env_file": str(settings.engine_env_file),
        "serving": str(current) if current else None,
        "slot_problem": slot_problem,
        "state": str(settings.state_path / "state.db"),
        "current_run": None,
        "waiting_runs": [],
        "slot_request": None,
        "last_run": None,
        "last_deployment": None,
        "next_run_at": None,
        "queued_request": None,
        "engine_answers": None,
        "pending_events": 0,
        "oldest_pending_event_at": None,
    }
    store = options.open_state(settings)
    if store is None:
        return found
    with store:
        current_run, history = store.unfinished_run(), store.history(limit=2)
        last = next((run for run in history if run.is_concluded), None)
        request = store.waiting_slot_request()
        deployment, oldest = store.last_deployment(), store.oldest_pending_at()
        due = next_run_at(
            last_attempt_at=store.last_attempt_at(),
            now=datetime.now(UTC),
            interval=timedelta(hours=settings.retrain_interval_hours),
        )
        found |= {
            "engine_answers": engine_says(store) or None,
            "waiting_runs": [
                {
                    "run_id": run.run_id,
                    "stage": run.stage,
                    "version": run.facts.train.version if run.facts.train else None,
                    "trials": [list(pair) for pair in trial_pairs(run)],
                }
                for run in store.waiting_runs()
            ],
            "current_run": current_run
            and {
                "run_id": current_run.run_id,
                "stage": current_run.stage,
                "outcome": current_run.outcome,
                "since": current_run.updated_at.isoformat(),
            },
            "slot_request": request
            and {
                "request_id": request.request_id,
                "requested_by": request.requested_by,
                "reason": request.reason,
                "answer": request.answer,
            },
            "last_run": last
            and {
                "run_id": last.run_id,
                "outcome": last.outcome,
                "reasons": list(last.reasons),
                "finished_at": (last.finished_at or last.updated_at).isoformat(),
            },
            "last_deployment": deployment
            and {
                "kind": deployment.kind,
                "version": deployment.version,
                "model_path": deployment.model_path,
                "state": deployment.state,
                "at": deployment.updated_at.isoformat(),
                "confirmation": deployment.confirmation,
            },
            "next_run_at": due.isoformat(),
            "queued_request": queued_request.due(store),
            "pending_events": store.num_pending(),
            "oldest_pending_event_at": oldest and oldest.isoformat(),
        }
    return found


def _as_text(found: dict[str, Any]) -> str:
    lines = [("daemon", found["daemon"]), *_slot(found), *_runs(found)]
    events = f"{found['pending_events']} pending"
    if found["oldest_pending_event_at"]:
        events += f", the oldest since {found['oldest_pending_event_at'][:19]} UTC"
    return "\n".join(f"{name:<10}{text}" for name, text in [*lines, ("events", events)])


def _slot(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "serving", found["slot_problem"] or found["serving"] or "no PATCHTST_MODEL_PATH in the env file"
    if deployed := found["last_deployment"]:
        confirmation = f": {deployed['confirmation']}" if deployed["confirmation"] else ""
        version = deployed["version"] if deployed["model_path"] else "no model"
        yield deployed["kind"], f"{version} at {deployed['at'][:19]} UTC, {deployed['state']}{confirmation}"
        if (found["serving"] or "") != deployed["model_path"] and not found["slot_problem"]:
            yield "", "PATCHTST_MODEL_PATH was changed externally since"
    if request := found["slot_request"]:
        yield "request", f"{request['request_id']}: {request['answer']}"
    if found["engine_answers"]:
        yield "engine", found["engine_answers"]


def _runs(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    from retrain_worker.daemon.status import in_words

    if current := found["current_run"]:
        resumes = "" if found["daemon"] == "running" else ", resumes at the next start"
        yield "run", f"{current['run_id']} at {current['stage']} since {current['since'][:19]} UTC{resumes}"
    for run in found["waiting_runs"]:
        trials = "; ".join(text for _, text in run["trials"])
        yield run["stage"].lower(), f"{run['version']} (run {run['run_id']}): {trials}"
    if last := found["last_run"]:
        yield "last run", f"{last['run_id']} {last['outcome']} at {last['finished_at'][:19]} UTC"
        yield from (("", reason) for reason in last["reasons"][:5])
    else:
        yield "last run", "none"
    if found["queued_request"]:
        yield "next run", f"when the current run has finished, requested by {found['queued_request']}"
    elif found["next_run_at"]:
        due = datetime.fromisoformat(found["next_run_at"])
        yield "next run", f"{due:%Y-%m-%d %H:%M} UTC ({in_words(due - datetime.now(UTC))})"
