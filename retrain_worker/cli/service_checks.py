"""What only root can check on a host with the service: its unit, its settings, its sandbox, and the engine's rights."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from retrain_worker import typed_json
from retrain_worker.adapters import engine_environment, service_unit
from retrain_worker.adapters.account_names import SERVICE_USER, user_name
from retrain_worker.cli import options
from retrain_worker.cli.checks import all_checks
from retrain_worker.cli.results import Check
from retrain_worker.domain import env_file
from retrain_worker.domain.host_names import HostNames
from retrain_worker.errors import RetrainError, SlotError
from retrain_worker.settings import CREDENTIAL_NAMES, Settings

_SANDBOX_SECONDS = 900


def unit_checks(service: str) -> Iterator[Check]:
    """Whether the service would run this installation; nothing where there is no such unit."""
    found = service_unit.problem(service)
    if found is not None:
        yield Check.problem("unit", found[0], found[1])
    elif service_unit.is_loaded(service):
        yield Check.ok("unit", f"{service} runs this installation")


def host_checks(arguments: argparse.Namespace, settings: Settings) -> Iterator[Check]:
    """Settings of the service beside those of this shell; the engine's environment, user and restart."""
    if not service_unit.is_loaded(settings.host_names.service):
        return
    yield from _same_settings(arguments, settings)
    yield from _engine_environment(settings)
    if service_unit.is_loaded(settings.engine_unit):
        restart_unit = settings.host_names.restart_path_unit
        if service_unit.shown(restart_unit, "ActiveState").get("ActiveState") != "active":
            yield Check.warning(
                "engine",
                f"{restart_unit} is not active: a swap does not restart the engine",
                f"sudo systemctl enable --now {restart_unit}",
            )
        if os.geteuid() == 0:
            yield from _engine_can_read(settings)


def unprivileged_checks(settings: Settings) -> Iterator[Check]:
    """The checks as the user who runs this process, and that this is not the service."""
    host = settings.host_names
    if service_unit.is_loaded(host.service) and user_name() != SERVICE_USER:
        yield Check.warning(
            "service",
            f"the following is checked as {user_name()}, and not as {SERVICE_USER} in the sandbox of {host.service}",
            f"sudo {host.command} check",
        )
    yield from all_checks(settings)


def can_enter_sandbox(service: str) -> bool:
    """Whether this process may start another one as the service's user, in the sandbox of the service."""
    return os.geteuid() == 0 and service_unit.is_loaded(service) and service_unit.problem(service) is None


def sandbox_checks(arguments: argparse.Namespace, host: HostNames) -> Iterator[Check]:
    """The checks of `checks.all_checks`, made in the sandbox of the service."""
    command = [f"{sys.prefix}/bin/retrain-worker", "check", "--in-service"]
    if arguments.env_file:
        command += ["--env-file", str(Path(arguments.env_file).absolute())]
    if arguments.instance:
        command += ["--instance", arguments.instance]
    if arguments.db:
        command += ["--db", arguments.db]
    done = subprocess.run(
        service_unit.in_sandbox(host.service, command, credentials=host.credentials),
        check=False,
        capture_output=True,
        text=True,
        timeout=_SANDBOX_SECONDS,
    )
    found = [typed_json.decode(line, Check) for line in done.stdout.splitlines() if line.startswith("{")]
    yield from found
    if not found:
        why = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        yield Check.problem("service", f"the checks cannot run as the service: {why}")


def _same_settings(arguments: argparse.Namespace, settings: Settings) -> Iterator[Check]:
    """A setting that has one value for the service and another for the commands of this shell."""
    unit = settings.host_names.service
    service, shell = service_unit.environment(unit), dict(os.environ)
    given = options.env_file_of(arguments)
    for values, files in ((service, service_unit.env_files(unit)), (shell, [given] if given else [])):
        for file in files:
            try:
                values.update(env_file.parse(file.read_bytes()))
            except (OSError, SlotError) as error:
                yield Check.problem("settings", f"{file} cannot be read: {error}")
    for name in settings.names:
        if service.get(name, "") != shell.get(name, ""):
            yield Check.warning(
                "settings",
                f"{name} is {_shown(name, service)} for the service and {_shown(name, shell)} in this shell",
                f"set it in {given or 'the env file of the service'} only",
            )


def _shown(name: str, values: Mapping[str, str]) -> str:
    value = values.get(name, "")
    return "not set" if not value else "another secret" if name in CREDENTIAL_NAMES else value


def _engine_environment(settings: Settings) -> Iterator[Check]:
    """Variables that would load other code into the engine."""
    path, unit = settings.engine_env_file, settings.engine_unit
    try:
        refused = engine_environment.refused_names(unit, path)
        is_protected = engine_environment.drop_in(unit).exists() or engine_environment.is_written_by_root_only(path)
    except (OSError, RetrainError):
        return  # the checks of the slot name it
    if refused and engine_environment.drop_in(unit).exists():
        yield Check.problem(
            "engine",
            f"{path} sets {', '.join(refused)}, which the engine does not get, and which prevents its restart",
            f"remove the line, or, if it is right, copy it to {engine_environment.kept_file(unit)}",
        )
    if not is_protected:
        yield Check.problem(
            "engine",
            f"{path} is writable for others than root, and nothing removes LD_PRELOAD and the like",
            f"sudo {settings.host_names.command} access grant",
        )


def _engine_can_read(settings: Settings) -> Iterator[Check]:
    """As the engine's user, in the sandbox of its unit."""
    user = service_unit.shown(settings.engine_unit, "User").get("User") or "root"
    if settings.engine_user not in ("", user):
        yield Check.warning(
            "engine",
            f"ENGINE_USER is {settings.engine_user}, and {settings.engine_unit} runs as {user}",
            f"set ENGINE_USER={user}",
        )
    command = ["test", "-r", str(settings.engine_models_dir), "-a", "-x", str(settings.engine_models_dir)]
    done = subprocess.run(service_unit.in_sandbox(settings.engine_unit, command), check=False, capture_output=True)
    subject = f"{user}, in the sandbox of {settings.engine_unit},"
    if done.returncode == 0:
        yield Check.ok("engine", f"{subject} reads {settings.engine_models_dir}")
    else:
        remedy = "chmod o+rx the directory and those above it, or correct the sandbox of the unit"
        yield Check.problem("engine", f"{subject} cannot read {settings.engine_models_dir}", remedy)
