"""The run whose model a change of the slot takes out: it is ROLLED_BACK in the same transaction."""

from __future__ import annotations

from dataclasses import replace

from retrain_worker.domain import deployments
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, Outcome, Run
from retrain_worker.stages.ports import StageContext


def rolled_back_run(change: Deployment, context: StageContext) -> Run | None:
    """The promoted run that `change` rolls back, ended as ROLLED_BACK; None where it rolls none back.

    An external change rolls back when it names the model before, or none. A run that still waits for its confirmation
    ends itself (promote.py).
    """
    promotion = deployments.promotion_of(context.store.reached_deployments(), change.previous_model_path)
    run = context.store.run(promotion.run_id) if promotion else None
    if promotion is None or run is None or run.outcome is not Outcome.PROMOTED:
        return None
    is_return = change.model_path in ("", promotion.previous_model_path)
    if change.kind is not DeploymentKind.ROLLBACK and not is_return:
        return None
    ended = run.ended(
        Outcome.ROLLED_BACK,
        f"rolled back by {change.requested_by}: {change.reason}",
        *(f"when it was promoted: {reason}" for reason in run.reasons),
        at=context.now(),
    )
    return replace(ended, finished_at=run.finished_at or ended.finished_at)
