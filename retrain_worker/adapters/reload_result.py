"""How a reload ended, in a small file: so that whoever asked for it can wait, and fail where it was refused."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from retrain_worker import durable_file
from retrain_worker.errors import OperatorActionError

_POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class ReloadAnswer:
    """One reload of one process."""

    pid: int
    #: CLOCK_MONOTONIC before the settings were read
    began_at_ns: int
    #: one sentence each; none: the new settings were taken
    problems: tuple[str, ...] = ()


def leave(path: Path, answer: ReloadAnswer) -> None:
    """Write the answer for whoever waits. Raises SlotError or RetryLaterError when it cannot be written."""
    durable_file.replace_file(path, msgspec.json.encode(answer), mode=0o640)


def reload_process(pid: int, path: Path, *, wait_seconds: float) -> ReloadAnswer:
    """SIGHUP to `pid`, and its answer to this or a later signal. Raises CallPersonError when none comes."""
    asked_at_ns = time.monotonic_ns()
    until = time.monotonic() + wait_seconds
    try:
        os.kill(pid, signal.SIGHUP)
        while time.monotonic() < until:
            answer = _read(path)
            # What began before the signal may have read the file before it was changed.
            if answer is not None and answer.pid == pid and answer.began_at_ns >= asked_at_ns:
                return answer
            os.kill(pid, 0)
            time.sleep(_POLL_SECONDS)
    except ProcessLookupError:
        raise OperatorActionError(
            "no such process: the daemon is gone", where=f"pid {pid}", remedy="see its log"
        ) from None
    raise OperatorActionError(
        f"no answer to the reload within {wait_seconds:g} s",
        where=f"pid {pid}",
        remedy=f"see its log, and whether it can write {path}",
    )


def _read(path: Path) -> ReloadAnswer | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ReloadAnswer)
    except (OSError, msgspec.MsgspecError):
        return None
