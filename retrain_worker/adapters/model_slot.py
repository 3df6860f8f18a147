"""The engine's slot: its directory of models and the line of its env file that names the model to serve.

No symbolic link is followed, no env file is created, and no other line of it is changed. A file appears under its name
only when it is complete and durable (durable_file).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from retrain_worker import durable_file
from retrain_worker.adapters.slot_access import Problem, reading_problems, slot_problems
from retrain_worker.domain import env_file, signed_statement
from retrain_worker.domain.artifact import (
    PATH_KEY,
    checksum_file,
    checksum_line,
    is_our_version,
    manifest_file,
    signature_file,
    version_of,
)
from retrain_worker.domain.host_names import HostNames
from retrain_worker.durable_file import FileMetadata
from retrain_worker.errors import ArtifactError, DiskFullError, RetryLaterError, SlotError
from retrain_worker.signing import Signer

SHADOW_KEY = "PATCHTST_SHADOW_ONLY"
#: attempts to replace a file that another process keeps changing
_ATTEMPTS = 5
_KEPT_BACKUPS = 10
#: kept free on the file system of the models
_RESERVE_BYTES = 16 << 20
_MAX_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """The env file at one instant."""

    content: bytes
    metadata: FileMetadata
    identity: tuple[int, int, int, int]


def is_published(model: Path) -> bool:
    """Whether this program has published the model; its name does not decide, as other scripts use the same names."""
    return is_our_version(model.stem) and manifest_file(model).exists()


def _copy(model: Path, directory: Path, *, mode: int) -> None:
    """Copy a model and its sidecars, the model last, so that a model in `directory` has its sidecars."""
    signature = [signature_file(model)] if signature_file(model).exists() else []
    for file in (*signature, checksum_file(model), manifest_file(model), model):
        with durable_file.named_errors(file, doing="read"):
            sha256 = durable_file.sha256_of(file)
        durable_file.copy_durably(file, directory / file.name, mode=mode, expected_sha256=sha256)


def _remove(model: Path) -> None:
    """Remove a model and its sidecars, the model first."""
    with durable_file.named_errors(model):
        for file in (model, checksum_file(model), manifest_file(model), signature_file(model)):
            file.unlink(missing_ok=True)


class ModelSlot:
    """Reads and changes the slot. Implements stages.ports.Slot."""

    def __init__(
        self,
        *,
        engine_models_dir: Path,
        engine_env_file: Path,
        trigger_file: Path | None = None,
        serving_user: str | None = None,
        withdrawn_dir: Path | None = None,
        signer: Signer | None = None,
        instance: str = "",
        model_mode: int = 0o644,
        path_key: str = PATH_KEY,
        shadow_key: str = SHADOW_KEY,
        host_names: HostNames | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        fence: Callable[[], object] = lambda: None,
    ) -> None:
        """`withdrawn_dir`: for models that leave the engine's directory; None: they stay.

        `signer` signs what is published, for `instance`; None: nothing is signed. `host_names`: for remedies. `fence`
        is called immediately before each change, and raises LeadershipLostError where another process leads.
        """
        self._fence = fence
        self._signer, self._instance = signer, instance
        self._host_names = host_names or HostNames()
        self._models_dir = engine_models_dir
        self._withdrawn_dir = withdrawn_dir
        self._env_file = engine_env_file
        self._trigger_file = trigger_file
        self._serving_user = serving_user
        self._model_mode = model_mode
        self._path_key = path_key
        self._shadow_key = shadow_key
        self._now = now

    def current_path(self) -> Path | None:
        """The model that the env line names, or None. Raises SlotError when the env file cannot be used."""
        value = self._value(self._path_key)
        return Path(value) if value else None

    def is_shadow_only(self) -> bool:
        """Whether the shadow setting of the env file is `true`. Raises SlotError when the file cannot be read."""
        return (self._value(self._shadow_key) or "").strip().lower() == "true"

    def publish(self, candidate: Path, *, expected_sha256: str) -> Path:
        """Copy a model and its sidecars to the engine's directory, the model first; the path there. Idempotent.

        Raises ArtifactError when a file is missing or its hash differs, SlotError when another file has the name, the
        directory cannot be used or the serving user cannot read the copy, DiskFullError.
        """
        if not (candidate.suffix == ".pth" and is_our_version(candidate.stem)):
            raise ArtifactError("not a model name of this program", where=str(candidate))
        if not stat.S_ISDIR(self._mode_of(self._models_dir)):
            raise SlotError(
                "the engine's directory of models does not exist",
                where=str(self._models_dir),
                remedy="create it, or correct ENGINE_MODELS_DIR",
            )
        with durable_file.named_errors(candidate, doing="read"):
            self._check_sidecars(candidate, expected_sha256)
            self._check_space(candidate.stat().st_size)
        target = self._models_dir / candidate.name
        found = self.sha256_of(target)
        self._fence()
        if found is None:
            durable_file.copy_durably(candidate, target, mode=self._model_mode, expected_sha256=expected_sha256)
        elif found != expected_sha256:
            raise SlotError(
                f"another file has this name: its sha256 is {found}, not {expected_sha256}",
                where=str(target),
                remedy="find out which program wrote it, and move it away",
            )
        for sidecar_of in (checksum_file, manifest_file):
            source = sidecar_of(candidate)
            with durable_file.named_errors(source, doing="read"):
                sha256 = durable_file.sha256_of(source)
            durable_file.copy_durably(source, sidecar_of(target), mode=self._model_mode, expected_sha256=sha256)
        self._sign(target, expected_sha256)
        for finding, remedy in reading_problems(target, self._serving_user) if self._serving_user else ():
            raise SlotError(finding, where="ENGINE_USER", remedy=remedy)
        return target

    def _sign(self, model: Path, sha256: str) -> None:
        if self._signer is None:
            return
        manifest = durable_file.read_regular(manifest_file(model), _MAX_MANIFEST_BYTES, follow_links=False)
        statement = signed_statement.of_model(
            version=model.stem,
            sha256=sha256,
            run_id=model.stem.removeprefix(version_of("")),
            contract=json.dumps(json.loads(manifest).get("contract"), sort_keys=True),
            instance=self._instance,
            promoted_at=self._now(),
        )
        self._signer.write(model, statement)

    def sha256_of(self, model: Path) -> str | None:
        """The hash of a file; None when it does not exist. Raises SlotError when it is not a regular file."""
        mode = self._mode_of(model)
        if mode and not stat.S_ISREG(mode):
            raise SlotError("not a regular file", where=str(model), remedy="move it away")
        with durable_file.named_errors(model, doing="read"):
            return durable_file.sha256_of(model) if mode else None

    def check_ready(self, model: Path, *, expected_sha256: str | None) -> int:
        """The size in bytes of a model, after the checks that a swap to it needs.

        Raises ArtifactError when it does not exist or its hash differs, SlotError when its path cannot be written to
        the env file or the serving user cannot read it.
        """
        if not model.is_absolute() or ".." in model.parts or not env_file.PLAIN_VALUE.fullmatch(str(model)):
            raise SlotError(
                "the env file takes only an absolute path of letters, digits and . _ / + -", where=str(model)
            )
        found = self.sha256_of(model)
        if found is None:
            raise ArtifactError("the model file does not exist", where=str(model), remedy="choose another version")
        if expected_sha256 not in (None, found):
            raise ArtifactError(
                f"the file was changed: its sha256 is {found}, not {expected_sha256}",
                where=str(model),
                remedy="choose another version",
            )
        for finding, remedy in reading_problems(model, self._serving_user) if self._serving_user else ():
            raise SlotError(finding, where="ENGINE_USER", remedy=remedy)
        with durable_file.named_errors(model, doing="read"):
            return model.stat().st_size

    def point_to(self, model: Path, *, expected_sha256: str, replacing: Path | None) -> None:
        """Set the env line to `model`, atomically, with a backup of the file. Idempotent.

        `replacing`: the model that the line named when the swap was decided; RetryLaterError when it names a third one.
        Raises ArtifactError, SlotError as `check_ready` does, DiskFullError; then the env file is unchanged.
        """
        self.check_ready(model, expected_sha256=expected_sha256)
        self._name(model, replacing)

    def clear(self, *, replacing: Path) -> None:
        """Remove the env line, atomically, with a backup of the file. Idempotent.

        Raises RetryLaterError when it names another model than `replacing`, SlotError, DiskFullError.
        """
        self._name(None, replacing)

    def trigger(self, model: Path | None) -> None:
        """Write the trigger file in place: a systemd path unit reacts to a written file, not to a renamed one."""
        if self._trigger_file is not None:
            self._fence()
            durable_file.write_in_place(self._trigger_file, f"{model or ''}\n".encode())

    def keep_only(self, model: Path | None) -> None:
        """Move this program's other models out of the engine's directory, and date `model` as the newest. Idempotent.

        An engine may search its directory for the newest file, by name or by time. Raises SlotError, DiskFullError.
        """
        if self._withdrawn_dir is None:
            return
        self._fence()
        with durable_file.named_errors(self._withdrawn_dir):
            self._withdrawn_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        for path in self._published_in(self._models_dir):
            if path != model:
                _copy(path, self._withdrawn_dir, mode=self._model_mode)
                _remove(path)
        with durable_file.named_errors(self._models_dir):
            durable_file.sync_directory(self._models_dir)
        if model is not None:
            with contextlib.suppress(OSError):  # another user's file keeps its time
                os.utime(model)

    def located(self, model: Path) -> Path:
        """Where the file of `model` is: in its place, or withdrawn; its place when it is nowhere."""
        withdrawn = self._withdrawn(model)
        return withdrawn if withdrawn is not None and not self._mode_of(model) else model

    def restore(self, model: Path, *, expected_sha256: str) -> None:
        """Copy a withdrawn model back into its place. Raises ArtifactError, SlotError, DiskFullError."""
        source = self.located(model)
        if source == model:
            return
        if self.sha256_of(source) != expected_sha256:
            raise ArtifactError(f"the file was changed: its sha256 is not {expected_sha256}", where=str(source))
        self._fence()
        _copy(source, model.parent, mode=self._model_mode)

    def sweep(self) -> tuple[Path, ...]:
        """Remove the temporary files that a killed process left. Called once, at the start."""
        directories = {self._models_dir, self._env_file.parent, self._withdrawn_dir or self._models_dir}
        return tuple(path for directory in sorted(directories) for path in durable_file.sweep_temporaries(directory))

    def remove_old_models(self, *, keep: int, protected: Collection[Path]) -> tuple[Path, ...]:
        """Remove all but the newest `keep` models of this program; the one in the env line and `protected` are kept.

        Withdrawn models count by the place that they had. Paths are resolved before they are compared.
        """
        named = self.current_path()
        spared = {os.path.realpath(path) for path in (named, *protected) if path is not None}
        folders = [self._models_dir, *([self._withdrawn_dir] if self._withdrawn_dir else [])]
        published = sorted(
            (path for folder in folders for path in self._published_in(folder)), key=lambda path: path.name
        )
        self._fence()
        removed = tuple(
            path
            for path in (published[:-keep] if keep else published)
            if os.path.realpath(self._models_dir / path.name) not in spared
        )
        for path in removed:
            _remove(path)
        return removed

    def problems(self) -> list[Problem]:
        """Everything that would make a swap fail, each with its remedy. Nothing is changed."""
        found = slot_problems(
            engine_models_dir=self._models_dir,
            engine_env_file=self._env_file,
            trigger_file=self._trigger_file,
            serving_user=self._serving_user,
            reserve_bytes=_RESERVE_BYTES,
            host_names=self._host_names,
        )
        try:
            reading = self._read()
            env_file.parse(reading.content)
            model = self.current_path()
            if not self.is_shadow_only():
                found.append(
                    (
                        f"{self._env_file} does not set {self._shadow_key}=true",
                        "set it, or set ALLOW_LIVE_SWAP=true in the settings of this program",
                    )
                )
            if model is not None and not model.is_file():
                found.append((f"{self._path_key} names {model}, which does not exist", "correct the line"))
            elif model is not None and self._serving_user:
                found += [each for each in reading_problems(model, self._serving_user) if each not in found]
        except SlotError as error:
            found.append((f"{error.where}: {error.what}", error.remedy))
        return found

    def _withdrawn(self, model: Path) -> Path | None:
        """The withdrawn copy of a model of the engine's directory; None when there is none."""
        if self._withdrawn_dir is None or model.parent != self._models_dir:
            return None
        path = self._withdrawn_dir / model.name
        return path if self._mode_of(path) else None

    @staticmethod
    def _published_in(directory: Path) -> list[Path]:
        with durable_file.named_errors(directory, doing="read"):
            return sorted(path for path in directory.glob("patchtst_v*.pth") if is_published(path))

    def _value(self, key: str) -> str | None:
        return self._value_in(self._read(), key)

    def _value_in(self, reading: _Reading, key: str) -> str | None:
        with self._naming_the_file():
            return env_file.value_of(reading.content, key)

    def _name(self, model: Path | None, replacing: Path | None) -> None:
        for _ in range(_ATTEMPTS):
            reading = self._read()
            named = self._value_in(reading, self._path_key) or None
            if named == (str(model) if model else None):
                durable_file.sync_directory(self._env_file.parent)
                return
            if named != (str(replacing) if replacing else None):
                raise RetryLaterError(
                    f"{self._path_key} was changed to {named or 'no model'} by another process",
                    where=str(self._env_file),
                    remedy="the change is kept",
                )
            with contextlib.suppress(durable_file.ChangedMeanwhileError):
                self._replace(reading, model)
        raise SlotError(
            f"another process changed the file during each of {_ATTEMPTS} attempts to replace it",
            where=str(self._env_file),
            remedy="find out which process writes it; retrying",
        )

    def _replace(self, reading: _Reading, model: Path | None) -> None:
        with self._naming_the_file():
            content = (
                env_file.replaced(reading.content, self._path_key, str(model))
                if model
                else env_file.removed(reading.content, self._path_key)
            )
            if not reading.metadata.mode & stat.S_IWUSR:
                raise SlotError(
                    f"the file is read-only (mode {reading.metadata.mode:04o})",
                    remedy="chmod u+w to let this program change it",
                )
            backup = self._env_file.with_name(f"{self._env_file.name}.bak-{self._now():%Y%m%dT%H%M%S%f}")
            durable_file.replace_file(backup, reading.content, metadata=reading.metadata)

        def is_expected(path: Path) -> bool:
            is_same = self._read(path) == reading
            if path == self._env_file:  # not the file that was replaced
                self._fence()
            return is_same

        durable_file.exchange_file(self._env_file, content, metadata=reading.metadata, is_expected=is_expected)
        self._remove_old_backups()

    def _read(self, path: Path | None = None) -> _Reading:
        """The env file, or the file at `path`, which has taken its place."""
        try:
            fd = durable_file.open_unfollowed(path or self._env_file)
        except FileNotFoundError as error:
            raise SlotError(
                "the engine's env file does not exist, and this program does not create it",
                where=str(self._env_file),
                remedy="create it, correct ENGINE_ENV_FILE, or use --home DIR, which has its own",
            ) from error
        except OSError as error:
            raise durable_file.named_error(error, self._env_file, doing="read") from error
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise SlotError("the engine's env file is not a regular file", where=str(self._env_file))
            if found.st_size > env_file.MAX_BYTES:
                raise SlotError(f"too large for an env file ({found.st_size} bytes)", where=str(self._env_file))
            content = durable_file.read_all(fd, env_file.MAX_BYTES)
            return _Reading(
                content=content,
                metadata=durable_file.metadata_of(fd),
                identity=(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns),
            )
        except OSError as error:
            raise durable_file.named_error(error, self._env_file, doing="read") from error
        finally:
            with contextlib.suppress(OSError):  # nothing was written through it
                os.close(fd)

    @contextlib.contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except SlotError as error:
            raise SlotError(error.what, where=str(self._env_file), remedy=error.remedy) from error

    def _remove_old_backups(self) -> None:
        """Remove all but the newest backups; one that cannot be removed now is removed after the next swap."""
        name = re.compile(re.escape(self._env_file.name) + r"\.bak-\d{8}T\d{12}")
        with contextlib.suppress(OSError):
            backups = sorted(path for path in self._env_file.parent.iterdir() if name.fullmatch(path.name))
            for path in backups[:-_KEPT_BACKUPS]:
                path.unlink()

    def _check_sidecars(self, candidate: Path, sha256: str) -> None:
        for file in (candidate, checksum_file(candidate), manifest_file(candidate)):
            if not file.is_file():
                raise ArtifactError("no such file", where=str(file))
        if checksum_file(candidate).read_bytes() != checksum_line(candidate, sha256).encode():
            raise ArtifactError(f"the checksum is not {sha256}", where=str(checksum_file(candidate)))

    def _check_space(self, size_bytes: int) -> None:
        free = durable_file.free_bytes(self._models_dir)
        if free < size_bytes + _RESERVE_BYTES:
            raise DiskFullError(
                f"{free} bytes are free, {size_bytes + _RESERVE_BYTES} are needed",
                where=str(self._models_dir),
                remedy="free space on this file system",
            )

    @staticmethod
    def _mode_of(path: Path) -> int:
        """The mode of a path, links not followed; 0 when it does not exist."""
        try:
            return path.lstat().st_mode
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise durable_file.named_error(error, path, doing="read") from error
