"""Every error this program raises on purpose, sorted by what the daemon does about it.

    RetrainError
    ├── RetryLaterError            the world is busy: keep the run where it is, try again
    │   ├── DatabaseBusyError        a writer holds the trading database
    │   ├── DatabaseUnreachableError the trading database cannot be reached (file gone, server down, no permission)
    │   ├── RedisUnavailableError    Redis does not answer, or answers that it cannot write
    │   ├── DiskFullError            no space where we must write
    │   ├── ChildInterruptedError    the worker process was asked to stop and did
    │   └── ChildFailedError         the worker process ended without a result
    ├── RefuseError                this data or this candidate is not good enough: end the run as REFUSED
    │   ├── SourceUnfitError         not a database, no table, missing column, malformed pages
    │   ├── DataUnfitError           the rows are there, but not fit to train on
    │   ├── TrainingCollapsedError   non-finite loss, or every probability the same
    │   ├── RowRefusedError          the stack's database refuses a row of our bookkeeping for good
    │   ├── ArtifactError            a model file is damaged, unreadable, or not what it says
    │   └── ContractError            the candidate does not fit what the engine runs
    └── CallPersonError            only a person can mend this: stop, say what to do
        ├── SettingsError            the environment is wrong (exit 78)
        ├── SlotError                the engine's env file or model directory is not as we need it
        ├── StateError               our own state database is damaged, or newer than this program
        ├── AlreadyRunningError      another process owns this state directory
        └── UsageError               a command was called wrongly (exit 2)

Each error answers three questions: what is wrong, where, and what to do. No secret may enter any of them.
"""

from __future__ import annotations


def message_of(cause: str, *, subject: str = "", action: str = "") -> str:
    """`subject: cause; action`: how each error and each domain.problem.Problem reads."""
    message = f"{subject}: {cause}" if subject else cause
    return f"{message}; {action}" if action else message


class RetrainError(Exception):
    """Something this program knows how to name."""

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(what, where, remedy)

    def __str__(self) -> str:
        """One line: `where: what; remedy`."""
        return message_of(self.what, subject=self.where, action=self.remedy)


class RetryLaterError(RetrainError):
    """The world is busy; the same stage may well succeed later."""


class DatabaseBusyError(RetryLaterError):
    """A writer holds the trading database longer than we are willing to wait."""


class DatabaseUnreachableError(RetryLaterError):
    """The trading database cannot be reached: missing file, missing permission, server down."""


class RedisUnavailableError(RetryLaterError):
    """Redis does not answer, or answers that it cannot take a write now."""


class DiskFullError(RetryLaterError):
    """No space is left where this program must write."""


class WorkerFailedError(RetryLaterError):
    """The worker process ended without a valid result: crash, deadline, or memory."""


class WorkerInterruptedError(RetryLaterError):
    """The worker process was asked to stop; what can be resumed was checkpointed."""


class RefuseError(RetrainError):
    """This data or this candidate is not good enough."""


class SourceUnfitError(RefuseError):
    """The source is not a training database: wrong file, missing table or column, malformed pages."""


class DataUnfitError(RefuseError):
    """The rows can be read, but must not be trained on."""


class TrainingCollapsedError(RefuseError):
    """Training ended in a non-finite loss or in one probability for every row."""


class RowRefusedError(RefuseError):
    """The stack's own tables refuse what we want to note there; waiting does not help."""


class ArtifactError(RefuseError):
    """A model file is damaged, unreadable, or not what it claims to be."""


class ContractError(RefuseError):
    """The candidate does not fit what the engine runs now."""


class OperatorActionError(RetrainError):
    """Only a person can mend this."""


class SettingsError(OperatorActionError):
    """The environment holds wrong settings; `problems` lists every one."""

    def __init__(self, problems: tuple[str, ...], *, where: str = "", remedy: str = "") -> None:
        self.problems = problems
        super().__init__("; ".join(problems), where=where, remedy=remedy)


class SlotError(OperatorActionError):
    """The engine's env file or model directory is not as this program needs it."""


class StateError(OperatorActionError):
    """Our own state database is damaged or was written by a newer version."""


class AlreadyRunningError(OperatorActionError):
    """Another process owns this state directory."""


class UsageError(OperatorActionError):
    """A command was called in a way that it does not understand."""
