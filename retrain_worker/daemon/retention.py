"""What is deleted: the oldest run folders and models; never one that serves, served before, or is needed."""

from __future__ import annotations

from pathlib import Path

import structlog

from retrain_worker.adapters.artifact_store import ArtifactStore
from retrain_worker.adapters.model_slot import ModelSlot
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.deployments import known_version, roll_back_target
from retrain_worker.errors import RetrainError
from retrain_worker.stages.audit import reference_run_id

log = structlog.get_logger()


def sweep_runs(store: StateDb, artifacts: ArtifactStore, *, keep: int) -> None:
    """All folders go but the newest `keep`, and those of runs that are not over or that others refer to."""
    under_way, watermark = store.unfinished_run(), store.watermark_path()
    protected: list[str | Path] = [run.run_id for run in store.waiting_runs()]
    protected += [under_way.run_id] if under_way else []
    protected += [watermark] if watermark else []
    # the next audit measures drift against its snapshot
    reference = reference_run_id(store)
    protected += [reference] if reference else []
    request = store.waiting_slot_request()
    protected += [request.arguments["run_id"]] if request and "run_id" in request.arguments else []
    gone = artifacts.remove_old_runs(keep=keep, protected=protected)
    if gone:
        log.info("runs_swept", message=f"removed the folders of {', '.join(gone)}")


def sweep_models(store: StateDb, slot: ModelSlot, *, keep: int) -> None:
    """All models that we have published go but the newest `keep`, and those that are needed."""
    try:
        old = slot.remove_old_models(keep=keep, protected=_needed(store))
    except RetrainError as error:
        log.warning("models_not_swept", message=str(error))
    else:
        if old:
            log.info("models_swept", message=f"removed {', '.join(path.name for path in old)}")


def _needed(store: StateDb) -> list[Path]:
    """What serves, served before, would return, is on its way into the slot, or was ordered by name."""
    reached, request = store.reached_deployments(), store.waiting_slot_request()
    last = reached[-1] if reached else None
    target = roll_back_target(
        reached, last.model_path if last else None, is_blocked=lambda sha256: store.blocked(sha256) is not None
    )
    ordered = known_version(reached, request.arguments.get("version", "")) if request else None
    needed = [last.model_path, last.previous_model_path] if last else []
    needed += [each.model_path for each in (target, ordered, *store.intended_deployments()) if each]
    return [Path(path) for path in needed if path]
