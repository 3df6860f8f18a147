"""AUDIT: hold the snapshot to every rule, and let the domain judge the findings.

The order of the rules is the weight of their findings within one severity.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from retrain_worker.domain.audit_findings import Finding, judge
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.worker_protocol import AuditRequest, AuditResult, Progress
from retrain_worker.worker.data import snapshot as snapshots
from retrain_worker.worker.data.audit_rules import features, labels, rows
from retrain_worker.worker.data.audit_rules.drift import drift_findings
from retrain_worker.worker.data.audit_rules.parts import parts
from retrain_worker.worker.data.audit_rules.rule import Audited
from retrain_worker.worker.data.instants import to_microseconds
from retrain_worker.worker.data.snapshot import Snapshot


def audit(request: AuditRequest, report: Callable[[Progress], None]) -> AuditResult:
    """The verdict on the snapshot in `run_dir`. Raises DataUnfitError when that is missing or damaged."""
    snapshot = snapshots.load(Path(request.run_dir))
    report(Progress(message=f"audit {request.run_id}: {len(snapshot):,} rows", fields={"rows": len(snapshot)}))
    now = to_microseconds(datetime.fromisoformat(request.now))
    reference_dir = Path(request.reference_dir) if request.reference_dir else None
    drift = drift_findings(snapshot, reference_dir, request.policy) if len(snapshot) else []
    found = (*findings(snapshot, request.policy, now=now, engine_names=request.engine_features), *drift)
    if judge(found).is_fit:  # else the parts have the same defect, and their message would name a consequence of it
        found += (parts(snapshot, policy=request.policy, split=request.split, seq_len=request.seq_len),)
    return AuditResult(verdict=judge(found))


def findings(
    snapshot: Snapshot, policy: DataPolicy, *, now: int, engine_names: tuple[str, ...] = ()
) -> tuple[Finding, ...]:
    """Every finding but drift and split.parts. `now`: microseconds; `engine_names`: what the engine takes, if known."""
    audited = Audited(snapshot, policy, now, engine_names)
    need_a_row = (*rows.RULES_OF_ROWS, *features.RULES) if len(snapshot) else ()
    return tuple(rule(audited) for rule in (*labels.RULES, *rows.RULES, *need_a_row))
