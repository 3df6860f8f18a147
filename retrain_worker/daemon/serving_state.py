"""What the counted answers of the engine show of its serving."""

from __future__ import annotations

from retrain_worker.adapters.answer_tally import tally_in
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.deployments import promotion_of
from retrain_worker.domain.engine_answers import Finding, Tally, judge, with_advice
from retrain_worker.domain.gates.contract import constant_window_of
from retrain_worker.domain.labels import Thresholds
from retrain_worker.domain.lifecycle import Run


def engine_says(store: StateDb) -> str:
    """What the engine's answers since the last swap show of its serving; empty while there are none."""
    tally = tally_in(store)
    malformed = f" ({tally.malformed} malformed entries)" if tally.malformed else ""
    return f"{finding_of(store, tally).message}{malformed}" if tally.entries else ""


def serving_fault(store: StateDb) -> str:
    """What is wrong with the engine's answers; empty when nothing is known to be."""
    found = finding_of(store, tally_in(store))
    return found.message if found.is_fault else ""


def finding_of(store: StateDb, tally: Tally) -> Finding:
    """The tally beside the model's own answers in its probation, or beside their standard deviation at its gate."""
    run = _run_of(store, tally.model_path)
    probation, gated = (run.facts.probation, run.facts.gate) if run else (None, None)
    measured = (probation and probation.model) or (gated and gated.candidate)
    found = judge(
        tally,
        answers=probation.answers if probation else (),
        thresholds=Thresholds(),
        model_std=measured.p_std if measured else None,
    )
    return with_advice(found, tally, constant_window=constant_window_of(gated.verdict.gates) if gated else None)


def _run_of(store: StateDb, model_path: str) -> Run | None:
    """The run that has put this model into the slot; None for an external model."""
    promotion = promotion_of(store.reached_deployments(), model_path)
    return store.run(promotion.run_id) if promotion else None
