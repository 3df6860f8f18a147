"""The payload of each event, as types: for the code that writes it, for consumers, and for the JSON Schemas.

`domain.events` builds them, mypy checks it; `docs/events/` is generated from here. A field may be added at any time;
removing one, or changing its meaning, needs a new SCHEMA_VERSION.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, NotRequired, TypedDict

from retrain_worker.domain.lifecycle import Outcome, Stage
from retrain_worker.domain.payload_fields import (
    Actor,
    Auc,
    Described,
    EventId,
    Instant,
    Metric,
    ModelPath,
    ModelUrl,
    NumBytes,
    RunId,
    Sha256,
    ShadowOnly,
    Version,
)
from retrain_worker.domain.payload_parts import (
    Agreement,
    AnswerDistribution,
    Bucket,
    Check,
    Contract,
    Forced,
    GateResult,
    PerformanceMetrics,
    ProbationEvidence,
    RowCounts,
    Scorecard,
    Slice,
    Trial,
)

__all__ = [
    "Agreement",
    "AnswerDistribution",
    "Bucket",
    "ChangedExternally",
    "Check",
    "Contract",
    "CurrentModelFields",
    "Entry",
    "Finished",
    "Forced",
    "GateResult",
    "Model",
    "PerformanceMetrics",
    "ProbationEvidence",
    "Promoted",
    "RetrainRequest",
    "RolledBack",
    "RowCounts",
    "Scorecard",
    "Served",
    "Slice",
    "SlotChange",
    "Started",
    "Trial",
]


class Started(TypedDict):
    """learning.retraining.started: a run has started."""

    run_id: RunId
    requested_by: Actor
    request_reason: Annotated[str, Described("why", "every 24 h")]
    started_at: Annotated[Instant, Described("when the run started")]


class Finished(TypedDict):
    """learning.retraining.completed, .failed and .skipped: a run has ended."""

    run_id: RunId
    outcome: Annotated[str, Described("how the run ended", "PROMOTED", values=tuple(Outcome))]
    reasons: Annotated[list[str], Described("why", ["every gate that counts has passed"])]
    stage: Annotated[str, Described("the stage at which it ended", "PROMOTE", values=tuple(Stage))]
    rows: Annotated[RowCounts, Described("rows of the training window; empty before they were read")]
    candidate: Annotated[Scorecard | None, Described("the candidate on the holdout; null: not measured")]
    incumbent: Annotated[Scorecard | None, Described("the incumbent on the holdout; null: none, or not measured")]
    gates: Annotated[list[GateResult], Described("empty: the run ended before the gates")]
    trial: Annotated[Trial | None, Described("null: the candidate was not on trial")]
    forced: Annotated[Forced | None, Described("null: the promotion was not forced")]
    model_path: Annotated[ModelPath | None, Described("null: nothing was promoted")]
    sha256: Annotated[Sha256 | None, Described("null: nothing was promoted")]
    previous_model_path: Annotated[str | None, Described("what the slot named before", "/opt/models/patchtst_v1.pth")]
    confirmed: Annotated[bool | None, Described("whether the engine was seen serving it; null: not promoted", True)]
    seconds: Annotated[Mapping[str, float], Described("stage: wall seconds", {"pull": 1.5, "train": 54.2})]
    finished_at: Annotated[Instant, Described("when the run ended")]


class Model(TypedDict):
    """The model that the slot names now, under the names that the stack's consumers read; also as flat fields."""

    type: Annotated[str, Described("the event type", "model.promoted")]
    model_name: Annotated[str, Described("patchtst", "patchtst")]
    model_type: Annotated[str, Described("patchtst", "patchtst")]
    old_version: Annotated[Version, Described("the version before; empty: there was none", "patchtst_v20260109_033000")]
    new_version: Annotated[Version, Described("the version in the slot now")]
    version: Annotated[Version, Described("as new_version")]
    model_path: Annotated[ModelPath, Described("the model file; empty: the slot names no model")]
    model_url: NotRequired[ModelUrl]


class Promoted(Model):
    """model.promoted: the engine's slot names a new model."""

    sha256: Sha256
    size_bytes: NumBytes
    accuracy: Annotated[Metric, Described("share of correct classes on the holdout")]
    precision: Annotated[Metric, Described("share of WIN among predicted WIN", 0.68)]
    recall: Annotated[Metric, Described("share of WIN that were predicted", 0.71)]
    f1_score: Annotated[Metric, Described("harmonic mean of precision and recall", 0.695)]
    auc: Auc
    performance_metrics: Annotated[PerformanceMetrics, Described("more metrics on the holdout")]
    gates: Annotated[list[GateResult], Described("the results on which it was promoted")]
    trial: Annotated[Trial | None, Described("null: the candidate was not on trial")]
    forced: Annotated[Forced | None, Described("null: the promotion was not forced")]
    contract: Annotated[Contract | None, Described("what an engine must agree with; null: not known")]
    shadow_only: ShadowOnly
    confirmed: Annotated[bool, Described("false: the event precedes the confirmation", False)]
    promoted_at: Annotated[Instant, Described("when the slot changed")]
    promoted_at_ts: Annotated[float, Described("the same, in seconds since the epoch", 1768016467.25)]
    promoted_by: Actor


class SlotChange(Model):
    """A change of the slot that is not a promotion. An empty model_path: the slot names no model."""

    sha256: Sha256
    size_bytes: NumBytes
    run_id: Annotated[RunId | None, Described("the run whose model left the slot; null: a model of another origin")]
    reason: Annotated[str, Described("why", "loses money")]
    shadow_only: ShadowOnly


class RolledBack(SlotChange):
    """model.rolled_back: the engine's slot names an earlier model again, or, with an empty model_path, none."""

    rolled_back_at: Annotated[Instant, Described("when the slot changed")]
    rolled_back_by: Annotated[Actor, Described("the operator, or probation", "anna")]
    evidence: Annotated[ProbationEvidence | None, Described("null: the model was not on probation")]


class ChangedExternally(SlotChange):
    """model.changed_externally: an external change has made the slot name another model."""

    changed_at: Annotated[Instant, Described("when the change was detected")]
    changed_by: Annotated[str, Described("unknown: it is not known who or what changed the env file", "unknown")]


class RetrainRequest(TypedDict):
    """model.retrain: a request for a run. Every field may also be a flat field of the entry."""

    reason: NotRequired[Annotated[str, Described("shown in status, history and events", "new exchange")]]
    requested_by: NotRequired[Annotated[str, Described("who or what requests it", "ops")]]
    model: NotRequired[Annotated[str, Described("a request for another model than patchtst is ignored", "patchtst")]]
    force: NotRequired[Annotated[bool, Described("the run takes place although nothing is new", False)]]


class Served(TypedDict):
    """model.served: what a follower serves; after each new model, and when one is refused. Empty: it serves none."""

    version: Version
    sha256: Sha256
    model_path: ModelPath
    consumer: Annotated[str, Described("the follower", "ai-engine")]
    canary_max_error: Annotated[float | None, Described("largest error on the stored windows", 1e-7)]
    served_at: Annotated[Instant, Described("when it was loaded")]
    event_id: Annotated[EventId, Described("the promotion; empty: named by the env file")]
    host: NotRequired[Annotated[str, Described("the follower's host", "engine-7")]]
    instance: NotRequired[Annotated[str, Described("INSTANCE of the worker that it follows", "")]]
    problem: NotRequired[Annotated[str, Described("why it does not serve `problem_version`", "its canary differs")]]
    problem_version: NotRequired[Annotated[str, Described("the version that it refuses", "patchtst_v20260110_033000")]]
    is_fault: NotRequired[
        Annotated[bool, Described("true: of the model itself; false: it could not be read or fetched here", True)]
    ]


class Entry(TypedDict):
    """One entry of a stream: every field is text. Other fields may be present."""

    event_type: Annotated[str, Described("also the last part of the stream", "model.promoted")]
    payload: Annotated[str, Described("JSON, with the schema of the event type", "{}")]
    trace_id: Annotated[str, Described("as correlation_id", "20260110_033000")]
    correlation_id: RunId
    timestamp: Instant
    source: Annotated[str, Described("the program that wrote the entry", "retraining-worker")]
    event_id: Annotated[EventId, Described("equal for every publication of the event: for de-duplication")]
    schema_version: Annotated[str, Described("within one version fields are only added", "1", pattern="^[0-9]+$")]
    instance: NotRequired[Annotated[str, Described("INSTANCE of the worker; empty: the only one of its prefix", "")]]
    host: NotRequired[Annotated[str, Described("the host of the program that wrote the entry", "trading-1")]]
    signature: NotRequired[
        Annotated[str, Described("of a change of the slot, `<key id>:<base64>`; empty: not signed", "")]
    ]
    # beside the envelope, for consumers that read no payload
    model: NotRequired[Annotated[str, Described("patchtst", "patchtst")]]
    status: NotRequired[Annotated[str, Described("what happened, in lower case", "promoted")]]
    type: NotRequired[Annotated[str, Described("as event_type", "model.promoted")]]
    model_name: NotRequired[Annotated[str, Described("patchtst", "patchtst")]]
    model_type: NotRequired[Annotated[str, Described("patchtst", "patchtst")]]
    old_version: NotRequired[Annotated[Version, Described("empty: there was none", "patchtst_v20260109_033000")]]
    new_version: NotRequired[Version]
    version: NotRequired[Version]
    model_path: NotRequired[ModelPath]
    promoted_at: NotRequired[Instant]
    promoted_at_ts: NotRequired[Annotated[str, Described("seconds since the epoch", "1768016467.250000")]]
    duration_seconds: NotRequired[Annotated[str, Described("of the run", "667.250")]]
    final_loss: NotRequired[Annotated[str, Described("of the training", "0.547429")]]
    error: NotRequired[Annotated[str, Described("why the run failed", "no space left on device: /mnt/models")]]


class CurrentModelFields(TypedDict):
    """The hash quantum:model:patchtst:current: the model in service, or none: an empty model_path. All is text."""

    version: Version
    model_path: Annotated[ModelPath, Described("empty: the slot names no model")]
    sha256: Sha256
    size_bytes: Annotated[str, Described("size of the model file", "2457890")]
    run_id: RunId
    promoted_at: Annotated[Instant, Described("when the slot changed")]
    event_id: EventId
    shadow_only: Annotated[str, Described("as in the event", "true", values=("true", "false"))]
    confirmed: Annotated[str, Described("whether the engine was seen serving it", "true", values=("true", "false"))]
    instance: NotRequired[Annotated[str, Described("INSTANCE of the worker; empty: the only one of its prefix", "")]]
    host: NotRequired[Annotated[str, Described("the worker's host", "trading-1")]]
    model_url: NotRequired[ModelUrl]
    rollout: NotRequired[
        Annotated[str, Described("JSON: a model that its `consumers` serve before the slot names it; empty: none", "")]
    ]
    signature: NotRequired[Annotated[str, Described("`<key id>:<base64>`; empty or absent: not signed", "")]]
