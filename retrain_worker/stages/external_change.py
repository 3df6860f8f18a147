"""A hand-edit: somebody else has changed the env line. It is respected, and recorded once as part of the history."""

from __future__ import annotations

from pathlib import Path

from retrain_worker.domain import deployments
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState
from retrain_worker.errors import RetrainError
from retrain_worker.stages.ports import StageContext

_FOUND_FIRST = "it stood in the slot when this program first looked"
_CHANGED = "PATCHTST_MODEL_PATH was changed by hand"


def unrecorded(context: StageContext) -> Deployment | None:
    """What the env line names, if no deployment says so; not stored yet. Raises SlotError.

    None while a swap is under way whose env line may have been replaced already: its own next step finds that out.
    """
    current = context.slot.current_path()
    path = str(current) if current else ""
    last = context.store.last_deployment()
    if path == (last.model_path if last else ""):
        return None
    if any(path == one.model_path for one in context.store.intended_deployments()):
        return None
    sha256, size_bytes, finding = _measured(current, context)
    now = context.now()
    return Deployment(
        deployment_id=f"{DeploymentKind.EXTERNAL}_{now:%Y%m%d_%H%M%S_%f}",
        run_id=None,
        kind=DeploymentKind.EXTERNAL,
        version=current.stem if current else "none",
        model_path=path,
        sha256=sha256,
        size_bytes=size_bytes,
        previous_version=last.version if last else None,
        previous_model_path=last.model_path or None if last else None,
        previous_sha256=last.sha256 or None if last else None,
        state=DeploymentState.NOT_CONFIRMED,
        created_at=now,
        updated_at=now,
        requested_by="a person" if last else "unknown",
        reason=_CHANGED if last else _FOUND_FIRST,
        confirmation=finding,
    )


def _measured(model: Path | None, context: StageContext) -> tuple[str, int, str]:
    """Hash, size, and what is to be said of the file that the line names; a file that is not there has neither."""
    if model is None:
        return "", 0, "the engine has no model of its own"
    try:
        sha256 = context.slot.sha256_of(model)
        if sha256 is None:
            return "", 0, f"{model} is not there"
        return sha256, context.slot.check_ready(model, expected_sha256=sha256), deployments.NOT_WATCHED
    except RetrainError as error:
        return "", 0, str(error)
