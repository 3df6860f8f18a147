"""A run as a line of the index."""

from __future__ import annotations

from retrain_worker.domain.gates import GateOutcome
from retrain_worker.domain.lifecycle import Outcome, Run
from retrain_worker.domain.report_request import IndexedRun


def is_judged(run: Run) -> bool:
    """Whether its own candidate was measured, so that it can be compared with another run."""
    gated = run.facts.gate
    return gated is not None and gated.candidate is not None and gated.forced is None


def indexed(run: Run, *, has_page: bool, has_comparison: bool) -> IndexedRun:
    """The numbers of a run that the index shows."""
    facts = run.facts
    pulled, gated = facts.pull, facts.gate
    candidate = gated.candidate if gated else None
    incumbent = gated.incumbent if gated else None
    gates = gated.verdict.gates if gated and run.outcome is Outcome.REFUSED else ()
    return IndexedRun(
        run_id=run.run_id,
        created_at=run.created_at,
        outcome=run.outcome,
        stage=run.stage,
        reason=run.reasons[0] if run.reasons else "",
        rows=pulled.rows.labelled if pulled else None,
        new_rows=pulled.rows.new_labelled if pulled else None,
        newest_row_at=pulled.last_at if pulled else None,
        auc=candidate.auc if candidate else None,
        log_loss=candidate.log_loss if candidate else None,
        prior_log_loss=candidate.prior_log_loss if candidate else None,
        incumbent_auc=incumbent.auc if incumbent else None,
        incumbent_log_loss=incumbent.log_loss if incumbent else None,
        failed_gates=tuple(gate.name for gate in gates if gate.counts and gate.result is not GateOutcome.PASS),
        seconds=sum(run.seconds.values()) if run.seconds else None,
        has_page=has_page,
        has_comparison=has_comparison,
    )
