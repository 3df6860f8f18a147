"""Is this data fit to train on: the limits, the findings, and the verdict.

The worker measures (worker/data/audit.py); this module decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from retrain_worker.domain.labels import Label, LabelConflict


@dataclass(frozen=True, kw_only=True)
class DataPolicy:
    """Which rows are read, and how bad they may be."""

    #: days before the newest labelled row that are read; 0 = every row
    train_window_days: int = 180
    #: newly labelled rows that make a run worth while
    min_new_samples: int = 100
    #: labelled rows without which nothing is trained
    min_samples: int = 1000
    #: labelled rows that the rarer class must have
    min_class_samples: int = 200
    #: share of the rarer class under which the data is refused
    min_class_share: float = 0.10
    label: Label = Label.OUTCOME
    label_conflict: LabelConflict = LabelConflict.DROP
    #: share of labelled rows whose class contradicts realized_pnl, above which the data is refused
    max_contradiction_share: float = 0.05
    #: share of rows that cannot be used (undecodable features, impossible times ...), above which the data is refused
    max_quarantine_share: float = 0.10
    #: AUC of one feature alone (or 1 - AUC) from which it is taken for a leak of the outcome
    max_single_feature_auc: float = 0.95
    #: hours between two rows of a symbol over which no window runs; 0 = no limit
    max_gap_hours: float = 48.0
    #: age of the newest labelled row in hours over which a warning is given; 0 = never
    warn_staleness_hours: float = 72.0
    #: chance of any false alarm about drift in one audit
    drift_alpha: float = 0.01
    #: distance (Kolmogorov-Smirnov; for the label, between two shares of WIN) under which nothing is called drift
    min_drift: float = 0.1
    #: comma separated names; empty = the names that every usable row has
    feature_names: tuple[str, ...] = ()


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
