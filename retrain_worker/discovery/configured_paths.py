"""Database paths that settings, env files, units and scripts name, each compared with what is there."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from retrain_worker.discovery.file_classification import DATABASE_SUFFIXES, database_paths
from retrain_worker.discovery.proof_pack import ConfiguredPath, Database, Role
from retrain_worker.domain.printable import printable

_MAX_SCRIPT_BYTES = 1 << 18
_DATABASE_NAMES = re.compile(r"(?i)(?:^|_)(?:db|database|sqlite)(?:_(?:path|url|uri|file))?$")
_LIBRARIES = frozenset({"site-packages", "dist-packages", "tests", "test"})
_FINDINGS = {
    Role.SOURCE: "the training source",
    Role.BACKUP: "a backup of the training source",
    Role.EMPTY: "an empty database",
    Role.UNRELATED: "another database",
    Role.UNREADABLE: "not readable as a database",
    Role.OTHER_TRAINING: "training rows that are not the source's",
    Role.NOT_EXAMINED: "a database",
}


class PathSetting(NamedTuple):
    """A database path, its name, and the file that contains it."""

    where: str
    name: str
    path: Path


def in_values(where: str, values: Mapping[str, str]) -> Iterator[PathSetting]:
    """Each database file that the values of an env file or a unit name."""
    for name, value in values.items():
        if _DATABASE_NAMES.search(name) or value.endswith(DATABASE_SUFFIXES):
            path = unquote(value.partition(":///")[2].partition("?")[0]) if value.startswith("sqlite") else value
            if path.startswith("/"):
                yield PathSetting(where, name, Path(path))


def in_script(script: Path) -> Iterator[PathSetting]:
    """Each database path in a program, once, at its first line. Raises OSError.

    Missing databases are left out in libraries and tests, and below a top-level directory that is missing as well.
    """
    with script.open("rb") as file:
        text = file.read(_MAX_SCRIPT_BYTES).decode("utf-8", "replace")
    is_library = not _LIBRARIES.isdisjoint(script.parts)
    seen: set[str] = set()
    for line, name, named in database_paths(text):
        path = Path(named)
        is_expected = not is_library and _exists(Path(*path.parts[:2])) is not False
        if named not in seen and (is_expected or _exists(path) is not False):
            seen.add(named)
            yield PathSetting(f"{printable(script)}:{line}", name, path)


def compared(
    settings: Sequence[PathSetting], databases: Sequence[Database], roots: Sequence[str], *, own: Collection[str]
) -> tuple[ConfiguredPath, ...]:
    """What is at each configured path, and whether it is wrong: missing, empty, unreadable, or not the source.

    `own`: the files with the settings of this program. Only there is a database without training rows wrong.
    """
    by_path = {each.file.path: each for each in databases}
    by_path |= {link: each for each in databases for link in each.file.links}
    found = {}
    for setting in settings:
        path = setting.path
        database = by_path.get(printable(path)) or by_path.get(printable(os.path.realpath(path)))
        if database is None:
            finding, is_wrong = _finding_without_database(path, roots)
        else:
            finding = _FINDINGS[database.role] + ("" if database.role is Role.SOURCE else f" ({database.why})")
            is_wrong = database.role not in (Role.SOURCE, Role.NOT_EXAMINED) and (
                database.role is not Role.UNRELATED or setting.where in own
            )
        found[setting] = ConfiguredPath(
            where=setting.where, name=setting.name, path=printable(path), finding=finding, is_wrong=is_wrong
        )
    return tuple(found.values())


def _finding_without_database(path: Path, roots: Sequence[str]) -> tuple[str, bool]:
    exists = _exists(path)
    if exists is False:
        return "no such file", True
    if exists is None:
        return "not accessible", False
    is_within = any(Path(root) == path or Path(root) in path.parents for root in roots)
    return "not a database" if is_within else "outside the directories that were searched", False


def _exists(path: Path) -> bool | None:
    """Whether there is such a file; None without the permission to see it."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the latter: a NUL in the path
        return False
    except OSError:
        return None
    return True
