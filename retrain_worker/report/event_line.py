"""One event as one line for a person."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from retrain_worker.domain.envelope import ReceivedEvent

_LONGEST = 160


def event_line(event: ReceivedEvent) -> str:
    """`2026-01-10 03:31:02  model.promoted  ...`, the instant in UTC. Never raises, whatever the payload lacks."""
    said = event.payload or event.flat
    tell = _TELLERS.get(event.event_type, _anything)
    text = "".join(c if c.isprintable() else " " for c in tell(said))
    return f"{event.timestamp:%Y-%m-%d %H:%M:%S}  {event.event_type:<29} {text}".rstrip()


def _started(said: Mapping[str, Any]) -> str:
    return f"run {said.get('run_id')}, asked for by {said.get('requested_by')}: {said.get('request_reason')}"


def _finished(said: Mapping[str, Any]) -> str:
    reasons = list(said.get("reasons") or ())
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    reason = f": {reasons[0]}{more}" if reasons else ""
    return f"run {said.get('run_id')} {said.get('outcome')}{reason}"


def _promoted(said: Mapping[str, Any]) -> str:
    auc = said.get("auc")
    skill = f", AUC {auc:.3f}" if isinstance(auc, int | float) else ""
    shadow = ", shadow only" if said.get("shadow_only") else ""
    return f"{said.get('new_version')} replaces {said.get('old_version') or 'nothing'}{skill}{shadow}"


def _rolled_back(said: Mapping[str, Any]) -> str:
    now = f"{said.get('new_version')} is back" if said.get("model_path") else "no model is in service"
    return f"{now}, {said.get('old_version')} is out: {said.get('reason')}"


def _changed_externally(said: Mapping[str, Any]) -> str:
    if not said.get("model_path"):
        return f"somebody else took {said.get('old_version')} out; no model is in service"
    return f"somebody else made {said.get('new_version')} serve instead of {said.get('old_version') or 'nothing'}"


def _served(said: Mapping[str, Any]) -> str:
    return f"{said.get('consumer')} answers with {said.get('version')}"


def _requested(said: Mapping[str, Any]) -> str:
    return f"{said.get('requested_by') or 'somebody'} wants a run: {said.get('reason') or 'no reason given'}"


def _anything(said: Mapping[str, Any]) -> str:
    return json.dumps(dict(said), default=str)[:_LONGEST]


_TELLERS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "learning.retraining.started": _started,
    "learning.retraining.completed": _finished,
    "learning.retraining.failed": _finished,
    "learning.retraining.skipped": _finished,
    "model.promoted": _promoted,
    "model.rolled_back": _rolled_back,
    "model.changed_externally": _changed_externally,
    "model.served": _served,
    "model.retrain": _requested,
}
