"""Log records of a run: its progress, and one canonical record at its end."""

from __future__ import annotations

import structlog

from retrain_worker.domain.lifecycle import DeploymentState, Run
from retrain_worker.stages.step import Step

log = structlog.get_logger()

#: steps of a swap on both sides of the one that matters to an operator
_MINOR_STATES = frozenset({DeploymentState.INTENDED, DeploymentState.ANNOUNCED})


def log_rollback(run: Run) -> None:
    """The run that has promoted the model is ROLLED_BACK, whatever the request."""
    message = f"run {run.run_id} ROLLED_BACK: {run.reasons[0]}"
    log.warning("run_rolled_back", message=message, run_id=run.run_id, reasons=list(run.reasons))


def log_step(step: Step) -> None:
    """`run_finished` for the end of a run; else `run_progress`: a move at info, waiting and minor moves at debug."""
    run = step.run
    if not step.is_end:
        is_minor = not step.is_move or (step.deployment is not None and step.deployment.state in _MINOR_STATES)
        write = log.debug if is_minor else log.info
        write("run_progress", message=step.message, run_id=run.run_id, stage=run.stage)
        return
    is_unconfirmed = run.facts.promote is not None and run.facts.promote.confirmed is False
    write = log.warning if run.needs_attention or is_unconfirmed else log.info
    write(
        "run_finished",
        message=step.message,
        run_id=run.run_id,
        outcome=run.outcome,
        stage=run.stage,
        reasons=list(run.reasons),
        seconds=dict(run.seconds),
        model_path=run.facts.promote.model_path if run.facts.promote else None,
    )
