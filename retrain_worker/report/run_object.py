"""The object of a run that `--json` prints (docs/reference/command-line.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from retrain_worker.domain.alpha_spending import AlphaSpending
from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.audit_findings import Finding
from retrain_worker.domain.facts import ForcedPromotion, ProbationFacts, RowCounts, ShadowFacts
from retrain_worker.domain.gates import Decision, GatePolicy, GateResult, Scorecard
from retrain_worker.domain.lifecycle import Outcome, Stage
from retrain_worker.domain.report_request import EngineTraffic


class RunObject(TypedDict):
    """A run: `once`, `demo`, `report`; an array of them: `history`. Null or empty: the run has not come so far."""

    outcome: Outcome | None
    reasons: tuple[str, ...]
    run_id: str
    stage: Stage
    requested_by: str
    #: ISO 8601 UTC, like the other instants
    started_at: str
    finished_at: str | None
    unreadable: Mapping[str, str]
    rows: RowCounts | None
    symbols: Mapping[str, int]
    feature_names: tuple[str, ...]
    first_at: str | None
    last_at: str | None
    data_sha256: str | None
    findings: tuple[Finding, ...]
    parts: Mapping[str, Mapping[str, int]]
    left_out: Mapping[str, int]
    epochs: int | None
    best_epoch: int | None
    final_loss: float | None
    #: epoch, train loss, validation log loss, validation AUC
    history: tuple[tuple[int, float | None, float | None, float | None], ...]
    contract: ModelContract | None
    candidate: Scorecard | None
    incumbent: Scorecard | None
    incumbent_absence: str
    decision: Decision | None
    gates: tuple[GateResult, ...]
    policy: GatePolicy | None
    alpha_spending: AlphaSpending | None
    shadow: ShadowFacts | None
    probation: ProbationFacts | None
    forced: ForcedPromotion | None
    trials: tuple[tuple[str, str], ...]
    version: str | None
    candidate_path: str | None
    model_path: str | None
    sha256: str | None
    previous_model_path: str | None
    event_id: str | None
    confirmed: bool | None
    confirmation: str | None
    #: path of the page
    report: str | None
    seconds: Mapping[str, float]
    engine: NotRequired[Mapping[str, EngineTraffic]]
    bayes_auc: NotRequired[float | None]
