"""One event as one line of text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from retrain_worker.domain.envelope import ReceivedEvent
from retrain_worker.domain.printable import printable

_LONGEST = 160


def event_line(event: ReceivedEvent) -> str:
    """`2026-01-10 03:31:02  model.promoted  ...`, the instant in UTC. Never raises, whatever the payload lacks."""
    line = _LINES.get(event.event_type, _unknown)
    text = printable(line(event.payload or event.flat))
    return f"{event.timestamp:%Y-%m-%d %H:%M:%S}  {event.event_type:<29} {text}".rstrip()


def _started(payload: Mapping[str, Any]) -> str:
    return f"run {payload.get('run_id')}, requested by {payload.get('requested_by')}: {payload.get('request_reason')}"


def _finished(payload: Mapping[str, Any]) -> str:
    reasons = payload.get("reasons")
    reasons = reasons if isinstance(reasons, list) else []
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    reason = f": {reasons[0]}{more}" if reasons else ""
    return f"run {payload.get('run_id')} {payload.get('outcome')}{reason}"


def _promoted(payload: Mapping[str, Any]) -> str:
    auc = payload.get("auc")
    skill = f", AUC {auc:.3f}" if isinstance(auc, int | float) else ""
    shadow = ", shadow only" if payload.get("shadow_only") else ""
    return f"{_replacement(payload)}{skill}{shadow}"


def _rolled_back(payload: Mapping[str, Any]) -> str:
    reason = f": {payload.get('reason') or 'no reason is given'}"
    if not payload.get("model_path"):
        return f"{payload.get('old_version') or 'the model'} removed, the slot names no model{reason}"
    return f"{_replacement(payload)}, rolled back{reason}"


def _changed_externally(payload: Mapping[str, Any]) -> str:
    if not payload.get("model_path"):
        return f"{payload.get('old_version')} removed externally, the slot names no model"
    return f"{_replacement(payload)}, changed externally"


def _replacement(payload: Mapping[str, Any]) -> str:
    return f"{payload.get('new_version') or 'an unnamed model'} replaces {payload.get('old_version') or 'no model'}"


def _served(payload: Mapping[str, Any]) -> str:
    return f"{payload.get('consumer')} answers with {payload.get('version')}"


def _requested(payload: Mapping[str, Any]) -> str:
    requested_by = payload.get("requested_by") or "an unnamed client"
    return f"run requested by {requested_by}: {payload.get('reason') or 'no reason given'}"


def _unknown(payload: Mapping[str, Any]) -> str:
    return json.dumps(dict(payload), default=str)[:_LONGEST]


_LINES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "learning.retraining.started": _started,
    "learning.retraining.completed": _finished,
    "learning.retraining.failed": _finished,
    "learning.retraining.skipped": _finished,
    "model.promoted": _promoted,
    "model.rolled_back": _rolled_back,
    "model.rollback_initiated": _rolled_back,
    "model.changed_externally": _changed_externally,
    "model.served": _served,
    "model.retrain": _requested,
}
