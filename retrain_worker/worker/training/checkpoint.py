"""The state to resume a training: one dict in one file, replaced atomically, ignored for another training."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch

from retrain_worker import durable_file

_log = logging.getLogger(__name__)


class Checkpoint:
    """`directory/<run_id>.checkpoint`; `identity` identifies everything that determines the weights."""

    def __init__(self, directory: Path, run_id: str, identity: Mapping[str, Any]) -> None:
        self.path = directory / f"{run_id}.checkpoint"
        self.digest = hashlib.sha256(msgspec.json.encode(identity, order="deterministic")).hexdigest()

    def load(self) -> dict[str, Any] | None:
        """The saved state; None when it is missing, damaged, or of another training."""
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:
            _log.warning("%s cannot be read (%s); training starts from the beginning", self.path, type(error).__name__)
            return None
        if not isinstance(content, dict) or content.get("digest") != self.digest:
            _log.warning(
                "%s belongs to other data or another configuration; training starts from the beginning", self.path
            )
            return None
        state: dict[str, Any] = content["state"]
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file, durably. Raises DiskFullError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with durable_file.replacing(self.path) as file:
            torch.save({"digest": self.digest, "state": dict(state)}, file)

    def remove(self) -> None:
        """Remove the file, after the candidate is written."""
        self.path.unlink(missing_ok=True)
