"""The status: STATUS= of the unit, which the daemon sets, and the object that `retrain-worker status` prints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any, Literal

from retrain_worker.adapters import service_unit, state_access
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.adapters.state_lock import holder_of, is_held
from retrain_worker.daemon import queued_request
from retrain_worker.daemon.configuration import slot_of
from retrain_worker.daemon.lasting_problems import lasting_problems
from retrain_worker.daemon.run_schedule import next_run_at
from retrain_worker.daemon.serving_state import engine_says
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Run, Stage
from retrain_worker.domain.problem import Problem, ProblemKind, problem_of
from retrain_worker.domain.slot_request import SlotRequest
from retrain_worker.errors import RetryLaterError, SlotError
from retrain_worker.report.live_evaluation import trial_pairs
from retrain_worker.settings import Settings

if TYPE_CHECKING:
    from retrain_worker.daemon.wiring import Components

#: beside the state database: what the daemon does; lost with the host, and not needed then
_ACTIVITY = "activity"
#: for a connection to Redis, and for one answer, which must not delay the status
_REDIS_SECONDS = 1.0


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


def note_activity(state_path: Path, line: str) -> None:
    """Store the status line for `status_of`, where it differs from the stored one. Raises OSError."""
    path = state_path / _ACTIVITY
    if activity_in(state_path) != line:
        path.write_text(line)


def activity_in(state_path: Path) -> str | None:
    """The newest status line; None where there is none."""
    try:
        return (state_path / _ACTIVITY).read_text()
    except (OSError, UnicodeDecodeError):
        return None


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


@dataclass(frozen=True, kw_only=True)
class CurrentRun:
    """The run that works now, or resumes at the next start."""

    run_id: str
    stage: Stage
    outcome: Outcome | None
    since: datetime


@dataclass(frozen=True, kw_only=True)
class WaitingRun:
    """A run on trial or on probation."""

    run_id: str
    stage: Stage
    version: str | None
    #: name and text of shadow trial, probation, forced promotion
    trials: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class LastRun:
    """The newest concluded run."""

    run_id: str
    outcome: Outcome | None
    reasons: tuple[str, ...]
    finished_at: datetime


@dataclass(frozen=True, kw_only=True)
class LastDeployment:
    """The newest change of the slot."""

    kind: DeploymentKind
    version: str
    model_path: str
    state: DeploymentState
    at: datetime
    confirmation: str


@dataclass(frozen=True, kw_only=True)
class Follower:
    """What a follower serves, by its newest acknowledgement within 30 days. Empty version: no model."""

    consumer: str
    host: str
    version: str
    since: datetime
    #: why it does not serve `problem_version`; empty: nothing
    problem: str = ""
    problem_version: str = ""


@dataclass(frozen=True, kw_only=True)
class WaitingRequest:
    """A slot request without an answer."""

    request_id: str
    requested_by: str
    reason: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Status:
    """What `retrain-worker status --json` prints."""

    daemon: Literal["running", "not running"]
    engine_env_file: str
    #: the model path in the env file
    serving: str | None
    slot_problem: str | None
    #: the state database
    state: str
    #: with STATE_URL: what the daemon of this host is; null: it does not run
    role: Literal["leader", "standby"] | None = None
    #: with STATE_URL: who leads, or has led last
    leader: str | None = None
    #: what the daemon does; null: it does not run, or reports nothing
    activity: str | None = None
    current_run: CurrentRun | None = None
    waiting_runs: tuple[WaitingRun, ...] = ()
    slot_request: WaitingRequest | None = None
    last_run: LastRun | None = None
    last_deployment: LastDeployment | None = None
    next_run_at: datetime | None = None
    #: why one more run follows the current one
    queued_request: str | None = None
    pause: str | None = None
    engine_answers: str | None = None
    #: by name; empty also while Redis cannot be reached
    followers: tuple[Follower, ...] = ()
    problems: tuple[str, ...] = ()
    pending_events: int = 0
    oldest_pending_event_at: datetime | None = None

    @property
    def needs_attention(self) -> bool:
        """Whether an operator has to act."""
        return bool(self.problems or self.slot_problem)


def status_of(settings: Settings) -> Status:
    """The status. Reads only, beside a running daemon, too."""
    try:
        current, slot_problem = slot_of(settings).current_path(), None
    except SlotError as error:
        current, slot_problem = None, str(error)
    place = settings.state_place
    is_running = is_held(settings.state_path)
    found = Status(
        activity=activity_in(settings.state_path) if is_running else None,
        daemon="running" if is_running else "not running",
        engine_env_file=str(settings.engine_env_file),
        serving=str(current) if current else None,
        slot_problem=slot_problem,
        state=str(place),
    )
    try:
        if state_access.exists(place):
            with state_access.state_beside(place) as store:
                found = replace(found, **_stored_in(store, settings))
            found = replace(found, **_leadership_in(settings))
    except RetryLaterError as error:
        if not place.url:
            raise
        found = replace(found, problems=(str(error), *found.problems))
    if not is_running and settings.home is None and (failure := service_unit.failure(settings.host_names.service)):
        found = replace(found, problems=(failure, *found.problems))
    return found


def followers_of(settings: Settings, redis_url: str) -> tuple[Follower, ...]:
    """Who serves what; none while Redis cannot be reached."""
    from redis.exceptions import RedisError

    from retrain_worker.adapters.event_confirmations import EventConfirmations
    from retrain_worker.redis_client import connect

    client = connect(
        redis_url,
        names=settings.redis_names,
        connect_timeout_seconds=_REDIS_SECONDS,
        socket_timeout_seconds=_REDIS_SECONDS,
    )
    with contextlib.closing(client), contextlib.suppress(RedisError):
        found = EventConfirmations(client, instance=settings.redis_names.instance).followers()
        return tuple(
            Follower(
                consumer=one.consumer,
                host=one.host,
                version=one.version,
                since=one.since,
                problem=one.problem,
                problem_version=one.problem_version,
            )
            for one in found
        )
    return ()


def _leadership_in(settings: Settings) -> dict[str, Any]:
    if not settings.state_url:
        return {}
    from retrain_worker.adapters.leader import leadership_in

    found, pid = leadership_in(settings.state_place), holder_of(settings.state_path)
    is_own = found is not None and found.is_live and (found.host, found.pid) == (gethostname(), pid)
    ended = "" if found is None or found.is_live else "; its lease is over"
    return {
        "role": None if pid is None else "leader" if is_own else "standby",
        "leader": f"{found.message}{ended}" if found else None,
    }


def _lasting(store: StateDb, settings: Settings) -> Iterator[Problem]:
    max_row_age = timedelta(hours=settings.data.warn_staleness_hours)
    return lasting_problems(store, now=datetime.now(UTC), max_row_age=max_row_age)


def _stored_in(store: StateDb, settings: Settings) -> dict[str, Any]:
    interval = timedelta(hours=settings.retrain_interval_hours)
    due = next_run_at(last_attempt_at=store.last_attempt_at(), now=datetime.now(UTC), interval=interval)
    last_run = next((run for run in store.history(limit=2) if run.is_concluded), None)
    current, request, deployment = store.unfinished_run(), store.waiting_slot_request(), store.last_deployment()
    pause = store.pause()
    if pause is not None and pause.is_over(datetime.now(UTC)):
        pause = None
    return {
        "current_run": _current_run(current) if current else None,
        "waiting_runs": tuple(_waiting_run(run) for run in store.waiting_runs()),
        "slot_request": _slot_request(request) if request else None,
        "last_run": _last_run(last_run) if last_run else None,
        "last_deployment": _deployment(deployment) if deployment else None,
        "next_run_at": None if pause and not settings.train_while_paused else due,
        "queued_request": queued.reason if (queued := queued_request.due(store)) else None,
        "pause": pause.message if pause else None,
        "engine_answers": engine_says(store) or None,
        "problems": tuple(problem.message for problem in _lasting(store, settings)),
        "pending_events": store.num_pending(),
        "oldest_pending_event_at": store.oldest_pending_at(),
    }


def _current_run(run: Run) -> CurrentRun:
    return CurrentRun(run_id=run.run_id, stage=run.stage, outcome=run.outcome, since=run.updated_at)


def _waiting_run(run: Run) -> WaitingRun:
    version = run.facts.train.version if run.facts.train else None
    return WaitingRun(run_id=run.run_id, stage=run.stage, version=version, trials=trial_pairs(run))


def _slot_request(request: SlotRequest) -> WaitingRequest:
    return WaitingRequest(
        request_id=request.request_id,
        requested_by=request.requested_by,
        reason=request.reason,
        answer=request.answer,
    )


def _last_run(run: Run) -> LastRun:
    finished_at = run.finished_at or run.updated_at
    return LastRun(run_id=run.run_id, outcome=run.outcome, reasons=tuple(run.reasons), finished_at=finished_at)


def _deployment(deployment: Deployment) -> LastDeployment:
    return LastDeployment(
        kind=deployment.kind,
        version=deployment.version,
        model_path=deployment.model_path,
        state=deployment.state,
        at=deployment.updated_at,
        confirmation=deployment.confirmation,
    )


def in_words(wait: timedelta) -> str:
    """`3 h 12 min`, `12 min`, `40 s`, or `now`."""
    seconds = int(wait.total_seconds())
    if seconds <= 0:
        return "now"
    if seconds < 60:
        return f"{seconds} s"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
