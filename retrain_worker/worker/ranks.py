"""Which of the processes of a distributed training this one is. Loads no library: a worker reads it before all else."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from retrain_worker.errors import UsageError

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class Rank:
    """The place of this process among those of a training; `local`: among those on its host."""

    number: int = 0
    size: int = 1
    local_number: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one process that writes: checkpoint, candidate, folds, progress and result."""
        return self.number == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there are others."""
        return self.size > 1


def rank_of(environment: Mapping[str, str]) -> Rank:
    """From the variables that torchrun sets; without them one process. Raises UsageError for other values."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if "WORLD_SIZE" not in environment:
        return Rank()
    try:
        number, size, local_number, local_size = (int(environment[name]) for name in names)
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"{', '.join(names)} are not the variables of torchrun ({error})",
            where="environment",
            remedy="let TRAIN_LAUNCHER end with torchrun and its options",
        ) from error
    return Rank(number=number, size=size, local_number=local_number, local_size=local_size)


def end_with_launcher() -> None:
    """Be killed when the launcher is: torchrun starts each rank in a session of its own, which a kill does not reach.

    Where the launcher has ended before this call, stdin is closed, which stops the worker as well.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
