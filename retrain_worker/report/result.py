"""A run as it is shown: its facts, the place of its page, and, in the demo, what was seen beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrain_worker.domain.gates import Scorecard
from retrain_worker.domain.lifecycle import Run
from retrain_worker.domain.report_request import EngineTraffic
from retrain_worker.report.live_evaluation import trial_pairs


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A run, finished or not, and what is shown beside it."""

    run: Run
    #: where its page is; None: it is not written
    report: Path | None = None
    #: the Bayes-optimal AUC on the holdout, where it is known
    bayes_auc: float | None = None
    #: name -> value of the promotion as a consumer received it
    event: Mapping[str, object] = field(default_factory=dict)
    #: version -> its answers
    engine: Mapping[str, EngineTraffic] = field(default_factory=dict)

    @property
    def candidate(self) -> Scorecard | None:
        """Of the holdout."""
        return self.run.facts.gate.candidate if self.run.facts.gate else None

    @property
    def incumbent(self) -> Scorecard | None:
        """Of the holdout."""
        return self.run.facts.gate.incumbent if self.run.facts.gate else None

    @property
    def model_path(self) -> str | None:
        """What the engine's slot names since the promotion; None without one."""
        return self.run.facts.promote.model_path if self.run.facts.promote else None

    @property
    def previous_model_path(self) -> str | None:
        """What the engine's slot named before."""
        facts = self.run.facts
        if facts.promote:
            return facts.promote.previous_model_path
        judged = facts.train or facts.audit
        return judged.incumbent_path if judged else None


def as_object(result: RunResult) -> dict[str, Any]:
    """The object that `--json` prints (report/run_object.py has its types)."""
    run, facts = result.run, result.run.facts
    pulled, trained, gated, promoted = facts.pull, facts.train, facts.gate, facts.promote
    found: dict[str, Any] = {
        "outcome": run.outcome,
        "reasons": run.reasons,
        "run_id": run.run_id,
        "stage": run.stage,
        "requested_by": run.requested_by,
        "started_at": run.created_at.isoformat(),
        "finished_at": run.finished_at.isoformat() if run.finished_at else None,
        "unreadable": facts.unreadable,
        "rows": pulled.rows if pulled else None,
        "symbols": pulled.symbols if pulled else {},
        "feature_names": pulled.feature_names if pulled else (),
        "first_at": pulled.first_at.isoformat() if pulled and pulled.first_at else None,
        "last_at": pulled.last_at.isoformat() if pulled and pulled.last_at else None,
        "data_sha256": pulled and pulled.data_sha256,
        "findings": facts.audit.findings if facts.audit else (),
        "parts": trained.parts if trained else {},
        "left_out": trained.left_out if trained else {},
        "epochs": trained and trained.epochs,
        "best_epoch": trained and trained.best_epoch,
        "final_loss": trained and trained.final_loss,
        "history": trained.history if trained else (),
        "contract": trained and trained.contract,
        "candidate": result.candidate,
        "incumbent": result.incumbent,
        "incumbent_absence": gated.incumbent_absence if gated else "",
        "decision": gated and gated.verdict.decision,
        "gates": gated.verdict.gates if gated else (),
        "policy": gated and gated.verdict.policy,
        "alpha_spending": gated and gated.alpha_spending,
        "shadow": facts.shadow,
        "probation": facts.probation,
        "forced": gated and gated.forced,
        "trials": trial_pairs(run),
        "version": trained and trained.version,
        "candidate_path": trained and trained.candidate_path,
        "model_path": result.model_path,
        "sha256": promoted and promoted.sha256,
        "previous_model_path": result.previous_model_path,
        "event_id": promoted and promoted.event_id,
        "confirmed": promoted and promoted.confirmed,
        "confirmation": promoted and promoted.confirmation,
        "report": str(result.report) if result.report else None,
        "seconds": run.seconds,
    }
    if result.engine:
        found["engine"], found["bayes_auc"] = result.engine, result.bayes_auc
    return found
