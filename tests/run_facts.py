"""Facts of a run for tests: each builder fills in what a test does not care about."""

from datetime import UTC, datetime
from typing import Any

from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.facts import (
    ForcedPromotion,
    GateFacts,
    ProbationFacts,
    PromoteFacts,
    TrainFacts,
)
from retrain_worker.domain.gates import Decision, GatePolicy, Verdict
from retrain_worker.domain.recipe import InputTransform, Preset

CONTRACT = ModelContract(
    preset=Preset.PAPER, context_length=64, feature_names=("rsi",), input_transform=InputTransform.STANDARDISE
)
_AT = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)


def train_facts(**changes: Any) -> TrainFacts:
    """A trained candidate."""
    usual: dict[str, Any] = {
        "candidate_path": "/runs/patchtst_v20260110_033000.pth",
        "version": "patchtst_v20260110_033000",
        "sha256": "a" * 64,
        "contract": CONTRACT,
    }
    return TrainFacts(**{**usual, **changes})


def gate_facts(**changes: Any) -> GateFacts:
    """A verdict without gates."""
    usual = {"verdict": Verdict(decision=Decision.PASS, gates=(), policy=GatePolicy())}
    return GateFacts(**{**usual, **changes})


def forced_gate_facts(of_run: str) -> GateFacts:
    """The gate of a forced promotion of the candidate of run `of_run`."""
    return gate_facts(forced=ForcedPromotion(by="anna", reason="a test", of_run=of_run))


def promote_facts(version: str = "patchtst_v20260110_033000", **changes: Any) -> PromoteFacts:
    """A model in the slot."""
    usual = {"version": version, "model_path": f"/m/{version}.pth", "sha256": "a" * 64}
    return PromoteFacts(**{**usual, **changes})


def probation_facts(**changes: Any) -> ProbationFacts:
    """A probation that has begun."""
    usual = {"since": _AT, "prediction_log": "predictions_probation_1", "evaluation_at": _AT}
    return ProbationFacts(**{**usual, **changes})
