"""Models that a follower fetches: from a URL that the follower is configured with, into a directory of its own.

Of an entry only the name of the file and its sha256 count; the place is never taken from Redis. A file is written under
its sha256, atomically and durably, after its bytes have that hash. The entry of the last good model is kept beside it:
it is served after a restart without Redis, or without the URL. A full disk leaves both as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from retrain_worker import durable_file, remote_files
from retrain_worker.domain.artifact import url_of
from retrain_worker.domain.connection_url import problem_of_models_url
from retrain_worker.domain.current_model import CurrentModel
from retrain_worker.errors import ArtifactError, RetrainError, SettingsError

FETCH_SECONDS = 60.0
#: as the largest file that is loaded (model.safe_load)
_MAX_BYTES = 512 << 20
_MAX_ENTRY_BYTES = 1 << 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
#: files that are kept: the model in service, and the one before it, for a rollback
_KEPT = 2


class ModelCache:
    """The directory and the URL. One process writes to a directory at a time."""

    def __init__(self, models_url: str, directory: Path | None, *, seconds: float = FETCH_SECONDS) -> None:
        """Raises SettingsError for an unusable URL, or without a directory; OSError when it cannot be created."""
        if problem := problem_of_models_url(models_url):
            raise SettingsError((f"models_url: {problem}",))
        if directory is None:
            raise SettingsError(("models_url needs cache_directory, where the last good model is kept",))
        self._url, self._directory, self._seconds = models_url, directory, seconds
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        with suppress(RetrainError):
            durable_file.sweep_temporaries(directory)

    def fetched(self, entry: CurrentModel) -> Path:
        """The file of an entry, fetched where it is not in the directory. Raises RetrainError."""
        if not entry.sha256:
            raise ArtifactError("its sha256 is not known", where=entry.model_path)
        path = self._path_of(entry.sha256)
        with suppress(OSError):
            if durable_file.sha256_of_regular(path, _MAX_BYTES) == entry.sha256:
                return path
        name = PurePosixPath(entry.model_path).name
        if _NAME.fullmatch(name) is None:
            raise ArtifactError("not a plain name of a file", where=repr(name))
        url = url_of(self._url, name)
        content = remote_files.read(url, limit_bytes=_MAX_BYTES, seconds=self._seconds)
        if (sha256 := hashlib.sha256(content).hexdigest()) != entry.sha256:
            raise ArtifactError(f"its sha256 is {sha256} ({len(content):,} bytes), expected {entry.sha256}", where=url)
        durable_file.replace_file(path, content, mode=0o640)
        return path

    def keep(self, fields: Mapping[bytes, bytes], sha256: str) -> None:
        """Store the entry of what is in service now, and remove older files. Raises RetrainError, OSError."""
        entry = {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
        durable_file.replace_file(self._last_good, json.dumps(entry).encode(), mode=0o640)
        if not sha256:  # the slot names no model
            return
        self._path_of(sha256).touch()
        by_age = sorted(self._directory.glob("*.pth"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in by_age[_KEPT:]:
            path.unlink(missing_ok=True)

    def last_good(self) -> dict[bytes, bytes]:
        """The fields of the entry of the last good model; empty where there is none."""
        with suppress(OSError, ValueError, AttributeError):
            found = json.loads(durable_file.read_regular(self._last_good, _MAX_ENTRY_BYTES, follow_links=False))
            return {str(name).encode(): str(value).encode() for name, value in found.items()}
        return {}

    @property
    def _last_good(self) -> Path:
        return self._directory / "last_good.json"

    def _path_of(self, sha256: str) -> Path:
        return self._directory / f"{sha256}.pth"
