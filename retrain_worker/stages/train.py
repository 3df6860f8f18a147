"""Train: a worker fits a candidate, calibrates it, writes its file, and verifies the file by loading it."""

from __future__ import annotations

from retrain_worker.domain.artifact import version_of
from retrain_worker.domain.facts import AuditFacts, TrainFacts, TrainingPolicies
from retrain_worker.domain.lifecycle import Run, Stage
from retrain_worker.domain.worker_protocol import TrainRequest, TrainResult
from retrain_worker.stages.engine_contract import empty_slot
from retrain_worker.stages.ports import Policies, StageContext
from retrain_worker.stages.step import Step
from retrain_worker.stages.worker_call import ask


def training_policies(policies: Policies) -> TrainingPolicies:
    """The part of the policies that a candidate is trained under."""
    return TrainingPolicies(data=policies.data, split=policies.split, recipe=policies.recipe)


def train(run: Run, context: StageContext) -> Step:
    """The gate is due once the candidate's file is written and verified."""
    policies, incumbent_path = context.policies, run.facts.require(AuditFacts).incumbent_path
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
            incumbent_path=incumbent_path,
            folds_dir=str(context.folders.folds_dir()),
            empty_slot=empty_slot(context, incumbent_path=incumbent_path),
            memory_limit_bytes=policies.worker_memory_bytes,
        ),
    )
    if isinstance(answer, Step):
        return answer
    result: TrainResult = answer
    incumbent = context.slot.current_path()
    known = run.with_fact(
        TrainFacts(
            candidate_path=result.model_path,
            version=result.manifest.version,
            sha256=result.manifest.sha256,
            contract=result.manifest.contract,
            incumbent_path=str(incumbent) if incumbent else None,
            policies=training_policies(policies),
            epochs=result.epochs,
            best_epoch=result.best_epoch,
            final_loss=result.final_loss,
            validation_log_loss=result.validation_log_loss,
            parts=result.parts,
            left_out=result.left_out,
            history=result.history,
        )
    )
    return Step(
        run=known.moved_to(Stage.GATE, at=context.now()),
        message=f"run {run.run_id} trained {result.manifest.version}: best of {result.epochs} epochs is "
        f"{result.best_epoch}, validation log loss {result.validation_log_loss:.4f}",
    )
