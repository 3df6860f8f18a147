"""Predictions on backtest folds, kept from run to run: `directory/KEY.npz`, the newest KEPT of them.

The key is the hash of everything that the predictions follow from, so that a file is never out of date. A changed row,
label or configuration has another key; what is not used any more is removed by its age.
"""

from __future__ import annotations

import logging
import os
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrain_worker import durable_file

#: of five folds and two variants, those of several weeks
KEPT = 64

_log = logging.getLogger(__name__)


class FoldStore:
    """The files of one directory, which exists after the first `save`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, key: str, *, rows: int) -> NDArray[np.float64] | None:
        """The predictions (rows,); None if there are none, or if the file is damaged, which is logged."""
        path = self._path(key)
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                answers: NDArray[np.float64] = file["answers"]
            os.utime(path)  # removed by age since its last use
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            _log.warning("the fold is trained again: %s cannot be read: %s", path, error)
            return None
        return answers if answers.shape == (rows,) else None

    def save(self, key: str, answers: NDArray[np.float64]) -> None:
        """Write the file, durably; remove the oldest beyond KEPT. Raises DiskFullError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with durable_file.replacing(self._path(key)) as file:
            np.savez(file, answers=answers)
        by_age = sorted(self._directory.glob("*.npz"), key=lambda path: path.stat().st_mtime_ns)
        for path in by_age[:-KEPT]:
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}.npz"
