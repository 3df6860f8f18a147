"""AUDIT: measure the snapshot, put every measurement beside its limit, and let the domain judge.

Each finding is a sentence that a person can act on at night: what was measured, the limit, what to do. The order in
which the findings are made is their weight within one severity.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from retrain_worker.domain.audit_findings import Finding, judge
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.worker_protocol import AuditRequest, AuditResult, Progress
from retrain_worker.worker.data import snapshot as snapshots
from retrain_worker.worker.data.audit_drift import drift_findings
from retrain_worker.worker.data.audit_features import feature_findings
from retrain_worker.worker.data.audit_labels import label_findings
from retrain_worker.worker.data.audit_rows import row_findings
from retrain_worker.worker.data.instants import to_microseconds
from retrain_worker.worker.data.snapshot import Snapshot


def audit(request: AuditRequest, report: Callable[[Progress], None]) -> AuditResult:
    """The verdict on `run_dir/snapshot`. Raises DataUnfitError when that is missing or damaged."""
    snapshot = snapshots.load(Path(request.run_dir))
    report(Progress(message=f"audit {request.run_id}: {len(snapshot):,} rows", fields={"rows": len(snapshot)}))
    now = to_microseconds(datetime.fromisoformat(request.now))
    reference_dir = Path(request.reference_dir) if request.reference_dir else None
    drift = drift_findings(snapshot, reference_dir, request.policy) if len(snapshot) else []
    return AuditResult(verdict=judge((*findings(snapshot, request.policy, now=now), *drift)))


def findings(snapshot: Snapshot, policy: DataPolicy, *, now: int) -> tuple[Finding, ...]:
    """Every finding but drift, weightiest first within its severity. `now`: microseconds since the epoch."""
    labels = label_findings(snapshot, policy, now=now)
    return (*labels, *row_findings(snapshot, policy, now=now), *feature_findings(snapshot, policy))
