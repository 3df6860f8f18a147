"""A run as the one object that `--json` prints and the report shows (docs/contracts/command-line.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrain_worker.domain.lifecycle import Run, Stage
from retrain_worker.report.live_evaluation import trial_pairs


def result_of(run: Run, *, report: Path | None = None) -> dict[str, Any]:
    """The result of a run, finished or not. `model_path` is set only when the engine's slot names it."""
    pulled, audited, trained = run.fact(Stage.PULL), run.fact(Stage.AUDIT), run.fact(Stage.TRAIN)
    gated, promoted = run.fact(Stage.GATE), run.fact(Stage.PROMOTE)
    incumbent = trained.get("incumbent_path", audited.get("incumbent_path"))
    return {
        "outcome": run.outcome,
        "reasons": list(run.reasons),
        "run_id": run.run_id,
        "stage": run.stage,
        "requested_by": run.requested_by,
        "started_at": run.created_at.isoformat(),
        "finished_at": run.finished_at.isoformat() if run.finished_at else None,
        "rows": dict(pulled.get("rows", {})),
        "symbols": dict(pulled.get("symbols", {})),
        "feature_names": list(pulled.get("feature_names", ())),
        "first_at": pulled.get("first_at"),
        "last_at": pulled.get("last_at"),
        "data_sha256": pulled.get("data_sha256"),
        "findings": list(audited.get("findings", ())),
        "parts": dict(trained.get("parts", {})),
        "left_out": dict(trained.get("left_out", {})),
        "epochs": trained.get("epochs"),
        "best_epoch": trained.get("best_epoch"),
        "final_loss": trained.get("final_loss"),
        "history": list(trained.get("history", ())),
        "contract": trained.get("contract"),
        "candidate": gated.get("candidate"),
        "incumbent": gated.get("incumbent"),
        "incumbent_absence": gated.get("incumbent_absence", ""),
        "decision": gated.get("decision"),
        "gates": list(gated.get("gates", ())),
        "policy": gated.get("policy"),
        "spending": gated.get("spending"),
        "shadow": run.fact(Stage.SHADOW) or None,
        "probation": run.fact(Stage.PROBATION) or None,
        "forced": gated.get("forced"),
        "trials": [list(pair) for pair in trial_pairs(run)],
        "version": trained.get("version"),
        "candidate_path": trained.get("candidate_path"),
        "model_path": promoted.get("model_path"),
        "sha256": promoted.get("sha256"),
        "previous_model_path": promoted.get("previous_model_path", incumbent),
        "event_id": promoted.get("event_id"),
        "confirmed": promoted.get("confirmed"),
        "confirmation": promoted.get("confirmation"),
        "report": str(report) if report else None,
        "seconds": dict(run.seconds),
    }
