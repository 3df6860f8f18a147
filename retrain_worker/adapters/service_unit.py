"""The service's unit as the service manager has loaded it: whether it is this installation's, and its sandbox."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from retrain_worker.adapters.account_names import user_name
from retrain_worker.domain.host_names import command

#: added to the name of a unit file that is retired; systemd ignores such a file
_RETIRED = ".retired"
_SYSTEMCTL_SECONDS = 20
#: of a unit, that decide what its process may read, write and connect to
_SANDBOX = (
    "User",
    "Group",
    "SupplementaryGroups",
    "UMask",
    "Environment",
    "ProtectSystem",
    "ProtectHome",
    "PrivateTmp",
    "PrivateDevices",
    "PrivateUsers",
    "PrivateNetwork",
    "ReadOnlyPaths",
    "InaccessiblePaths",
    "RestrictAddressFamilies",
    "IPAddressAllow",
    "IPAddressDeny",
    "MemoryDenyWriteExecute",
    "NoNewPrivileges",
)


def shown(unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit; the values of a repeated one are joined. Empty where no service manager answers."""
    command = ["systemctl", "show", "-p", ",".join(names), unit]
    try:
        done = subprocess.run(command, timeout=_SYSTEMCTL_SECONDS, check=False, capture_output=True, text=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    found: dict[str, str] = {}
    for name, _, value in (line.partition("=") for line in done.stdout.splitlines()):
        found[name] = f"{found[name]} {value}" if name in found else value
    return found


def is_loaded(unit: str) -> bool:
    """Whether there is a service manager that knows the unit."""
    return shown(unit, "LoadState").get("LoadState") == "loaded"


def failure(service: str) -> str:
    """Why the unit has failed, or waits for its next attempt to start; empty where it has not."""
    found = shown(service, "ActiveState", "SubState", "StatusText", "Result")
    if found.get("ActiveState") != "failed" and found.get("SubState") != "auto-restart":
        return ""
    cause = found.get("StatusText") or found.get("Result")
    return f"{service} has failed ({cause}): `{command()} check`, then `systemctl reset-failed {service}` and start it"


def env_files(unit: str) -> list[Path]:
    """EnvironmentFile= of a unit, in the order in which they are read."""
    listed = shown(unit, "EnvironmentFiles").get("EnvironmentFiles", "")
    return [Path(path) for path in re.findall(r"(/.*?) \(ignore_errors=", listed)]


def environment(unit: str) -> dict[str, str]:
    """Environment= of a unit."""
    words = shlex.split(shown(unit, "Environment").get("Environment", ""))
    return dict(word.split("=", 1) for word in words if "=" in word)


def problem(service: str) -> tuple[str, str] | None:
    """Why the unit would not run this installation, and the remedy; None where it does, or there is no unit."""
    found = shown(service, "LoadState", "FragmentPath", "DropInPaths", "ExecStart")
    state = found.get("LoadState", "not-found")
    if state == "not-found":
        return None
    if state != "loaded":
        return f"{service} is {state}", f"systemctl status {service} shows why"
    argv = found.get("ExecStart", "").partition("argv[]=")[2].partition(" ;")[0]
    if f"{sys.prefix}/bin/retrain-worker run" in argv:
        owner = Path(sys.prefix).stat().st_uid
        if owner == 0:
            return None
        return (
            f"{sys.prefix}, which the service runs, belongs to {user_name(owner)}",
            f"sudo chown -R root {sys.prefix}",
        )
    program = Path(argv.split(" ", maxsplit=1)[0])
    owner_text = f"which belongs to {user_name(program.stat().st_uid)}" if program.exists() else "which does not exist"
    runs = f"runs {argv}, {owner_text}, and not this installation"
    drop_ins = [path for path in found.get("DropInPaths", "").split() if "ExecStart" in _text_of(path)]
    if drop_ins:
        return f"{service} {runs}: by {drop_ins[-1]}", f"remove ExecStart= from {drop_ins[-1]}"
    fragment = found.get("FragmentPath", "")
    return (
        f"{fragment} takes precedence over the unit of this installation; it {runs}",
        f"sudo systemctl stop {service}; sudo mv {fragment} {fragment}{_RETIRED} && sudo systemctl daemon-reload",
    )


def in_sandbox(unit: str, command: Sequence[str], *, credentials: Path | None = None) -> list[str]:
    """A command line that runs `command` with the user, the mounts and the network of a unit. Needs root.

    `credentials`: the directory of its LoadCredential=settings:, which systemctl does not show.
    """
    found = shown(unit, *_SANDBOX, "ReadWritePaths", "StateDirectory", "RuntimeDirectory")
    writable, variables = found.get("ReadWritePaths", "").split(), {}
    for name, base in (("StateDirectory", "/var/lib"), ("RuntimeDirectory", "/run")):
        for directory in found.get(name, "").split():
            writable.append(f"-{base}/{directory}")
            variables[f"{name.removesuffix('Directory').upper()}_DIRECTORY"] = f"{base}/{directory}"
    properties = [f"{name}={found[name]}" for name in _SANDBOX if found.get(name)]
    properties += [f"ReadWritePaths={' '.join(writable)}", *(f"EnvironmentFile=-{path}" for path in env_files(unit))]
    if credentials is not None and credentials.is_dir():
        properties.append(f"LoadCredential=settings:{credentials}")
    return [
        *("systemd-run", "--quiet", "--pipe", "--wait", "--collect"),
        *(f"--property={each}" for each in properties),
        *(f"--setenv={name}={value}" for name, value in variables.items()),
        "--",
        *command,
    ]


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
