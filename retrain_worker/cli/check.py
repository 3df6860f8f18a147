"""`check`: what a start needs and does not find, with the command that corrects it. Nothing is created."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker.adapters.account_names import user_name
from retrain_worker.cli import options
from retrain_worker.domain.audit_findings import Severity
from retrain_worker.domain.printable import printable
from retrain_worker.errors import RedisUnavailableError, RetrainError, SlotError
from retrain_worker.settings import Settings

if TYPE_CHECKING:
    from argparse import _SubParsersAction

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


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "check",
        help="what a start needs and does not find, and how to correct it",
        epilog="exit: 0 ready to start, 1 not ready, 78 wrong settings",
    )
    options.add_places(parser)
    options.add_database(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print every check; 1 when one that blocks a start failed. Raises SettingsError before the first check."""
    from retrain_worker.cli.once import as_json

    settings = options.read_settings(arguments)
    checks = []
    for check in (*_names(settings.deprecations, options.unknown_names(arguments, settings)), *all_checks(settings)):
        checks.append(check)
        if not arguments.json:
            print(_as_text(check), flush=True)
    blocking = [check for check in checks if check.blocks and not check.is_ok]
    if arguments.json:
        print(as_json({"is_ready": not blocking, "checks": checks}))
    else:
        problems = sum(not check.is_ok for check in checks)
        ending = "ready to start" if not blocking else f"not ready: {len(blocking)} of them must be corrected first"
        print(f"\n{len(checks)} checks, {problems} problems; {ending}")
    return 1 if blocking else 0


def all_checks(settings: Settings) -> Iterator[Check]:
    """Every check, in the order in which a start needs it."""
    yield Check(name="settings", is_ok=True, finding=f"{len(settings.names)} settings are valid")
    yield from (
        _folder(name, path)
        for name, path in (
            ("STATE_PATH", settings.state_path),
            ("MODEL_PATH", settings.model_path),
            ("CHECKPOINT_PATH", settings.checkpoint_path),
        )
    )
    yield _free_space(settings)
    yield from _database(settings)
    yield from _engine(settings)
    yield from _redis(settings)


def _names(deprecations: tuple[str, ...], unknown: tuple[str, ...]) -> list[Check]:
    remedies = dict.fromkeys(deprecations, "") | {
        f"{name} is not a setting and has no effect": "remove it, or see etc/quantum/retraining-worker.env for its name"
        for name in unknown
    }
    return [
        Check(name="settings", is_ok=False, blocks=False, finding=finding, remedy=remedy)
        for finding, remedy in remedies.items()
    ]


def _folder(name: str, path: Path) -> Check:
    user = shlex.quote(user_name())
    existing = _nearest(path)
    if not existing.is_dir():
        return Check(name=name, is_ok=False, finding=f"{existing} is not a directory", remedy=f"set another {name}")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Check(
            name=name,
            is_ok=False,
            finding=f"{existing} is not writable for {user_name()}",
            remedy=f"sudo install -d -o {user} -m 750 {shlex.quote(str(path))}",
        )
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
        yield Check(name="database", is_ok=False, finding=f"{error.where}: {error.what}", remedy=error.remedy)
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
        yield Check(name="data", is_ok=False, finding=reason, blocks=False)


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
    if not settings.engine_user and settings.home is None:
        yield Check(
            name="engine",
            is_ok=False,
            blocks=False,
            finding="ENGINE_USER is not set: not checked whether the engine can read its models",
            remedy=f"set it to the user that `systemctl show -p User {settings.engine_unit}` prints",
        )
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


def _trigger_file(settings: Settings) -> Path | None:
    """The trigger file, unless its directory is created by RuntimeDirectory= at the start of the unit."""
    path = settings.engine_trigger_file
    return None if path.is_relative_to("/run") and not path.parent.exists() else path


def _redis(settings: Settings) -> Iterator[Check]:
    if not settings.redis_url:
        yield Check(name="redis", is_ok=True, finding="REDIS_URL is not set: an embedded server runs under the home")
        return
    from retrain_worker.redis_client import connect, examine, where_of

    try:
        found = examine(connect(str(settings.redis_url)))
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


def _as_text(check: Check) -> str:
    mark = "ok     " if check.is_ok else "PROBLEM" if check.blocks else "warning"
    text = f"{mark} {check.name:<16} {printable(check.finding)}"
    return f"{text}\n{'':<24} -> {printable(check.remedy)}" if check.remedy else text


def _ignore(_message: str) -> None:
    """The checks are printed as they come; the worker's progress is not."""
