"""What the audit found, and the verdict on it. The worker measures (worker/data/audit.py); this module decides."""

from __future__ import annotations

from dataclasses import dataclass
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
    #: one sentence: what was measured, the limit, and for a refusal what to do
    message: str
    measured: float | None = None
    limit: float | None = None
    #: up to five examples, already safe to print
    examples: tuple[str, ...] = ()


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
