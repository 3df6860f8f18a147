"""Deletes the oldest run folders and models beyond KEEP_RUNS and KEEP_MODELS, but none that is or may be needed."""

from __future__ import annotations

import threading
from pathlib import Path

import structlog

from retrain_worker.adapters.artifact_store import ArtifactStore
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.daemon.configuration import Configuration
from retrain_worker.domain.deployments import known_version, roll_back_target
from retrain_worker.errors import RetrainError
from retrain_worker.stages.audit import reference_run_id

log = structlog.get_logger()


class Retention:
    """Runs once an hour."""

    def __init__(
        self, store: StateDb, run_folders: ArtifactStore, configuration: Configuration, *, lock: threading.RLock
    ) -> None:
        """`lock`: held between the choice of a model and its deployment."""
        self._store = store
        self._run_folders = run_folders
        self._configuration = configuration
        self._lock = lock

    def run(self) -> None:
        """Remove run folders, then models."""
        self._remove_runs()
        with self._lock:
            self._remove_models()

    def _remove_runs(self) -> None:
        keep = self._configuration.settings.keep_runs
        removed = self._run_folders.remove_old_runs(keep=keep, protected=self._protected_runs())
        if removed:
            log.info("runs_removed", message=f"KEEP_RUNS={keep}: removed the folders of {', '.join(removed)}")

    def _remove_models(self) -> None:
        keep = self._configuration.settings.keep_models
        try:
            removed = self._configuration.slot.remove_old_models(keep=keep, protected=self._protected_models())
        except RetrainError as error:
            log.warning("models_not_removed", message=f"KEEP_MODELS={keep}: old models were not removed: {error}")
            return
        if removed:
            names = ", ".join(path.name for path in removed)
            log.info("models_removed", message=f"KEEP_MODELS={keep}: removed {names}")

    def _protected_runs(self) -> list[str | Path]:
        """Runs that are not over, that an audit or the watermark refers to, or that a slot request is about."""
        store, request = self._store, self._store.waiting_slot_request()
        at_work = store.unfinished_run()
        found: list[str | Path | None] = [run.run_id for run in store.waiting_runs()]
        found += [
            at_work.run_id if at_work else None,
            store.watermark_path(),
            # the next audit measures drift against its snapshot
            reference_run_id(store),
            request.arguments.run_id if request else None,
        ]
        return [each for each in found if each is not None]

    def _protected_models(self) -> list[Path]:
        """What serves, served before, would return, is on its way into the slot, or was requested by name."""
        store, request = self._store, self._store.waiting_slot_request()
        reached = store.reached_deployments()
        last = reached[-1] if reached else None
        target = roll_back_target(
            reached, last.model_path if last else None, is_blocked=lambda sha256: store.blocked(sha256) is not None
        )
        requested = known_version(reached, request.arguments.version) if request else None
        found = [last.model_path, last.previous_model_path] if last else []
        found += [each.model_path for each in (target, requested, *store.intended_deployments()) if each]
        return [Path(path) for path in found if path]
