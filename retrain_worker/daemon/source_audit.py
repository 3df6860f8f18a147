"""Pull and audit by themselves, in a folder that is thrown away: what `check` and `audit` need, outside any run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from retrain_worker.adapters.artifact_store import ArtifactStore
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.daemon.one_off_task import awaited
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.domain.worker_protocol import AuditRequest, AuditResult, PullRequest, PullResult
from retrain_worker.errors import StateError
from retrain_worker.settings import Settings
from retrain_worker.stages.audit import reference_run_id


def audit_source(settings: Settings, *, say: Callable[[str], None]) -> tuple[PullResult, AuditResult]:
    """What the source holds and whether it is fit to train on. Raises what the worker raised."""
    now = datetime.now(UTC).isoformat()
    with tempfile.TemporaryDirectory(prefix="retrain-worker-audit-") as folder:
        workers = WorkerProcesses(
            database_url=str(settings.database_url),
            niceness=settings.worker_nice,
            deadline_seconds=dict.fromkeys(Stage, settings.stage_deadline_minutes * 60),
        )
        try:
            pulled: PullResult = awaited(
                workers,
                Stage.PULL,
                Path(folder),
                PullRequest(
                    run_id="audit",
                    run_dir=folder,
                    policy=settings.data,
                    watermark_path=None,
                    now=now,
                    memory_limit_bytes=settings.worker_memory_bytes,
                ),
                say,
            )
            audited: AuditResult = awaited(
                workers,
                Stage.AUDIT,
                Path(folder),
                AuditRequest(
                    run_id="audit",
                    run_dir=folder,
                    policy=settings.data,
                    now=now,
                    reference_dir=_reference_dir(settings, say),
                    memory_limit_bytes=settings.worker_memory_bytes,
                ),
                say,
            )
        finally:
            workers.stop(1.0)
    return pulled, audited


def _reference_dir(settings: Settings, say: Callable[[str], None]) -> str | None:
    """The folder that a run would measure drift against; None when there is none, or nobody may tell us."""
    state = settings.state_path / "state.db"
    try:
        if not state.exists():
            return None
        with StateDb(state, read_only=True) as store:
            run_id = reference_run_id(store)
    except (OSError, StateError) as error:
        say(f"drift is not measured, since the last promoted run is not known: {error}")
        return None
    folders = ArtifactStore(model_path=settings.model_path, checkpoint_path=settings.checkpoint_path)
    return str(folders.path_of(run_id)) if run_id else None
