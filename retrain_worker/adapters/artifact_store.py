"""The directories of runs, `MODEL_PATH/runs/<run id>/` and `CHECKPOINT_PATH/runs/<run id>/`, and their retention.

Other programs may have models and checkpoints in MODEL_PATH and CHECKPOINT_PATH: only `runs` in them is used.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from retrain_worker import durable_file
from retrain_worker.errors import StateError

_RUN_ID = re.compile(r"\d{8}_\d{6}")
_DOOMED_PREFIX = f"{durable_file.TEMPORARY_PREFIX}doomed."


class ArtifactStore:
    """The directories of runs. Implements stages.ports.RunFolders."""

    def __init__(self, *, model_path: Path, checkpoint_path: Path) -> None:
        self._runs_dir = model_path / "runs"
        self._slot_requests_dir = self._runs_dir / "slot_requests"
        self._checkpoints_dir = checkpoint_path / "runs"

    @property
    def own_directories(self) -> tuple[Path, Path]:
        """The directories that this program writes to, of models and of checkpoints."""
        return self._runs_dir, self._checkpoints_dir

    def path_of(self, run_id: str) -> Path:
        """The directory of a run, which may not exist."""
        return self._runs_dir / _checked(run_id)

    def run_dir(self, run_id: str) -> Path:
        """The directory of a run, created if necessary. Raises SlotError, DiskFullError."""
        return _made(self.path_of(run_id))

    def report_of(self, run_id: str) -> Path:
        """The path of the page of a run."""
        return self.path_of(run_id) / "report.html"

    def comparison_of(self, run_id: str) -> Path:
        """The path of the page that compares a run with the judged one before it."""
        return self.path_of(run_id) / "compare.html"

    @property
    def index_path(self) -> Path:
        """The path of the page of all runs, in a directory of its own, which the worker that writes it may write to."""
        return self._runs_dir / "index" / "index.html"

    def index_dir(self) -> Path:
        """The directory of that page, created if necessary."""
        return _made(self.index_path.parent)

    def checkpoint_dir(self, run_id: str) -> Path:
        """The directory of the worker's checkpoint, created if necessary."""
        return _made(self._checkpoints_dir / _checked(run_id))

    def folds_dir(self) -> Path:
        """The directory of predictions on backtest folds, which all runs share, created if necessary."""
        return _made(self._checkpoints_dir / "folds")

    def slot_request_dir(self, request_id: str) -> Path:
        """The directory of a slot request's verification, created if necessary."""
        return _made(self._slot_requests_dir / request_id)

    def remove_slot_request_dir(self, request_id: str) -> None:
        """Remove it if it exists; leftovers are removed at the next start."""
        with contextlib.suppress(OSError):
            shutil.rmtree(self._slot_requests_dir / request_id)
            self._slot_requests_dir.rmdir()  # a request by root must not leave files of root

    def run_ids(self) -> tuple[str, ...]:
        """The runs that have a directory, oldest first."""
        return _run_ids_in(self._runs_dir)

    def remove_old_runs(self, *, keep: int, protected: Collection[str | Path]) -> tuple[str, ...]:
        """Remove all but the newest `keep` runs, with their checkpoints; the removed ids.

        `protected`: run ids, and paths; a run whose directory contains one of these is kept.
        """
        ids = self.run_ids()
        spared = {*ids[len(ids) - keep if keep < len(ids) else 0 :], *self._named_by(protected)}
        gone = tuple(run_id for run_id in ids if run_id not in spared)
        for run_id in gone:
            _remove(self._runs_dir / run_id)
        for run_id in _run_ids_in(self._checkpoints_dir):
            if run_id not in spared and run_id not in self.run_ids():
                _remove(self._checkpoints_dir / run_id)
        return gone

    def sweep(self) -> None:
        """Finish the removals of a killed process; an interrupted verification is repeated.

        To be called once, at start.
        """
        for directory in (self._runs_dir, self._checkpoints_dir):
            for doomed in directory.glob(f"{_DOOMED_PREFIX}*"):
                shutil.rmtree(doomed, ignore_errors=True)
        shutil.rmtree(self._slot_requests_dir, ignore_errors=True)
        for former in _run_ids_in(self._checkpoints_dir.parent):  # where earlier versions had them
            with contextlib.suppress(OSError):
                (self._checkpoints_dir.parent / former).rename(_made(self._checkpoints_dir) / former)

    def _named_by(self, protected: Collection[str | Path]) -> set[str]:
        named = {each for each in protected if isinstance(each, str)}
        runs_dir = self._runs_dir.resolve()
        for path in (each.resolve() for each in protected if isinstance(each, Path)):
            if path.is_relative_to(runs_dir) and path != runs_dir:
                named.add(path.relative_to(runs_dir).parts[0])
        return named


def _checked(run_id: str) -> str:
    if not _RUN_ID.fullmatch(run_id):
        raise StateError(f"{run_id!r} is not the id of a run", remedy="an id is YYYYmmdd_HHMMSS")
    return run_id


def _run_ids_in(directory: Path) -> tuple[str, ...]:
    if not directory.is_dir():
        return ()
    return tuple(sorted(path.name for path in directory.iterdir() if _RUN_ID.fullmatch(path.name) and path.is_dir()))


def _made(directory: Path) -> Path:
    with durable_file.named_errors(directory):
        if not directory.is_dir():
            directory.mkdir(parents=True, exist_ok=True)
            durable_file.sync_directory(directory.parent)
    return directory


def _remove(directory: Path) -> None:
    """Remove by a rename first, so that an interrupted removal leaves nothing that looks like a run."""
    if not directory.is_dir():
        return
    with durable_file.named_errors(directory):
        doomed = directory.rename(directory.with_name(_DOOMED_PREFIX + directory.name))
        shutil.rmtree(doomed)
