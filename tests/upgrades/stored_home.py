"""Keeps a home directory in git, and makes a home directory of what is kept. Standard library only.

A kept home differs from a real one in three ways:

* Its own path reads `@HOME@` in every text file. `load` puts the path of the new home there.
* `state/state.db` is an SQL dump, `state/state.sql`, with `user_version` and `application_id`.
* Lock files and the data of the embedded Redis are left out.

The name of a request file and of its result holds the SHA-256 of the request (`<stage>.<16 digits>.request.json`).
Another home path gives another request, so both files are renamed on both ways.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

FOLDER = Path(__file__).parent / "v157e5f3"
PLACEHOLDER = "@HOME@"

_TEXT = frozenset({".sql", ".json", ".jsonl", ".html", ".log", ".env", ".sha256"})
#: written by the program without a suffix that says so
_TEXT_NAMES = re.compile(r"ai-engine\.env\.bak-\w+|restart-requested")
_LEFT_OUT = shutil.ignore_patterns("redis", "lock", ".child.lock", "state.db*", "trader.db*")
_REQUEST = re.compile(r"(?P<stage>[a-z]+)\.[0-9a-f]{16}\.request\.json")


def load(name: str, home: Path, *, state: str = "state/state.sql") -> Path:
    """Make the directory `home` of the kept home `name`; the path of the trading database in it.

    `state`: the dump that becomes `state/state.db`, relative to the kept home.
    """
    home = home.absolute()
    shutil.copytree(FOLDER / name, home)
    restore(home / state, home / "state/state.db", home=home)
    for dump in (home / "state").glob("*.sql"):
        dump.unlink()
    for folder in ("models/runs", "checkpoints", "engine/models"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    _move(home, PLACEHOLDER, str(home))
    restore(FOLDER / "trader.sql", home / "trader.db", home=home)
    return home / "trader.db"


def keep(home: Path, name: str) -> Path:
    """Keep `home`, which no process uses, as the kept home `name`; its folder."""
    folder = FOLDER / name
    shutil.copytree(home, folder, ignore=_LEFT_OUT)
    dump(home / "state/state.db", folder / "state/state.sql", home=home)
    _move(folder, str(home), PLACEHOLDER)
    return folder


def dump(database: Path, target: Path, *, home: Path) -> None:
    """Write an SQLite database as SQL text."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(database)) as connection:
        lines = [
            f"PRAGMA {name} = {connection.execute(f'PRAGMA {name}').fetchone()[0]};"
            for name in ("application_id", "user_version")
        ]
        lines += connection.iterdump()
    target.write_text("\n".join(lines).replace(str(home), PLACEHOLDER) + "\n", encoding="utf-8")


def restore(sql: Path, database: Path, *, home: Path) -> None:
    """Make an SQLite database of SQL text."""
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(sql.read_text(encoding="utf-8").replace(PLACEHOLDER, str(home)))


def _move(folder: Path, old: str, new: str) -> None:
    """Put `new` in the place of the home path `old` in every text file; rename requests and their results."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        if path.suffix in _TEXT or _TEXT_NAMES.fullmatch(path.name):
            path.write_bytes(content.replace(old.encode(), new.encode()))
        elif old.encode() in content:
            raise ValueError(f"{path} is not known as a text file, and holds {old}")
    for path in list(folder.rglob("*.request.json")):
        if found := _REQUEST.fullmatch(path.name):
            stem = f"{found['stage']}.{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
            result = path.with_name(path.name.replace(".request.", ".result."))
            path.rename(path.with_name(f"{stem}.request.json"))
            if result.exists():
                result.rename(result.with_name(f"{stem}.result.json"))
