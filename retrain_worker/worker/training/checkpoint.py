"""The state of an interrupted training: one file, replaced atomically, used by the same training only.

The file states what determines the weights, so that a later version of the program resumes from it if it would train
the same weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from retrain_worker import durable_file
from retrain_worker.worker.training import training_identity

#: of the file; a change of its content that an earlier version cannot use needs a new number
FORMAT = 1

_log = logging.getLogger(__name__)


class Checkpoint:
    """`directory/<run_id>.checkpoint`; `identity` is everything that decides the weights."""

    def __init__(self, directory: Path, run_id: str, identity: Mapping[str, Any]) -> None:
        self.path = directory / f"{run_id}.checkpoint"
        self.identity = identity

    def load(self) -> dict[str, Any]:
        """The saved state; empty if there is none, or none of this training, which is logged with the reason."""
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return {}
        except Exception as error:
            return self._ignored(f"it cannot be read ({type(error).__name__})")
        found = content.get("format", 0) if isinstance(content, dict) else None
        if found != FORMAT:
            return self._ignored(f"its format is {found}, and this version reads {FORMAT}")
        if reason := training_identity.difference(content["identity"], self.identity):
            return self._ignored(reason)
        state: dict[str, Any] = content["state"]
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file, durably. Raises DiskFullError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "identity": training_identity.as_json(self.identity), "state": dict(state)}
        with durable_file.replacing(self.path) as file:
            torch.save(content, file)

    def remove(self) -> None:
        """Remove the file: the candidate is written."""
        self.path.unlink(missing_ok=True)

    def _ignored(self, reason: str) -> dict[str, Any]:
        _log.warning("training starts afresh: %s cannot be resumed: %s", self.path, reason)
        return {}
