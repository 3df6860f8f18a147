"""The result of a reload, in a small file that `retrain-worker reload` waits for and `config diff` reads."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from retrain_worker import durable_file, typed_json
from retrain_worker.domain.setting_change import SettingChange
from retrain_worker.errors import MalformedError, OperatorActionError

_POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class ReloadResult:
    """The start of a process, or its newest reload."""

    pid: int
    #: CLOCK_MONOTONIC before the settings were read
    began_at_ns: int
    #: one message each; none: the new settings are in force
    problems: tuple[str, ...] = ()
    #: what the reload has changed
    changes: tuple[SettingChange, ...] = ()
    #: the settings that the process has accepted last (name -> value), without secrets
    in_force: Mapping[str, str] = field(default_factory=dict)


def write(path: Path, result: ReloadResult) -> None:
    """Write the result. Raises SlotError or RetryLaterError when that is not possible."""
    durable_file.replace_file(path, msgspec.json.encode(result), mode=0o640)


def reload_process(pid: int, path: Path, *, wait_seconds: float) -> ReloadResult:
    """Send SIGHUP to `pid`; the result of the reload that this or a later signal causes.

    Raises OperatorActionError when none is written in time.
    """
    sent_at_ns = time.monotonic_ns()
    until = time.monotonic() + wait_seconds
    try:
        os.kill(pid, signal.SIGHUP)
        while time.monotonic() < until:
            result = read(path)
            # a reload that began before the signal may have read the settings before they were changed
            if result is not None and result.pid == pid and result.began_at_ns >= sent_at_ns:
                return result
            os.kill(pid, 0)
            time.sleep(_POLL_SECONDS)
    except ProcessLookupError:
        raise OperatorActionError(
            "the daemon has ended (no such process)", where=f"pid {pid}", remedy="see its log"
        ) from None
    raise OperatorActionError(
        f"no result of the reload within {wait_seconds:g} s",
        where=f"pid {pid}",
        remedy=f"see its log; check that it can write {path}",
    )


def read(path: Path) -> ReloadResult | None:
    """The newest result; None where there is none, or it cannot be read."""
    try:
        return typed_json.decode(path.read_bytes(), ReloadResult)
    except (OSError, MalformedError):
        return None
