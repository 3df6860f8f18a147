"""The one-off task VERIFY: load a model file as an engine would, and reproduce its canary."""

from __future__ import annotations

from pathlib import Path

from retrain_worker.domain.worker_protocol import VerifyRequest, VerifyResult
from retrain_worker.model import bundle, presets

#: for files of the stack's older scripts without feature names; only the number of features counts here
_UNKNOWN_NAMES = tuple(f"feature_{number}" for number in range(presets.ENGINE_INPUTS))


def verify(request: VerifyRequest) -> VerifyResult:
    """Verify hash and canary of the file. Raises ArtifactError."""
    found = bundle.read(Path(request.model_path), expected_sha256=request.expected_sha256, feature_names=_UNKNOWN_NAMES)
    return VerifyResult(sha256=found.manifest.sha256, canary_error=found.canary_error())
