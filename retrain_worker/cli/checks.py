"""What a start needs and does not find, with the command that corrects it, as the user who runs this process."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker.adapters import service_unit
from retrain_worker.adapters.account_names import SERVICE_USER, user_name
from retrain_worker.adapters.artifact_store import ArtifactStore
from retrain_worker.adapters.service_unit import SERVICE
from retrain_worker.adapters.slot_access import read_only_remedy
from retrain_worker.cli import options
from retrain_worker.domain.audit_findings import Severity
from retrain_worker.domain.confirmation import Confirm
from retrain_worker.domain.engine_answers import INTENT_STREAM
from retrain_worker.domain.events import SERVED_STREAM
from retrain_worker.errors import RedisUnavailableError, RetrainError, SlotError
from retrain_worker.settings import Settings

if TYPE_CHECKING:
    from retrain_worker.adapters.model_slot import ModelSlot

_MIN_FREE_BYTES = 2 * 2**30


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check."""

    name: str
    is_ok: bool
    finding: str
    remedy: str = ""
    #: False: the daemon can start without it
    blocks: bool = True


def all_checks(settings: Settings) -> Iterator[Check]:
    """Every check, in the order in which a start needs it."""
    yield Check(name="settings", is_ok=True, finding=f"{len(settings.names)} settings are valid")
    run_folders = ArtifactStore(model_path=settings.model_path, checkpoint_path=settings.checkpoint_path)
    directories = (settings.state_path, *run_folders.own_directories)
    for name, path in zip(("STATE_PATH", "MODEL_PATH", "CHECKPOINT_PATH"), directories, strict=True):
        yield _folder(name, path)
    yield _free_space(settings)
    yield from _database(settings)
    yield from _engine(settings)
    yield from _redis(settings)


def _folder(name: str, path: Path) -> Check:
    if not path.exists() and str(path) in os.environ.get("STATE_DIRECTORY", "").split(":"):
        return Check(name=name, is_ok=True, finding=f"{path} will be created by StateDirectory= of the unit")
    existing = _nearest(path)
    if not existing.is_dir():
        return Check(name=name, is_ok=False, finding=f"{existing} is not a directory", remedy=f"set another {name}")
    if remedy := read_only_remedy(existing, allow=path.parent):
        return Check(name=name, is_ok=False, finding=f"{existing} is read-only for the service", remedy=remedy)
    if not os.access(existing, os.W_OK | os.X_OK):
        command = f"sudo install -d -o {shlex.quote(user_name())} -m 750 {shlex.quote(str(path))}"
        remedy = "sudo retrain-worker access grant" if user_name() == SERVICE_USER else command
        return Check(name=name, is_ok=False, finding=f"{existing} is not writable for {user_name()}", remedy=remedy)
    state = "is writable" if existing == path else f"will be created in {existing}"
    return Check(name=name, is_ok=True, finding=f"{path} {state}")


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest parent that exists and is accessible."""
    return next(folder for folder in (path, *path.parents) if os.path.exists(folder))  # noqa: PTH110 - never raises


def _free_space(settings: Settings) -> Check:
    free = shutil.disk_usage(_nearest(settings.model_path)).free
    finding = f"{free / 2**30:.1f} GiB free for {settings.model_path}"
    return Check(
        name="disk",
        is_ok=free >= _MIN_FREE_BYTES,
        finding=finding,
        remedy="" if free >= _MIN_FREE_BYTES else "free 2 GiB there, or set another MODEL_PATH",
    )


def _database(settings: Settings) -> Iterator[Check]:
    from retrain_worker.daemon.source_audit import audit_source

    try:
        pulled, audited = audit_source(settings, report=_ignore)
    except RetrainError as error:
        yield Check(
            name="database",
            is_ok=False,
            finding=f"{error.where}: {error.what}",
            remedy=_hidden_remedy(settings.database_path) or error.remedy,
        )
        return
    yield Check(
        name="database",
        is_ok=True,
        finding=f"{pulled.loaded} rows, {pulled.labelled} labelled "
        f"({pulled.win} WIN, {pulled.loss} LOSS), features {', '.join(pulled.feature_names) or 'none'}",
    )
    if audited.verdict.is_fit:
        yield Check(name="data", is_ok=True, finding="fit to train on")
    for found in audited.verdict.findings:
        if found.severity is Severity.WARNING:
            yield Check(name="data", is_ok=False, finding=found.message, blocks=False)
    for reason in audited.verdict.reasons:
        yield Check(name="data", is_ok=False, finding=reason, remedy="no run can use these rows")
    yield from _bookkeeping(settings)


def _hidden_remedy(path: Path | None) -> str:
    """For a database that the unit's ProtectHome= hides."""
    if path is None or user_name() != SERVICE_USER or not path.is_relative_to("/home"):
        return ""
    drop_in = f"[Service] ProtectHome=read-only in /etc/systemd/system/{SERVICE}.d/home.conf"
    return f"ProtectHome= of the unit hides it: move the database out of /home, or allow it by {drop_in}"


def _bookkeeping(settings: Settings) -> Iterator[Check]:
    path = settings.database_path
    if not settings.bookkeeping or path is None:
        return
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK):
        yield Check(name="bookkeeping", is_ok=True, finding=f"{path} is writable for {user_name()}")
        return
    yield Check(
        name="bookkeeping",
        is_ok=False,
        blocks=False,
        finding=f"{path} is not writable for {user_name()}: ai_model_versions and model_training_runs stay as they are",
        remedy=f"set BOOKKEEPING=false, or give {user_name()} write access to the file and its directory",
    )


def _engine(settings: Settings) -> Iterator[Check]:
    from retrain_worker.adapters.model_slot import ModelSlot
    from retrain_worker.daemon import start_checks
    from retrain_worker.daemon.jobs.serving_monitor import serving_fault

    if settings.home and settings.home in settings.engine_env_file.parents and not settings.engine_env_file.exists():
        yield Check(name="engine", is_ok=True, finding=f"{settings.engine_env_file} will be created by the first run")
        return
    slot = ModelSlot(
        engine_models_dir=settings.engine_models_dir,
        engine_env_file=settings.engine_env_file,
        trigger_file=_trigger_file(settings),
        serving_user=settings.engine_user or None,
    )
    problems = [*slot.problems(), *_incumbent(slot)]
    if missing := start_checks.contract_problem(settings):
        yield Check(name="engine", is_ok=False, blocks=False, finding=missing.cause, remedy=missing.action)
    with contextlib.suppress(RetrainError), options.open_state(settings) or contextlib.nullcontext() as store:
        if store is not None and (fault := serving_fault(store)):
            yield Check(name="engine", is_ok=False, blocks=False, finding=fault)
    for finding, remedy in problems:
        yield Check(name="engine", is_ok=False, finding=finding, remedy=remedy)
    if not settings.engine_user and settings.home is None and user_name() != SERVICE_USER:
        yield Check(
            name="engine",
            is_ok=False,
            blocks=False,
            finding="ENGINE_USER is not set: not checked whether the engine can read its models",
            remedy=f"set it to the user that `systemctl show -p User {settings.engine_unit}` prints",
        )
    yield from _confirmation(settings)
    if not problems:
        yield Check(
            name="engine",
            is_ok=True,
            finding=f"{settings.engine_env_file} and {settings.engine_models_dir} are ready for a swap",
        )


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
            "correct the line, or run retrain-worker rollback; until then a promotion needs "
            "retrain-worker promote RUN --accept-contract CONTRACT",
        )


def _confirmation(settings: Settings) -> Iterator[Check]:
    """Whether the evidence that ENGINE_CONFIRM requires can be seen from here."""
    if settings.engine_confirm is Confirm.UNIT and not service_unit.is_loaded(settings.engine_unit):
        yield Check(
            name="confirmation",
            is_ok=False,
            blocks=False,
            finding=f"ENGINE_CONFIRM=unit: systemd knows no {settings.engine_unit}, or {user_name()} cannot ask it; "
            "no promotion will be confirmed",
            remedy="correct ENGINE_UNIT, or set ENGINE_CONFIRM to what can happen here",
        )


def _trigger_file(settings: Settings) -> Path | None:
    """The trigger file, unless its directory is created by RuntimeDirectory= at the start of the unit."""
    path = settings.engine_trigger_file
    return None if path.is_relative_to("/run") and not path.parent.exists() else path


def _redis(settings: Settings) -> Iterator[Check]:
    if not settings.redis_url:
        yield Check(name="redis", is_ok=True, finding="REDIS_URL is not set: an embedded server runs under the home")
        return
    from retrain_worker.redis_client import connect, examine, where_of

    client = connect(str(settings.redis_url), names=settings.redis_names)
    try:
        found = examine(client)
        unseen = [
            f"ENGINE_CONFIRM={confirm}: there has never been an entry on {stream}"
            for confirm, stream in ((Confirm.EVENT, SERVED_STREAM), (Confirm.ANSWERS, INTENT_STREAM))
            if settings.engine_confirm is confirm and not client.exists(stream)
        ]
    except RedisUnavailableError as error:
        yield Check(
            name="redis",
            is_ok=False,
            blocks=False,
            finding=error.what,
            remedy="sudo systemctl start redis-server, or correct REDIS_URL; events wait until then",
        )
        return
    yield Check(name="redis", is_ok=True, finding=f"{where_of(str(settings.redis_url))} answers, {found.version}")
    for warning in found.warnings:
        yield Check(name="redis", is_ok=False, blocks=False, finding=warning)
    for finding in unseen:
        remedy = "start a follower, or set ENGINE_CONFIRM=unit; until then no promotion is confirmed"
        yield Check(name="confirmation", is_ok=False, blocks=False, finding=finding, remedy=remedy)


def _ignore(_message: str) -> None:
    """The checks are printed as they come; the worker's progress is not."""
