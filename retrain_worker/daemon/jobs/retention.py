"""Deletes the oldest run folders and models beyond KEEP_RUNS and KEEP_MODELS, but none that is or may be needed."""

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


def remove_runs(store: StateDb, run_folders: ArtifactStore, *, keep: int) -> tuple[str, ...]:
    """Remove all run folders but the newest `keep`, those of unfinished runs, and those that are referred to.

    The ids of the removed ones.
    """
    current, request = store.unfinished_run(), store.waiting_slot_request()
    protected: list[str | Path | None] = [run.run_id for run in store.waiting_runs()]
    protected += [
        current.run_id if current else None,
        store.watermark_path(),
        # the next audit measures drift against its snapshot
        reference_run_id(store),
        request.arguments.run_id if request else None,
    ]
    removed = run_folders.remove_old_runs(keep=keep, protected=[each for each in protected if each is not None])
    if removed:
        log.info("runs_removed", message=f"KEEP_RUNS={keep}: removed the folders of {', '.join(removed)}")
    return removed


def remove_models(store: StateDb, slot: ModelSlot, *, keep: int) -> None:
    """Remove all published models but the newest `keep` and those that are needed."""
    try:
        removed = slot.remove_old_models(keep=keep, protected=_needed_models(store))
    except RetrainError as error:
        log.warning("models_not_removed", message=f"KEEP_MODELS={keep}: old models were not removed: {error}")
        return
    if removed:
        names = ", ".join(path.name for path in removed)
        log.info("models_removed", message=f"KEEP_MODELS={keep}: removed {names}")


def _needed_models(store: StateDb) -> list[Path]:
    """What serves, served before, would return, is on its way into the slot, or was requested by name."""
    reached, request = store.reached_deployments(), store.waiting_slot_request()
    last = reached[-1] if reached else None
    target = roll_back_target(
        reached, last.model_path if last else None, is_blocked=lambda sha256: store.blocked(sha256) is not None
    )
    requested = known_version(reached, request.arguments.version) if request else None
    needed = [last.model_path, last.previous_model_path] if last else []
    needed += [each.model_path for each in (target, requested, *store.intended_deployments()) if each]
    return [Path(path) for path in needed if path]
