"""What each stage of a run has found: one frozen dataclass per stage, stored as JSON with the run.

The JSON has the names of these fields (adapters/stored_json.py reads it). A new field has a default, so that what an
earlier version stored is read as before. A renamed or changed field needs a higher FACTS_SCHEMA and an upgrade function
in adapters/stored_upgrades.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from retrain_worker.domain.alpha_spending import AlphaSpending
from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.audit_findings import Finding
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.gates import Comparison, Decision, Fold, Scorecard, Verdict
from retrain_worker.domain.recipe import Recipe
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.trial_evaluation import Answer, AnswerDistribution
from retrain_worker.errors import StoredValueError

#: 1: mappings without a schema number, up to version 0.1
FACTS_SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """Rows of the snapshot."""

    loaded: int = 0
    #: with a usable label
    labelled: int = 0
    win: int = 0
    loss: int = 0
    neutral: int = 0
    open: int = 0
    #: labelled rows that the watermark does not cover
    new_labelled: int = 0
    #: reason -> rows left out
    quarantined: Mapping[str, int] = field(default_factory=dict)
    #: rows whose class contradicts the sign of realized_pnl
    contradictions: int = 0


@dataclass(frozen=True, kw_only=True)
class RequestFacts:
    """How the run was requested."""

    #: it runs although nothing is new
    is_forced: bool = False


@dataclass(frozen=True, kw_only=True)
class PullFacts:
    """PULL: the snapshot."""

    rows: RowCounts = field(default_factory=RowCounts)
    symbols: Mapping[str, int] = field(default_factory=dict)
    feature_names: tuple[str, ...] = ()
    #: decision times of the first and the last row
    first_at: datetime | None = None
    last_at: datetime | None = None
    data_sha256: str = ""
    #: the watermark once the run is committed
    watermark_path: str = ""

    def __post_init__(self) -> None:
        check_aware(self.first_at, self.last_at)


@dataclass(frozen=True, kw_only=True)
class AuditFacts:
    """AUDIT: what was measured of the snapshot, and which model the engine's slot named at that time."""

    findings: tuple[Finding, ...] = ()
    incumbent_path: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingPolicies:
    """What decides which rows a candidate has seen, and how it was fitted."""

    data: DataPolicy
    split: SplitPolicy
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class TrainFacts:
    """TRAIN: the candidate's file, and how it was fitted."""

    candidate_path: str
    version: str
    sha256: str
    contract: ModelContract
    #: the model that the candidate is compared with; None: no model was named
    incumbent_path: str | None = None
    #: None: not known, so it is trained again before it is judged
    policies: TrainingPolicies | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    final_loss: float | None = None
    validation_log_loss: float | None = None
    #: {"train": {"win": .., "loss": ..}, "train_balanced": {..}, "validation": {..}, "holdout": {..}}
    parts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    #: rows excluded from the splits, by reason (purged, embargo, ...)
    left_out: Mapping[str, int] = field(default_factory=dict)
    #: (epoch, train loss, validation log loss, validation AUC)
    history: tuple[tuple[int, float, float, float], ...] = ()

    @property
    def prior(self) -> float:
        """P(label = 1) of the training part; 0.5 when its rows are not known."""
        part = self.parts.get("train", {})
        win, loss = part.get("win", 0), part.get("loss", 0)
        return win / (win + loss) if win + loss else 0.5


@dataclass(frozen=True, kw_only=True)
class ForcedPromotion:
    """Who promoted a candidate that its gates did not pass, and why."""

    by: str
    reason: str
    #: the run that trained and judged the candidate
    of_run: str
    #: the gates whose result was replaced by this decision
    undecided: tuple[str, ...] = ()
    #: the contract that the engine is to run from now on; None: the one that it runs
    accepted_contract: str | None = None


@dataclass(frozen=True, kw_only=True)
class GateFacts:
    """GATE: the verdict on the holdout, and the scorecards that it follows from."""

    verdict: Verdict
    candidate: Scorecard | None = None
    incumbent: Scorecard | None = None
    #: why there is no scorecard of the incumbent
    incumbent_absence: str = ""
    comparison: Comparison | None = None
    #: backtest folds, newest first
    folds: tuple[Fold, ...] = ()
    #: None for a forced promotion: it makes no decision of its own
    alpha_spending: AlphaSpending | None = None
    forced: ForcedPromotion | None = None
    #: what the engine ran at that time; None: not known
    engine_contract: ModelContract | None = None


@dataclass(frozen=True, kw_only=True)
class TrialFacts:
    """What the evaluations of a model on trial, or on probation, have found so far."""

    #: only rows decided after it count
    since: datetime
    #: names the file of the recorded predictions
    prediction_log: str
    #: the evaluation that is due, counted from 1, and its instant
    evaluation: int = 1
    evaluation_at: datetime
    #: why the last evaluation failed; empty = it did not
    problem: str = ""
    num_predictions: int = 0
    #: predictions recorded before the outcome of their row was known
    num_early_predictions: int = 0
    num_outcomes: int = 0
    auc: float | None = None
    log_loss: float | None = None
    #: the model against its reference
    comparison: Comparison | None = None
    model: AnswerDistribution | None = None
    reference: AnswerDistribution | None = None
    #: why there is no reference to compare with
    reference_absence: str = ""
    #: the newest answers of the model
    answers: tuple[Answer, ...] = ()

    def __post_init__(self) -> None:
        check_aware(self.since, self.evaluation_at)

    @property
    def log_loss_gain(self) -> float | None:
        """Log loss of the reference minus that of the model: positive is better. None: not measured."""
        return self.comparison.log_loss_gain if self.comparison else None


@dataclass(frozen=True, kw_only=True)
class ShadowFacts(TrialFacts):
    """SHADOW: the candidate beside the incumbent."""

    incumbent_path: str | None = None
    #: of the last evaluation
    verdict: Verdict | None = None
    candidate: Scorecard | None = None
    incumbent: Scorecard | None = None

    @property
    def has_passed(self) -> bool:
        """Whether promotion is due."""
        return self.verdict is not None and self.verdict.decision is Decision.PASS


@dataclass(frozen=True, kw_only=True)
class PromoteFacts:
    """PROMOTE: what the engine's slot names since the swap."""

    version: str
    model_path: str
    sha256: str
    previous_version: str | None = None
    previous_model_path: str | None = None
    #: of the event model.promoted
    event_id: str = ""
    #: whether the engine was seen serving it; None: not known yet, or not required
    confirmed: bool | None = None
    confirmation: str = ""


@dataclass(frozen=True, kw_only=True)
class RolloutFacts:
    """PROMOTE: a model that is offered to some followers before the slot names it."""

    #: when the deployment was intended; facts of another one do not count
    of_deployment_at: datetime
    #: every follower of the incumbent, in the order of the offers
    consumers: tuple[str, ...]
    began_at: datetime
    stage_began_at: datetime
    #: index of the present stage
    stage: int = 0
    #: whether every stage has passed
    has_passed: bool = False


@dataclass(frozen=True, kw_only=True)
class ProbationFacts(TrialFacts):
    """PROBATION: the promoted model beside the one that it replaced."""

    #: interim analyses so far, and the outcomes that were known at the last one
    num_analyses: int = 0
    num_outcomes_analysed: int = 0
    #: the reference against the model: a positive gain means that the model is worse
    worse: Comparison | None = None
    #: whether the last evaluation found its file unsound: a second time in a row takes it back
    is_file_suspect: bool = False
    #: why the model is rolled back; empty = it is not
    rollback_reason: str = ""
    num_rollback_requests: int = 1
    #: what the engine's own answers show, one sentence
    engine_finding: str = ""


Fact = (
    RequestFacts
    | PullFacts
    | AuditFacts
    | TrainFacts
    | GateFacts
    | ShadowFacts
    | RolloutFacts
    | PromoteFacts
    | ProbationFacts
)
FactType = TypeVar("FactType", bound=Fact)

#: the field of RunFacts that holds each of them: `request`, or the name of the stage in lower case
FIELDS: Mapping[type, str] = {
    RequestFacts: "request",
    PullFacts: "pull",
    AuditFacts: "audit",
    TrainFacts: "train",
    GateFacts: "gate",
    ShadowFacts: "shadow",
    RolloutFacts: "rollout",
    PromoteFacts: "promote",
    ProbationFacts: "probation",
}


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The facts of a run; None: the stage has not come to its end, or what it stored cannot be read."""

    schema: int = FACTS_SCHEMA
    request: RequestFacts | None = None
    pull: PullFacts | None = None
    audit: AuditFacts | None = None
    train: TrainFacts | None = None
    gate: GateFacts | None = None
    shadow: ShadowFacts | None = None
    rollout: RolloutFacts | None = None
    promote: PromoteFacts | None = None
    probation: ProbationFacts | None = None
    #: field -> why what is stored there cannot be read
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def with_fact(self, fact: Fact) -> RunFacts:
        """The same facts with `fact` in its place."""
        name = FIELDS[type(fact)]
        unreadable = {other: why for other, why in self.unreadable.items() if other != name}
        return replace(self, **{name: fact, "unreadable": unreadable})  # type: ignore[arg-type]

    def require(self, kind: type[FactType]) -> FactType:
        """The fact of this kind. Raises StoredValueError when there is none, or none that can be read."""
        name = FIELDS[kind]
        found: FactType | None = getattr(self, name)
        if found is None:
            cause = self.unreadable.get(name)
            raise StoredValueError(
                f"its stored facts cannot be read: {cause}" if cause else "it has no stored facts",
                where=f"stage {name.upper()}",
                remedy="the next run starts from the beginning",
            )
        return found


def check_aware(*instants: datetime | None) -> None:
    """Raise ValueError when an instant has no time zone: it could not be compared."""
    for instant in instants:
        if instant is not None and instant.tzinfo is None:
            raise ValueError(f"{instant.isoformat()} has no time zone")
