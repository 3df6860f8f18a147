"""Restarts the engine's unit after a swap, as root, after it has verified env line and model itself.

The content of the trigger file is never read: writing that file can only cause another verification.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from retrain_worker import durable_file
from retrain_worker.adapters import engine_environment
from retrain_worker.adapters.model_slot import ModelSlot, is_published
from retrain_worker.domain.artifact import checksum_file, checksum_line
from retrain_worker.domain.host_names import command
from retrain_worker.errors import ArtifactError, SlotError
from retrain_worker.signing import Verifier

_ATTEMPTS = 5
_SETTLE_SECONDS = 2.0
_SYSTEMCTL_SECONDS = 90
#: of files that the service's user may write; the largest model of the stack has 2.4 MB
_MAX_MODEL_BYTES, _MAX_CHECKSUM_BYTES = 512 << 20, 4096


class EngineRestart:
    """Verifies the slot and restarts the unit."""

    def __init__(
        self, *, engine_models_dir: Path, engine_env_file: Path, unit: str, verifier: Verifier | None = None
    ) -> None:
        """`verifier`: only a model that one of its keys has signed; None: any."""
        self._verifier = verifier
        self._models_dir = engine_models_dir
        self._env_file = engine_env_file
        self._unit = unit
        self._slot = ModelSlot(engine_models_dir=engine_models_dir, engine_env_file=engine_env_file, trigger_file=None)

    def restart(self) -> str:
        """Restart the unit if it is running; a message. Raises SlotError or ArtifactError.

        The path unit would miss a swap during the restart, so the env line is read again afterwards.
        """
        for _ in range(_ATTEMPTS):
            model = self._verified_model()
            name = model.name if model else "no model"
            if not self._is_running():
                return f"{self._unit} is not running; it loads {name} at its next start"
            if self._systemctl("try-restart", self._unit)[0] != 0 or not self._stays_active():
                raise SlotError(
                    f"the unit does not stay active with {name}",
                    where=self._unit,
                    remedy=f"see journalctl -u {self._unit}; {command()} rollback returns the previous model",
                )
            if self._slot.current_path() == model:
                return f"{self._unit} was restarted with {name}"
        raise SlotError(
            f"the env line changed {_ATTEMPTS} times during a restart",
            where=str(self._env_file),
            remedy="check which process writes it",
        )

    def _verified_model(self) -> Path | None:
        """The model that the env line names, verified; None: it names none. Raises SlotError, ArtifactError."""
        with _reading(self._env_file):
            refused = engine_environment.refused_names(self._unit, self._env_file)
        if refused:
            raise SlotError(
                f"{', '.join(refused)} must not be set in this file",
                where=str(self._env_file),
                remedy=f"remove the line and check which process has written it; if it is right, add it to "
                f"{engine_environment.kept_file(self._unit)}",
            )
        model = self._slot.current_path()
        if model is None:
            return None
        if model.parent != self._models_dir:
            raise SlotError(
                f"{model} is not in {self._models_dir}",
                where=str(self._env_file),
                remedy="correct PATCHTST_MODEL_PATH, or ENGINE_MODELS_DIR",
            )
        self._check_sum(model)
        return model

    def _check_sum(self, model: Path) -> None:
        """A model that this program has published has a checksum file; an external one may have none."""
        with _reading(model):
            sha256 = durable_file.sha256_of_regular(model, _MAX_MODEL_BYTES)
        if self._verifier is not None:
            self._verifier.check_model(model, sha256)
        checksum = checksum_file(model)
        with _reading(checksum):
            try:
                found = durable_file.read_regular(checksum, _MAX_CHECKSUM_BYTES, follow_links=False)
            except FileNotFoundError:
                if is_published(model):
                    raise
                return
        if found != checksum_line(model, sha256).encode():
            raise ArtifactError(
                f"its sha256 is not the one in {checksum.name}",
                where=str(model),
                remedy=f"{command()} rollback returns the previous model",
            )

    def _is_running(self) -> bool:
        """Also while it starts: it may have read the env file before the swap."""
        return self._systemctl("is-active", self._unit)[1] in {"active", "reloading", "activating"}

    def _stays_active(self) -> bool:
        time.sleep(_SETTLE_SECONDS)
        return self._systemctl("is-active", self._unit)[1] == "active"

    def _systemctl(self, *arguments: str) -> tuple[int, str]:
        """Exit status and stdout."""
        command = ["systemctl", *arguments]
        try:
            done = subprocess.run(command, timeout=_SYSTEMCTL_SECONDS, check=False, stdout=subprocess.PIPE, text=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise SlotError(
                f"systemctl {arguments[0]} failed: {error}", where=self._unit, remedy="restart the engine manually"
            ) from error
        return done.returncode, done.stdout.strip()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise engine_environment.not_a_regular_file(path, error) from error
