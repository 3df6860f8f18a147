"""A host laid out as the stack's: its users, directories, modes, env files and units, one of them of our name.

The modes are those of its installer and of the seed document: each service has a user of its own and no common group,
the engine's env file belongs to the group `qt`, models and checkpoints of all services are below /data/quantum.
"""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path

from retrain_worker.demo.market import write_market
from tests.systemd.conftest import PLAIN
from tests.systemd.machine import Machine

NEIGHBOURS = ("quantum-ai-engine", "quantum-strategy-ops", "quantum-rl-sizer", "quantum-retraining-worker", "qt")
SHADOWING_UNIT = "/etc/systemd/system/quantum-retraining-worker.service"
_FOREIGN_VENV = "/opt/quantum/venvs/retraining-worker"
_ROOTS = ("/etc/quantum", "/opt/quantum", "/data", "/var/log/quantum", "/etc/systemd/system")

_FILES = {
    "/etc/quantum/ai-engine.env": "PYTHONPATH=/opt/quantum\nREDIS_HOST=localhost\nAPI_SECRET=abc\n"
    "PATCHTST_SHADOW_ONLY=true\n",
    "/etc/quantum/strategy-ops.env": "MODEL_PATH=/data/quantum/models/strategy_ops\n",
    "/etc/quantum/rl-sizer.env": "MODEL_PATH=/data/quantum/models/rl_sizer\n",
    "/etc/quantum/retraining-worker.env": "REDIS_HOST=localhost\nREDIS_PORT=6379\nREDIS_DB=0\nLOGLEVEL=INFO\n"
    "LOG_FILE=/var/log/quantum/retraining-worker.log\nAI_ENGINE_HOST=localhost\nAI_ENGINE_PORT=8001\n"
    "MODEL_PATH=/data/quantum/models\nCHECKPOINT_PATH=/data/quantum/checkpoints\nRETRAIN_INTERVAL_H=24\n"
    "MAX_EPOCHS=100\nBATCH_SIZE=32\n",
    f"{_FOREIGN_VENV}/bin/python": "#!/bin/sh\nexec sleep infinity\n",
    "/opt/quantum/microservices/training_worker/main.py": "",
    "/data/quantum/models/strategy_ops/weights.json": "{}\n",
    "/data/quantum/models/rl_sizer/ppo_model.pt": "x\n",
    SHADOWING_UNIT: "[Unit]\nDescription=Retraining worker of the stack\n[Service]\nType=simple\n"
    "User=quantum-retraining-worker\nWorkingDirectory=/opt/quantum/microservices/training_worker\n"
    f"ExecStart={_FOREIGN_VENV}/bin/python main.py\nRestart=always\n[Install]\nWantedBy=multi-user.target\n",
    "/etc/systemd/system/quantum-ai-engine.service": "[Unit]\nDescription=AI engine of the stack\n"
    "[Service]\nType=simple\nUser=quantum-ai-engine\nGroup=quantum-ai-engine\nWorkingDirectory=/opt/quantum\n"
    "EnvironmentFile=/etc/quantum/ai-engine.env\nExecStart=/usr/bin/sleep infinity\n"
    "ProtectSystem=strict\nProtectHome=yes\nReadOnlyPaths=/opt/quantum\n[Install]\nWantedBy=multi-user.target\n",
}
_OWNERS = f"""
set -e
for user in {" ".join(NEIGHBOURS)}; do useradd --system $user; done
mkdir -p /data/quantum/runtime /data/quantum/learning /data/quantum/checkpoints /opt/quantum/ai_engine/models
install -d -m 777 /var/log/quantum
chown -R quantum-strategy-ops: /data/quantum/models/strategy_ops
chown -R quantum-rl-sizer: /data/quantum/models/rl_sizer
chmod 755 {_FOREIGN_VENV}/bin/python
chgrp qt /etc/quantum /etc/quantum/ai-engine.env
chmod 750 /etc/quantum
chmod 640 /etc/quantum/*.env
systemctl daemon-reload
systemctl enable --now quantum-ai-engine quantum-retraining-worker
"""
#: prints what the user who runs it may do with each path
_RIGHTS = """
import os, sys
for root in sys.argv[1:]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name != "present"]
        for path in [folder] + [os.path.join(folder, name) for name in files]:
            print(path, "".join(c if os.access(path, m) else "-" for c, m in (("r", 4), ("w", 2), ("x", 1))))
"""


def write_stack(machine: Machine) -> None:
    """Files of the stack, before the machine boots."""
    for name, content in _FILES.items():
        machine.path(name).parent.mkdir(parents=True, exist_ok=True)
        machine.path(name).write_text(content)
    data = machine.path("/opt/quantum/data")
    data.mkdir(parents=True)
    write_market(data / "quantum_trader.db", seed=11, end=datetime.now(UTC), rows=4_000, regime=PLAIN)


def start_stack(machine: Machine) -> None:
    """Its users and modes, and its units, started."""
    machine.shell(_OWNERS)


def permissions(machine: Machine) -> dict[str, str]:
    """Owner, mode and access control lists of everything that belongs to the stack."""
    found = {}
    for root in _ROOTS:
        for folder, folders, files in os.walk(machine.path(root)):
            # the packages that the tests lend to the machine
            folders[:] = [name for name in folders if name != "present"]
            for path in (Path(folder), *(Path(folder, name) for name in files)):
                if not path.is_symlink():
                    found["/" + str(path.relative_to(machine.root))] = _permissions_of(path)
    return found


def rights(machine: Machine) -> dict[str, str]:
    """`user path` -> what each neighbour may do there, of what `permissions` lists."""
    return {
        f"{user} {path}": allowed
        for user in NEIGHBOURS
        for line in machine.run(
            *("setpriv", "--reuid", user, "--regid", user, "--init-groups", "python3", "-c", _RIGHTS, *_ROOTS[:4])
        ).stdout.splitlines()
        for path, allowed in [line.rsplit(" ", 1)]
    }


def _permissions_of(path: Path) -> str:
    found = path.stat()
    lists = []
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        with contextlib.suppress(OSError):
            lists.append(f"{name} {os.getxattr(path, name).hex()}")
    return " ".join((f"{found.st_uid}:{found.st_gid} {found.st_mode & 0o7777:04o}", *lists))
