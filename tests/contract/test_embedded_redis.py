import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from retrain_worker.adapters.embedded_redis import LONGEST_SOCKET_PATH, EmbeddedRedis, find_server, version_of
from retrain_worker.errors import RedisUnavailableError, SettingsError
from retrain_worker.redis_client import connect

OWNER = """
import sys, time
from pathlib import Path
from retrain_worker.adapters.embedded_redis import EmbeddedRedis
from retrain_worker.redis_client import connect
with EmbeddedRedis(Path(sys.argv[1])) as redis:
    connect(redis.url).set("word", "kept")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@contextlib.contextmanager
def owner_in_another_process(home: Path) -> Iterator[Any]:
    with subprocess.Popen([sys.executable, "-c", OWNER, str(home)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def ask(redis: EmbeddedRedis, *command: Any) -> Any:
    with contextlib.closing(connect(redis.url)) as client:
        return client.execute_command(*command)


def process_of(redis: EmbeddedRedis) -> Any:
    with contextlib.closing(connect(redis.url)) as client:
        return psutil.Process(client.info("server")["process_id"])


def test_a_server_runs_inside_the_context_and_not_after_it(home: Path) -> None:
    with EmbeddedRedis(home) as redis:
        assert ask(redis, "PING")
        server = process_of(redis)
    assert not server.is_running()
    assert EmbeddedRedis(home).socket == redis.socket


def test_data_is_kept_until_the_next_start(home: Path) -> None:
    with EmbeddedRedis(home) as redis:
        ask(redis, "SET", "word", "kept")
    with EmbeddedRedis(home) as redis:
        assert ask(redis, "GET", "word") == b"kept"


def test_it_cannot_be_reached_by_others_and_evicts_nothing(home: Path) -> None:
    with EmbeddedRedis(home) as redis:
        assert redis.socket.stat().st_mode & 0o077 == 0
        assert redis.directory.stat().st_mode & 0o077 == 0
        with contextlib.closing(connect(redis.url)) as client:
            config = client.config_get()
        assert (config["port"], config["appendonly"], config["maxmemory-policy"]) == ("0", "yes", "noeviction")


def test_a_second_user_uses_it_and_does_not_stop_it(home: Path) -> None:
    with owner_in_another_process(home):
        with EmbeddedRedis(home) as redis:
            assert ask(redis, "GET", "word") == b"kept"
            server = process_of(redis)
        assert server.is_running()
        assert ask(redis, "PING")
        server.terminate()


def test_the_server_of_a_killed_owner_is_taken_over_with_its_data_and_stopped(home: Path) -> None:
    with owner_in_another_process(home) as owner:
        server = process_of(EmbeddedRedis(home))
        owner.kill()
        owner.wait()
        assert server.is_running()
        with EmbeddedRedis(home) as redis:
            assert process_of(redis).pid == server.pid
            assert ask(redis, "GET", "word") == b"kept"
        assert not server.is_running()


def test_a_user_becomes_the_owner_when_the_owner_has_stopped_it(home: Path) -> None:
    with EmbeddedRedis(home) as first, EmbeddedRedis(home) as second:
        first.close()
        second.ensure()
        assert ask(second, "PING")
        server = process_of(second)
    assert not server.is_running()


def test_a_server_that_was_killed_is_started_again(home: Path) -> None:
    with EmbeddedRedis(home) as redis:
        ask(redis, "SET", "word", "kept")
        for _ in range(5):
            os.kill(process_of(redis).pid, signal.SIGKILL)
            redis.ensure()
            assert ask(redis, "GET", "word") == b"kept"


def test_a_server_that_another_process_started_is_used_and_not_stopped(home: Path) -> None:
    redis = EmbeddedRedis(home)
    redis.directory.mkdir(parents=True)
    command: list[str | Path] = [
        find_server(),
        "--port",
        "0",
        "--unixsocket",
        redis.socket,
        "--dir",
        redis.directory,
        "--save",
        "",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as stranger:
        try:
            while not redis._answers():
                time.sleep(0.01)
            (redis.directory / "redis.pid").write_text(str(os.getpid()))  # left behind, and taken by another process
            with redis:
                assert process_of(redis).pid == stranger.pid
            assert ask(redis, "PING")
        finally:
            stranger.kill()


def test_it_inherits_nothing_of_the_service_and_no_ctrl_c(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    with EmbeddedRedis(home) as redis:
        server = process_of(redis)
        assert "NOTIFY_SOCKET" not in server.environ()
        assert os.getsid(server.pid) != os.getsid(0)


def test_a_deep_home_gets_a_short_socket_in_a_private_directory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    deep = tmp_path / ("d" * 120)
    with EmbeddedRedis(deep) as redis:
        assert len(os.fsencode(redis.socket)) <= LONGEST_SOCKET_PATH
        assert redis.socket.parent.stat().st_mode & 0o077 == 0
        assert ask(redis, "PING")
    redis.socket.parent.chmod(0o755)
    with pytest.raises(SettingsError, match="not a private directory"):
        EmbeddedRedis(deep)


def test_a_home_with_blanks_works(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "my home %20") as redis:
        assert ask(redis, "PING")


def test_without_any_server_the_error_names_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match=r"REDIS_URL is not set, and no redis-server.*install"):
        EmbeddedRedis(home).__enter__()


def test_the_server_of_the_host_is_preferred_to_the_one_of_the_package(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home))
    bundled = find_server()
    assert bundled.parent.parent.name == "_binaries"
    assert re.fullmatch(r"Valkey server v=\d+\.\d+\.\d+", version_of(bundled))
    with EmbeddedRedis(home) as redis:
        assert ask(redis, "PING")

    home.mkdir(exist_ok=True)
    (home / "redis-server").write_text("#!/bin/sh\nexit 1\n")
    (home / "redis-server").chmod(0o755)
    assert find_server() == home / "redis-server"
    assert version_of(home / "redis-server") == ""


def test_a_server_that_cannot_start_is_an_error_with_the_reason(home: Path) -> None:
    (home / "redis").mkdir(parents=True)
    (home / "redis" / "appendonly.aof").write_text("this is not an append-only file\n" * 9)
    with pytest.raises(RedisUnavailableError, match=r"redis\.log"), EmbeddedRedis(home):
        pass
