"""The gate by itself, for any model file, in a temporary folder: nothing is promoted, no state is changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from retrain_worker.adapters import state_access
from retrain_worker.daemon.configuration import slot_of
from retrain_worker.daemon.one_off_task import stage_worker
from retrain_worker.domain.alpha_spending import AlphaSpending, spend
from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.gates import Evidence, Verdict, decide
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.domain.worker_protocol import EmptySlot, GateMeasured, GateRequest
from retrain_worker.settings import Settings
from retrain_worker.stages.engine_contract import known_contract


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The gate's verdict on a file, beside which incumbent, and at which error probability."""

    verdict: Verdict
    evidence: Evidence
    incumbent_path: Path | None
    #: what a decision now would spend; nothing was
    spending: AlphaSpending


def evaluate(settings: Settings, file: Path, *, report: Callable[[str], None]) -> Evaluation:
    """Measure and judge `file` on the holdout of the current rows. Raises the worker's error, SlotError."""
    now = datetime.now(UTC)
    last, contract = _stored_in(settings)
    spending = spend(
        last, at=now, skill_alpha=settings.gate.skill_alpha, per_year=settings.gate.false_promotions_per_year
    )
    policy = settings.gate.spending(spending.alpha)
    incumbent = slot_of(settings).current_path() if settings.engine_env_file.exists() else None
    with stage_worker(settings, report=report) as worker:
        worker.pull(settings, name="evaluate", now=now.isoformat())
        request = GateRequest(
            run_id="evaluate",
            run_dir=worker.folder,
            candidate_path=str(file.absolute()),
            incumbent_path=str(incumbent) if incumbent else None,
            data=settings.data,
            split=settings.split,
            recipe=settings.recipe,
            policy=policy,
            empty_slot=EmptySlot(contract=contract, is_contract_required=settings.home is None),
            memory_limit_bytes=settings.worker_memory_bytes,
        )
        measured: GateMeasured = worker.result_of(Stage.GATE, request)
    return Evaluation(
        verdict=decide(measured.evidence, policy),
        evidence=measured.evidence,
        incumbent_path=incumbent,
        spending=spending,
    )


def _stored_in(settings: Settings) -> tuple[AlphaSpending | None, ModelContract | None]:
    """The alpha spending of the newest decision, and the last contract known to have been in the slot."""
    if not state_access.exists(settings.state_place):
        return None, None
    with state_access.state_beside(settings.state_place) as store:
        return store.alpha_spending_before(None), known_contract(store)
