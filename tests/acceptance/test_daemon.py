"""`retrain-worker run`: the daemon as a process, with a fake $NOTIFY_SOCKET for the tests of systemd."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from retrain_worker.domain.env_file import parse
from tests.acceptance.conftest import (
    COMMAND,
    PATIENCE_SECONDS,
    Daemon,
    StartsDaemon,
    clean_environment,
    retrain_worker,
    wait_for,
)
from tests.redis_world import RedisServer

QUICK = {"MAX_EPOCHS": 3, "BATCH_SIZE": 32}


def training_worker_of(daemon: Daemon) -> int | None:
    """The pid of the worker that trains, once an epoch is checkpointed."""
    checkpoints = list((daemon.home / "checkpoints").rglob("*"))
    if not any(path.is_file() for path in checkpoints):
        return None
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                command = (folder / "cmdline").read_bytes()
                parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
            except OSError:
                continue
            if b"retrain_worker.worker" in command and b"train." in command and int(parent) == daemon.process.pid:
                return int(folder.name)
    return None


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


def test_killed_in_training_it_resumes_and_finishes_and_the_env_file_is_valid_throughout(
    daemon_of: StartsDaemon,
    hopeless: Path,
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    env = home / "engine/ai-engine.env"
    first = daemon_of(home, hopeless, **QUICK)
    worker = wait_for(lambda: training_worker_of(first), what="the first checkpoint")
    first.stop(signal.SIGKILL)
    assert parse(env.read_bytes()) == {"PATCHTST_SHADOW_ONLY": "true"}
    wait_for(lambda: not is_alive(worker), what="the end of the orphaned worker")

    second = daemon_of(home, hopeless, **QUICK)
    resumed = second.wait_for_event("run_progress")
    ended = second.wait_for_event("run_finished")

    assert "resumed" in resumed["message"]
    assert ended["outcome"] == "REFUSED"
    assert parse(env.read_bytes()) == {"PATCHTST_SHADOW_ONLY": "true"}
    log = next((home / "models/runs").glob("*/train.log")).read_text()
    assert "resumed after epoch" in log, log


def test_sigterm_in_training_writes_a_checkpoint_and_the_next_start_resumes(
    daemon_of: StartsDaemon,
    hopeless: Path,
    tmp_path: Path,
) -> None:
    first = daemon_of(tmp_path / "home", hopeless, **QUICK)
    worker = wait_for(lambda: training_worker_of(first), what="the first checkpoint")
    code = first.stop()

    assert code == 0
    assert not is_alive(worker)
    assert retrain_worker("history", "--home", tmp_path / "home").stdout.count("INTERRUPTED") == 1
    second = daemon_of(tmp_path / "home", hopeless, **QUICK)
    assert second.wait_for_event("run_finished")["outcome"] == "REFUSED"


def test_an_idle_daemon_holds_no_torch_and_does_not_repeat_a_run_after_a_restart(
    daemon_of: StartsDaemon,
    hopeless: Path,
    tmp_path: Path,
) -> None:
    first = daemon_of(tmp_path / "home", hopeless, MAX_EPOCHS=1)
    first.wait_for_event("run_finished")
    maps = Path(f"/proc/{first.process.pid}/maps").read_text()
    assert first.stop() == 0

    second = daemon_of(tmp_path / "home", hopeless, MAX_EPOCHS=1)
    second.wait_for_event("ready")
    time.sleep(3)

    assert "torch" not in maps
    assert "numpy" not in maps
    assert "run_started" not in second.events()
    assert len(json.loads(retrain_worker("history", "--home", tmp_path / "home", "--json").stdout)) == 1


def test_a_retrain_request_starts_a_run(
    daemon_of: StartsDaemon,
    hopeless: Path,
    tmp_path: Path,
) -> None:
    daemon = daemon_of(tmp_path / "home", hopeless, MAX_EPOCHS=1)
    daemon.wait_for_event("run_finished")
    asked = retrain_worker("trigger", "--home", tmp_path / "home", "--reason", "new regime")

    assert asked.returncode == 0, asked.stderr
    assert daemon.wait_for_event("run_finished", outcome="SKIPPED")
    assert any("new regime" in line["message"] for line in daemon.lines() if line["event"] == "run_started")


def test_a_second_daemon_on_the_same_state_is_refused_and_the_first_continues(
    daemon_of: StartsDaemon,
    hopeless: Path,
    tmp_path: Path,
) -> None:
    first = daemon_of(tmp_path / "home", hopeless, MAX_EPOCHS=1)
    first.wait_for_event("ready")
    second = daemon_of(tmp_path / "home", hopeless, MAX_EPOCHS=1)

    assert second.process.wait(PATIENCE_SECONDS) == 1
    assert f"pid {first.process.pid}" in Path(second.log.name).read_text()
    ended = first.wait_for_event("run_finished")
    page = tmp_path / "home/models/runs" / ended["run_id"] / "report.html"
    assert ended["run_id"] in wait_for(lambda: page.exists() and page.read_text(), what="the page of the run")


def test_reload_applies_valid_settings_and_rejects_invalid_ones(
    daemon_of: StartsDaemon,
    hopeless: Path,
    tmp_path: Path,
) -> None:
    env = tmp_path / "worker.env"
    env.write_text("MAX_EPOCHS=1\nRETRAIN_INTERVAL_H=24\n")
    daemon = daemon_of(tmp_path / "home", hopeless, "--env-file", env)
    daemon.wait_for_event("run_finished")
    env.write_text("MAX_EPOCHS=many\n")
    daemon.send(signal.SIGHUP)
    refused = daemon.wait_for_event("reload_rejected")
    for number in range(100):
        env.write_text(f"MAX_EPOCHS=1\nRETRAIN_INTERVAL_H={24 if number < 99 else 0.001}\n")
        daemon.send(signal.SIGHUP)
    daemon.wait_for_event("reloaded")

    assert 'MAX_EPOCHS: "many"' in refused["message"]
    assert daemon.wait_for_event("run_finished", outcome="SKIPPED"), "the last of the hundred is in force"


def test_a_deprecated_setting_is_logged_at_the_start_and_shown_by_check(
    daemon_of: StartsDaemon,
    hopeless: Path,
    tmp_path: Path,
) -> None:
    daemon = daemon_of(tmp_path / "home", hopeless, MAX_EPOCHS=1, CHILD_NICE=5)
    logged = daemon.wait_for_event("setting_deprecated")
    checked = retrain_worker("check", "--db", hopeless, "--home", tmp_path / "home", CHILD_NICE=5)

    assert logged["message"] == "CHILD_NICE is deprecated; rename it to WORKER_NICE"
    assert logged["level"] == "warning"
    assert f"warning settings         {logged['message']}" in checked.stdout


def test_a_reload_in_training_waits_for_the_end_of_the_run(
    daemon_of: StartsDaemon,
    hopeless: Path,
    tmp_path: Path,
) -> None:
    env = tmp_path / "worker.env"
    env.write_text("MAX_EPOCHS=3\nBATCH_SIZE=32\n")
    daemon = daemon_of(tmp_path / "home", hopeless, "--env-file", env)
    worker = wait_for(lambda: training_worker_of(daemon), what="a worker in training")
    env.write_text("MAX_EPOCHS=1\nRETRAIN_INTERVAL_H=0.001\n")
    daemon.send(signal.SIGHUP)
    daemon.wait_for_event("reloaded")

    assert is_alive(worker)
    first = daemon.wait_for_event("run_finished")
    trained = json.loads(retrain_worker("history", "--home", tmp_path / "home", "--json").stdout)
    assert next(run["epochs"] for run in trained if run["run_id"] == first["run_id"]) == 3
    assert daemon.wait_for_event("run_finished", outcome="SKIPPED"), "the new interval is in force"


def test_sighup_during_the_start_is_ignored(daemon_of: StartsDaemon, hopeless: Path, tmp_path: Path) -> None:
    daemon = daemon_of(tmp_path / "home", hopeless, MAX_EPOCHS=1)
    wait_for(lambda: hangup_is_harmless(daemon.process.pid), what="our first line")
    while "ready" not in daemon.events():
        daemon.send(signal.SIGHUP)
        time.sleep(0.01)
        assert daemon.process.poll() is None

    assert daemon.stop() == 0


def hangup_is_harmless(pid: int) -> bool:
    """Whether SIGHUP is ignored or caught: python itself needs some milliseconds before our first line runs."""
    masks = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "Sig" in line)
    return bool((int(masks["SigIgn"], 16) | int(masks["SigCgt"], 16)) & 1)


def ready_in(heard: list[str]) -> str:
    return next(message for message in heard if message.startswith("READY=1\nSTATUS="))


def test_systemd_gets_ready_status_watchdog_and_stopping_and_nothing_from_the_worker(
    notify_socket: tuple[Any, Any, Any],
    daemon_of: StartsDaemon,
    hopeless: Path,
    tmp_path: Path,
) -> None:
    address, heard, hear_the_rest = notify_socket
    daemon = daemon_of(
        tmp_path / "home",
        hopeless,
        NOTIFY_SOCKET=address,
        WATCHDOG_USEC=2_000_000,
        MAX_EPOCHS=500,
        PATIENCE=500,
        BATCH_SIZE=32,
    )
    worker = wait_for(lambda: training_worker_of(daemon), what="a worker in training")
    worker_environment = Path(f"/proc/{worker}/environ").read_bytes()
    wait_for(lambda: any(one.startswith("STATUS=") and "epoch" in one for one in heard), what="an epoch in the status")
    wait_for(lambda: "WATCHDOG=1" in heard, what="a ping")
    daemon.stop()
    hear_the_rest()

    assert all(one.startswith("STATUS=starting: ") for one in heard[: heard.index(ready_in(heard))])
    assert sum(message.startswith("READY=1") for message in heard) == 1
    assert "WATCHDOG=1" in heard
    assert [message for message in heard if message.startswith("STOPPING=1")] == [heard[-1]]
    assert b"NOTIFY_SOCKET" not in worker_environment
    assert b"WATCHDOG" not in worker_environment


def test_an_unreachable_redis_does_not_delay_ready(
    daemon_of: StartsDaemon,
    hopeless: Path,
    tmp_path: Path,
) -> None:
    daemon = daemon_of(tmp_path / "home", hopeless, MAX_EPOCHS=1, REDIS_URL=f"unix://{tmp_path}/nobody.sock")
    daemon.wait_for_event("ready")
    problem = daemon.wait_for_event("redis_problem")
    ended = daemon.wait_for_event("run_finished")

    assert "nobody.sock" in problem["message"]
    assert ended["outcome"] == "REFUSED"
    assert "2 pending" in retrain_worker("status", "--home", tmp_path / "home").stdout
    assert daemon.events().count("redis_problem") == 1


def test_a_redis_that_never_answers_delays_neither_run_nor_watchdog_nor_stop(
    notify_socket: tuple[Any, Any, Any],
    daemon_of: StartsDaemon,
    hopeless: Path,
    tmp_path: Path,
) -> None:
    address, heard, hear_the_rest = notify_socket
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        daemon = daemon_of(
            tmp_path / "home",
            hopeless,
            NOTIFY_SOCKET=address,
            WATCHDOG_USEC=2_000_000,
            REDIS_URL=f"unix://{tmp_path}/silent.sock",
            **QUICK,
        )
        daemon.wait_for_event("run_progress", stage="TRAIN")
        wait_for(
            lambda: "WATCHDOG=1" in heard and any("does not answer in time" in one for one in heard),
            what="a ping, and a word about Redis",
        )
        assert daemon.stop() == 0
        hear_the_rest()

    assert ready_in(heard)
    assert daemon.events().count("redis_problem") == 1


def test_a_wrong_password_is_reported_once_and_never_shown(
    notify_socket: tuple[Any, Any, Any],
    redis_server: RedisServer,
    daemon_of: StartsDaemon,
    hopeless: Path,
    tmp_path: Path,
) -> None:
    address, heard, hear_the_rest = notify_socket
    redis_server.client().config_set("requirepass", "the-right-one")
    daemon = daemon_of(
        tmp_path / "home",
        hopeless,
        NOTIFY_SOCKET=address,
        REDIS_URL=f"unix://:s3cret-word@{redis_server.socket}",
        **QUICK,
    )
    wait_for(
        lambda: any("refuses the user or password; correct REDIS_URL, 1 events waiting" in one for one in heard),
        what="a word about the password",
    )
    daemon.wait_for_event("run_progress", stage="TRAIN")
    assert daemon.stop() == 0
    hear_the_rest()

    assert daemon.events().count("redis_problem") == 1
    assert "s3cret-word" not in "".join(heard) + Path(daemon.log.name).read_text()


def test_wrong_settings_stop_the_start_with_78(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "run", "--home", str(tmp_path / "home")],
        env=clean_environment(LABEL="up"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )

    assert done.returncode == os.EX_CONFIG
    assert 'LABEL: "up"' in done.stderr


def test_a_second_sigterm_ends_at_once(daemon_of: StartsDaemon, hopeless: Path, tmp_path: Path) -> None:
    daemon = daemon_of(tmp_path / "home", hopeless, **QUICK)
    worker = wait_for(lambda: training_worker_of(daemon), what="a worker in training")
    os.kill(worker, signal.SIGSTOP)  # a worker that cannot stop within its grace
    try:
        daemon.send(signal.SIGTERM)
        wait_for(lambda: "stop" in " ".join(daemon.events()) or daemon.process.poll() is None, what="the first SIGTERM")
        daemon.send(signal.SIGTERM)
        assert daemon.process.wait(PATIENCE_SECONDS) in (0, 1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
