"""The status: STATUS= of the unit, which the daemon sets, and the object that `retrain-worker status` prints."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.adapters.state_lock import is_held
from retrain_worker.daemon import queued_request
from retrain_worker.daemon.configuration import slot_of
from retrain_worker.daemon.jobs.serving_monitor import engine_says
from retrain_worker.daemon.lasting_problems import lasting_problems
from retrain_worker.daemon.run_schedule import next_run_at
from retrain_worker.daemon.wiring import Components
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, Run
from retrain_worker.domain.problem import Problem, ProblemKind, problem_of
from retrain_worker.domain.slot_request import SlotRequest
from retrain_worker.errors import SlotError
from retrain_worker.report.live_evaluation import trial_pairs
from retrain_worker.settings import Settings


def status_line(components: Components) -> str:
    """STATUS= of the unit: what the daemon does, or when it will, and its problems. Never raises."""
    try:
        parts = [components.driver.message or _idle_message(components), *components.waiting_runs.messages()]
        if pause := components.configuration.context.pause:
            parts.append(pause.message)
        parts += [
            problem.message
            for problem in (
                *_lasting(components.store, components.configuration.settings),
                *components.backoff.problems(),
            )
        ]
        if components.relay.problem:
            parts.append(f"{components.relay.problem}, {components.store.num_pending()} events waiting")
        return "; ".join(parts)
    except Exception as error:  # the main loop must go on
        return problem_of(error, kind=ProblemKind.JOB).message


def _idle_message(components: Components) -> str:
    at, last = components.configuration.context.now(), components.store.last_deployment()
    wait = components.schedule.next_run_at(at) - at
    incumbent = "no incumbent"
    if last is not None and last.model_path:
        incumbent = f"incumbent {last.version}" + (" (external)" if last.kind is DeploymentKind.EXTERNAL else "")
    if components.schedule.is_held():
        return f"idle; {incumbent}"
    if wait > timedelta():
        return f"idle; next run in {in_words(wait)}; {incumbent}"
    is_first = components.store.last_attempt_at() is None
    return f"starting the {'first' if is_first else 'next'} run; {incumbent}"


def status_of(settings: Settings) -> dict[str, Any]:
    """The object that `retrain-worker status --json` prints. Reads only, beside a running daemon, too."""
    try:
        current, slot_problem = slot_of(settings).current_path(), None
    except SlotError as error:
        current, slot_problem = None, str(error)
    state = settings.state_path / "state.db"
    found: dict[str, Any] = {
        "daemon": "running" if is_held(settings.state_path) else "not running",
        "engine_env_file": str(settings.engine_env_file),
        "serving": str(current) if current else None,
        "slot_problem": slot_problem,
        "state": str(state),
        "current_run": None,
        "waiting_runs": [],
        "slot_request": None,
        "last_run": None,
        "last_deployment": None,
        "next_run_at": None,
        "queued_request": None,
        "pause": None,
        "engine_answers": None,
        "problems": [],
        "pending_events": 0,
        "oldest_pending_event_at": None,
    }
    if state.exists():
        with StateDb(state, read_only=True) as store:
            found |= _stored_in(store, settings)
    return found


def _lasting(store: StateDb, settings: Settings) -> Iterator[Problem]:
    max_row_age = timedelta(hours=settings.data.warn_staleness_hours)
    return lasting_problems(store, now=datetime.now(UTC), max_row_age=max_row_age)


def _stored_in(store: StateDb, settings: Settings) -> dict[str, Any]:
    interval = timedelta(hours=settings.retrain_interval_hours)
    due = next_run_at(last_attempt_at=store.last_attempt_at(), now=datetime.now(UTC), interval=interval)
    last_run = next((run for run in store.history(limit=2) if run.is_concluded), None)
    current, request, deployment = store.unfinished_run(), store.waiting_slot_request(), store.last_deployment()
    oldest, pause = store.oldest_pending_at(), store.pause()
    if pause is not None and pause.is_over(datetime.now(UTC)):
        pause = None
    return {
        "current_run": _current_run(current) if current else None,
        "waiting_runs": [_waiting_run(run) for run in store.waiting_runs()],
        "slot_request": _slot_request(request) if request else None,
        "last_run": _last_run(last_run) if last_run else None,
        "last_deployment": _deployment(deployment) if deployment else None,
        "next_run_at": None if pause and not settings.train_while_paused else due.isoformat(),
        "queued_request": queued.reason if (queued := queued_request.due(store)) else None,
        "pause": pause.message if pause else None,
        "engine_answers": engine_says(store) or None,
        "problems": [problem.message for problem in _lasting(store, settings)],
        "pending_events": store.num_pending(),
        "oldest_pending_event_at": oldest.isoformat() if oldest else None,
    }


def _current_run(run: Run) -> dict[str, Any]:
    return {"run_id": run.run_id, "stage": run.stage, "outcome": run.outcome, "since": run.updated_at.isoformat()}


def _waiting_run(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "stage": run.stage,
        "version": run.facts.train.version if run.facts.train else None,
        "trials": [list(pair) for pair in trial_pairs(run)],
    }


def _slot_request(request: SlotRequest) -> dict[str, Any]:
    return {
        "request_id": request.request_id,
        "requested_by": request.requested_by,
        "reason": request.reason,
        "answer": request.answer,
    }


def _last_run(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "outcome": run.outcome,
        "reasons": list(run.reasons),
        "finished_at": (run.finished_at or run.updated_at).isoformat(),
    }


def _deployment(deployment: Deployment) -> dict[str, Any]:
    return {
        "kind": deployment.kind,
        "version": deployment.version,
        "model_path": deployment.model_path,
        "state": deployment.state,
        "at": deployment.updated_at.isoformat(),
        "confirmation": deployment.confirmation,
    }


def in_words(wait: timedelta) -> str:
    """`3 h 12 min`, `12 min`, `40 s`, or `now`."""
    seconds = int(wait.total_seconds())
    if seconds <= 0:
        return "now"
    if seconds < 60:
        return f"{seconds} s"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
