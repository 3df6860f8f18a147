"""Reads env files and systemd units for data paths, and says which configured database path is a wrong one."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from retrain_worker.discovery.content import DATA_NAME, DATABASE_IN_SCRIPT
from retrain_worker.discovery.pack import ConfiguredPath, Database, EnvFile, FileFacts, Role, Unit, shown
from retrain_worker.domain import env_file
from retrain_worker.domain.masking import MASK, is_secret_name, masked
from retrain_worker.errors import SlotError

#: what the stack calls its own units and directories
STACK_NAME = "quantum"
_MAX_SCRIPT_BYTES = 1 << 18
_DATABASE_NAMES = re.compile(r"(?i)(?:^|_)(?:db_path|database_path|database_url|db_url|db_file|sqlite_path)$")
#: a shell may read the same file
_EXPORT = re.compile(rb"(?m)^[ \t]*export[ \t]+")
_SERVICE = re.compile(r"\s*(?P<name>User|WorkingDirectory|ExecStart|EnvironmentFile|Environment)\s*=\s*(?P<value>.*)")


def env_of(path: Path, facts: FileFacts) -> tuple[EnvFile, Mapping[str, str]]:
    """The file for the pack, and its values as they are. Raises OSError."""
    with path.open("rb") as file:
        content = file.read(env_file.MAX_BYTES + 1)
    try:
        values = env_file.parse(_EXPORT.sub(b"", content))
    except SlotError as error:
        return EnvFile(file=facts, values={}, other_names=(), finding=shown(error.what)), {}
    data = {name: safe_value(name, value) for name, value in values.items() if DATA_NAME.search(name)}
    secrets = {name: safe_value(name, value) for name, value in values.items() if is_secret_name(name)}
    return EnvFile(
        file=facts,
        values={**data, **secrets},
        other_names=tuple(name for name in values if name not in data and name not in secrets),
    ), values


def safe_value(name: str, value: str) -> str:
    """`value` as it may be shown: the whole of a secret masked, and any password within a URL."""
    return MASK if value and is_secret_name(name) else shown(masked(value))


def unit_of(path: Path, facts: FileFacts) -> Unit:
    """What a unit says about user, directory, command and environment. Raises OSError."""
    with path.open("rb") as file:
        text = file.read(_MAX_SCRIPT_BYTES).decode("utf-8", "backslashreplace")
    said: dict[str, list[str]] = {}
    for line in re.sub(r"\\\r?\n\s*", " ", text).splitlines():
        if setting := _SERVICE.fullmatch(line):
            said.setdefault(setting["name"], []).append(setting["value"].strip())
    assigned = [word.partition("=") for line in said.get("Environment", ()) for word in _words(line)]
    return Unit(
        file=facts,
        user=shown((said.get("User") or [""])[-1]),
        working_directory=shown((said.get("WorkingDirectory") or [""])[-1]),
        exec_start=shown(" ; ".join(_safe_command(line) for line in said.get("ExecStart", ()) if line)),
        environment_files=tuple(shown(value.removeprefix("-")) for value in said.get("EnvironmentFile", ()) if value),
        environment={shown(name): safe_value(name, value) for name, _, value in assigned},
    )


def is_of_the_stack(unit: Unit, env_paths: Sequence[str]) -> bool:
    """Whether a unit belongs to the stack: by name or directory, or because it reads an env file with data paths."""
    said = (Path(unit.file.path).name, unit.working_directory, unit.exec_start, *unit.environment_files)
    return (
        any(STACK_NAME in text for text in said)
        or any(DATA_NAME.search(name) for name in unit.environment)
        or any(name in env_paths for name in unit.environment_files)
    )


def paths_in(where: str, values: Mapping[str, str]) -> Iterator[tuple[str, str, Path]]:
    """(where, name, path) of each database file that the values of an env file or a unit name."""
    for name, value in values.items():
        path = database_path(value) if _DATABASE_NAMES.search(name) else None
        if path is not None:
            yield where, name, path


def paths_in_script(path: Path) -> Iterator[tuple[str, str, Path]]:
    """(where, name, path) of each database path that is written into a program. Raises OSError."""
    with path.open("rb") as file:
        text = file.read(_MAX_SCRIPT_BYTES).decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.lstrip().startswith("#") and (found := DATABASE_IN_SCRIPT.search(line)):
            yield f"{shown(path)}:{number}", found["name"], Path(found["path"])


def database_path(value: str) -> Path | None:
    """The file that DB_PATH or an SQLite URL names; None for a server."""
    if value.startswith(("sqlite:///", "sqlite+")):
        path = unquote(value.partition(":///")[2].partition("?")[0])
    else:
        path = value
    return Path(path) if path.startswith("/") else None


def examined(
    named: Sequence[tuple[str, str, Path]], databases: Sequence[Database], roots: Sequence[str], *, ours: Sequence[str]
) -> tuple[ConfiguredPath, ...]:
    """What stands at each configured path, beside what should: the source.

    `ours`: where our own settings stand. Another program may well use another database; ours may not.
    """
    by_path = {each.file.path: each for each in databases}
    by_path |= {link: each for each in databases for link in each.file.links}
    source = next((each for each in databases if each.role is Role.SOURCE), None)
    found = {}
    for where, name, path in named:
        database = by_path.get(shown(path)) or by_path.get(shown(os.path.realpath(path)))
        finding, is_wrong = _finding(path, database, source, roots)
        if database is not None and database.role is Role.UNRELATED:
            is_wrong = where in ours
        found[where, name, path] = ConfiguredPath(
            where=where, name=name, path=shown(path), finding=finding, is_wrong=is_wrong
        )
    return tuple(found.values())


def _finding(path: Path, database: Database | None, source: Database | None, roots: Sequence[str]) -> tuple[str, bool]:
    if database is None:
        return _finding_outside(path, roots), source is not None and is_there(path) is False
    if database.role is Role.SOURCE:
        return "this is the training source", False
    what = {
        Role.BACKUP: "a backup of the training source",
        Role.EMPTY: "an empty database",
        Role.UNRELATED: "another database",
        Role.UNREADABLE: "not readable as a database",
        Role.OTHER_TRAINING: "other training rows than the source's",
    }[database.role]
    return f"{what} ({database.why})", True


def _finding_outside(path: Path, roots: Sequence[str]) -> str:
    there = is_there(path)
    if not there:
        return "there is no such file" if there is False else "it cannot be looked at"
    within = any(Path(root) == path or Path(root) in path.parents for root in roots)
    return "there is no database" if within else "it lies outside of what was looked through"


def is_there(path: Path) -> bool | None:
    """Whether there is such a file; None when we may not know."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the latter: a NUL within
        return False
    except OSError:
        return None
    return True


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
