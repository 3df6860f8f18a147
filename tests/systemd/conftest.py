"""One disposable machine for all of these tests, installed by `make install`; each test gets a fresh service on it."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pytest

from retrain_worker.demo.market import write_market
from retrain_worker.demo.regime import Regime
from tests.systemd.machine import VENV, Machine, why_not

UNIT = "quantum-retraining-worker"
DROP_INS = f"/run/systemd/system/{UNIT}.service.d"
#: long, because a host may be busy with other tests; nothing but a failure waits for so long
PATIENCE_SECONDS = 480.0
_TEST_SECONDS = 1800
#: a market that three epochs are enough for
PLAIN = Regime(strength=1.0, lag=1, win_good=0.93, win_bad=0.08)
SETTINGS = {
    "PRESET": "paper",
    "MAX_EPOCHS": 3,
    "SEQ_LEN": 32,
    "PROBATION_HOURS": 0,
    "MIN_NEW_SAMPLES": 100,
    "ENGINE_CONFIRM_TIMEOUT_S": 90,
    "REDIS_HOST": "localhost",
}
#: the first run, which comes by itself, ends at the audit, before PyTorch is loaded
QUICK = {"MIN_SAMPLES": 1_000_000}
ENGINE_UNIT = f"""\
[Unit]
Description=Stand-in for the AI engine
[Service]
User=quantum-engine
Group=quantum
EnvironmentFile=/etc/quantum/ai-engine.env
ExecStart={VENV}/bin/python -m retrain_worker.demo.engine --env-file /etc/quantum/ai-engine.env \
--redis-url redis://localhost:6379/0 --db /opt/quantum/data/quantum_trader.db --log /run/quantum-engine/diary
RuntimeDirectory=quantum-engine
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_not()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.systemd)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(_TEST_SECONDS))
            if reason:
                item.add_marker(pytest.mark.skip(reason=f"no disposable machine: {reason}"))


FoundT = TypeVar("FoundT")


@dataclass
class Host:
    """The machine with the service on it, as an operator uses it."""

    machine: Machine
    began_at: str = ""

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.machine.run(*command, check=check)

    def shell(self, script: str, *, check: bool = True) -> str:
        return self.machine.shell(script, check=check)

    def systemctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.machine.run("systemctl", *arguments, check=check)

    def path(self, inside: str) -> Path:
        return self.machine.path(inside)

    def settings(self, **changed: object) -> None:
        values = {**SETTINGS, **changed}
        self.path("/etc/quantum/retraining-worker.env").write_text(
            "".join(f"{name}={value}\n" for name, value in values.items())
        )

    def drop_in(self, *lines: str) -> None:
        """What the unit has beside its own lines, until the next fresh start."""
        # /run is a file system of the machine's own, not seen through its root
        content = "\\n".join(["[Service]", *lines, ""])
        self.shell(f"mkdir -p {DROP_INS}; printf '{content}' >{DROP_INS}/test.conf; systemctl daemon-reload")

    def install(self) -> None:
        """What `make install` does on a host whose packages are there."""
        self.machine.prepare_environment()
        self.machine.make("install")

    def fresh(self, **settings: object) -> None:
        """The service installed and stopped, its memory empty, no model in the slot, Redis empty."""
        if not self.path(f"/usr/local/lib/systemd/system/{UNIT}.service").exists():
            self.install()  # the test before has removed it
        self.systemctl(
            "stop", UNIT, "quantum-ai-engine", "quantum-ai-engine-restart.path", "quantum-ai-engine-restart.service"
        )
        self.systemctl("reset-failed")
        self.shell(
            f"rm -rf {DROP_INS} /var/lib/quantum-retraining-worker /data/quantum/models/runs/* "
            "/data/quantum/checkpoints/runs/* /opt/quantum/ai_engine/models/* /run/quantum-retraining-worker/* "
            "/etc/quantum/ai-engine.env.bak*"
        )
        self.shell("printf 'OTHER=1\\nPATCHTST_SHADOW_ONLY=true\\n' >/etc/quantum/ai-engine.env")
        self.systemctl("daemon-reload")
        self.systemctl("start", "redis-server", "quantum-ai-engine-restart.path")
        self.run("redis-cli", "flushall")
        self.settings(**settings)
        # a cursor of the journal: later assertions are about what comes after it
        self.shell("journalctl --sync")
        self.began_at = self.shell("journalctl -n 0 --show-cursor -q").partition("cursor: ")[2].strip()

    def show(self, *names: str, unit: str = UNIT) -> dict[str, str]:
        shown = self.systemctl("show", "-p", ",".join(names), unit).stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    def status_text(self) -> str:
        return self.show("StatusText")["StatusText"]

    def main_pid(self) -> int:
        return int(self.show("MainPID")["MainPID"])

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """The entries since `fresh`, of the service or of whatever is asked for."""
        self.shell("journalctl --sync")
        if not any("=" in match or match == "-u" for match in matches):
            matches = ("-u", UNIT, *matches)
        # not --after-cursor: with a match, systemd 252 then leaves out the first entry that fits
        found = self.run("journalctl", "-o", "json", "--cursor", self.began_at, *matches, check=False).stdout
        entries = [json.loads(line) for line in found.splitlines() if line.startswith("{")]
        return [entry for entry in entries if entry["__CURSOR"] != self.began_at]

    def messages(self, *matches: str) -> list[str]:
        return [str(entry["MESSAGE"]) for entry in self.journal(*matches)]

    def wait_message(self, part: str, *matches: str) -> None:
        """The daemon's log is written by a thread of its own, maybe after what it tells of."""
        self.wait(lambda: any(part in said for said in self.messages(*matches)), f"a message with {part!r}")

    def state(self, query: str) -> list[tuple[Any, ...]]:
        """What the service's own database says; nothing while there is none."""
        database = self.path("/var/lib/quantum-retraining-worker/state.db")
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(
                sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, timeout=5.0)
            ) as connection,
        ):
            return connection.execute(query).fetchall()
        return []

    def stage(self) -> str:
        """Where the run under way is."""
        found = self.state("SELECT stage FROM runs WHERE finished_at IS NULL")
        return found[0][0] if found else ""

    def outcomes(self) -> list[str]:
        """How runs have ended, the oldest first."""
        return [
            outcome
            for (outcome,) in self.state("SELECT outcome FROM runs WHERE finished_at IS NOT NULL ORDER BY created_at")
        ]

    def workers(self) -> list[int]:
        """The processes of the service besides its main one, as numbers inside."""
        main = self.main_pid()
        groups = self.shell(
            f"cat /sys/fs/cgroup/unified/system.slice/{UNIT}.service/cgroup.procs "
            f"/sys/fs/cgroup/system.slice/{UNIT}.service/cgroup.procs 2>/dev/null",
            check=False,
        )
        return [int(pid) for pid in groups.split() if int(pid) not in (main, 0)]

    def worker_of(self, stage: str) -> int | None:
        """The worker process that works at a stage; others may write pages meanwhile."""
        request = f"/{stage.lower()}."
        commands = {pid: self.shell(f"cat /proc/{pid}/cmdline", check=False) for pid in self.workers()}
        return next((pid for pid, command in commands.items() if request in command), None)

    def wait(self, condition: Callable[[], FoundT | None], what: str) -> FoundT:
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            if found := condition():
                return found
            time.sleep(0.02)
        story = self.shell(f"systemctl status {UNIT} --no-pager; journalctl -u {UNIT} -n 40 --no-pager", check=False)
        pytest.fail(f"waited in vain for {what}\n{story}")

    def wait_stage(self, stage: str) -> None:
        self.wait(lambda: self.stage() == stage, stage)

    def wait_status(self, pattern: str) -> str:
        return self.wait(
            lambda: (text := self.status_text()) and re.search(pattern, text) and text, f"a status like {pattern!r}"
        )

    def wait_outcome(self, number: int = 1) -> str:
        return self.wait(lambda: (ended := self.outcomes())[number - 1 : number], f"the end of run {number}")[0]


@pytest.fixture(scope="session")
def installed() -> Iterator[Host]:
    """The machine, booted, with everything that the service's neighbours would have made."""
    machine = Machine()
    try:
        write_neighbours(machine)
        machine.boot()
        machine.run("useradd", "--system", "quantum-engine")
        host = Host(machine)
        host.install()
        machine.shell("chgrp -R quantum /opt/quantum/data; chmod 2775 /opt/quantum/data; chmod g+w /opt/quantum/data/*")
        yield host
    finally:
        machine.remove()


@pytest.fixture
def host(installed: Host) -> Host:
    installed.fresh()
    return installed


def write_neighbours(machine: Machine) -> None:
    """The trading database, and a stand-in for the engine: its unit, its env file, its directory of models."""
    machine.path("/opt/quantum/ai_engine/models").mkdir(parents=True)
    machine.path("/etc/quantum").mkdir()
    machine.path("/etc/quantum/ai-engine.env").write_text("PATCHTST_SHADOW_ONLY=true\n")
    data = machine.path("/opt/quantum/data")
    data.mkdir(parents=True)
    write_market(data / "quantum_trader.db", seed=11, end=datetime.now(UTC), rows=4_000, regime=PLAIN)
    machine.path("/etc/systemd/system/quantum-ai-engine.service").write_text(ENGINE_UNIT)
