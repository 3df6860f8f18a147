"""The payload of each event, as types: for the code that writes it and for its JSON Schema.

`domain.events` builds them, mypy checks it; `docs/events/` is generated from here. A field may be added at any time;
removing one, or changing its meaning, needs a new SCHEMA_VERSION.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from retrain_worker.domain.gates import GateResult


class Started(TypedDict):
    """learning.retraining.started: a run has started."""

    run_id: str
    requested_by: str
    request_reason: str
    started_at: str


class Trial(TypedDict):
    """The result of a shadow trial."""

    #: PASS, REFUSE, UNDECIDED; null before the first evaluation
    decision: str | None
    reasons: list[str]
    #: rows decided after it count
    since: str
    num_predictions: int
    #: recorded before the outcome of their row was known
    num_early_predictions: int
    num_outcomes: int
    auc: float | None
    log_loss: float | None
    #: over the incumbent: positive is better
    log_loss_gain: float | None


class ProbationEvidence(TypedDict):
    """The findings of the probation of a model that was rolled back."""

    #: why the probation rolled it back; empty: an operator did
    reason: str
    since: str
    num_predictions: int
    num_early_predictions: int
    num_outcomes: int
    #: interim analyses
    num_analyses: int
    auc: float | None
    log_loss: float | None
    #: log loss over that of the replaced model, and its lower confidence bound
    worse_by: float | None
    worse_by_low: float | None
    #: distribution of the answers: n, not_finite, p_std, actions
    model: Mapping[str, Any] | None
    reference: Mapping[str, Any] | None
    #: why there is no reference
    reference_absence: str


class Finished(TypedDict):
    """learning.retraining.completed, .failed and .skipped: a run has ended."""

    run_id: str
    outcome: str
    reasons: list[str]
    stage: str
    rows: Mapping[str, Any]
    candidate: Mapping[str, Any] | None
    incumbent: Mapping[str, Any] | None
    gates: list[GateResult]
    #: null: the candidate was not on trial
    trial: Trial | None
    #: who promoted it although its gates did not pass, and why
    forced: Mapping[str, Any] | None
    model_path: str | None
    sha256: str | None
    previous_model_path: str | None
    confirmed: bool | None
    seconds: Mapping[str, float]
    finished_at: str


class Model(TypedDict):
    """The model that the slot names now, under the names that the stack's consumers read; also as flat fields."""

    #: the event type
    type: str
    model_name: str
    model_type: str
    #: empty: there was none
    old_version: str
    new_version: str
    #: as new_version
    version: str
    model_path: str


class Promoted(Model):
    """model.promoted: the engine's slot names a new model."""

    sha256: str
    size_bytes: int
    accuracy: float | None
    precision: float | None
    recall: float | None
    f1_score: float | None
    auc: float | None
    performance_metrics: Mapping[str, float | None]
    gates: list[GateResult]
    #: as in learning.retraining.completed
    trial: Trial | None
    forced: Mapping[str, Any] | None
    contract: Mapping[str, Any] | None
    shadow_only: bool
    confirmed: bool
    promoted_at: str
    #: seconds since the epoch
    promoted_at_ts: float
    promoted_by: str


class SlotChange(Model):
    """A change of the slot that is not a promotion. An empty model_path: the slot names no model."""

    sha256: str
    size_bytes: int
    #: the run whose model left the slot; null for a model of another origin
    run_id: str | None
    reason: str
    shadow_only: bool


class RolledBack(SlotChange):
    """model.rolled_back: the engine's slot names an earlier model again, or, with an empty model_path, none."""

    rolled_back_at: str
    rolled_back_by: str
    #: null: the model was not on probation
    evidence: ProbationEvidence | None


class ChangedExternally(SlotChange):
    """model.changed_externally: an external change has made the slot name another model."""

    changed_at: str
    changed_by: str


class RetrainRequest(TypedDict):
    """model.retrain: a request for a run. Every field may also be a flat field of the entry."""

    reason: NotRequired[str]
    requested_by: NotRequired[str]
    #: a request for another model than patchtst is ignored
    model: NotRequired[str]
    #: the run is to take place although nothing is new
    force: NotRequired[bool]


class Served(TypedDict):
    """model.served: a follower has loaded a model, and the event that named it."""

    version: str
    sha256: str
    model_path: str
    consumer: str
    canary_max_error: float | None
    served_at: str
    event_id: str


class Entry(TypedDict):
    """One entry of a stream: every field is text. Other fields may be present."""

    event_type: str
    #: JSON, with the schema of the event type
    payload: str
    trace_id: str
    #: the run
    correlation_id: str
    #: ISO 8601, UTC
    timestamp: str
    source: str
    #: equal for every publication of the event: for de-duplication
    event_id: str
    schema_version: str
    #: the worker: INSTANCE, empty for the only one of its prefix; and its host
    instance: NotRequired[str]
    host: NotRequired[str]
    # beside the envelope, for consumers that read no payload
    model: NotRequired[str]
    status: NotRequired[str]
    type: NotRequired[str]
    model_name: NotRequired[str]
    model_type: NotRequired[str]
    old_version: NotRequired[str]
    new_version: NotRequired[str]
    version: NotRequired[str]
    model_path: NotRequired[str]
    promoted_at: NotRequired[str]
    promoted_at_ts: NotRequired[str]
    duration_seconds: NotRequired[str]
    final_loss: NotRequired[str]
    error: NotRequired[str]


class CurrentModelFields(TypedDict):
    """The hash quantum:model:patchtst:current: the model in service, or none: an empty model_path. All is text."""

    version: str
    model_path: str
    sha256: str
    size_bytes: str
    run_id: str
    promoted_at: str
    event_id: str
    shadow_only: str
    confirmed: str
    #: as in each entry
    instance: NotRequired[str]
    host: NotRequired[str]
