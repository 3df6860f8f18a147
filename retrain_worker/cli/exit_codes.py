"""The exit codes of every verb."""

from __future__ import annotations

import os
from enum import IntEnum

from retrain_worker.errors import LeadershipLostError, RetrainError, SettingsError, UsageError


class ExitCode(IntEnum):
    """How a command has ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    SKIPPED = 10
    REFUSED = 11
    INTERRUPTED = 12
    LEADERSHIP_LOST = LeadershipLostError.EXIT_STATUS
    SETTINGS = os.EX_CONFIG


#: what each code means, for the help, the man page and docs/reference/command-line.md
MEANINGS = {
    ExitCode.DONE: "done; once: PROMOTED",
    ExitCode.FAILED: "FAILED, an error, or (status --exit-code) a problem that needs attention",
    ExitCode.USAGE: "wrong usage",
    ExitCode.NOT_RUNNING: "status: the daemon is not running",
    ExitCode.SKIPPED: "SKIPPED: too few new rows, or a pause",
    ExitCode.REFUSED: "REFUSED, or not fit",
    ExitCode.INTERRUPTED: "INTERRUPTED, or the candidate is on trial: the next call continues",
    ExitCode.LEADERSHIP_LOST: "run: another process leads now; a restart makes this one a standby (STATE_URL)",
    ExitCode.SETTINGS: "invalid settings",
}


def exit_code_of(error: RetrainError) -> ExitCode:
    """The exit code of a command that ends with `error`."""
    if isinstance(error, SettingsError):
        return ExitCode.SETTINGS
    if isinstance(error, LeadershipLostError):
        return ExitCode.LEADERSHIP_LOST
    return ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.FAILED
