"""A problem as a value: its kind, its subject, the cause, and the action that ends it.

Code that reacts to a problem compares kinds, never text; the text is rendered once, where it is logged or shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from retrain_worker.errors import RetrainError, message_of


class ProblemKind(StrEnum):
    """What is affected."""

    #: a gate was measured and failed
    GATE_FAILED = "gate_failed"
    #: a gate could not be measured, or on too few rows
    GATE_UNDECIDED = "gate_undecided"
    #: Redis as a whole: unreachable, or it accepts no write
    REDIS = "redis"
    #: one Redis stream, while others can be used
    STREAM = "stream"
    #: the engine's slot: its env file or its directory of models
    SLOT = "slot"
    #: the trading database
    DATABASE = "database"
    #: the machine and its kernel
    HOST = "host"
    #: the environment or the env file
    SETTINGS = "settings"
    #: a job of the daemon, which is retried
    JOB = "job"
    #: this program: an error that nothing in it expects
    DEFECT = "defect"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is not as required."""

    kind: ProblemKind
    #: the object that has the problem: a gate, a stream, a file
    subject: str = ""
    cause: str
    #: what the operator can do about it; empty = nothing
    action: str = ""

    @property
    def message(self) -> str:
        """`subject: cause; action`."""
        return message_of(self.cause, subject=self.subject, action=self.action)


def problem_of(error: Exception, *, kind: ProblemKind) -> Problem:
    """The problem that an error reports; a DEFECT, whatever `kind` is, where it is none of this program's errors."""
    if isinstance(error, RetrainError):
        return Problem(kind=kind, subject=error.where, cause=error.what, action=error.remedy)
    return Problem(kind=ProblemKind.DEFECT, subject=type(error).__name__, cause=str(error) or "no message")
