"""The model that the engine's env file names: PATCHTST_MODEL_PATH, the last word while Redis is away."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from retrain_worker.domain import env_file
from retrain_worker.domain.current_model import CurrentModel

PATH_KEY = "PATCHTST_MODEL_PATH"


def model_in_env_file(path: Path) -> CurrentModel | None:
    """The model named there, as promoted when the file was last changed; None if it names none.

    Its hash is not known here: the checksum file beside the model says it. Raises OSError, and SlotError where systemd
    would refuse the file.
    """
    changed_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    named = env_file.value_of(path.read_bytes(), PATH_KEY)
    if not named:
        return None
    return CurrentModel(
        version=Path(named).stem,
        model_path=named,
        sha256="",
        size_bytes=0,
        run_id="",
        promoted_at=changed_at,
        event_id="",
        shadow_only=True,
        confirmed=False,
    )
