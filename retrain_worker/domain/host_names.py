"""Default files, directories and units of a worker on a host; each instance of the template unit has its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from retrain_worker.domain.artifact import ENGINE_MODELS_DIR

#: in the environment of a process that was started for an instance, and of its workers
INSTANCE_VARIABLE = "RETRAIN_WORKER_INSTANCE"


def command() -> str:
    """How an operator addresses the worker that this process belongs to, for messages that name a verb."""
    return HostNames(instance=os.environ.get(INSTANCE_VARIABLE, "")).command


@dataclass(frozen=True, kw_only=True)
class HostNames:
    """What systemd/instance.sed puts into the template units; every default that is written has the instance's name."""

    #: of quantum-retraining-worker@INSTANCE.service; empty: quantum-retraining-worker.service
    instance: str = ""

    @property
    def service(self) -> str:
        """The unit of the daemon."""
        return f"quantum-retraining-worker{self._unit_suffix}.service"

    @property
    def restart_path_unit(self) -> str:
        """The unit that watches for swaps."""
        return f"quantum-ai-engine-restart{self._unit_suffix}.path"

    @property
    def engine_unit(self) -> str:
        """The unit of the engine."""
        return f"quantum-ai-engine{self._unit_suffix}.service"

    @property
    def command(self) -> str:
        """How an operator addresses this worker."""
        return f"retrain-worker -i {self.instance}" if self.instance else "retrain-worker"

    @property
    def env_file(self) -> Path:
        """The settings."""
        return Path(f"/etc/quantum/retraining-worker{self._suffix}.env")

    @property
    def credentials(self) -> Path:
        """The directory of the settings that are secrets."""
        return Path(f"/etc/quantum/retraining-worker{self._suffix}.credentials")

    @property
    def engine_env_file(self) -> str:
        """The file with the slot."""
        return f"/etc/quantum/ai-engine{self._suffix}.env"

    @property
    def engine_models_dir(self) -> str:
        """Where the engine looks for models."""
        return f"{ENGINE_MODELS_DIR}{self._suffix}"

    @property
    def model_path(self) -> str:
        """Run folders and candidates."""
        return f"/data/quantum/models{self._suffix}"

    @property
    def checkpoint_path(self) -> str:
        """Training checkpoints."""
        return f"/data/quantum/checkpoints{self._suffix}"

    @property
    def state_path(self) -> str:
        """StateDirectory= of the unit."""
        return f"/var/lib/quantum-retraining-worker{self._suffix}"

    @property
    def runtime_path(self) -> str:
        """RuntimeDirectory= of the unit."""
        return f"/run/quantum-retraining-worker{self._suffix}"

    @property
    def _suffix(self) -> str:
        return f"-{self.instance}" if self.instance else ""

    @property
    def _unit_suffix(self) -> str:
        return f"@{self.instance}" if self.instance else ""
