"""What the daemon signs: that a model file is one that it has published, and that the slot names a model since then.

A statement is a mapping of texts; the signature covers its canonical JSON. `purpose` keeps one kind from being taken
for the other, `instance` one worker's slot from another's. The instant is part of it: an old statement stays old.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from retrain_worker.domain.current_model import CurrentModel

Statement = Mapping[str, str]

_PREFIX = b"retrain-worker statement 1\n"


def of_slot(model: CurrentModel, *, instance: str) -> Statement:
    """The slot of `instance` names this model; an empty path and hash: none."""
    return {
        "purpose": "slot",
        "instance": instance,
        "version": model.version,
        "model_path": model.model_path,
        "sha256": model.sha256,
        "run_id": model.run_id,
        "promoted_at": model.promoted_at.astimezone(UTC).isoformat(),
    }


def of_offer(model: CurrentModel, consumers: tuple[str, ...], *, instance: str) -> Statement:
    """These followers serve this model before the slot names it."""
    return {**of_slot(model, instance=instance), "purpose": "offer", "consumers": json.dumps(consumers)}


def of_model(
    *, version: str, sha256: str, run_id: str, contract: str, instance: str, promoted_at: datetime
) -> Statement:
    """This worker has published the file with this hash. `contract`: JSON, as in the manifest."""
    return {
        "purpose": "model",
        "instance": instance,
        "version": version,
        "sha256": sha256,
        "run_id": run_id,
        "contract": contract,
        "promoted_at": promoted_at.astimezone(UTC).isoformat(),
    }


def signed_bytes(statement: Statement) -> bytes:
    """What is signed."""
    return _PREFIX + json.dumps(dict(statement), sort_keys=True, separators=(",", ":")).encode()
