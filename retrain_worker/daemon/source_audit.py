"""Pull and audit by themselves, in a temporary folder: what `check`, `audit` and `discover` need, outside any run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from retrain_worker.adapters import state_access
from retrain_worker.adapters.artifact_store import ArtifactStore
from retrain_worker.daemon.configuration import slot_of
from retrain_worker.daemon.one_off_task import stage_worker
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.domain.worker_protocol import AuditRequest, AuditResult, PullResult
from retrain_worker.errors import RetrainError
from retrain_worker.settings import Settings
from retrain_worker.stages.audit import reference_run_id
from retrain_worker.stages.engine_contract import known_contract, window_length


def audit_source(settings: Settings, *, report: Callable[[str], None]) -> tuple[PullResult, AuditResult]:
    """What the source holds and whether it is fit to train on. Raises the worker's error."""
    now = datetime.now(UTC).isoformat()
    with stage_worker(settings, report=report) as worker:
        pulled = worker.pull(settings, name="audit", now=now)
        request = AuditRequest(
            run_id="audit",
            run_dir=worker.folder,
            policy=settings.data,
            now=now,
            split=settings.split,
            **_known_state(settings, report),
            memory_limit_bytes=settings.worker_memory_bytes,
        )
        audited: AuditResult = worker.result_of(Stage.AUDIT, request)
    return pulled, audited


def _known_state(settings: Settings, report: Callable[[str], None]) -> dict[str, Any]:
    """What a run would know: the last promoted run, the features that the engine takes, and the window length."""
    try:
        incumbent = slot_of(settings).current_path() if settings.engine_env_file.exists() else None
        length = partial(window_length, settings.recipe, incumbent_path=str(incumbent) if incumbent else None)
        if not state_access.exists(settings.state_place):
            return {"seq_len": length(None)}
        with state_access.state_beside(settings.state_place) as store:
            run_id, contract, seq_len = reference_run_id(store), known_contract(store), length(store)
    except (OSError, RetrainError) as error:
        report(f"neither drift nor the split is measured, because the state or the slot cannot be read: {error}")
        return {}
    run_folders = ArtifactStore(model_path=settings.model_path, checkpoint_path=settings.checkpoint_path)
    return {
        "reference_dir": str(run_folders.path_of(run_id)) if run_id else None,
        "engine_features": contract.feature_names if contract else (),
        "seq_len": seq_len,
    }
