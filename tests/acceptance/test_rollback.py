"""`retrain-worker rollback` with a running daemon, without one, and with one that is killed."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrain_worker import signing
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain import env_file
from retrain_worker.domain.events import EVENT_TYPES
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
from tests.slot_home import OTHER_LINES, VERSIONS, SlotHome, slot_home

#: nothing listens there: the engine's restart and the relay must not be needed
REDIS_DOWN = "redis://127.0.0.1:1/0"


@pytest.fixture
def engine(tmp_path: Path) -> SlotHome:
    return slot_home(tmp_path / "home")


@pytest.fixture
def daemon(engine: SlotHome, daemon_of: StartsDaemon, tmp_path: Path) -> Callable[..., Daemon]:
    def start(**settings: object) -> Daemon:
        daemon = daemon_of(engine.home, tmp_path / "no.db", **{"ENGINE_CONFIRM": "none", **settings})
        daemon.wait_for_event("ready")
        return daemon

    return start


def rolled_back(engine: SlotHome, *arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
    return retrain_worker(
        "rollback", *arguments, "--home", engine.home, **{"ENGINE_CONFIRM": "none", "REDIS_URL": REDIS_DOWN, **settings}
    )


def ordered(engine: SlotHome, *options: str) -> subprocess.Popen[str]:
    """The same command, still waiting for its answer."""
    return subprocess.Popen(
        [*COMMAND, "rollback", "--home", str(engine.home), *options],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(ENGINE_CONFIRM="none", REDIS_URL=REDIS_DOWN),
    )


def deployments(engine: SlotHome) -> list[dict[str, Any]]:
    done = retrain_worker("deployments", "--json", "--home", engine.home)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def events_of(engine: SlotHome) -> list[str]:
    """Without the aliases."""
    with StateDb(engine.home / "state/state.db", read_only=True) as state:
        kinds = [row.event.event_type for row in state.pending_events(99)]
    return [kind for kind in kinds if kind in EVENT_TYPES]


def test_where_signatures_are_required_only_a_signed_model_returns(engine: SlotHome, tmp_path: Path) -> None:
    key = signing.new_key()
    (tmp_path / "key").write_text(key)
    (tmp_path / "key").chmod(0o600)
    required = {"SIGNED_MODELS": "required", "SIGNING_KEY_FILE": tmp_path / "key"}
    path, sha256 = engine.models[1]

    refused = rolled_back(engine, "--reason", "x", **required)
    assert (refused.returncode, engine.named()) == (11, engine.path_of(2))
    assert "not signed" in refused.stdout + refused.stderr

    statement = {"purpose": "model", "sha256": sha256, "promoted_at": "2026-01-02T00:00:00+00:00"}
    signing.Signer(key).write(path, statement)
    done = rolled_back(engine, "--reason", "x", **required)
    assert (done.returncode, engine.named()) == (0, path), done.stderr


def test_without_a_daemon_and_without_redis_one_command_returns_the_previous_model(engine: SlotHome) -> None:
    done = rolled_back(engine, "--reason", "loses money")

    assert (done.returncode, engine.named()) == (0, engine.path_of(1)), done.stderr
    assert f"names {VERSIONS[1]} (was {VERSIONS[2]})" in done.stdout
    assert engine.env_file.read_text() == f"{OTHER_LINES}PATCHTST_MODEL_PATH={engine.path_of(1)}\n"
    assert (engine.home / "engine/restart-requested").read_text() == f"{engine.path_of(1)}\n"
    newest = deployments(engine)[0]
    assert (newest["kind"], newest["reason"], newest["sha256"]) == ("rollback", "loses money", engine.models[1][1])
    assert events_of(engine) == ["model.rolled_back"]
    assert not list(engine.home.glob("models/runs/slot_requests/*"))


def test_a_running_daemon_carries_out_the_rollback(engine: SlotHome, daemon: Callable[..., Daemon]) -> None:
    daemon(REDIS_URL=REDIS_DOWN)
    done = rolled_back(engine)

    assert (done.returncode, engine.named()) == (0, engine.path_of(1)), done.stderr
    assert events_of(engine) == ["model.rolled_back"]


def test_the_command_takes_over_from_a_daemon_that_is_killed(engine: SlotHome, daemon: Callable[..., Daemon]) -> None:
    running = daemon(REDIS_URL=REDIS_DOWN, ENGINE_CONFIRM="event", ENGINE_CONFIRM_TIMEOUT_S=600)
    waiting = ordered(engine, "--json")
    wait_for(lambda: engine.named() == engine.path_of(1), what="the swap")
    running.stop(signal.SIGKILL)
    answer = json.loads(waiting.communicate(timeout=PATIENCE_SECONDS)[0])

    assert (waiting.returncode, answer["state"], engine.named()) == (0, "DONE", engine.path_of(1))
    assert events_of(engine) == ["model.rolled_back"]


def test_a_suspended_daemon_answers_once_it_is_resumed(engine: SlotHome, daemon: Callable[..., Daemon]) -> None:
    running = daemon(REDIS_URL=REDIS_DOWN)
    running.send(signal.SIGSTOP)
    waiting = ordered(engine)
    time.sleep(3)
    assert engine.named() == engine.path_of(2)
    running.send(signal.SIGCONT)

    waiting.communicate(timeout=PATIENCE_SECONDS)
    assert waiting.returncode == 0
    assert (engine.named(), events_of(engine)) == (engine.path_of(1), ["model.rolled_back"])


def test_many_sigterms_during_a_rollback_leave_a_consistent_slot(
    engine: SlotHome, daemon: Callable[..., Daemon]
) -> None:
    running = daemon(REDIS_URL=REDIS_DOWN)
    waiting = ordered(engine)
    wait_for(
        lambda: list(engine.home.glob("models/runs/slot_requests/*")) or engine.named() == engine.path_of(1),
        what="the order",
    )
    for _ in range(20):
        if running.process.poll() is None:
            running.send(signal.SIGTERM)

    waiting.communicate(timeout=PATIENCE_SECONDS)
    assert waiting.returncode == 0
    assert (engine.named(), events_of(engine)) == (engine.path_of(1), ["model.rolled_back"])
    assert not list(engine.home.rglob(".retrain-worker.*"))


def test_a_rollback_that_is_not_confirmed_exits_1(engine: SlotHome) -> None:
    done = rolled_back(engine, ENGINE_CONFIRM="event")

    assert (done.returncode, engine.named()) == (1, engine.path_of(1))
    assert "was not seen in service within" in done.stdout


def test_forged_acknowledgements_neither_fail_nor_confirm_a_rollback(
    engine: SlotHome, redis_server: RedisServer
) -> None:
    client, (path, sha256) = redis_server.client(), engine.models[1]
    genuine = {"version": VERSIONS[1], "sha256": sha256, "model_path": str(path), "canary_max_error": 0.0}
    forged: list[dict[str, Any]] = [
        {"note": "\ud800"},
        {"canary_max_error": 10**400},
        {"consumer": "\x1b[2Jengine\nverdict: can be used"},
        {"sha256": "b" * 64},
    ]

    def acknowledge(changes: dict[str, Any]) -> None:
        payload = json.dumps({**genuine, "consumer": "engine", **changes})
        client.xadd("quantum:stream:model.served", {"event_type": "model.served", "payload": payload})

    waiting = subprocess.Popen(
        [*COMMAND, "rollback", "--home", str(engine.home)],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(ENGINE_CONFIRM="event", ENGINE_CONFIRM_TIMEOUT_S=60, REDIS_URL=redis_server.url),
    )
    wait_for(lambda: engine.named() == path, what="the swap")
    for changes in forged:
        acknowledge(changes)
    time.sleep(2)
    assert waiting.poll() is None
    acknowledge({})
    output = waiting.communicate(timeout=PATIENCE_SECONDS)[0]

    assert (waiting.returncode, deployments(engine)[0]["state"]) == (0, "CONFIRMED"), output
    shown = output + "".join(retrain_worker(verb, "--home", engine.home).stdout for verb in ("status", "deployments"))
    assert "follower engine answers" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("version", "spoil", "told"),
    [
        (VERSIONS[2], None, "is in the slot already"),
        ("patchtst_v20990101_000000", None, f"was never in the slot; known versions: {VERSIONS[2]}"),
        (VERSIONS[0], "delete", "does not exist"),
        (VERSIONS[0], "change", "the file was changed"),
    ],
)
def test_an_impossible_rollback_is_refused_with_its_cause_and_changes_nothing(
    engine: SlotHome,
    version: Any,
    spoil: str | None,
    told: str,
) -> None:
    before = engine.env_file.read_bytes()
    model = engine.path_of(0)
    if spoil == "delete":
        model.unlink()
    elif spoil == "change":
        content = bytearray(model.read_bytes())
        content[len(content) // 2] ^= 1
        model.write_bytes(content)
    done = rolled_back(engine, version)

    assert (done.returncode, engine.env_file.read_bytes()) == (11, before)
    assert done.stdout.startswith("nothing was changed: ")
    assert told in done.stdout
    assert (len(deployments(engine)), events_of(engine)) == (3, [])


def test_an_external_change_can_be_rolled_back_with_a_daemon_or_without(
    engine: SlotHome, daemon: Callable[..., Daemon]
) -> None:
    for start in (lambda: None, lambda: daemon(REDIS_URL=REDIS_DOWN)):
        start()
        engine.write_line(engine.path_of(0))
        done = rolled_back(engine)

        assert (done.returncode, engine.named()) == (0, engine.path_of(2)), done.stdout
        assert [one["kind"] for one in deployments(engine)[:2]] == ["rollback", "external"]


def test_an_external_change_is_respected_and_recorded_once_and_can_be_rolled_back(
    engine: SlotHome, daemon: Callable[..., Daemon]
) -> None:
    running = daemon(REDIS_URL=REDIS_DOWN)
    engine.write_line(engine.path_of(0))
    running.wait_for_event("slot_changed_externally")
    time.sleep(3)
    newest = deployments(engine)[0]

    assert engine.named() == engine.path_of(0)
    assert [one["kind"] for one in deployments(engine)].count("external") == 1
    assert (newest["kind"], newest["version"], newest["sha256"]) == ("external", VERSIONS[0], engine.models[0][1])
    assert env_file.parse(engine.env_file.read_bytes())["PATCHTST_MODEL_PATH"] == str(engine.path_of(0))
    assert "model.changed_externally" in events_of(engine)
    assert rolled_back(engine).returncode == 0
    assert engine.named() == engine.path_of(2)
