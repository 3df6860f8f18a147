"""Train: a worker fits a candidate, calibrates it, writes its file and verifies it in a fresh load."""

from __future__ import annotations

import json
from dataclasses import asdict

from retrain_worker.domain.artifact import version_of
from retrain_worker.domain.lifecycle import Run, Stage
from retrain_worker.domain.worker_protocol import TrainRequest, TrainResult
from retrain_worker.stages.ports import Policies, StageContext
from retrain_worker.stages.step import Step
from retrain_worker.stages.worker_call import ask


def trained_under(policies: Policies) -> str:
    """What decided which rows the candidate has seen, and how, as one text that can be compared."""
    return json.dumps([asdict(policies.data), asdict(policies.split), asdict(policies.recipe)], sort_keys=True)


def train(run: Run, context: StageContext) -> Step:
    """The gate is due once the candidate's file stands."""
    policies = context.policies
    answer = ask(
        run,
        context,
        TrainRequest(
            run_id=run.run_id,
            run_dir=str(context.folders.run_dir(run.run_id)),
            version=version_of(run.run_id),
            data=policies.data,
            split=policies.split,
            recipe=policies.recipe,
            checkpoint_dir=str(context.folders.checkpoint_dir(run.run_id)),
            incumbent_path=run.fact(Stage.AUDIT)["incumbent_path"],
            memory_limit_bytes=policies.worker_memory_bytes,
        ),
    )
    if isinstance(answer, Step):
        return answer
    result: TrainResult = answer
    incumbent = context.slot.current_path()
    known = run.with_fact(
        Stage.TRAIN,
        {
            "candidate_path": result.model_path,
            "version": result.manifest.version,
            "sha256": result.manifest.sha256,
            "contract": asdict(result.manifest.contract),
            "epochs": result.epochs,
            "best_epoch": result.best_epoch,
            "final_loss": result.final_loss,
            "validation_log_loss": result.validation_log_loss,
            "parts": {name: dict(part) for name, part in result.parts.items()},
            "left_out": dict(result.left_out),
            "history": [list(epoch) for epoch in result.history],
            "incumbent_path": str(incumbent) if incumbent else None,
            "trained_under": trained_under(policies),
        },
    )
    return Step(
        run=known.moved_to(Stage.GATE, at=context.now()),
        message=f"run {run.run_id} trained {result.manifest.version}: best of {result.epochs} epochs is "
        f"{result.best_epoch}, validation log loss {result.validation_log_loss:.4f}",
    )
