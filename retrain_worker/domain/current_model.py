"""The model in service, as published in the hash `quantum:model:patchtst:current`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from retrain_worker.domain import decoding
from retrain_worker.domain.artifact import is_our_version, version_of
from retrain_worker.domain.events import EventType
from retrain_worker.errors import MalformedError

#: events that change the model in service
CHANGES = (EventType.PROMOTED, EventType.ROLLED_BACK, EventType.CHANGED_EXTERNALLY)
#: event type -> the field of its payload that holds when the slot changed
_INSTANTS: Mapping[str, str] = dict(zip(CHANGES, ("promoted_at", "rolled_back_at", "changed_at"), strict=True))


@dataclass(frozen=True, kw_only=True)
class CurrentModel:
    """The model, its time and its event. An empty path: the slot names no model."""

    version: str
    model_path: str
    sha256: str
    size_bytes: int
    #: the run that made it; empty for a model of another origin
    run_id: str
    promoted_at: datetime
    event_id: str
    shadow_only: bool
    confirmed: bool
    #: where its file can be fetched; empty: nowhere, as far as this program knows
    model_url: str = ""

    def after(self, before: CurrentModel | None) -> CurrentModel:
        """The same model, dated after the model `before` it even when the clock has gone back."""
        if before is None or self.promoted_at > before.promoted_at:
            return self
        return replace(self, promoted_at=before.promoted_at + timedelta(microseconds=1))

    def confirmed_by(self, payload: Mapping[str, Any]) -> CurrentModel:
        """The same model with the confirmation of the payload of its completed event."""
        if payload.get("sha256") != self.sha256:
            return self
        return replace(self, confirmed=bool(payload.get("confirmed")))


def named_by(event_type: str, event_id: str, payload: Mapping[str, Any]) -> CurrentModel | None:
    """The model that an event of CHANGES puts into service; None when the payload does not name it."""
    if event_type not in _INSTANTS:
        return None
    version, path, at = payload.get("new_version"), payload.get("model_path"), payload.get(_INSTANTS[event_type])
    if path is None or not (version and at):
        return None
    return CurrentModel(
        version=str(version),
        model_path=str(path),
        sha256=str(payload.get("sha256") or ""),
        size_bytes=int(payload.get("size_bytes") or 0),
        run_id=_run_of(str(version)),
        promoted_at=decoding.instant(str(at), _INSTANTS[event_type]),
        event_id=event_id,
        shadow_only=bool(payload.get("shadow_only")),
        confirmed=bool(payload.get("confirmed")),
        model_url=str(payload.get("model_url") or ""),
    )


def to_fields(model: CurrentModel) -> dict[str, str]:
    """The fields of the hash."""
    return {
        "version": model.version,
        "model_path": model.model_path,
        "sha256": model.sha256,
        "size_bytes": str(model.size_bytes),
        "run_id": model.run_id,
        "promoted_at": model.promoted_at.isoformat(),
        "event_id": model.event_id,
        "shadow_only": _word(model.shadow_only),
        "confirmed": _word(model.confirmed),
        "model_url": model.model_url,
    }


@decoding.raises_malformed_only
def from_fields(fields: Mapping[str, str]) -> CurrentModel:
    """The model that the hash names. Raises MalformedError when a field is missing or invalid."""
    try:
        return CurrentModel(
            version=decoding.line(fields["version"], "version"),
            model_path=decoding.line(fields["model_path"], "model_path", longest=decoding.MAX_PATH),
            sha256=fields["sha256"] and decoding.sha256(fields["sha256"], "sha256"),
            size_bytes=decoding.count(fields["size_bytes"], "size_bytes"),
            run_id=decoding.line(fields["run_id"], "run_id"),
            promoted_at=decoding.instant(fields["promoted_at"], "promoted_at"),
            event_id=decoding.line(fields["event_id"], "event_id"),
            shadow_only=fields["shadow_only"] == "true",
            confirmed=fields["confirmed"] == "true",
            model_url=decoding.line(fields.get("model_url"), "model_url", longest=decoding.MAX_PATH),
        )
    except KeyError as error:
        raise MalformedError(f"the field {error.args[0]} is missing") from None


def _run_of(version: str) -> str:
    return version.removeprefix(version_of("")) if is_our_version(version) else ""


def _word(value: bool) -> str:
    return "true" if value else "false"
