"""The model that the engine's env file names (PATCHTST_MODEL_PATH), used while Redis is unreachable."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from retrain_worker.domain import env_file
from retrain_worker.domain.current_model import CurrentModel

PATH_KEY = "PATCHTST_MODEL_PATH"


def model_in_env_file(path: Path) -> CurrentModel | None:
    """The model that the file names, dated by the last change of the file; None if it names none.

    Its hash is left empty: it is in the checksum file beside the model. Raises OSError, and SlotError where systemd
    would reject the file.
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
