"""Files and folders that are there completely or not at all, also after a power cut."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from retrain_worker.errors import DiskFullError


@contextmanager
def durable_file(path: Path) -> Iterator[BinaryIO]:
    """A handle to write `path` through; the file appears under its name when the block ends without an error.

    Raises DiskFullError when there is no space.
    """
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with _disk_full_told(path), unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        _sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def durable_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; it takes the place of `path` when the block ends without an error.

    Raises DiskFullError when there is no space.
    """
    unfinished = path.with_name(f".{path.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with _disk_full_told(path):
            unfinished.mkdir(parents=True)
            yield unfinished
            for written in unfinished.iterdir():
                _sync(written)
            _sync(unfinished)
        shutil.rmtree(path, ignore_errors=True)
        unfinished.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _disk_full_told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError(
            "no space left to write", where=str(path), remedy="free space there, or set MODEL_PATH to a larger disk"
        ) from error
