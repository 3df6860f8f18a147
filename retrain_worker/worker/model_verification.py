"""Verify: a model file is loaded as an engine would load it, and must give its recorded answers."""

from __future__ import annotations

from pathlib import Path

from retrain_worker.domain.worker_protocol import VerifyRequest, VerifyResult
from retrain_worker.model import bundle, presets

#: a file of the stack's older scripts may not say its features; how many the engine feeds it, is what counts here
_UNKNOWN_NAMES = tuple(f"feature_{number}" for number in range(presets.ENGINE_INPUTS))


def verify(request: VerifyRequest) -> VerifyResult:
    """The hash and the canary of the file, both as they must be. Raises ArtifactError."""
    found = bundle.read(Path(request.model_path), expected_sha256=request.expected_sha256, feature_names=_UNKNOWN_NAMES)
    return VerifyResult(sha256=found.manifest.sha256, canary_error=found.canary_error())
