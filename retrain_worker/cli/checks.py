"""What a start needs and does not find, with the command that corrects it, as the user who runs this process."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker import remote_files
from retrain_worker.adapters import service_unit
from retrain_worker.adapters.account_names import SERVICE_USER, user_name
from retrain_worker.adapters.artifact_store import ArtifactStore
from retrain_worker.adapters.slot_access import read_only_remedy
from retrain_worker.cli import options
from retrain_worker.cli.results import Check
from retrain_worker.domain.audit_findings import Severity
from retrain_worker.domain.confirmation import Confirm
from retrain_worker.domain.connection_url import shown
from retrain_worker.domain.engine_answers import INTENT_STREAM
from retrain_worker.domain.events import SERVED_STREAM
from retrain_worker.domain.host_names import HostNames, command
from retrain_worker.domain.redis_rights import Role
from retrain_worker.domain.worker_protocol import PullResult
from retrain_worker.errors import RedisUnavailableError, RetrainError, SettingsError, SlotError
from retrain_worker.settings import Settings

if TYPE_CHECKING:
    from retrain_worker.adapters.model_slot import ModelSlot

_MIN_FREE_BYTES = 2 * 2**30


def all_checks(settings: Settings) -> Iterator[Check]:
    """Every check, in the order in which a start needs it."""
    yield Check.ok("settings", f"{len(settings.names)} settings are valid")
    run_folders = ArtifactStore(model_path=settings.model_path, checkpoint_path=settings.checkpoint_path)
    directories = (settings.state_path, *run_folders.own_directories)
    for name, path in zip(("STATE_PATH", "MODEL_PATH", "CHECKPOINT_PATH"), directories, strict=True):
        yield _folder(name, path, settings.host_names)
    if (store := remote_files.local_path(settings.models_url)) is not None:
        yield (
            _folder("MODELS_URL", store, settings.host_names)
            if store.is_dir()
            else Check.problem("MODELS_URL", f"{store} is not a directory", "create it for the user of the service")
        )
    yield _free_space(settings)
    yield _confinement()
    yield _signatures(settings)
    yield from _database(settings)
    yield from _engine(settings)
    yield from _redis(settings)
    yield from _state(settings)


def _folder(name: str, path: Path, host_names: HostNames) -> Check:
    if not path.exists() and str(path) in os.environ.get("STATE_DIRECTORY", "").split(":"):
        return Check.ok(name, f"{path} will be created by StateDirectory= of the unit")
    existing = _nearest(path)
    if not existing.is_dir():
        return Check.problem(name, f"{existing} is not a directory", f"set another {name}")
    if remedy := read_only_remedy(existing, allow=path.parent, service=host_names.service):
        return Check.problem(name, f"{existing} is read-only for the service", remedy)
    if not os.access(existing, os.W_OK | os.X_OK):
        command = f"sudo install -d -o {shlex.quote(user_name())} -m 750 {shlex.quote(str(path))}"
        remedy = f"sudo {host_names.command} access grant" if user_name() == SERVICE_USER else command
        return Check.problem(name, f"{existing} is not writable for {user_name()}", remedy)
    state = "is writable" if existing == path else f"will be created in {existing}"
    return Check.ok(name, f"{path} {state}")


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest parent that exists and is accessible."""
    return next(folder for folder in (path, *path.parents) if os.path.exists(folder))  # noqa: PTH110 - never raises


def _free_space(settings: Settings) -> Check:
    free = shutil.disk_usage(_nearest(settings.model_path)).free
    finding = f"{free / 2**30:.1f} GiB free for {settings.model_path}"
    if free < _MIN_FREE_BYTES:
        return Check.problem("disk", finding, "free 2 GiB there, or set another MODEL_PATH")
    return Check.ok("disk", finding)


def _confinement() -> Check:
    from retrain_worker.daemon import start_checks

    found = start_checks.confinement_problem()
    if found is None:
        return Check.ok("confinement", "workers are confined to the files of their task (Landlock)")
    return Check.warning("confinement", f"{found.subject}: {found.cause}", found.action)


def _signatures(settings: Settings) -> Check:
    from retrain_worker.daemon.signatures import required_verifier, signer_of

    try:
        signer = signer_of(settings)
        required_verifier(settings, signer)
    except SettingsError as error:
        return Check.problem("signatures", "; ".join(error.problems), error.remedy)
    if signer is None:
        finding = "models are not signed: there is no SIGNING_KEY"
        if settings.are_signed_models_required:
            return Check.problem("signatures", finding, f"{command()} keygen")
        return Check.ok("signatures", finding)
    is_known = not settings.model_public_keys or signer.public_key in settings.model_public_keys
    demand = "; rollback and restart require it" if settings.are_signed_models_required else ""
    finding = f"models are signed with key {signer.key_id}{demand}"
    if is_known:
        return Check.ok("signatures", finding)
    remedy = f"add {signer.public_key} to MODEL_PUBLIC_KEYS"
    return Check.problem("signatures", f"{finding}, which is none of MODEL_PUBLIC_KEYS", remedy)


def _database(settings: Settings) -> Iterator[Check]:
    from retrain_worker.daemon.source_audit import audit_source

    try:
        pulled, audited = audit_source(settings, report=_ignore)
    except RetrainError as error:
        yield Check.problem("database", f"{error.where}: {error.what}", _hidden_remedy(settings) or error.remedy)
        return
    yield Check.ok(
        "database",
        f"{pulled.loaded} rows, {pulled.labelled} labelled "
        f"({pulled.win} WIN, {pulled.loss} LOSS), features {', '.join(pulled.feature_names) or 'none'}",
    )
    if audited.verdict.is_fit:
        yield Check.ok("data", "fit to train on")
    for found in audited.verdict.findings:
        if found.severity is Severity.WARNING:
            yield Check.warning("data", found.message)
    for reason in audited.verdict.reasons:
        yield Check.problem("data", reason, "no run can use these rows")
    if undecidable := _undecidable_probation(settings, pulled):
        yield Check.problem(
            "probation",
            undecidable,
            "lower PROBATION_MIN_OUTCOMES, raise PROBATION_MAX_HOURS, or set PROBATION_HOURS=0",
        )
    yield from _bookkeeping(settings)


def _undecidable_probation(settings: Settings, pulled: PullResult) -> str:
    """Why no probation could decide at the rate at which the table gets outcomes; empty if it could."""
    policy = settings.probation
    if not policy.is_on or pulled.first_at is None or pulled.last_at is None:
        return ""
    span = datetime.fromisoformat(pulled.last_at) - datetime.fromisoformat(pulled.first_at)
    hours = policy.min_outcomes * span.total_seconds() / 3600.0 / max(1, pulled.labelled)
    if hours <= policy.limit_hours:
        return ""
    return (
        f"no probation can decide: PROBATION_MIN_OUTCOMES={policy.min_outcomes} outcomes take about {hours:.0f} h at "
        f"the rate of the table, and it ends after {policy.limit_hours:g} h"
    )


def _hidden_remedy(settings: Settings) -> str:
    """For a database that the unit's ProtectHome= hides."""
    path, service = settings.database_path, settings.host_names.service
    if path is None or user_name() != SERVICE_USER or not path.is_relative_to("/home"):
        return ""
    drop_in = f"[Service] ProtectHome=read-only in /etc/systemd/system/{service}.d/home.conf"
    return f"ProtectHome= of the unit hides it: move the database out of /home, or allow it by {drop_in}"


def _bookkeeping(settings: Settings) -> Iterator[Check]:
    path = settings.database_path
    if not settings.bookkeeping or path is None:
        return
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK):
        yield Check.ok("bookkeeping", f"{path} is writable for {user_name()}")
        return
    yield Check.warning(
        "bookkeeping",
        f"{path} is not writable for {user_name()}: ai_model_versions and model_training_runs stay as they are",
        f"set BOOKKEEPING=false, or give {user_name()} write access to the file and its directory",
    )


def _engine(settings: Settings) -> Iterator[Check]:
    from retrain_worker.adapters.model_slot import ModelSlot
    from retrain_worker.daemon import start_checks
    from retrain_worker.daemon.serving_state import serving_fault

    if settings.home and settings.home in settings.engine_env_file.parents and not settings.engine_env_file.exists():
        yield Check.ok("engine", f"{settings.engine_env_file} will be created by the first run")
        return
    slot = ModelSlot(
        engine_models_dir=settings.engine_models_dir,
        engine_env_file=settings.engine_env_file,
        trigger_file=_trigger_file(settings),
        serving_user=settings.engine_user or None,
        host_names=settings.host_names,
    )
    problems = [*slot.problems(), *_incumbent(slot)]
    if missing := start_checks.contract_problem(settings):
        yield Check.warning("engine", missing.cause, missing.action)
    with contextlib.suppress(RetrainError), options.open_state(settings) or contextlib.nullcontext() as store:
        if store is not None and (fault := serving_fault(store)):
            yield Check.warning("engine", fault)
    for finding, remedy in problems:
        yield Check.problem("engine", finding, remedy)
    if not settings.engine_user and settings.home is None and user_name() != SERVICE_USER:
        yield Check.warning(
            "engine",
            "ENGINE_USER is not set: not checked whether the engine can read its models",
            f"set it to the user that `systemctl show -p User {settings.engine_unit}` prints",
        )
    yield from _confirmation(settings)
    if not problems:
        yield Check.ok("engine", f"{settings.engine_env_file} and {settings.engine_models_dir} are ready for a swap")


def _incumbent(slot: ModelSlot) -> Iterator[tuple[str, str]]:
    """A current model that exists but cannot be read: the contract gate would block every candidate."""
    from retrain_worker.daemon import one_off_task

    try:
        model = slot.current_path()
    except SlotError:
        return  # a problem of the slot already
    if model is None or not model.is_file():
        return
    report = one_off_task.inspect((model,)).reports[0]
    if report.problem:
        yield (
            f"PATCHTST_MODEL_PATH names {model}, which cannot be read as a model: {report.problem}",
            f"correct the line, or run {command()} rollback; until then a promotion needs "
            f'{command()} promote RUN --accept-contract CONTRACT --reason "…"',
        )


def _confirmation(settings: Settings) -> Iterator[Check]:
    """Whether the evidence that ENGINE_CONFIRM requires can be seen from here."""
    if settings.engine_confirm is Confirm.UNIT and not service_unit.is_loaded(settings.engine_unit):
        yield Check.warning(
            "confirmation",
            f"ENGINE_CONFIRM=unit: systemd knows no {settings.engine_unit}, or {user_name()} cannot ask it; "
            "no promotion will be confirmed",
            "correct ENGINE_UNIT, or set ENGINE_CONFIRM to what can happen here",
        )


def _trigger_file(settings: Settings) -> Path | None:
    """The trigger file, unless its directory is created by RuntimeDirectory= at the start of the unit."""
    path = settings.engine_trigger_file
    return None if path.is_relative_to("/run") and not path.parent.exists() else path


def _redis(settings: Settings) -> Iterator[Check]:
    if not settings.redis_url:
        yield _embedded_redis()
        return
    from redis.exceptions import RedisError

    from retrain_worker.adapters.event_confirmations import EventConfirmations
    from retrain_worker.redis_client import connect, examine, problem_of

    client = connect(str(settings.redis_url), names=settings.redis_names, role=Role.DAEMON)
    try:
        found = examine(client)
        unseen = [
            f"ENGINE_CONFIRM={confirm}: there has never been an entry on {stream}"
            for confirm, stream in ((Confirm.EVENT, SERVED_STREAM), (Confirm.ANSWERS, INTENT_STREAM))
            if settings.engine_confirm is confirm and not client.xrevrange(stream, count=1)
        ]
        seen = EventConfirmations(client, instance=settings.redis_names.instance).followers()
        followers = [one.consumer for one in seen]
    except (RedisUnavailableError, RedisError) as error:
        yield Check.warning(
            "redis",
            error.what if isinstance(error, RedisUnavailableError) else problem_of(error, client).message,
            "sudo systemctl start redis-server, or correct REDIS_URL; events wait until then",
        )
        return
    yield Check.ok("redis", f"{shown(str(settings.redis_url))} answers, {found.version}")
    for warning in found.warnings:
        yield Check.warning("redis", warning)
    if settings.engine_confirm in (Confirm.AUTO, Confirm.EVENT) and followers and not settings.engine_confirm_consumers:
        yield Check.warning(
            "confirmation",
            "any client that may write quantum:stream:model.served confirms a promotion",
            f"set ENGINE_CONFIRM_CONSUMERS={','.join(followers)}; {command()} redis-acl",
        )
    for finding in unseen:
        remedy = "start a follower, or set ENGINE_CONFIRM=unit; until then no promotion is confirmed"
        yield Check.warning("confirmation", finding, remedy)


def _state(settings: Settings) -> Iterator[Check]:
    if not settings.state_url:
        return
    from retrain_worker.adapters import state_access

    place = settings.state_place
    try:
        is_there = state_access.exists(place)
    except RetrainError as error:
        yield Check.problem("STATE_URL", error.what, error.remedy or "start PostgreSQL, or correct STATE_URL")
    else:
        yield Check.ok("STATE_URL", f"{place} {'is there' if is_there else 'is made at the first start'}")


def _embedded_redis() -> Check:
    from retrain_worker.adapters.embedded_redis import find_server, version_of

    try:
        server = find_server()
    except SettingsError as error:
        return Check.problem("redis", "; ".join(error.problems), error.remedy)
    return Check.ok("redis", f"REDIS_URL is not set: a server runs under the home: {version_of(server)} ({server})")


def _ignore(_message: str) -> None:
    """The checks are printed as they come; the worker's progress is not."""
