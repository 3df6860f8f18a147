"""An external change of the env line: it is kept, and recorded once in the history."""

from __future__ import annotations

from pathlib import Path

from retrain_worker.domain.deployments import promotion_of
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Requester
from retrain_worker.errors import RetrainError
from retrain_worker.stages.ports import StageContext


def unrecorded(context: StageContext) -> Deployment | None:
    """The deployment that the env line names, when none is recorded; not stored yet. Raises SlotError.

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
    replaced = promotion_of(context.store.reached_deployments(), last.model_path) if last else None
    return Deployment(
        deployment_id=f"{DeploymentKind.EXTERNAL}_{now:%Y%m%d_%H%M%S_%f}",
        run_id=replaced.run_id if replaced else None,
        kind=DeploymentKind.EXTERNAL,
        version=current.stem if current else "none",
        model_path=path,
        sha256=sha256,
        size_bytes=size_bytes,
        previous_version=last.version if last else None,
        previous_model_path=last.model_path or None if last else None,
        previous_sha256=last.sha256 or None if last else None,
        state=DeploymentState.NOT_ASKED,
        created_at=now,
        updated_at=now,
        requested_by=Requester.UNKNOWN,
        reason="PATCHTST_MODEL_PATH was changed externally"
        if last
        else "PATCHTST_MODEL_PATH named it at the first start",
        confirmation=finding,
    )


def _measured(model: Path | None, context: StageContext) -> tuple[str, int, str]:
    """Hash and size of the file that the line names, and what to report of it; a missing file has neither."""
    if model is None:
        return "", 0, "the slot names no model"
    try:
        sha256 = context.slot.sha256_of(model)
        if sha256 is None:
            return "", 0, f"{model} does not exist"
        return sha256, context.slot.check_ready(model, expected_sha256=sha256), ""
    except RetrainError as error:
        return "", 0, str(error)
