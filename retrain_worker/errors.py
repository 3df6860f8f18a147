"""Every error that this program raises on purpose, sorted by what the daemon does about it.

    RetrainError
    ├── RetryLaterError            temporary: the run stays at its stage, which is retried
    │   ├── DatabaseBusyError        a writer holds the trading database
    │   ├── DatabaseUnreachableError the trading database cannot be reached (no file, server down, no permission)
    │   ├── RedisUnavailableError    Redis does not answer, or cannot accept a write
    │   ├── TrackingUnavailableError the MLflow server does not answer, or refuses a request
    │   ├── RemoteUnavailableError   a URL of models does not answer, or refuses a request
    │   ├── DiskFullError            no space on a file system to which this program writes
    │   ├── WorkerInterruptedError   the worker process was requested to stop and stopped
    │   └── WorkerFailedError        the worker process ended without a result
    ├── RefuseError                the data or the candidate is not acceptable: the run ends as REFUSED
    │   ├── SourceUnfitError         not a database, no table, missing column, damaged pages
    │   ├── DataUnfitError           the rows are readable, but not fit to train on
    │   ├── TrainingCollapsedError   non-finite loss, or the same probability for every row
    │   ├── RowRefusedError          the stack's bookkeeping tables permanently refuse a row
    │   ├── ArtifactError            a model file is damaged, unreadable, or not what its description states
    │   ├── MalformedError           an entry, a file or a value of another process is malformed, or over a limit
    │   └── ContractError            the candidate does not fit what the engine runs
    └── OperatorActionError        an operator must act: stop and report what to do
        ├── SettingsError            invalid settings (exit 78)
        ├── SlotError                the engine's env file or model directory cannot be used
        ├── StateError               the state database is damaged, or newer than this program
        │   └── LeadershipLostError    another process leads (exit 13; with STATE_URL only)
        ├── StoredValueError         a stored value of one run or slot request cannot be read
        ├── AlreadyRunningError      another process holds the state directory
        └── UsageError               wrong usage of a command (exit 2)

Each error states what is wrong, where, and what to do. It never contains a secret.
"""

from __future__ import annotations


def message_of(cause: str, *, subject: str = "", action: str = "") -> str:
    """`subject: cause; action`: how each error and each domain.problem.Problem reads."""
    message = f"{subject}: {cause}" if subject else cause
    return f"{message}; {action}" if action else message


class RetrainError(Exception):
    """An error of a known kind."""

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(what, where, remedy)

    def __str__(self) -> str:
        """One line: `where: what; remedy`."""
        return message_of(self.what, subject=self.where, action=self.remedy)


class RetryLaterError(RetrainError):
    """A temporary problem; the same stage may succeed later."""


class DatabaseBusyError(RetryLaterError):
    """A writer holds the trading database for longer than the time limit."""


class DatabaseUnreachableError(RetryLaterError):
    """The trading database cannot be reached: missing file, missing permission, server down."""


class RedisUnavailableError(RetryLaterError):
    """Redis does not answer, or cannot accept a write now."""


class TrackingUnavailableError(RetryLaterError):
    """The MLflow server does not answer, or refuses a request."""


class RemoteUnavailableError(RetryLaterError):
    """A URL of models does not answer in time, refuses a request, or returns other bytes than were written."""


class DiskFullError(RetryLaterError):
    """No space is left on a file system to which this program writes."""


class WorkerFailedError(RetryLaterError):
    """The worker process ended without a valid result: crash, deadline, or memory."""


class WorkerInterruptedError(RetryLaterError):
    """The worker process was requested to stop; what can be resumed was checkpointed."""


class RefuseError(RetrainError):
    """The data or the candidate is not acceptable."""


class SourceUnfitError(RefuseError):
    """The source is not a training database: wrong file, missing table or column, malformed pages."""


class DataUnfitError(RefuseError):
    """The rows are readable, but must not be used for training."""


class TrainingCollapsedError(RefuseError):
    """Training ended in a non-finite loss or in one probability for every row."""


class RowRefusedError(RefuseError):
    """The stack's bookkeeping tables permanently refuse a row."""


class ArtifactError(RefuseError):
    """A model file is damaged, unreadable, or not what its description states."""


class MalformedError(RefuseError):
    """What another process has written is malformed, or over a limit: an entry of Redis, a file, a value."""


class ContractError(RefuseError):
    """The candidate does not fit what the engine runs now."""


class OperatorActionError(RetrainError):
    """An operator must act."""


class SettingsError(OperatorActionError):
    """Invalid settings; `problems` lists every one."""

    def __init__(self, problems: tuple[str, ...], *, where: str = "", remedy: str = "") -> None:
        self.problems = problems
        super().__init__("; ".join(problems), where=where, remedy=remedy)


class SlotError(OperatorActionError):
    """The engine's env file or model directory cannot be used."""


class StateError(OperatorActionError):
    """The state database is damaged or was written by a newer version."""


class LeadershipLostError(StateError):
    """Another process leads, or may lead by now: this one stores, swaps and publishes nothing more."""

    #: of a process that ends for this; systemd restarts the daemon as a standby
    EXIT_STATUS = 13


class StoredValueError(OperatorActionError):
    """What is stored about one run, or one slot request, cannot be read; others are not affected."""


class AlreadyRunningError(OperatorActionError):
    """Another process holds the state directory."""


class UsageError(OperatorActionError):
    """Wrong usage of a command."""


def install_extra(name: str) -> str:
    """The remedy for a package that is not installed. The name of this program is on no index: pip takes a file."""
    return f"pip install '/path/to/retrain_worker[{name}]'"
