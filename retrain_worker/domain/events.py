"""What we say to the rest of the stack: event types, envelope, ids, schema version.

An event id is derived from what happened (run and type), not drawn at random: whoever enqueues the same event twice
enqueues one event. The flat fields beside the envelope are those that the stack's older consumers read.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from retrain_worker.domain import payloads
from retrain_worker.domain.artifact import MODEL_NAME, MODEL_TYPE
from retrain_worker.domain.lifecycle import Deployment, Outcome, Run, Stage

SOURCE = "retraining-worker"
SCHEMA_VERSION = 1
STREAM_PREFIX = "quantum:stream:"
#: the hash that always holds the model in service
CURRENT_MODEL_KEY = f"quantum:model:{MODEL_NAME}:current"
#: requests for a run come in here
REQUEST_STREAM = f"{STREAM_PREFIX}model.retrain"
REQUEST_GROUP = "retraining_workers"
#: a follower says here that it answers with a model
SERVED_STREAM = f"{STREAM_PREFIX}model.served"
#: entries older than this are trimmed, but never past a pending one
STREAM_RETENTION_DAYS = 30

_NAMESPACE = uuid.UUID("6f0c4b52-4f7e-4f0b-9d5e-5c1e6d1f2a10")


class EventType(StrEnum):
    """Everything we publish. Each has a stream of its own, named after it."""

    STARTED = "learning.retraining.started"
    #: a candidate was trained and judged: outcome PROMOTED or REFUSED
    COMPLETED = "learning.retraining.completed"
    #: no candidate came out: the data was refused, or something broke
    FAILED = "learning.retraining.failed"
    SKIPPED = "learning.retraining.skipped"
    PROMOTED = "model.promoted"
    ROLLED_BACK = "model.rolled_back"
    #: somebody else has changed the slot
    CHANGED_EXTERNALLY = "model.changed_externally"


@dataclass(frozen=True, kw_only=True)
class Event:
    """One entry of a stream, before it has a stream id."""

    event_id: str
    event_type: EventType
    payload: Mapping[str, Any]
    correlation_id: str
    timestamp: datetime
    #: the fields beside the envelope that older consumers read
    flat: Mapping[str, str] = field(default_factory=dict)

    @property
    def stream(self) -> str:
        """The stream this event belongs to."""
        return stream_of(self.event_type)


def stream_of(event_type: str) -> str:
    """`quantum:stream:<event type>`."""
    return STREAM_PREFIX + event_type


def event_id_of(cause: str, event_type: str) -> str:
    """The id of the one event of this type that `cause`, a run or a deployment, causes."""
    return str(uuid.uuid5(_NAMESPACE, f"{cause}/{event_type}"))


def started(run: Run, *, at: datetime) -> Event:
    """A run has begun."""
    payload: payloads.Started = {
        "run_id": run.run_id,
        "requested_by": run.requested_by,
        "request_reason": run.request_reason,
        "started_at": run.created_at.isoformat(),
    }
    return _event(EventType.STARTED, run.run_id, at, payload=payload, flat={"model": MODEL_NAME, "status": "started"})


def finished(run: Run, *, at: datetime) -> Event:
    """A run has ended, however it did. `run.outcome` is set."""
    assert run.outcome is not None, "only a run with an outcome has finished"
    event_type = finished_type(run)
    trained, promoted = run.fact(Stage.TRAIN), run.fact(Stage.PROMOTE)
    payload: payloads.Finished = {
        "run_id": run.run_id,
        "outcome": run.outcome,
        "reasons": list(run.reasons),
        "stage": run.stage,
        "rows": dict(run.fact(Stage.PULL).get("rows", {})),
        "candidate": run.fact(Stage.GATE).get("candidate"),
        "incumbent": run.fact(Stage.GATE).get("incumbent"),
        "gates": run.fact(Stage.GATE).get("gates", []),
        "trial": _trial(run),
        "forced": run.fact(Stage.GATE).get("forced"),
        "model_path": promoted.get("model_path"),
        "sha256": promoted.get("sha256"),
        "previous_model_path": promoted.get("previous_model_path"),
        "confirmed": promoted.get("confirmed"),
        "seconds": dict(run.seconds),
        "finished_at": at.isoformat(),
    }
    flat = {
        "model": MODEL_NAME,
        "status": run.outcome.lower(),
        "model_path": str(promoted.get("model_path") or ""),
        "duration_seconds": f"{(at - run.created_at).total_seconds():.3f}",
        "final_loss": _number(trained.get("final_loss")),
        "error": "; ".join(run.reasons) if event_type is EventType.FAILED else "",
    }
    return _event(event_type, run.run_id, at, payload=payload, flat=flat)


def finished_type(run: Run) -> EventType:
    """Which stream the end of `run` goes to. Success is never said of a model that was not trained."""
    if run.outcome is Outcome.SKIPPED:
        return EventType.SKIPPED
    judged = run.outcome in (Outcome.PROMOTED, Outcome.REFUSED, Outcome.ROLLED_BACK) and bool(run.fact(Stage.GATE))
    return EventType.COMPLETED if judged else EventType.FAILED


def promoted(run: Run, deployment: Deployment, *, shadow_only: bool, at: datetime) -> Event:
    """The engine's slot names a new model. Sent before the confirmation, because followers confirm on this event."""
    gate, trained = run.fact(Stage.GATE), run.fact(Stage.TRAIN)
    card: Mapping[str, Any] = gate.get("candidate") or {}
    payload: payloads.Promoted = {
        "model_name": MODEL_NAME,
        "model_type": MODEL_TYPE,
        "old_version": deployment.previous_version,
        "new_version": deployment.version,
        "model_path": deployment.model_path,
        "sha256": deployment.sha256,
        "size_bytes": deployment.size_bytes,
        "accuracy": card.get("accuracy"),
        "precision": card.get("precision"),
        "recall": card.get("recall"),
        "f1_score": card.get("f1_score"),
        "auc": card.get("auc"),
        "performance_metrics": {key: card.get(key) for key in ("log_loss", "brier", "ece", "p_std", "p10_p90", "n")},
        "gates": gate.get("gates", []),
        "trial": _trial(run),
        "forced": gate.get("forced"),
        "contract": trained.get("contract"),
        "shadow_only": shadow_only,
        "confirmed": False,
        "promoted_at": at.isoformat(),
        "promoted_by": deployment.requested_by,
    }
    flat = {
        "model": MODEL_NAME,
        "status": "promoted",
        "model_path": deployment.model_path,
        "final_loss": _number(trained.get("final_loss")),
    }
    return _event(EventType.PROMOTED, run.run_id, at, payload=payload, flat=flat)


def rolled_back(
    deployment: Deployment,
    *,
    shadow_only: bool,
    at: datetime,
    evidence: Mapping[str, Any] | None = None,
) -> Event:
    """The slot names an earlier model again. `evidence`: what a probation found, where one took the model back."""
    payload: payloads.RolledBack = {
        **_changed(deployment, shadow_only=shadow_only),
        "rolled_back_at": at.isoformat(),
        "rolled_back_by": deployment.requested_by,
        "evidence": evidence,
    }
    return _event(
        EventType.ROLLED_BACK,
        deployment.deployment_id,
        at,
        payload=payload,
        flat=_flat_of(deployment, "rolled_back"),
        run_id=deployment.run_id,
    )


def changed_externally(deployment: Deployment, *, shadow_only: bool, at: datetime) -> Event:
    """Somebody else has made the slot name another model."""
    payload: payloads.ChangedExternally = {
        **_changed(deployment, shadow_only=shadow_only),
        "changed_at": at.isoformat(),
        "changed_by": deployment.requested_by,
    }
    return _event(
        EventType.CHANGED_EXTERNALLY,
        deployment.deployment_id,
        at,
        payload=payload,
        flat=_flat_of(deployment, "changed_externally"),
    )


def _changed(deployment: Deployment, *, shadow_only: bool) -> payloads.SlotChange:
    return {
        "model_name": MODEL_NAME,
        "model_type": MODEL_TYPE,
        "old_version": deployment.previous_version,
        "new_version": deployment.version,
        "model_path": deployment.model_path,
        "sha256": deployment.sha256,
        "size_bytes": deployment.size_bytes,
        "reason": deployment.reason,
        "shadow_only": shadow_only,
    }


def _flat_of(deployment: Deployment, status: str) -> dict[str, str]:
    return {"model": MODEL_NAME, "status": status, "model_path": deployment.model_path}


def _trial(run: Run) -> dict[str, Any] | None:
    """What the shadow trial came to; None for a candidate that was not on trial."""
    fact = run.fact(Stage.SHADOW)
    names = ("decision", "reasons", "since", "observed", "foreseen", "known", "auc", "log_loss", "log_loss_gain")
    return {name: fact.get(name) for name in names} if fact else None


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
        flat={key: value for key, value in flat.items() if value},
    )


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.6f}"
