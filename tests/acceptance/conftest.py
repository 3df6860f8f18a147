"""The real command as a process, on databases that the demo's generator makes."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from retrain_worker.demo.market import write_market
from retrain_worker.demo.regime import Regime

COMMAND = (sys.executable, "-m", "retrain_worker")
#: long enough for a loaded machine; no test passes or fails by it unless something hangs
PATIENCE_SECONDS = 240.0


def clean_environment(**settings: object) -> dict[str, str]:
    """The environment without anything that this program would read."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in {"PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV"} or name.startswith(("COVERAGE", "COV_"))
    }
    quick = {"ENGINE_CONFIRM_TIMEOUT_S": "1", "TRAIN_THREADS": "1"}
    return {**kept, **quick, **{name: str(value) for name, value in settings.items()}}


def retrain_worker(*arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
    """One call of the command, to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def once(database: Path, home: Path, **settings: object) -> tuple[int, dict[str, Any], str]:
    """`once --json`: exit code, result, stderr."""
    done = retrain_worker("once", "--db", database, "--home", home, "--json", **settings)
    return done.returncode, json.loads(done.stdout) if done.stdout.startswith("{") else {}, done.stderr


FoundT = TypeVar("FoundT")


def wait_for(condition: Callable[[], FoundT | None], *, what: str) -> FoundT:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail(f"waited in vain for {what}")


@dataclass
class Daemon:
    """`run --home` as a process."""

    home: Path
    database: Path
    settings: dict[str, object] = field(default_factory=dict)
    options: tuple[object, ...] = ()
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> "Daemon":
        self.log = (self.home.parent / f"daemon-{time.monotonic_ns()}.log").open("w+b")
        self.process = subprocess.Popen(
            [*COMMAND, "run", "--home", str(self.home), "--db", str(self.database), *map(str, self.options)],
            env=clean_environment(**self.settings),
            stderr=self.log,
            stdout=self.log,
        )
        return self

    def lines(self) -> list[dict[str, Any]]:
        text = Path(self.log.name).read_text(errors="replace")
        return [
            json.loads(line[line.index("{") :])
            for line in text.splitlines(keepends=True)
            if "{" in line and line.endswith("\n")
        ]

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines()]

    def wait_for_event(self, event: str, **wanted: object) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            assert self.process.poll() is None or event in self.events(), Path(self.log.name).read_text()
            return next(
                (
                    line
                    for line in self.lines()
                    if line["event"] == event and all(line.get(name) == value for name, value in wanted.items())
                ),
                None,
            )

        return wait_for(found, what=f"{event} {wanted}")

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


class StartsDaemon(Protocol):
    """What the fixture `daemon_of` gives."""

    def __call__(self, home: Path, database: Path, *options: object, **settings: object) -> Daemon: ...


@pytest.fixture
def daemon_of() -> Iterator[StartsDaemon]:
    started: list[Daemon] = []

    def make(home: Path, database: Path, *options: object, **settings: object) -> Daemon:
        started.append(Daemon(home=home, database=database, settings=settings, options=options))
        return started[-1].start()

    yield make
    for one in started:
        one.stop(signal.SIGKILL)
        one.log.close()
        # The embedded Redis of a killed daemon lives on with its data: take it over once, which stops it at the end.
        retrain_worker("status", "--home", one.home)
        stop_redis_of(one.home)


def stop_redis_of(home: Path) -> None:
    from retrain_worker.adapters.embedded_redis import EmbeddedRedis

    if (home / "redis").exists():
        with EmbeddedRedis(home):
            pass


@pytest.fixture
def notify_socket(tmp_path: Path) -> Iterator[tuple[Any, Any, Any]]:
    """The address, all that was heard there until now, and how to hear the rest.

    A thread listens all the time: a socket holds as few as ten datagrams, and the daemon waits for nobody.
    """
    address, heard = tmp_path / "notify", []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(address))

        def listen() -> None:
            while message := receiver.recv(65536):
                heard.append(message.decode())

        listener = threading.Thread(target=listen)

        def hear_the_rest() -> None:
            if listener.is_alive():
                receiver.sendto(b"", str(address))
                listener.join()

        listener.start()
        yield address, heard, hear_the_rest
        hear_the_rest()


@pytest.fixture(scope="session")
def learnable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A market with a strong regime: a few epochs and 4,000 rows are enough."""
    path = tmp_path_factory.mktemp("learnable") / "trader.db"
    write_market(path, seed=11, end=datetime.now(UTC), rows=4_000, regime=Regime(strength=0.8))
    return path


@pytest.fixture(scope="session")
def hopeless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A market in which there is nothing to learn."""
    path = tmp_path_factory.mktemp("hopeless") / "trader.db"
    write_market(path, seed=12, end=datetime.now(UTC), rows=2_500, regime=Regime(edge=0.0))
    return path


def copy_of(database: Path, folder: Path) -> Path:
    """A consistent copy, for a test that writes."""
    target = folder / database.name
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as source, sqlite3.connect(target) as copy:
        source.backup(copy)
    return target
