"""Installed beside the stack, on a host laid out as its own: neighbours keep their access, and get everything back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from retrain_worker.domain import env_file
from tests.systemd import seed_host
from tests.systemd.conftest import SETTINGS, UNIT, Host
from tests.systemd.machine import SOURCE, VENV, Machine

ENGINE_ENV = "/etc/quantum/ai-engine.env"
SERVICE_ENV = "/etc/quantum/retraining-worker.env"
#: what the swap needs of places that existed before
GRANTED = {"/etc/quantum", ENGINE_ENV, SERVICE_ENV, "/opt/quantum/ai_engine/models"}
ADDED = (
    "/data/quantum/models/runs",
    "/data/quantum/checkpoints/runs",
    "/etc/quantum/retraining-worker.credentials",
    "/etc/systemd/system/quantum-ai-engine.service.d",
    f"/etc/systemd/system/{UNIT}.service.d",
)
CONFIRMED_BY_UNIT = {**SETTINGS, "BATCH_SIZE": 128, "ENGINE_CONFIRM": "unit", "BOOKKEEPING": "false"}


@dataclass
class SeedHost(Host):
    """The stack's host, and what was where before the installation."""

    before: dict[str, str] = field(default_factory=dict)
    rights_before: dict[str, str] = field(default_factory=dict)
    said_by_install: str = ""

    def append_settings(self, **values: object) -> None:
        """Settings added to those of the stack's template; the later line counts."""
        with self.path(SERVICE_ENV).open("a") as file:
            file.write("".join(f"{name}={value}\n" for name, value in values.items()))

    def check(self, *prefix: str) -> str:
        """What `check` prints, and how it ends."""
        done = self.run(*prefix, "retrain-worker", "check", check=False)
        return f"{done.stdout}{done.stderr}rc {done.returncode}"


@pytest.fixture(scope="module")
def seed() -> Iterator[SeedHost]:
    machine = Machine()
    try:
        seed_host.write_stack(machine)
        machine.boot()
        seed_host.start_stack(machine)
        machine.prepare_environment()
        before, rights_before = seed_host.permissions(machine), seed_host.rights(machine)
        done = machine.make("install")
        said = f"{done.stdout}{done.stderr}"
        seed = SeedHost(machine, before=before, rights_before=rights_before, said_by_install=said)
        # the stack has enabled the service: it starts at the next boot
        seed.append_settings(**CONFIRMED_BY_UNIT)
        yield seed
    finally:
        machine.remove()


def check_neighbours(seed: SeedHost) -> None:
    """Nobody's access has changed, and nothing else than what was granted and added has another owner or mode."""
    now = seed_host.permissions(seed.machine)
    changed = {path for path in seed.before.keys() | now.keys() if seed.before.get(path) != now.get(path)}
    ours = {path for path in changed if path.startswith(ADDED) or ".env.bak-" in path or "/patchtst_v" in path}

    assert changed - ours <= GRANTED
    rights = seed_host.rights(seed.machine)
    assert {key: rights.get(key) for key in seed.rights_before} == seed.rights_before


def test_the_unit_of_the_stack_is_named_with_the_command_that_retires_it_and_its_venv_is_left_alone(
    seed: SeedHost,
) -> None:
    assert f"PROBLEM unit             {seed_host.SHADOWING_UNIT} takes precedence" in seed.said_by_install
    assert seed.show("FragmentPath")["FragmentPath"] == seed_host.SHADOWING_UNIT
    assert seed.show("ActiveState")["ActiveState"] == "active", "the stack's own service goes on"
    assert "PROBLEM unit" in seed.check()
    assert seed.path("/opt/quantum/venvs/retraining-worker/bin/python").read_text().startswith("#!/bin/sh")
    remedy = next(line for line in seed.said_by_install.splitlines() if "-> sudo systemctl stop" in line)
    seed.shell(remedy.partition("-> ")[2].replace("sudo ", ""))
    seed.before[f"{seed_host.SHADOWING_UNIT}.retired"] = seed.before.pop(seed_host.SHADOWING_UNIT)

    assert seed.show("FragmentPath")["FragmentPath"] == f"/usr/local/lib/systemd/system/{UNIT}.service"
    assert seed.path(f"{seed_host.SHADOWING_UNIT}.retired").exists()
    assert "runs this installation" in seed.run("retrain-worker", "check", "--unit").stdout


def test_the_neighbours_keep_their_access_after_the_installation_and_after_a_boot(seed: SeedHost) -> None:
    check_neighbours(seed)
    seed.machine.power_cut()
    seed.machine.boot()
    check_neighbours(seed)
    seed.shell("runuser -u quantum-strategy-ops -- touch /data/quantum/models/strategy_ops/new_weights")
    seed.path("/data/quantum/models/strategy_ops/new_weights").unlink()


def test_the_first_model_is_promoted_confirmed_by_the_unit_and_rolled_back(seed: SeedHost) -> None:
    seed.systemctl("start", "redis-server", "quantum-ai-engine")
    assert seed.check().endswith("ready to start\nrc 0")
    seed.systemctl("enable", "--now", UNIT, "quantum-ai-engine-restart.path")
    assert seed.wait_outcome() == "PROMOTED"
    assert seed.state("SELECT state FROM deployments WHERE kind = 'promote'") == [("CONFIRMED",)]
    check_neighbours(seed)
    engine = seed.show("MainPID", unit="quantum-ai-engine")["MainPID"]
    environment = seed.shell(f"tr '\\0' '\\n' </proc/{engine}/environ").splitlines()
    assert "PYTHONPATH=/opt/quantum" in environment
    assert any(line.startswith("PATCHTST_MODEL_PATH=") for line in environment)

    seed.run("retrain-worker", "rollback", "--to-none", "--pause", "--for", "3d", "--reason", "loses money")
    assert "PATCHTST_MODEL_PATH" not in env_file.parse(seed.path(ENGINE_ENV).read_bytes())
    assert seed.outcomes() == ["ROLLED_BACK"]
    check_neighbours(seed)


def test_a_pause_holds_the_run_of_the_next_day_and_a_run_after_it_is_promoted(seed: SeedHost) -> None:
    seed.append_settings(RETRAIN_INTERVAL_H=0.001)  # the next run is due
    seed.systemctl("restart", UNIT)
    seed.wait_status(r"paused until .*loses money")
    assert "paused" in seed.run("retrain-worker", "status").stdout
    seed.shell("sleep 10")
    assert seed.outcomes() == ["ROLLED_BACK"]

    seed.append_settings(RETRAIN_INTERVAL_H=24)
    seed.systemctl("reload", UNIT)
    seed.run("retrain-worker", "resume")
    seed.run("retrain-worker", "trigger", "--force", "--reason", "after the pause")
    assert seed.wait_outcome(2) == "PROMOTED"
    assert "PATCHTST_MODEL_PATH" in env_file.parse(seed.path(ENGINE_ENV).read_bytes())
    check_neighbours(seed)
    seed.run("retrain-worker", "rollback", "--to-none", "--reason", "end of the test")


def test_no_value_but_the_one_of_root_reaches_the_engine(seed: SeedHost) -> None:
    before = seed.path(ENGINE_ENV).read_text()
    try:
        seed.path(ENGINE_ENV).write_text(f"{before}LD_PRELOAD=/tmp/x.so\nPYTHONPATH=/tmp\nPATH=/tmp\nBASH_ENV=/tmp/x\n")
        seed.systemctl("restart", "quantum-ai-engine")
        engine = seed.show("MainPID", unit="quantum-ai-engine")["MainPID"]
        # until it has executed the program, its environment is that of the service manager
        seed.wait(lambda: "/usr/bin/sleep" in seed.shell(f"cat /proc/{engine}/cmdline"), "the engine's program")
        environment = seed.shell(f"tr '\\0' '\\n' </proc/{engine}/environ").splitlines()
    finally:
        seed.path(ENGINE_ENV).write_text(before)

    assert not [line for line in environment if "/tmp" in line]
    assert "PYTHONPATH=/opt/quantum" in environment


WRONG_HOSTS = {
    "models on a file system that the unit may not write to": (
        "mkdir -p /mnt/models; echo MODEL_PATH=/mnt/models >>$env",
        ("read-only for the service", "ReadWritePaths=%s"),
    ),
    "a path that no env file takes": (
        "install -d -o quantum-retrain '/data/quantum/modèles x'; "
        "echo 'ENGINE_MODELS_DIR=\"/data/quantum/modèles x\"' >>$env",
        ("cannot be written to an env file", "not ready"),
    ),
    "an empty database": (
        "touch /data/empty.db; echo DB_PATH=/data/empty.db >>$env",
        ("PROBLEM database", "not ready"),
    ),
    "a database that ProtectHome hides": (
        "mkdir -p /home/qt/data; cp /opt/quantum/data/quantum_trader.db /home/qt/data; "
        "echo DB_PATH=/home/qt/data/quantum_trader.db >>$env",
        ("PROBLEM database", "ProtectHome="),
    ),
    "rows that no run can use": ("echo MIN_SAMPLES=1000000 >>$env", ("PROBLEM data", "not ready")),
    "bookkeeping in a database that the service may not write to": (
        "echo BOOKKEEPING=true >>$env",
        ("warning bookkeeping", "BOOKKEEPING=false"),
    ),
    "the installer of the stack has run again": (
        "chmod -R 750 /etc/quantum; chmod 640 /etc/quantum/*.env",
        ("not writable for quantum-retrain", "retrain-worker access grant"),
    ),
    "a confirmation that cannot happen": (
        "printf 'ENGINE_CONFIRM=unit\\nENGINE_UNIT=ai.service\\n' >>$env",
        ("systemd knows no ai.service",),
    ),
    "an engine that cannot read its models": (
        "mkdir -p /run/systemd/system/quantum-ai-engine.service.d; "
        "printf '[Service]\\nInaccessiblePaths=/opt/quantum/ai_engine\\n' "
        ">/run/systemd/system/quantum-ai-engine.service.d/hide.conf; systemctl daemon-reload",
        ("quantum-ai-engine, in the sandbox of quantum-ai-engine.service, cannot read", "not ready"),
    ),
    "code for the engine in its env file": (
        "echo PYTHONPATH=/tmp >>/etc/quantum/ai-engine.env",
        ("sets PYTHONPATH, which the engine does not get", "not ready"),
    ),
    "no restart of the engine": (
        "systemctl stop quantum-ai-engine-restart.path",
        ("a swap does not restart the engine", "systemctl enable --now quantum-ai-engine-restart.path"),
    ),
}


@pytest.mark.parametrize("name", WRONG_HOSTS)
def test_check_names_what_is_wrong_with_the_host(seed: SeedHost, name: str) -> None:
    script, expected = WRONG_HOSTS[name]
    written = {path: seed.path(path).read_bytes() for path in (SERVICE_ENV, ENGINE_ENV)}
    seed.shell(f"env={SERVICE_ENV}; {script}")
    try:
        found = seed.check()
    finally:
        for path, content in written.items():
            seed.path(path).write_bytes(content)
        seed.shell(
            "rm -rf /run/systemd/system/quantum-ai-engine.service.d /mnt/models /data/empty.db /home/qt/data "
            "'/data/quantum/modèles x'; systemctl daemon-reload; systemctl start quantum-ai-engine-restart.path; "
            "retrain-worker access grant"
        )

    print(found)
    assert all(part in found for part in expected), found


def test_check_names_a_setting_that_differs_between_the_service_and_the_shell(seed: SeedHost) -> None:
    assert "STAGE_DEADLINE_MIN is not set for the service and 5 in this shell" in seed.check(
        "env", "STAGE_DEADLINE_MIN=5"
    )
    assert "this shell" not in seed.check()


def test_a_wrong_setting_blocks_no_rescue(seed: SeedHost) -> None:
    written = seed.path(SERVICE_ENV).read_bytes()
    seed.append_settings(MIN_SAMPLES="plenty", LABEL="up")
    try:
        assert seed.run("retrain-worker", "run", check=False).returncode == 78
        for verb in ("status", "history", "deployments"):
            done = seed.run("retrain-worker", verb)
            assert 'MIN_SAMPLES: "plenty"' in done.stderr
        (version,) = seed.state("SELECT version FROM deployments WHERE kind = 'promote'")[0]
        seed.run("retrain-worker", "rollback", version, "--reason", "a wrong setting does not block this")
    finally:
        seed.path(SERVICE_ENV).write_bytes(written)
    assert version in seed.path(ENGINE_ENV).read_text()


def test_rollback_trigger_and_promote_work_for_a_uid_without_a_passwd_entry(seed: SeedHost) -> None:
    seed.shell(
        "systemctl stop quantum-retraining-worker; mkdir -p /tmp/home; "
        "cp -r /var/lib/quantum-retraining-worker /tmp/home/state; rm -f /tmp/home/state/lock*; "
        "mkdir -p /tmp/home/engine; printf 'PATCHTST_SHADOW_ONLY=true\\n' >/tmp/home/engine/ai-engine.env; "
        "chown -R 54321:54321 /tmp/home"
    )
    someone = ("setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", "env", "-u", "HOME")
    home = ("--home", "/tmp/home", "--reason", "test")
    (run_id,) = seed.state("SELECT run_id FROM runs")[0]
    done = [
        seed.run(*someone, "retrain-worker", *verb, *home, check=False) for verb in (("rollback",), ("promote", run_id))
    ]
    triggered = seed.run(*someone, "env", "REDIS_HOST=localhost", "retrain-worker", "trigger", *home)

    assert "retrain request added" in triggered.stdout
    assert b"54321" in seed.run("redis-cli", "xrevrange", "quantum:stream:model.retrain", "+", "-").stdout.encode()
    for each in done:
        assert each.returncode in (0, 11), each
        assert "Traceback" not in each.stderr


def test_everything_is_as_it_was_after_the_package_was_installed_unattended_and_purged(seed: SeedHost) -> None:
    package = seed.machine.build_package()
    seed.machine.make("uninstall")
    check_restored(seed)

    seed.machine.prepare_environment()
    done = seed.machine.offline("env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--install", package)
    assert "conffile" not in done.stdout + done.stderr
    assert "runs this installation" in done.stdout
    check_neighbours(seed)
    seed.run("dpkg", "--purge", "retrain-worker")
    check_restored(seed)
    assert not os.path.lexists(seed.path("/opt/retrain-worker"))


def check_restored(seed: SeedHost) -> None:
    now = seed_host.permissions(seed.machine)
    assert {path: now.get(path) for path in seed.before} == seed.before
    assert seed_host.rights(seed.machine).items() >= seed.rights_before.items()
    assert not seed.path(f"/etc/systemd/system/{UNIT}.service.d").exists()
    assert not seed.path("/etc/systemd/system/quantum-ai-engine.service.d").exists()
    assert not seed.path("/var/lib/retrain-worker/access.json").exists()


def test_an_installation_without_a_service_manager_and_beside_a_foreign_environment(seed: SeedHost) -> None:
    """In a chroot there is no /run/systemd/system; an environment of somebody else is not installed over."""
    seed.machine.prepare_environment()
    chroot = "unshare --mount sh -c 'mount -t tmpfs none /run && make -C {} install'"
    done = seed.machine.offline("sh", "-c", chroot.format(SOURCE))
    assert "installed; next" in done.stdout
    seed.path(f"{VENV}/.retrain-worker").unlink()
    refused = seed.run("make", "-C", SOURCE, "install", check=False)
    assert refused.returncode != 0
    assert f"{VENV} was not made by this program" in refused.stderr
