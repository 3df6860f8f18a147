"""`status`: what serves, what ran, what runs next, what waits. Looks only; creates nothing."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from retrain_worker.cli import options
from retrain_worker.domain.lifecycle import Stage

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("status", help="what serves, what ran, what runs next, what waits")
    options.add_places(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print the status; 0 also when nothing ever ran."""
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
        "daemon": "at work" if is_held(settings.state_path) else "not running",
        "engine_env_file": str(settings.engine_env_file),
        "serving": str(current) if current else None,
        "slot_problem": slot_problem,
        "state": str(settings.state_path / "state.db"),
        "run_under_way": None,
        "waiting_runs": [],
        "order": None,
        "last_run": None,
        "last_deployment": None,
        "next_run_at": None,
        "follow_up": None,
        "engine_says": None,
        "events_waiting": 0,
        "oldest_event_waiting_since": None,
    }
    store = options.open_state(settings)
    if store is None:
        return found
    with store:
        under_way, history = store.unfinished_run(), store.history(limit=2)
        last = next((run for run in history if run.is_concluded), None)
        request = store.waiting_slot_request()
        deployment, oldest = store.last_deployment(), store.oldest_pending_at()
        due = next_run_at(
            last_attempt_at=store.last_attempt_at(),
            now=datetime.now(UTC),
            interval=timedelta(hours=settings.retrain_interval_hours),
        )
        found |= {
            "engine_says": engine_says(store) or None,
            "waiting_runs": [
                {
                    "run_id": run.run_id,
                    "stage": run.stage,
                    "version": run.facts.train.version if run.facts.train else None,
                    "trials": [list(pair) for pair in trial_pairs(run)],
                }
                for run in store.waiting_runs()
            ],
            "run_under_way": under_way
            and {
                "run_id": under_way.run_id,
                "stage": under_way.stage,
                "outcome": under_way.outcome,
                "since": under_way.updated_at.isoformat(),
            },
            "order": request
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
            "follow_up": queued_request.due(store),
            "events_waiting": store.num_pending(),
            "oldest_event_waiting_since": oldest and oldest.isoformat(),
        }
    return found


def _as_text(found: dict[str, Any]) -> str:
    from retrain_worker.daemon.status import in_words

    lines = [("daemon", found["daemon"])]
    lines.append(("serving", found["slot_problem"] or found["serving"] or "no PATCHTST_MODEL_PATH in the env file"))
    deployed = found["last_deployment"]
    if deployed:
        told = f": {deployed['confirmation']}" if deployed["confirmation"] else ""
        label = {"rollback": "returned", "external": "external"}.get(deployed["kind"], "promoted")
        label, version = (label, deployed["version"]) if deployed["model_path"] else ("emptied", "no model is named")
        lines.append((label, f"{version} at {deployed['at'][:19]} UTC, {deployed['state']}{told}"))
        if (found["serving"] or "") != deployed["model_path"] and not found["slot_problem"]:
            lines.append(("", "PATCHTST_MODEL_PATH was changed since, by somebody else"))
    if found["order"]:
        lines.append(("ordered", f"{found['order']['request_id']}: {found['order']['answer']}"))
    running, last = found["run_under_way"], found["last_run"]
    if running:
        standing = "is" if found["daemon"] == "at work" else "goes on at the next start:"
        lines.append(
            ("under way", f"run {running['run_id']} {standing} at {running['stage']} since {running['since'][:19]} UTC")
        )
    if found["engine_says"]:
        lines.append(("engine", found["engine_says"]))
    for run in found["waiting_runs"]:
        told = "; ".join(text for _, text in run["trials"])
        lines.append(
            (
                "on trial" if run["stage"] == Stage.SHADOW else "probation",
                f"{run['version']} (run {run['run_id']}): {told}",
            )
        )
    if last:
        lines.append(("last run", f"{last['run_id']} {last['outcome']} at {last['finished_at'][:19]} UTC"))
        lines.extend(("", reason) for reason in last["reasons"][:5])
    else:
        lines.append(("last run", "none yet"))
    if found["follow_up"]:
        lines.append(("next run", f"as soon as none is under way, asked for by {found['follow_up']}"))
    elif found["next_run_at"]:
        due = datetime.fromisoformat(found["next_run_at"])
        lines.append(("next run", f"{due:%Y-%m-%d %H:%M} UTC ({in_words(due - datetime.now(UTC))})"))
    waiting = f"{found['events_waiting']} events for Redis"
    if found["oldest_event_waiting_since"]:
        waiting += f", the oldest since {found['oldest_event_waiting_since'][:19]} UTC"
    lines.append(("waiting", waiting))
    return "\n".join(f"{name:<10}{text}" for name, text in lines)
