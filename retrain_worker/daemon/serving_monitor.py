"""What the engine's own answers mean, given what is stored of the model in its slot."""

from __future__ import annotations

import msgspec

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.engine_answers import Finding, Tally, judge
from retrain_worker.domain.labels import Thresholds
from retrain_worker.domain.lifecycle import Run, Stage
from retrain_worker.domain.trial_evaluation import Answer


def finding_of(store: StateDb, tally: Tally) -> Finding:
    """The tally beside the answers of its last look, if the model is or was on probation, or its gate's spread."""
    run = _run_of(store, tally.model_path)
    watched = run.fact(Stage.PROBATION) if run else {}
    card = (run.fact(Stage.GATE).get("candidate") if run else None) or {}
    spread = (watched.get("model") or {}).get("p_std")
    return judge(
        tally,
        answers=msgspec.convert(watched.get("answers", []), list[Answer]),
        thresholds=Thresholds(),
        model_std=card.get("p_std") if spread is None else spread,
    )


def _run_of(store: StateDb, model_path: str) -> Run | None:
    """The run that has put this model into the slot; None for a model of somebody else's."""
    deployment = store.last_deployment()
    if deployment is None or deployment.run_id is None or deployment.model_path != model_path:
        return None
    return store.run(deployment.run_id)
