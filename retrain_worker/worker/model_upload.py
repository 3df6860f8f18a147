"""The one-off task UPLOAD: copy models to MODELS_URL, each file verified as read back, a model before its sidecars."""

from __future__ import annotations

import hashlib
from pathlib import Path

from retrain_worker import durable_file, remote_files
from retrain_worker.domain.artifact import checksum_file, manifest_file, signature_file, url_of
from retrain_worker.domain.upload_request import UploadRequest, UploadResult
from retrain_worker.errors import ArtifactError, RemoteUnavailableError

#: as the largest model that a follower loads (model.safe_load)
_MAX_BYTES = 512 << 20
#: of one file
_SECONDS = 120.0


def upload(request: UploadRequest) -> UploadResult:
    """Copy what is not there yet. Raises RemoteUnavailableError, ArtifactError, SettingsError, DiskFullError."""
    urls = []
    for number, (name, sha256) in enumerate(request.models):
        model = Path(name)
        if number and not model.is_file():
            continue
        urls.append(_copied(model, request.models_url, sha256))
        beside = (checksum_file(model), manifest_file(model), signature_file(model))
        urls += [_copied(path, request.models_url, None) for path in beside if path.is_file()]
    return UploadResult(urls=tuple(urls))


def _copied(path: Path, models_url: str, expected_sha256: str | None) -> str:
    url = url_of(models_url, str(path))
    try:
        content = durable_file.read_regular(path, _MAX_BYTES, follow_links=False)
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", where=str(path)) from error
    sha256 = hashlib.sha256(content).hexdigest()
    if expected_sha256 not in (None, sha256):
        raise ArtifactError(f"its sha256 is {sha256}, expected {expected_sha256}", where=str(path))
    if not _holds(url, content):
        remote_files.write(url, content, seconds=_SECONDS)
        if not _holds(url, content):
            raise RemoteUnavailableError("the copy does not read back as it was written", where=url)
    return url


def _holds(url: str, content: bytes) -> bool:
    try:
        return remote_files.read(url, limit_bytes=len(content), seconds=_SECONDS) == content
    except RemoteUnavailableError:
        return False
