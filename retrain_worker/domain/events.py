"""The events that are published to the rest of the stack: types, payloads, ids, schema version.

An event id is derived from its cause (run and type), not drawn at random: an event that is enqueued twice is one event.
The flat fields beside the envelope are those that the stack's older consumers read.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from retrain_worker.domain import payloads
from retrain_worker.domain.artifact import MODEL_NAME, url_of
from retrain_worker.domain.facts import ProbationFacts, ShadowFacts
from retrain_worker.domain.lifecycle import Deployment, Outcome, Run

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SOURCE = "retraining-worker"
SCHEMA_VERSION = 1
STREAM_PREFIX = "quantum:stream:"
#: the hash that always holds the model in service
CURRENT_MODEL_KEY = f"quantum:model:{MODEL_NAME}:current"
#: stream of requests for a run
REQUEST_STREAM = f"{STREAM_PREFIX}model.retrain"
REQUEST_GROUP = "retraining_workers"
#: stream of followers' acknowledgements
SERVED_STREAM = f"{STREAM_PREFIX}model.served"
#: entries older than this are trimmed, but never past a pending one
STREAM_RETENTION_DAYS = 30

_NAMESPACE = uuid.UUID("6f0c4b52-4f7e-4f0b-9d5e-5c1e6d1f2a10")


class EventType(StrEnum):
    """Types of published events. Each has its own stream, named after it."""

    STARTED = "learning.retraining.started"
    #: a candidate was trained and evaluated: outcome PROMOTED, REFUSED or ROLLED_BACK
    COMPLETED = "learning.retraining.completed"
    #: the run ended without a candidate: the data was refused, or an error occurred
    FAILED = "learning.retraining.failed"
    SKIPPED = "learning.retraining.skipped"
    PROMOTED = "model.promoted"
    ROLLED_BACK = "model.rolled_back"
    #: the slot was changed by another process or person
    CHANGED_EXTERNALLY = "model.changed_externally"
    #: ROLLED_BACK under the name to which the stack's services subscribe
    ROLLBACK_INITIATED = "model.rollback_initiated"


#: event type -> the names under which it is published once more, for services of the stack
ALIASES: Mapping[EventType, tuple[EventType, ...]] = {EventType.ROLLED_BACK: (EventType.ROLLBACK_INITIATED,)}
#: event types that are no aliases
EVENT_TYPES = tuple(kind for kind in EventType if not any(kind in aliases for aliases in ALIASES.values()))


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event before it has a stream id."""

    event_id: str
    event_type: EventType
    payload: Mapping[str, Any]
    correlation_id: str
    timestamp: datetime
    #: the fields beside the envelope that older consumers read
    flat: Mapping[str, str] = field(default_factory=dict)

    @property
    def stream(self) -> str:
        """The stream of this event."""
        return stream_of(self.event_type)


def stream_of(event_type: str) -> str:
    """`quantum:stream:<event type>`."""
    return STREAM_PREFIX + event_type


def event_id_of(cause: str, event_type: str) -> str:
    """The id of the one event of this type that `cause`, a run or a deployment, causes."""
    return str(uuid.uuid5(_NAMESPACE, f"{cause}/{event_type}"))


def started(run: Run, *, at: datetime) -> Event:
    """A run has started."""
    payload: payloads.Started = {
        "run_id": run.run_id,
        "requested_by": run.requested_by,
        "request_reason": run.request_reason,
        "started_at": run.created_at.isoformat(),
    }
    return _event(EventType.STARTED, run.run_id, at, payload=payload, flat={"model": MODEL_NAME, "status": "started"})


def finished(run: Run, *, at: datetime) -> Event:
    """A run has ended. `run.outcome` is set."""
    assert run.outcome is not None, "only a run with an outcome has finished"
    event_type = finished_type(run)
    facts, promoted = run.facts, run.facts.promote
    payload: payloads.Finished = {
        "run_id": run.run_id,
        "outcome": run.outcome,
        "reasons": list(run.reasons),
        "stage": run.stage,
        "rows": _fields(facts.pull.rows) if facts.pull else {},
        "candidate": _fields(facts.gate and facts.gate.candidate),
        "incumbent": _fields(facts.gate and facts.gate.incumbent),
        "gates": _gates(run),
        "trial": _trial(facts.shadow),
        "forced": _fields(facts.gate and facts.gate.forced),
        "model_path": promoted.model_path if promoted else None,
        "sha256": promoted.sha256 if promoted else None,
        "previous_model_path": promoted.previous_model_path if promoted else None,
        "confirmed": promoted.confirmed if promoted else None,
        "seconds": dict(run.seconds),
        "finished_at": at.isoformat(),
    }
    flat = {
        "model": MODEL_NAME,
        "status": run.outcome.lower(),
        "model_path": promoted.model_path if promoted else "",
        "duration_seconds": f"{(at - run.created_at).total_seconds():.3f}",
        "final_loss": _final_loss(run),
        "error": "; ".join(run.reasons) if event_type is EventType.FAILED else "",
    }
    return _event(event_type, run.run_id, at, payload=payload, flat=flat)


def finished_type(run: Run) -> EventType:
    """The event type of the end of `run`. COMPLETED requires a trained candidate."""
    if run.outcome is Outcome.SKIPPED:
        return EventType.SKIPPED
    judged = run.outcome in (Outcome.PROMOTED, Outcome.REFUSED, Outcome.ROLLED_BACK) and run.facts.gate is not None
    return EventType.COMPLETED if judged else EventType.FAILED


def promoted(run: Run, deployment: Deployment, *, shadow_only: bool, at: datetime, models_url: str = "") -> Event:
    """The engine's slot names a new model. Sent before the confirmation, because followers confirm on this event."""
    facts = run.facts

    def metric(name: str) -> float | None:
        value: float | None = getattr(facts.gate.candidate, name, None) if facts.gate else None
        return value

    payload: payloads.Promoted = {
        **_model_of(deployment, EventType.PROMOTED, models_url),
        "sha256": deployment.sha256,
        "size_bytes": deployment.size_bytes,
        "accuracy": metric("accuracy"),
        "precision": metric("precision"),
        "recall": metric("recall"),
        "f1_score": metric("f1_score"),
        "auc": metric("auc"),
        "performance_metrics": {
            "log_loss": metric("log_loss"),
            "brier": metric("brier"),
            "ece": metric("ece"),
            "p_std": metric("p_std"),
            "p10_p90": metric("p10_p90"),
            "n": metric("n"),
        },
        "gates": _gates(run),
        "trial": _trial(facts.shadow),
        "forced": _fields(facts.gate and facts.gate.forced),
        "contract": _fields(facts.train and facts.train.contract),
        "shadow_only": shadow_only,
        "confirmed": False,
        "promoted_at": at.isoformat(),
        "promoted_at_ts": at.timestamp(),
        "promoted_by": deployment.requested_by,
    }
    flat = {
        **_flat_of(deployment, EventType.PROMOTED, "promoted"),
        "final_loss": _final_loss(run),
        "promoted_at": at.isoformat(),
        "promoted_at_ts": f"{at.timestamp():.6f}",
    }
    return _event(EventType.PROMOTED, run.run_id, at, payload=payload, flat=flat)


def rolled_back(
    deployment: Deployment,
    *,
    shadow_only: bool,
    at: datetime,
    models_url: str = "",
    probation: ProbationFacts | None = None,
) -> Event:
    """The slot names an earlier model again. `probation`: of the rolled-back model, if it was on probation."""
    payload: payloads.RolledBack = {
        **_changed(deployment, EventType.ROLLED_BACK, shadow_only=shadow_only, models_url=models_url),
        "rolled_back_at": at.isoformat(),
        "rolled_back_by": deployment.requested_by,
        "evidence": _evidence(probation),
    }
    return _event(
        EventType.ROLLED_BACK,
        deployment.deployment_id,
        at,
        payload=payload,
        flat=_flat_of(deployment, EventType.ROLLED_BACK, "rolled_back"),
        run_id=deployment.run_id,
    )


def changed_externally(deployment: Deployment, *, shadow_only: bool, at: datetime) -> Event:
    """An external change has made the slot name another model."""
    payload: payloads.ChangedExternally = {
        **_changed(deployment, EventType.CHANGED_EXTERNALLY, shadow_only=shadow_only),
        "changed_at": at.isoformat(),
        "changed_by": deployment.requested_by,
    }
    return _event(
        EventType.CHANGED_EXTERNALLY,
        deployment.deployment_id,
        at,
        payload=payload,
        flat=_flat_of(deployment, EventType.CHANGED_EXTERNALLY, "changed_externally"),
        run_id=deployment.run_id,
    )


def with_aliases(event: Event) -> tuple[Event, ...]:
    """The event, and the same under each of its other names, with an id of its own."""
    return (
        event,
        *(
            replace(
                event,
                event_id=event_id_of(event.event_id, alias),
                event_type=alias,
                payload={**event.payload, "type": str(alias)},
                flat={**event.flat, "type": str(alias)},
            )
            for alias in ALIASES.get(event.event_type, ())
        ),
    )


def _changed(
    deployment: Deployment, event_type: EventType, *, shadow_only: bool, models_url: str = ""
) -> payloads.SlotChange:
    return {
        **_model_of(deployment, event_type, models_url),
        "sha256": deployment.sha256,
        "size_bytes": deployment.size_bytes,
        "run_id": deployment.run_id,
        "reason": deployment.reason,
        "shadow_only": shadow_only,
    }


def _model_of(deployment: Deployment, event_type: EventType, models_url: str = "") -> payloads.Model:
    """The names under which the stack's consumers look for the model; those of text are never null."""
    named: payloads.Model = {
        "type": str(event_type),
        "model_name": MODEL_NAME,
        "model_type": MODEL_NAME,
        "old_version": deployment.previous_version or "",
        "new_version": deployment.version,
        "version": deployment.version,
        "model_path": deployment.model_path,
    }
    if url := url_of(models_url, deployment.model_path):
        named["model_url"] = url
    return named


def _flat_of(deployment: Deployment, event_type: EventType, status: str) -> dict[str, str]:
    named = {name: str(value) for name, value in _model_of(deployment, event_type).items()}
    return {"model": MODEL_NAME, "status": status, **named}


def _trial(facts: ShadowFacts | None) -> payloads.Trial | None:
    """The result of the shadow trial; None for a candidate that was not on trial."""
    if facts is None:
        return None
    return {
        "decision": facts.verdict.decision if facts.verdict else None,
        "reasons": list(facts.verdict.reasons) if facts.verdict else [],
        "since": facts.since.isoformat(),
        "num_predictions": facts.num_predictions,
        "num_early_predictions": facts.num_early_predictions,
        "num_outcomes": facts.num_outcomes,
        "auc": facts.auc,
        "log_loss": facts.log_loss,
        "log_loss_gain": facts.log_loss_gain,
    }


def _evidence(facts: ProbationFacts | None) -> payloads.ProbationEvidence | None:
    if facts is None:
        return None
    return {
        "reason": facts.rollback_reason,
        "since": facts.since.isoformat(),
        "num_predictions": facts.num_predictions,
        "num_early_predictions": facts.num_early_predictions,
        "num_outcomes": facts.num_outcomes,
        "num_analyses": facts.num_analyses,
        "auc": facts.auc,
        "log_loss": facts.log_loss,
        "worse_by": facts.worse.log_loss_gain if facts.worse else None,
        "worse_by_low": facts.worse.log_loss_gain_low if facts.worse else None,
        "model": _fields(facts.model),
        "reference": _fields(facts.reference),
        "reference_absence": facts.reference_absence,
    }


def _gates(run: Run) -> list[payloads.GateResult]:
    return [_fields(gate) for gate in run.facts.gate.verdict.gates] if run.facts.gate else []


def _fields(value: DataclassInstance | None) -> Any:
    """The fields of a stored value; payload_parts types them, and a test compares the two."""
    return asdict(value) if value else None


def _event(
    event_type: EventType,
    cause: str,
    at: datetime,
    *,
    payload: Mapping[str, Any],
    flat: Mapping[str, str],
    run_id: str | None = None,
) -> Event:
    """`cause`: the run, or the deployment, that causes just one event of this type; `run_id`: whose run it was."""
    return Event(
        event_id=event_id_of(cause, event_type),
        event_type=event_type,
        payload=payload,
        correlation_id=run_id or cause,
        timestamp=at,
        # a consumer expects an old version that is empty, but not an error that is
        flat={key: value for key, value in flat.items() if value or key == "old_version"},
    )


def _final_loss(run: Run) -> str:
    loss = run.facts.train.final_loss if run.facts.train else None
    return "" if loss is None else f"{loss:.6f}"
