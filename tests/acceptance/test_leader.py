"""Two daemons, one leader: one that is killed, cut off or stopped is followed, and then changes nothing more.

Each daemon has a home of its own, as on another host; PostgreSQL, Redis and the engine's env file are shared.
"""

import contextlib
import json
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.domain.env_file import parse
from tests.acceptance.conftest import Daemon, StartsDaemon, retrain_worker
from tests.redis_world import RedisServer
from tests.worker.postgres_server import INITDB, PostgresServer, postgres_server

pytestmark = pytest.mark.skipif(INITDB is None, reason="no PostgreSQL server on this host (initdb, postgres)")

PASSWORD = "hunter2"
LOST = 13


class Proxy:
    """Forwards TCP connections to a port, until it is frozen: then nothing passes, and nothing is closed."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._is_frozen, self._is_closed = threading.Event(), threading.Event()
        self._sockets = [listener := socket.create_server(("127.0.0.1", 0))]
        self.port = listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, args=(listener,))
        self._thread.start()

    def freeze(self) -> None:
        self._is_frozen.set()

    def close(self) -> None:
        self._is_closed.set()
        self._thread.join()
        for each in self._sockets:
            each.close()

    def _run(self, listener: socket.socket) -> None:
        sinks: dict[socket.socket, socket.socket] = {}
        while not self._is_closed.is_set():
            ready, _, _ = select.select([listener, *sinks], [], [], 0.1)
            for source in () if self._is_frozen.is_set() else ready:
                if source is listener:
                    client, server = listener.accept()[0], socket.create_connection(("127.0.0.1", self._target))
                    sinks |= {client: server, server: client}
                    self._sockets += client, server
                else:
                    self._forward(source, sinks)
            if self._is_frozen.is_set():
                self._is_closed.wait()

    @staticmethod
    def _forward(source: socket.socket, sinks: dict[socket.socket, socket.socket]) -> None:
        content, sink = b"", sinks[source]
        with contextlib.suppress(OSError):
            content = source.recv(65536)
            sink.sendall(content)
        if not content:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
            del sinks[source]


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """Two hosts on shared services, with a state of their own."""

    root: Path
    database: Path
    postgres: PostgresServer
    redis: RedisServer
    instance: str
    start_daemon: StartsDaemon

    @property
    def env_file(self) -> Path:
        return self.root / "ai-engine.env"

    def settings(self, port: int = 0) -> dict[str, object]:
        return {
            "STATE_URL": f"postgres://trader:{PASSWORD}@127.0.0.1:{port or self.postgres.port}/postgres",
            "REDIS_URL": f"unix://{self.redis.socket}",
            "INSTANCE": self.instance,
            "ENGINE_ENV_FILE": self.env_file,
            "MAX_EPOCHS": 2,
            "BATCH_SIZE": 32,
            "PRESET": "paper",
        }

    def daemon(self, name: str, *, port: int = 0) -> Daemon:
        return self.start_daemon(self.root / name, self.database, **self.settings(port))

    def status(self, name: str) -> Any:
        return json.loads(retrain_worker("status", "--home", self.root / name, "--json", **self.settings()).stdout)

    def runs(self) -> list[Any]:
        shown = retrain_worker("history", "--home", self.root / "a", "--json", **self.settings()).stdout
        return list(json.loads(shown))

    def published(self, kind: str) -> list[dict[str, str]]:
        entries: Any = self.redis.client().xrange(f"quantum:stream:{kind}")
        found = [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in entries]
        return [fields for fields in found if fields["instance"] == self.instance]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server(password=PASSWORD) as server:
        server.connect().close()
        yield server


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.remove()


@pytest.fixture
def hosts(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    postgres: PostgresServer,
    redis_server: RedisServer,
    learnable: Path,
    daemon_of: StartsDaemon,
) -> Hosts:
    (tmp_path / "ai-engine.env").write_text("PATCHTST_SHADOW_ONLY=true\n")
    return Hosts(
        root=tmp_path,
        database=learnable,
        postgres=postgres,
        redis=redis_server,
        instance=request.node.name.removeprefix("test_")[:20],
        start_daemon=daemon_of,
    )


def seconds_until_leading(daemon: Daemon, since: float) -> float:
    daemon.wait_for_event("ready")
    return time.monotonic() - since


def test_killed(hosts: Hosts) -> None:
    first = hosts.daemon("a")
    first.wait_for_event("leading")
    second = hosts.daemon("b")
    assert "has led since" in second.wait_for_event("standby")["message"]
    run = first.wait_for_event("run_started")
    found = hosts.status("b")
    assert (found["role"], hosts.status("a")["role"]) == ("standby", "leader")
    assert str(first.process.pid) in found["leader"]
    reload = retrain_worker("reload", "--home", hosts.root / "b", "--wait", "60", **hosts.settings())
    assert (reload.returncode, reload.stdout) == (0, "no setting has changed\n"), reload.stderr
    assert "take effect when this process leads" in second.wait_for_event("reloaded")["message"]

    killed_at = time.monotonic()
    first.stop(signal.SIGKILL)
    assert seconds_until_leading(second, killed_at) < 10

    resumed = second.wait_for_event("run_progress")
    assert "resumed" in resumed["message"]
    assert resumed["run_id"] == run["run_id"]
    assert second.stop() == 0
    logs = "".join(Path(daemon.log.name).read_text() for daemon in (first, second))
    assert PASSWORD not in logs


def test_partition(hosts: Hosts) -> None:
    with contextlib.closing(Proxy(hosts.postgres.port)) as proxy:
        _is_followed_when_cut_off(hosts, proxy)


def _is_followed_when_cut_off(hosts: Hosts, proxy: Proxy) -> None:
    first = hosts.daemon("a", port=proxy.port)
    first.wait_for_event("leading")
    second = hosts.daemon("b")
    second.wait_for_event("standby")
    first.wait_for_event("run_started")

    frozen_at = time.monotonic()
    proxy.freeze()
    assert first.process.wait(60) == LOST, "it ends by its own clock"
    assert "leading" not in second.events(), "before another one may lead"
    assert seconds_until_leading(second, frozen_at) < 30
    assert "resumed" in second.wait_for_event("run_progress")["message"]
    assert second.stop() == 0


def test_stopped_and_continued(hosts: Hosts) -> None:
    first = hosts.daemon("a")
    first.wait_for_event("leading")
    second = hosts.daemon("b")
    second.wait_for_event("standby")
    first.wait_for_event("run_progress")

    first.send(signal.SIGSTOP)
    stopped_at = time.monotonic()
    assert seconds_until_leading(second, stopped_at) < 30
    assert "resumed at pull" in second.wait_for_event("run_progress")["message"]
    ended = second.wait_for_event("run_finished")
    line = parse(hosts.env_file.read_bytes()).get("PATCHTST_MODEL_PATH")
    before = first.lines()
    first.send(signal.SIGCONT)
    assert first.process.wait(60) == LOST

    after = {each["event"] for each in first.lines()[len(before) :]}
    assert "leadership_lost" in after
    assert not after & {"run_progress", "run_finished", "slot_changed_externally"}
    assert ended["outcome"] == "PROMOTED", ended
    assert line is not None
    assert str(hosts.root / "b") in line
    assert parse(hosts.env_file.read_bytes()).get("PATCHTST_MODEL_PATH") == line
    assert len(hosts.published("model.promoted")) == 1
    assert [len(hosts.published(f"learning.retraining.{kind}")) for kind in ("started", "completed")] == [1, 1]
    assert [run["run_id"] for run in hosts.runs()] == [ended["run_id"]]

    third = hosts.daemon("a")
    third.wait_for_event("standby")
    assert second.stop() == 0, "an orderly stop hands the lead over at once"
    third.wait_for_event("leading")
    rollback = retrain_worker("rollback", "--to-none", "--home", hosts.root / "b", **hosts.settings())
    assert rollback.returncode == 0, rollback.stderr
    assert "PATCHTST_MODEL_PATH" not in parse(hosts.env_file.read_bytes())
    assert len(hosts.published("model.rolled_back")) == 1
    assert third.stop() == 0
