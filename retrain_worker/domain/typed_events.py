"""An event with the type of its payload. A comparison of `event.event_type` tells a type checker which payload it has.

if event.event_type == "model.promoted":
    event.payload["new_version"]  # payloads.Promoted: a misspelt key is an error of mypy and pyright
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar, get_args

from retrain_worker.domain import payloads

TypeT_co = TypeVar("TypeT_co", bound=str, covariant=True)
PayloadT_co = TypeVar("PayloadT_co", bound=Mapping[str, Any], covariant=True)


@dataclass(frozen=True, kw_only=True)
class TypedEvent(Generic[TypeT_co, PayloadT_co]):
    """One decoded entry of a stream."""

    event_id: str
    event_type: TypeT_co
    payload: PayloadT_co
    correlation_id: str
    trace_id: str
    timestamp: datetime
    source: str
    schema_version: int
    #: of the worker; empty: the only one of its prefix
    instance: str = ""
    host: str = ""
    #: every field beside the envelope
    flat: Mapping[str, str] = field(default_factory=dict)
    stream: str
    stream_id: str


#: what ModelEvents delivers; the payloads are as this program publishes them
ModelEvent = (
    TypedEvent[Literal["learning.retraining.started"], payloads.Started]
    | TypedEvent[Literal["learning.retraining.completed"], payloads.Finished]
    | TypedEvent[Literal["learning.retraining.failed"], payloads.Finished]
    | TypedEvent[Literal["learning.retraining.skipped"], payloads.Finished]
    | TypedEvent[Literal["model.promoted"], payloads.Promoted]
    | TypedEvent[Literal["model.rolled_back"], payloads.RolledBack]
    | TypedEvent[Literal["model.rollback_initiated"], payloads.RolledBack]
    | TypedEvent[Literal["model.changed_externally"], payloads.ChangedExternally]
    | TypedEvent[Literal["model.retrain"], payloads.RetrainRequest]
    | TypedEvent[Literal["model.served"], payloads.Served]
)

#: event type -> type of its payload
PAYLOADS: Mapping[str, Any] = {
    get_args(kind)[0]: payload for kind, payload in (get_args(member) for member in get_args(ModelEvent))
}
