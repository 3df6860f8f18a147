"""What the verbs print with --json: one type for each (schemas.py publishes them as a JSON Schema)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from retrain_worker.domain.alpha_spending import AlphaSpending
from retrain_worker.domain.audit_findings import Finding
from retrain_worker.domain.facts import GateFacts, ProbationFacts, ShadowFacts
from retrain_worker.domain.gates import Decision, GatePolicy, GateResult, Scorecard
from retrain_worker.domain.lifecycle import Deployment, Outcome
from retrain_worker.domain.pause import Pause
from retrain_worker.domain.setting_change import SettingChange
from retrain_worker.domain.worker_protocol import FileReport, PullResult


@dataclass(frozen=True, kw_only=True)
class ErrorReport:
    """Every verb: what made it end without a result."""

    #: name of the class in retrain_worker/errors.py
    kind: str
    message: str
    problems: tuple[str, ...]
    exit_code: int


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Every verb: the only document of a call that failed."""

    error: ErrorReport


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check."""

    name: str
    is_ok: bool
    finding: str
    remedy: str = ""
    #: False: the daemon can start without it
    blocks: bool = True

    @classmethod
    def ok(cls, name: str, finding: str) -> Self:
        """What a start needs is there."""
        return cls(name=name, is_ok=True, finding=finding)

    @classmethod
    def problem(cls, name: str, finding: str, remedy: str = "") -> Self:
        """The daemon cannot start, or cannot do its work."""
        return cls(name=name, is_ok=False, finding=finding, remedy=remedy)

    @classmethod
    def warning(cls, name: str, finding: str, remedy: str = "") -> Self:
        """The daemon can start without it."""
        return cls(name=name, is_ok=False, finding=finding, remedy=remedy, blocks=False)


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """`check`."""

    is_ready: bool
    checks: tuple[Check, ...]


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """`audit`."""

    is_fit: bool
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    #: null: the source cannot be read as a training database
    source: PullResult | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """`evaluate`. Only the first three keys are set when the rows or the file cannot be used."""

    file: str
    decision: Decision
    reasons: tuple[str, ...]
    gates: tuple[GateResult, ...] = ()
    candidate: Scorecard | None = None
    incumbent: Scorecard | None = None
    incumbent_path: str | None = None
    incumbent_absence: str = ""
    rows_note: str = ""
    policy: GatePolicy | None = None
    alpha_spending: AlphaSpending | None = None


@dataclass(frozen=True, kw_only=True)
class GatesReport:
    """`gates`."""

    run_id: str
    gate: GateFacts | None
    shadow: ShadowFacts | None
    probation: ProbationFacts | None


@dataclass(frozen=True, kw_only=True)
class RollbackReport:
    """`rollback`."""

    request_id: str
    state: str
    answer: str
    requested_by: str
    reason: str
    #: null: nothing was changed
    deployment: Deployment | None


@dataclass(frozen=True, kw_only=True)
class PromoteReport:
    """`promote`."""

    request_id: str
    answer: str
    #: the run that carries the request out; null: it was refused
    run_id: str | None = None
    outcome: Outcome | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PauseReport:
    """`pause` and `resume`."""

    #: in force now
    pause: Pause | None
    #: what `resume` has ended
    ended: Pause | None = None


@dataclass(frozen=True, kw_only=True)
class TriggerReport:
    """`trigger`."""

    #: id of the entry on the request stream; null: Redis was unreachable, and the request is in the state database
    entry_id: str | None
    message: str


@dataclass(frozen=True, kw_only=True)
class Changes:
    """`access`."""

    changes: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class WrittenFiles:
    """`events schemas` and `init-db`."""

    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ReloadReport:
    """`reload`."""

    pid: int
    changes: tuple[SettingChange, ...]


@dataclass(frozen=True, kw_only=True)
class SettingReport:
    """`config show`: one setting, without secrets."""

    name: str
    value: str
    default: str
    #: default, environment, --home, --db, or a file
    source: str
    is_changed: bool


@dataclass(frozen=True, kw_only=True)
class ConfigDiff:
    """`config diff`."""

    #: what a reload would change
    pending: tuple[SettingChange, ...]
    last_reload: tuple[SettingChange, ...]


@dataclass(frozen=True, kw_only=True)
class InspectedFile(FileReport):
    """`inspect`: one file, and the signature beside it."""

    signature: str
    #: null: none, or no key to verify it with
    is_signature_valid: bool | None


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """`report --index` and `report --compare`."""

    report: str


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """`keygen`."""

    #: of the private key
    file: str
    key_id: str
    public_key: str
