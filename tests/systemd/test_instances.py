"""Two instances of the template unit beside each other: each has its own state, directories, slot and keys in Redis."""

import json
from collections.abc import Iterator

import pytest

from retrain_worker.domain import env_file
from tests.systemd.conftest import QUICK, SETTINGS, Host

NAMES = ("btc", "eth")
ENGINE_UNIT = """\
[Service]
EnvironmentFile=/etc/quantum/ai-engine-%i.env
ExecStart=/bin/sleep infinity
"""
OWN = "/var/lib/quantum-retraining-worker-{0} /run/quantum-retraining-worker-{0} /data/quantum/*-{0} \
/etc/quantum/*-{0}.* /opt/quantum/ai_engine/models-{0}"


def unit_of(name: str) -> str:
    return f"quantum-retraining-worker@{name}"


@pytest.fixture
def instances(host: Host) -> Iterator[Host]:
    """btc trains and promotes; eth, with a prefix of its own, refuses its data."""
    host.path("/etc/systemd/system/quantum-ai-engine@.service").write_text(ENGINE_UNIT)
    host.systemctl("daemon-reload")
    given = {"btc": {}, "eth": {"REDIS_PREFIX": "second", **QUICK}}
    for name in NAMES:
        settings = {**SETTINGS, "BOOKKEEPING": "false", "ENGINE_CONFIRM": "unit", **given[name]}
        host.path(f"/etc/quantum/retraining-worker-{name}.env").write_text(
            "".join(f"{key}={value}\n" for key, value in settings.items())
        )
        host.path(f"/etc/quantum/retraining-worker-{name}.credentials").mkdir(mode=0o700)
        host.path(f"/etc/quantum/ai-engine-{name}.env").write_text("PATCHTST_SHADOW_ONLY=true\n")
        host.path(f"/opt/quantum/ai_engine/models-{name}").mkdir()
        host.run("retrain-worker", "-i", name, "access", "grant")
        host.systemctl("start", f"quantum-ai-engine@{name}", f"quantum-ai-engine-restart@{name}.path")
    yield host
    units = [f"{unit}@{name}" for name in NAMES for unit in ("quantum-retraining-worker", "quantum-ai-engine")]
    host.systemctl("stop", *units, *(f"quantum-ai-engine-restart@{name}.path" for name in NAMES))
    host.run("retrain-worker", "access", "restore")
    host.shell(f"rm -rf {' '.join(OWN.format(name) for name in NAMES)} /etc/systemd/system/quantum-ai-engine@.service")
    host.run("retrain-worker", "access", "grant")


def status(host: Host, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        host.run("retrain-worker", "-i", name, "status", "--json", check=False).stdout
    )
    return found


def last_outcome(host: Host, name: str) -> object:
    runs = json.loads(host.run("retrain-worker", "history", "-i", name, "--json").stdout)
    return next((run["outcome"] for run in runs if run["finished_at"]), None)


def test_two_instances_have_nothing_in_common_and_one_is_stopped_alone(instances: Host) -> None:
    host = instances
    assert "ready to start" in host.run("retrain-worker", "-i", "btc", "check").stdout
    before = host.show("MainPID", unit="quantum-ai-engine@eth")["MainPID"]
    host.systemctl("enable", "--now", *map(unit_of, NAMES))
    host.wait(lambda: last_outcome(host, "eth"), "the run of eth")
    host.wait(lambda: last_outcome(host, "btc"), "the run of btc")

    assert [last_outcome(host, name) for name in NAMES] == ["PROMOTED", "REFUSED"]
    assert host.outcomes() == [], "the plain unit has not run"
    slots = [env_file.parse(host.path(f"/etc/quantum/ai-engine-{name}.env").read_bytes()) for name in NAMES]
    model = slots[0]["PATCHTST_MODEL_PATH"]
    assert model.startswith("/opt/quantum/ai_engine/models-btc/patchtst_v")
    assert "PATCHTST_MODEL_PATH" not in slots[1]
    assert status(host, "btc")["serving"] == model
    host.wait(
        lambda: model in host.shell("cat /proc/$(systemctl show -P MainPID quantum-ai-engine@btc)/environ"),
        "the restart of btc's engine",
    )
    assert host.show("MainPID", unit="quantum-ai-engine@eth")["MainPID"] == before
    keys = host.run("redis-cli", "--scan").stdout.split()
    assert "quantum:model:patchtst:btc:current" in keys
    assert "second:stream:learning.retraining.failed" in keys
    assert "quantum:stream:learning.retraining.failed" not in keys

    pid = host.show("MainPID", unit=unit_of("eth"))["MainPID"]
    host.systemctl("stop", unit_of("btc"))
    host.systemctl("reload", unit_of("eth"))
    assert (status(host, "btc")["daemon"], status(host, "eth")["daemon"]) == ("not running", "running")
    assert host.show("MainPID", unit=unit_of("eth"))["MainPID"] == pid
    host.systemctl("disable", "quantum-retraining-worker@.service")
    enabled = [host.systemctl("is-enabled", unit_of(name), check=False).stdout.strip() for name in NAMES]
    assert enabled == ["disabled", "disabled"], "what `make uninstall` relies on"
