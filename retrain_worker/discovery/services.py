"""Reads the env files and systemd units of the stack: data paths, secrets masked."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from retrain_worker.discovery.file_classification import DATA_NAME
from retrain_worker.discovery.proof_pack import EnvFile, FileFacts, Unit
from retrain_worker.domain import env_file
from retrain_worker.domain.masking import MASK, is_secret_name, masked
from retrain_worker.domain.printable import printable
from retrain_worker.errors import SlotError

#: part of the names of the stack's units and directories
_STACK_NAME = "quantum"
_MAX_UNIT_BYTES = 1 << 18
#: accepted in a file that a shell reads as well
_EXPORT = re.compile(rb"(?m)^[ \t]*export[ \t]+")
_SERVICE = re.compile(r"\s*(?P<name>User|WorkingDirectory|ExecStart|EnvironmentFile|Environment)\s*=\s*(?P<value>.*)")


def env_of(path: Path, facts: FileFacts) -> tuple[EnvFile, Mapping[str, str]]:
    """The file as the pack shows it, and its unmasked values. Raises OSError."""
    with path.open("rb") as file:
        content = file.read(env_file.MAX_BYTES + 1)
    try:
        values = env_file.parse(_EXPORT.sub(b"", content))
    except SlotError as error:
        return EnvFile(file=facts, values={}, other_names=(), finding=printable(error.what)), {}
    data = {name: safe_value(name, value) for name, value in values.items() if DATA_NAME.search(name)}
    secrets = {name: safe_value(name, value) for name, value in values.items() if is_secret_name(name)}
    return EnvFile(
        file=facts,
        values={**data, **secrets},
        other_names=tuple(name for name in values if name not in data and name not in secrets),
    ), values


def safe_value(name: str, value: str) -> str:
    """`value` with a secret masked as a whole, and the password in a URL."""
    return MASK if value and is_secret_name(name) else printable(masked(value))


def unit_of(path: Path, facts: FileFacts) -> Unit:
    """User, directory, command and environment of a unit. Raises OSError."""
    with path.open("rb") as file:
        text = file.read(_MAX_UNIT_BYTES).decode("utf-8", "backslashreplace")
    settings: dict[str, list[str]] = {}
    for line in re.sub(r"\\\r?\n\s*", " ", text).splitlines():
        if setting := _SERVICE.fullmatch(line):
            settings.setdefault(setting["name"], []).append(setting["value"].strip())
    assigned = [word.partition("=") for line in settings.get("Environment", ()) for word in _words(line)]
    return Unit(
        file=facts,
        user=printable((settings.get("User") or [""])[-1]),
        working_directory=printable((settings.get("WorkingDirectory") or [""])[-1]),
        exec_start=printable(" ; ".join(_safe_command(line) for line in settings.get("ExecStart", ()) if line)),
        environment_files=tuple(
            printable(value.removeprefix("-")) for value in settings.get("EnvironmentFile", ()) if value
        ),
        environment={printable(name): safe_value(name, value) for name, _, value in assigned},
    )


def is_of_the_stack(unit: Unit, env_paths: Sequence[str]) -> bool:
    """Whether a unit belongs to the stack: by name or directory, or because it reads an env file with data paths."""
    texts = (Path(unit.file.path).name, unit.working_directory, unit.exec_start, *unit.environment_files)
    return (
        any(_STACK_NAME in text for text in texts)
        or any(DATA_NAME.search(name) for name in unit.environment)
        or any(name in env_paths for name in unit.environment_files)
    )


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def _safe_command(line: str) -> str:
    return masked(" ".join(_safe_pair(word) for word in line.split()))


def _safe_pair(word: str) -> str:
    """A word of a command: `NAME=secret` with the secret masked."""
    name, equals, value = word.partition("=")
    return f"{name}={MASK}" if equals and value and is_secret_name(name) else word
