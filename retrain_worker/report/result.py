"""A run as the one object that `--json` prints and the report shows (docs/contracts/command-line.md)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain_worker.domain.lifecycle import Run
from retrain_worker.report.live_evaluation import trial_pairs

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def result_of(run: Run, *, report: Path | None = None) -> dict[str, Any]:
    """The result of a run, finished or not. `model_path` is set only when the engine's slot names it."""
    facts = run.facts
    pulled, trained, gated, promoted = facts.pull, facts.train, facts.gate, facts.promote
    judged = trained or facts.audit
    return {
        "outcome": run.outcome,
        "reasons": list(run.reasons),
        "run_id": run.run_id,
        "stage": run.stage,
        "requested_by": run.requested_by,
        "started_at": run.created_at.isoformat(),
        "finished_at": run.finished_at.isoformat() if run.finished_at else None,
        "unreadable": dict(facts.unreadable),
        "rows": asdict(pulled.rows) if pulled else {},
        "symbols": dict(pulled.symbols) if pulled else {},
        "feature_names": list(pulled.feature_names) if pulled else [],
        "first_at": pulled.first_at.isoformat() if pulled and pulled.first_at else None,
        "last_at": pulled.last_at.isoformat() if pulled and pulled.last_at else None,
        "data_sha256": pulled.data_sha256 if pulled else None,
        "findings": [asdict(finding) for finding in facts.audit.findings] if facts.audit else [],
        "parts": dict(trained.parts) if trained else {},
        "left_out": dict(trained.left_out) if trained else {},
        "epochs": trained and trained.epochs,
        "best_epoch": trained and trained.best_epoch,
        "final_loss": trained and trained.final_loss,
        "history": list(trained.history) if trained else [],
        "contract": _mapping(trained and trained.contract),
        "candidate": _mapping(gated and gated.candidate),
        "incumbent": _mapping(gated and gated.incumbent),
        "incumbent_absence": gated.incumbent_absence if gated else "",
        "decision": gated and gated.verdict.decision,
        "gates": gated.verdict.gates if gated else (),
        "policy": _mapping(gated and gated.verdict.policy),
        "alpha_spending": _mapping(gated and gated.alpha_spending),
        "shadow": _mapping(facts.shadow),
        "probation": _mapping(facts.probation),
        "forced": _mapping(gated and gated.forced),
        "trials": [list(pair) for pair in trial_pairs(run)],
        "version": trained and trained.version,
        "candidate_path": trained and trained.candidate_path,
        "model_path": promoted and promoted.model_path,
        "sha256": promoted and promoted.sha256,
        "previous_model_path": promoted.previous_model_path if promoted else judged and judged.incumbent_path,
        "event_id": promoted and promoted.event_id,
        "confirmed": promoted and promoted.confirmed,
        "confirmation": promoted and promoted.confirmation,
        "report": str(report) if report else None,
        "seconds": dict(run.seconds),
    }


def _mapping(value: DataclassInstance | None) -> dict[str, Any] | None:
    return asdict(value) if value else None
