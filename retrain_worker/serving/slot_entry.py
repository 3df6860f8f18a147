"""The entry of the slot that a follower acts on, from the current-model hash or the env file: decoded and verified.

Whoever may write to Redis can write the hash. So an entry counts only when it is complete, names its sha256, and its
model lies directly in an allowed directory; the bytes of the file are verified when they are loaded. With a verifier,
an entry counts only when it is signed: that of the hash as a whole, that of the env file by the signature beside the
model, which dates it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker import durable_file
from retrain_worker.domain import env_file
from retrain_worker.domain.artifact import ENGINE_MODELS_DIR, PATH_KEY
from retrain_worker.domain.current_model import CurrentModel, from_fields
from retrain_worker.domain.decoding import fields_in, json_object
from retrain_worker.domain.signed_statement import of_offer, of_slot
from retrain_worker.errors import ArtifactError, MalformedError
from retrain_worker.model.checksum import stored_checksum

if TYPE_CHECKING:
    from retrain_worker.signing import Verifier

#: of the hash
FIELDS = (*(field.name for field in fields(CurrentModel)), "signature", "rollout")


def default_directories() -> tuple[Path, ...]:
    """ENGINE_MODELS_DIR of this process, else the daemon's default."""
    return (Path(os.environ.get("ENGINE_MODELS_DIR") or ENGINE_MODELS_DIR),)


class SlotEntries:
    """Decodes and verifies entries."""

    def __init__(
        self, allowed_directories: Iterable[Path], *, verifier: Verifier | None = None, instance: str = ""
    ) -> None:
        """`verifier`: only signed entries, of the worker `instance`, count."""
        self._verifier, self._instance = verifier, instance
        given = [Path(directory) for directory in allowed_directories]
        self._allowed = frozenset(path for each in given for path in (each.absolute(), each.resolve()))

    @property
    def are_signed(self) -> bool:
        """Whether only signed entries count."""
        return self._verifier is not None

    def from_hash(self, raw: Mapping[bytes, bytes]) -> CurrentModel:
        """The entry in the fields of the hash. Raises MalformedError; `verify` has not seen it yet."""
        given = fields_in(raw)
        entry = from_fields(given)
        if self._verifier is not None:
            try:
                self._verifier.check(of_slot(entry, instance=self._instance), given.get("signature", ""))
            except ArtifactError as error:
                raise MalformedError(error.what) from None
        return entry

    def offer_in(self, raw: Mapping[bytes, bytes], *, consumer: str) -> CurrentModel | None:
        """The model that the hash offers to this consumer before the slot names it. Raises MalformedError."""
        text = fields_in(raw).get("rollout", "")
        offered = json_object(text, "its rollout") if text else {}
        consumers = offered.get("consumers")
        if not isinstance(consumers, list) or consumer not in consumers:
            return None
        fields = {name: value for name, value in offered.items() if isinstance(value, str)}
        offer = from_fields(fields)
        if self._verifier is not None:
            try:
                statement = of_offer(offer, tuple(map(str, consumers)), instance=self._instance)
                self._verifier.check(statement, fields.get("signature", ""))
            except ArtifactError as error:
                raise MalformedError(error.what) from None
        return offer

    def from_env_file(self, path: Path) -> CurrentModel | None:
        """The entry in the engine's env file, dated by the last change of the file; None when it names no model.

        Its sha256 is that of the checksum file beside the model. Raises OSError, SlotError where systemd would reject
        the file, and with a verifier ArtifactError for a model that is not signed.
        """
        content = durable_file.read_regular(path, env_file.MAX_BYTES)
        changed_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        named = env_file.value_of(content, PATH_KEY)
        if not named:
            return None
        sha256 = (stored_checksum(Path(named)) or "") if self._is_allowed(Path(named)) else ""
        if self._verifier is not None:
            signed = self._verifier.check_model(Path(named), sha256).statement
            changed_at = datetime.fromisoformat(signed["promoted_at"])
        return CurrentModel(
            version=Path(named).stem,
            model_path=named,
            sha256=sha256,
            size_bytes=0,
            run_id="",
            promoted_at=changed_at,
            event_id="",
            shadow_only=True,
            confirmed=False,
        )

    def verify(self, entry: CurrentModel) -> None:
        """Raise ArtifactError when the model of the entry must not be served."""
        path = Path(entry.model_path)
        if not self._is_allowed(path):
            allowed = " or ".join(sorted(map(str, self._allowed)))
            remedy = (
                "give ModelFollower the directory of the engine's models: allowed_directories, or ENGINE_MODELS_DIR"
            )
            raise ArtifactError(f"it does not lie in {allowed}", where=entry.model_path, remedy=remedy)
        if not entry.sha256:
            remedy = f"sha256sum {path.name} > {path.name}.sha256, beside it"
            raise ArtifactError("its sha256 is not known", where=entry.model_path, remedy=remedy)

    def _is_allowed(self, path: Path) -> bool:
        return path.parent in self._allowed
