"""Another process that uses a SQLite file: locks do not hold between two copies of SQLite in one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

_SCRIPT = """
import json, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=float(sys.argv[2]), isolation_level=None)
print("ready", flush=True)
for line in sys.stdin:
    try:
        for statement, parameters in json.loads(line):
            connection.execute(statement, parameters).fetchall()
        print("done", flush=True)
    except sqlite3.Error as error:
        print(error, flush=True)
"""


class OtherProcess:
    """`do` executes statements there, in autocommit mode. With a timeout of 0 a lock of ours is an error at once."""

    def __init__(self, path: Path, *, timeout: float = 0.0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(path), str(timeout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def __enter__(self) -> OtherProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def do(self, *statements: str) -> None:
        """Raises AssertionError with SQLite's message."""
        self._send([(statement, []) for statement in statements])

    def insert(self, row: dict[str, Any]) -> None:
        """A row of the table, committed."""
        marks = ", ".join("?" * len(row))
        self._send([(f"INSERT INTO ai_training_samples ({', '.join(row)}) VALUES ({marks})", list(row.values()))])

    def _send(self, statements: list[tuple[str, list[Any]]]) -> None:
        self._process.stdin.write(json.dumps(statements) + "\n")
        self._process.stdin.flush()
        assert (answer := self._answer()) == "done", answer

    def _answer(self) -> str:
        return self._process.stdout.readline().strip()
