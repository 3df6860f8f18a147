"""A throwaway Redis that can be hurt, a wire that can lose replies, and a clock that can be set."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, cast

import redis
from redis import Redis
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError

from retrain_worker.adapters.embedded_redis import find_server
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.events import Event, EventType, event_id_of
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState
from retrain_worker.redis_client import connect

#: long enough for a loaded machine; nothing passes or fails by it unless something hangs
PATIENCE_SECONDS = 120.0
#: of the fixture `publish`: takes events
Publish = Callable[..., None]


class RedisDiedError(Exception):
    """It ended before it answered."""


class RedisServer:
    """On a unix socket, without persistence unless `options` say otherwise."""

    def __init__(self, *options: str) -> None:
        # not tmp_path: a socket path has at most 107 bytes
        self.directory = Path(tempfile.mkdtemp(prefix="redis-"))
        self.socket = self.directory / "s"
        self.url = f"unix://{self.socket}"
        self.options = options or ("--save", "")
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[Redis] = []

    def start(self, *more: str) -> Self:
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [find_server(), "--port", "0", "--unixsocket", self.socket, "--dir", data, *self.options, *more],
            stdout=subprocess.DEVNULL,
        )
        self._wait()
        return self

    def start_loading(self) -> Self:
        """It comes up, and is busy with its snapshot until `end_loading`: with 400 keys for forty seconds at most."""
        return self.start("--key-load-delay", "100000", "--loading-process-events-interval-bytes", "1024")

    def end_loading(self) -> None:
        with Redis(unix_socket_path=str(self.socket)) as plain:
            plain.config_set("key-load-delay", 0)

    def client(self, url: str | None = None, **options: Any) -> redis.Redis:
        client = connect(url or self.url, **options)
        self._clients.append(client)
        return client

    def _wait(self) -> None:
        """Until it answers, if only that it is loading."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with contextlib.closing(connect(self.url)) as client:
            while True:
                try:
                    client.ping()
                except (BusyLoadingError, AuthenticationError):
                    return
                except RedisError:
                    if self._started.poll() is not None:
                        raise RedisDiedError from None
                    assert time.monotonic() < deadline, "Redis did not come up"
                    time.sleep(0.01)
                else:
                    return

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def kill(self) -> None:
        self._started.kill()
        self._started.wait()

    def remove(self) -> None:
        for client in self._clients:
            client.close()
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.directory)


class LossyWire:
    """A proxy before a Redis: passes everything on, but can swallow replies or hang."""

    def __init__(self, server: RedisServer) -> None:
        self.socket = server.directory / "wire"
        self.url = f"unix://{self.socket}"
        #: a command whose replies (or which itself) are lost: the connection closes instead
        self.losing = b""
        self.num_to_lose = 0
        self.before_it_arrives = False
        self.hanging = False
        #: before each reply
        self.delay_seconds = 0.0
        self._target = str(server.socket)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_replies(self, command: bytes, count: int) -> None:
        self.losing, self.num_to_lose, self.before_it_arrives = command, count, False

    def lose_requests(self, command: bytes, count: int) -> None:
        self.losing, self.num_to_lose, self.before_it_arrives = command, count, True

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        far = socket.socket(socket.AF_UNIX)
        try:
            far.connect(self._target)
        except OSError:
            near.close()
            return
        wire = _Connection(self, near, far)
        threading.Thread(target=wire.carry_replies, daemon=True).start()
        wire.carry_requests()


class _Connection:
    def __init__(self, wire: LossyWire, near: socket.socket, far: socket.socket) -> None:
        self._wire, self._near, self._far = wire, near, far
        self._swallows = False

    def carry_requests(self) -> None:
        with contextlib.suppress(OSError):
            while request := self._near.recv(1 << 16):
                if self._wire.num_to_lose and self._wire.losing in request:
                    self._wire.num_to_lose -= 1
                    if self._wire.before_it_arrives:
                        break
                    self._swallows = True
                self._far.sendall(request)
        self._cut()

    def carry_replies(self) -> None:
        with contextlib.suppress(OSError):
            while (reply := self._far.recv(1 << 16)) and not self._swallows:
                while self._wire.hanging:
                    time.sleep(0.01)
                time.sleep(self._wire.delay_seconds)
                self._near.sendall(reply)
        self._cut()

    def _cut(self) -> None:
        for end in (self._near, self._far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Clock:
    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.at

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


def an_event(
    number: int, event_type: EventType = EventType.SKIPPED, *, at: datetime | None = None, **payload: Any
) -> Event:
    run_id = f"run_{number}"
    return Event(
        event_id=event_id_of(run_id, event_type),
        event_type=event_type,
        correlation_id=run_id,
        timestamp=at or datetime.now(UTC),
        payload={"run_id": run_id, **payload},
        flat={"model": "patchtst", "status": "skipped"},
    )


def a_promotion(
    number: int,
    *,
    at: datetime,
    event_type: EventType = EventType.PROMOTED,
    version: str | None = None,
) -> Event:
    at_name = "promoted_at" if event_type is EventType.PROMOTED else "rolled_back_at"
    version = version or f"patchtst_v20260101_{number:06d}"
    return an_event(
        number,
        event_type,
        at=at,
        new_version=version,
        model_path=f"/models/{version}.pth",
        sha256=f"{number:064x}",
        size_bytes=number,
        shadow_only=True,
        confirmed=False,
        **{at_name: at.isoformat()},
    )


def enqueue(outbox: StateDb, *events: Event) -> None:
    now = datetime.now(UTC)
    deployment = Deployment(
        deployment_id=f"deployment_{events[0].event_id}",
        run_id=None,
        kind=DeploymentKind.EXTERNAL,
        version="v",
        model_path="/m",
        sha256="",
        size_bytes=0,
        previous_version=None,
        previous_model_path=None,
        state=DeploymentState.SWAPPED,
        created_at=now,
        updated_at=now,
        requested_by="test",
        reason="test",
    )
    outbox.record_deployment(deployment, events=events)


def entries_of(client: redis.Redis, stream: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of a stream, in order. The annotations of redis-py also allow what only other protocols answer."""
    return cast("list[tuple[bytes, dict[bytes, bytes]]]", client.xrange(stream))


def event_ids(client: redis.Redis, stream: str) -> list[str]:
    """The event ids in a stream, in order."""
    return [fields[b"event_id"].decode() for _, fields in entries_of(client, stream)]
