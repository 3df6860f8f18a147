"""Restarts the engine's unit after a swap, as root: believes nobody, looks at env line and model itself first.

Whoever writes the trigger file can only make it look again; the content of that file is never read.
"""

from __future__ import annotations

import os
import stat
import subprocess
import time
from pathlib import Path

from retrain_worker import durable_file
from retrain_worker.adapters.model_slot import ModelSlot, is_published
from retrain_worker.domain import env_file
from retrain_worker.domain.artifact import checksum_file, checksum_line
from retrain_worker.errors import ArtifactError, SlotError

#: names that change what a program loads before its first line
_LOADER_NAMES = frozenset(
    {
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "LD_AUDIT",
        "LD_DEBUG",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONSTARTUP",
        "PYTHONINSPECT",
    }
)
_ATTEMPTS = 5
_SETTLE_SECONDS = 2.0
_SYSTEMCTL_SECONDS = 90


class EngineRestart:
    """The engine's unit and its slot."""

    def __init__(self, *, engine_models_dir: Path, engine_env_file: Path, unit: str) -> None:
        self._models_dir = engine_models_dir
        self._env_file = engine_env_file
        self._unit = unit
        self._slot = ModelSlot(engine_models_dir=engine_models_dir, engine_env_file=engine_env_file, trigger_file=None)

    def restart(self) -> str:
        """Restart the unit if it is at work; one sentence. Raises SlotError or ArtifactError, and then did nothing.

        A swap while the unit restarts would be missed by the path unit, so the env line is read again afterwards.
        """
        for _ in range(_ATTEMPTS):
            model = self._sound_model()
            name = model.name if model else "no model"
            if not self._is_at_work():
                return f"{self._unit} is not at work; it takes {name} when it is started"
            if self._systemctl("try-restart", self._unit)[0] != 0 or not self._stays_active():
                raise SlotError(
                    "it does not come up with the new model",
                    where=self._unit,
                    remedy=f"see journalctl -u {self._unit}; retrain-worker rollback returns the old model",
                )
            if self._slot.current_path() == model:
                return f"{self._unit} was restarted with {name}"
        raise SlotError(
            f"the env line changed {_ATTEMPTS} times during a restart",
            where=str(self._env_file),
            remedy="see who writes it",
        )

    def _sound_model(self) -> Path | None:
        """The model that the env line names, if everything about it is as it must be; None: it names none any more."""
        loads = _LOADER_NAMES & set(env_file.parse(self._env_file.read_bytes()))
        if loads:
            raise SlotError(
                f"{', '.join(sorted(loads))} must not stand in this file",
                where=str(self._env_file),
                remedy="remove the line; see who has written it",
            )
        model = self._slot.current_path()
        if model is None:
            return None
        if model.parent != self._models_dir:
            raise SlotError(
                f"{model} does not lie in {self._models_dir}",
                where=str(self._env_file),
                remedy="correct PATCHTST_MODEL_PATH, or ENGINE_MODELS_DIR",
            )
        with durable_file.named_errors(model, doing="read"):
            fd = durable_file.open_unfollowed(model)
            is_regular = stat.S_ISREG(os.fstat(fd).st_mode)
            os.close(fd)
            if not is_regular:
                raise SlotError("not a regular file", where=str(model), remedy="see who put it there")
            self._check_sum(model)
        return model

    @staticmethod
    def _check_sum(model: Path) -> None:
        """A model of ours has its checksum beside it; one that somebody else put there may have none."""
        beside = checksum_file(model)
        if not beside.exists() and not is_published(model):
            return
        if beside.read_bytes() != checksum_line(model, durable_file.sha256_of(model)).encode():
            raise ArtifactError(
                f"its sha256 is not the one in {beside.name}",
                where=str(model),
                remedy="retrain-worker rollback returns the model before it",
            )

    def _is_at_work(self) -> bool:
        """Also while it starts: it has read the env file then, maybe before the swap."""
        return self._systemctl("is-active", self._unit)[1] in {"active", "reloading", "activating"}

    def _stays_active(self) -> bool:
        time.sleep(_SETTLE_SECONDS)
        return self._systemctl("is-active", self._unit)[1] == "active"

    def _systemctl(self, *arguments: str) -> tuple[int, str]:
        """Exit status, and what it said."""
        command = ["systemctl", *arguments]
        try:
            done = subprocess.run(command, timeout=_SYSTEMCTL_SECONDS, check=False, stdout=subprocess.PIPE, text=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise SlotError(
                f"systemctl {arguments[0]} does not answer", where=self._unit, remedy="restart the engine by hand"
            ) from error
        return done.returncode, done.stdout.strip()
