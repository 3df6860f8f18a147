"""The gate by itself, for any model file, in a folder that is thrown away: nothing is promoted, no state is touched."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from retrain_worker.adapters.model_slot import ModelSlot
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.daemon.one_off_task import awaited
from retrain_worker.domain.alpha_spending import AlphaSpending, spend
from retrain_worker.domain.gates import Evidence, Verdict, decide
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.domain.worker_protocol import GateMeasured, GateRequest, PullRequest
from retrain_worker.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the gate says of a file, beside which incumbent, and at which error probability."""

    verdict: Verdict
    evidence: Evidence
    incumbent_path: Path | None
    #: what a decision now would spend; nothing was
    spending: AlphaSpending


def evaluate(settings: Settings, file: Path, *, say: Callable[[str], None]) -> Evaluation:
    """Measure and judge `file` on the holdout of the rows as they are now. Raises what the worker raised, SlotError."""
    now = datetime.now(UTC)
    spending = _spending(settings, now)
    policy = replace(settings.gate, skill_alpha=spending.alpha)
    incumbent = (
        ModelSlot(
            engine_models_dir=settings.engine_models_dir,
            engine_env_file=settings.engine_env_file,
            trigger_file=settings.engine_trigger_file,
        ).current_path()
        if settings.engine_env_file.exists()
        else None
    )
    with tempfile.TemporaryDirectory(prefix="retrain-worker-evaluate-") as folder:
        workers = WorkerProcesses(
            database_url=str(settings.database_url),
            niceness=settings.worker_nice,
            deadline_seconds=dict.fromkeys(Stage, settings.stage_deadline_minutes * 60),
        )
        try:
            awaited(
                workers,
                Stage.PULL,
                Path(folder),
                PullRequest(
                    run_id="evaluate",
                    run_dir=folder,
                    policy=settings.data,
                    watermark_path=None,
                    now=now.isoformat(),
                    memory_limit_bytes=settings.worker_memory_bytes,
                ),
                say,
            )
            measured: GateMeasured = awaited(
                workers,
                Stage.GATE,
                Path(folder),
                GateRequest(
                    run_id="evaluate",
                    run_dir=folder,
                    candidate_path=str(file.absolute()),
                    incumbent_path=str(incumbent) if incumbent else None,
                    data=settings.data,
                    split=settings.split,
                    recipe=settings.recipe,
                    policy=policy,
                    memory_limit_bytes=settings.worker_memory_bytes,
                ),
                say,
            )
        finally:
            workers.stop(1.0)
    return Evaluation(
        verdict=decide(measured.evidence, policy),
        evidence=measured.evidence,
        incumbent_path=incumbent,
        spending=spending,
    )


def _spending(settings: Settings, now: datetime) -> AlphaSpending:
    path, last = settings.state_path / "state.db", None
    if path.exists():
        with StateDb(path, read_only=True) as store:
            last = store.alpha_spending_before(None)
    return spend(last, at=now, skill_alpha=settings.gate.skill_alpha, per_year=settings.gate.false_promotions_per_year)
