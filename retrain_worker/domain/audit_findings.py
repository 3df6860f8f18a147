"""What the audit found, and the verdict on it. The worker measures (worker/data/audit.py); this module decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """What a finding does."""

    #: measured and fine
    OK = "OK"
    #: shown, does not stop the run
    WARNING = "WARNING"
    #: stops the run
    REFUSAL = "REFUSAL"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One measurement beside its limit."""

    #: stable name, e.g. `rows.labelled`, `labels.contradictions`
    name: str
    severity: Severity
    #: what was measured, the limit, and the remedy, as logs, reports and the command show it
    message: str
    measured: float | None = None
    limit: float | None = None
    #: the feature, symbol or column that it is about; empty = the table
    subject: str = ""
    #: what was counted, by name
    counts: Mapping[str, float] = field(default_factory=dict)
    #: up to five rows or names, already safe to print
    examples: tuple[str, ...] = ()
    #: what to do; empty for OK
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class AuditVerdict:
    """Fit or not, with every finding in order of weight: refusals, warnings, the rest."""

    is_fit: bool
    findings: tuple[Finding, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """The sentences of the refusals."""
        return tuple(found.message for found in self.findings if found.severity is Severity.REFUSAL)


_WEIGHT = {Severity.REFUSAL: 0, Severity.WARNING: 1, Severity.OK: 2}


def judge(findings: tuple[Finding, ...]) -> AuditVerdict:
    """Fit unless a finding refuses. No finding at all is not fit: nothing was measured."""
    ordered = tuple(sorted(findings, key=lambda found: _WEIGHT[found.severity]))
    return AuditVerdict(
        is_fit=bool(ordered) and all(found.severity is not Severity.REFUSAL for found in ordered), findings=ordered
    )
