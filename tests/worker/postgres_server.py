"""A PostgreSQL server of our own, in a temporary folder."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.known import known
from tests.worker.trading_database import COLUMNS

#: Debian keeps the server's programs off the PATH
INITDB = shutil.which("initdb") or max(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None)


KINDS = {"DATETIME": "timestamptz", "FLOAT": "double precision", "INTEGER PRIMARY KEY": "bigint PRIMARY KEY"}
KINDS_OF_COLUMNS = {name: KINDS.get(kind, kind) for name, kind in COLUMNS.items()}


@dataclass(frozen=True, kw_only=True)
class PostgresServer:
    """It listens on a socket in `home`, and on `port` where that is not 0."""

    home: Path
    port: int
    password: str

    def connect(self) -> Any:
        """A connection of the superuser `trader`, as soon as the server answers."""
        options: dict[str, Any] = {"password": self.password} if self.password else {}
        for _ in range(200):
            with contextlib.suppress(psycopg.OperationalError):
                return psycopg.connect(
                    host=str(self.home),
                    port=self.port or 5432,
                    user="trader",
                    dbname="postgres",
                    autocommit=True,
                    **options,
                )
            time.sleep(0.05)
        raise TimeoutError


@contextlib.contextmanager
def postgres_server(*, password: str = "") -> Iterator[PostgresServer]:
    """A server for any user of its socket; with a password for those only who know it, also on TCP."""
    home = Path(tempfile.mkdtemp(prefix="pg"))
    # it refuses to run as root
    who: dict[str, Any] = {"user": "nobody"} if os.geteuid() == 0 else {}
    data, password_file = home / "data", home / "password"
    password_file.write_text(f"{password}\n")
    if who:
        for path in (home, password_file):
            shutil.chown(path, "nobody")
    authentication = ["-A", "scram-sha-256", f"--pwfile={password_file}"] if password else ["-A", "trust"]
    subprocess.run(
        [known(INITDB), "-D", data, *authentication, "-U", "trader", "--no-sync"],
        check=True,
        cwd=home,
        stdout=subprocess.DEVNULL,
        **who,
    )
    port = _free_port() if password else 0
    listening = ["-c", "listen_addresses=127.0.0.1", "-p", str(port)] if password else ["-c", "listen_addresses="]
    process = subprocess.Popen(
        [Path(known(INITDB)).resolve().with_name("postgres"), "-D", data, "-k", home, "-F", *listening],
        cwd=home,
        stderr=subprocess.DEVNULL,
        **who,
    )
    try:
        yield PostgresServer(home=home, port=port, password=password)
    finally:
        process.terminate()
        process.wait(120)
        shutil.rmtree(home, ignore_errors=True)


def make_table(connection: Any, rows: Any, **changed: Any) -> None:
    kinds = KINDS_OF_COLUMNS | changed
    definition = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
    connection.execute(f"CREATE TABLE ai_training_samples ({definition})")
    insert_rows(connection, rows, kinds)


def insert_rows(connection: Any, rows: Any, kinds: Any = types.MappingProxyType(KINDS_OF_COLUMNS)) -> None:
    for row in rows:
        values = row | {name: bool(row[name]) for name in ("executed", "outcome_known")}
        values |= {name: f"{row[name]}+00" for name in row if kinds[name] == "timestamptz" and row[name]}
        marks = ", ".join(["%s"] * len(values))
        insertion = f"INSERT INTO ai_training_samples ({', '.join(values)}) VALUES ({marks})"
        connection.execute(insertion, [*values.values()])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
