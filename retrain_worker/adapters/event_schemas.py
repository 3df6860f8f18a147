"""JSON Schemas of the published data: the entry, the payload of each event type, the current model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from retrain_worker.domain import payloads
from retrain_worker.domain.events import REQUEST_STREAM, SERVED_STREAM, STREAM_PREFIX, EventType

#: event type -> type of its payload
PAYLOADS: dict[str, Any] = {
    EventType.STARTED: payloads.Started,
    EventType.COMPLETED: payloads.Finished,
    EventType.FAILED: payloads.Finished,
    EventType.SKIPPED: payloads.Finished,
    EventType.PROMOTED: payloads.Promoted,
    EventType.ROLLED_BACK: payloads.RolledBack,
    EventType.ROLLBACK_INITIATED: payloads.RolledBack,
    EventType.CHANGED_EXTERNALLY: payloads.ChangedExternally,
    REQUEST_STREAM.removeprefix(STREAM_PREFIX): payloads.RetrainRequest,
    SERVED_STREAM.removeprefix(STREAM_PREFIX): payloads.Served,
}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """File name -> schema. Additional fields are allowed everywhere: a newer version may add some."""
    named = {f"{event_type}.json": kind for event_type, kind in PAYLOADS.items()}
    named |= {"entry.json": payloads.Entry, "current_model.json": payloads.CurrentModelFields}
    return {name: {"$schema": _DIALECT, **msgspec.json.schema(kind)} for name, kind in sorted(named.items())}


def write_schemas(folder: Path) -> list[Path]:
    """Write the schemas to `folder`, which is created; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, schema in schemas().items():
        (folder / name).write_bytes(as_text(schema))
        written.append(folder / name)
    return written


def as_text(schema: dict[str, Any]) -> bytes:
    """A schema as the content of its file."""
    return msgspec.json.format(msgspec.json.encode(schema, order="sorted"), indent=2) + b"\n"
