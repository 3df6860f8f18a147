"""A master, a replica and three sentinels on this host; the master can be killed, and comes back as a replica."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import redis
from redis.exceptions import RedisError

from retrain_worker.adapters.embedded_redis import find_server
from tests.redis_world import PATIENCE_SECONDS, RedisDiedError

MASTER = "mymaster"
_CONFIGURATION = """\
sentinel monitor {master} 127.0.0.1 {port} 2
sentinel down-after-milliseconds {master} 500
sentinel failover-timeout {master} 3000
sentinel parallel-syncs {master} 1
"""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with contextlib.suppress(RedisError):
            if condition():
                return
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


class SentinelWorld:
    """`options` are those of both servers; `sentinel_options` of the sentinels; `plain` makes a client of a port."""

    def __init__(
        self,
        *,
        options: Sequence[str] = (),
        sentinel_options: str = "",
        sentinel_ending: str = "",
        port_option: str = "--port",
        plain: Callable[[int], redis.Redis] = lambda port: redis.Redis(port=port),
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sentinels-"))
        ports = free_ports(5)
        self.server_ports, self.sentinel_ports = ports[:2], ports[2:]
        self.hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        self.url = f"redis+sentinel://{self.hosts}/{MASTER}/0"
        self._options, self._sentinel_options, self._sentinel_ending = (*options,), sentinel_options, sentinel_ending
        self._port_option, self.plain = port_option, plain
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> Self:
        main, replica = self.server_ports
        self.start_server(main)
        self.start_server(replica, "--replicaof", "127.0.0.1", str(main))
        wait_until(lambda: self._link(replica) == "up", "the replica")
        for port in self.sentinel_ports:
            file = self.directory / f"sentinel-{port}.conf"
            option = self._port_option.removeprefix("--")
            file.write_text(
                f"{option} {port}\n{self._sentinel_options}{_CONFIGURATION.format(master=MASTER, port=main)}"
                f"{self._sentinel_ending}"
            )
            self._start(port, str(file), "--sentinel")
        for port in self.sentinel_ports:
            wait_until(lambda port=port: self._is_informed(port), "the sentinels")  # type: ignore[misc]
        return self

    def start_server(self, port: int, *more: str) -> None:
        data = self.directory / str(port)
        data.mkdir(exist_ok=True)
        options = (self._port_option, str(port), "--dir", str(data), "--save", "", "--repl-diskless-sync-delay", "0")
        self._start(port, *options, *self._options, *more)
        wait_until(lambda: self.processes[port].poll() is not None or self._answers(port), "Redis")
        if self.processes[port].poll() is not None:
            raise RedisDiedError

    def master_port(self) -> int:
        """Of the master that the first sentinel names."""
        with contextlib.closing(self.plain(self.sentinel_ports[0])) as sentinel:
            return int(sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1])

    def kill_master(self) -> int:
        """SIGKILL; its port."""
        port = self.master_port()
        self.processes[port].kill()
        self.processes[port].wait()
        return port

    def wait_failover(self, from_port: int) -> None:
        """Until every sentinel names the other server, and that one is a master."""
        master = self.other(from_port)

        def is_over() -> bool:
            with contextlib.closing(self.plain(master)) as client:
                return client.role()[0] == b"master" and all(self._names(each, master) for each in self.sentinel_ports)

        wait_until(is_over, "the failover")

    def other(self, port: int) -> int:
        return next(each for each in self.server_ports if each != port)

    def cut_replication(self) -> None:
        """From now on nothing reaches the replica, which goes on answering."""
        with contextlib.closing(self.plain(self.other(self.master_port()))) as replica:
            replica.config_set("masterauth", "wrong")
            replica.execute_command("CLIENT", "KILL", "TYPE", "master")

    def remove(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        shutil.rmtree(self.directory)

    def _start(self, port: int, *arguments: str) -> None:
        command = [str(find_server()), *arguments]
        self.processes[port] = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def _names(self, sentinel_port: int, master: int) -> bool:
        with contextlib.closing(self.plain(sentinel_port)) as sentinel:
            state: Any = sentinel.sentinel_master(MASTER)
        return bool(state["port"] == master and state["is_master"] and not (state["is_sdown"] or state["is_odown"]))

    def _answers(self, port: int) -> bool:
        with contextlib.closing(self.plain(port)) as client:
            return bool(client.ping())

    def _link(self, port: int) -> str:
        with contextlib.closing(self.plain(port)) as client:
            return str(client.info("replication").get("master_link_status"))

    def _is_informed(self, port: int) -> bool:
        with contextlib.closing(self.plain(port)) as sentinel:
            state: Any = sentinel.sentinel_master(MASTER)
        return bool(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1)
