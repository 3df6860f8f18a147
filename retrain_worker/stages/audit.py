"""Audit: is this data fit to train on."""

from __future__ import annotations

from dataclasses import asdict

from retrain_worker.domain.audit_findings import AuditVerdict, Severity
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.domain.worker_protocol import AuditRequest, AuditResult
from retrain_worker.stages.ports import RunStore, StageContext
from retrain_worker.stages.step import Step
from retrain_worker.stages.worker_call import ask


def audit(run: Run, context: StageContext) -> Step:
    """REFUSED with the reasons in order of weight, or training is due. Notes which incumbent the training is for."""
    answer = ask(
        run,
        context,
        AuditRequest(
            run_id=run.run_id,
            run_dir=str(context.folders.run_dir(run.run_id)),
            policy=context.policies.data,
            now=run.created_at.isoformat(),
            reference_dir=_reference_dir(context),
            memory_limit_bytes=context.policies.worker_memory_bytes,
        ),
    )
    if isinstance(answer, Step):
        return answer
    result: AuditResult = answer
    known = run.with_fact(Stage.AUDIT, asdict(result.verdict))
    if not result.verdict.is_fit:
        reasons = result.verdict.reasons
        return Step(
            run=known.ended(Outcome.REFUSED, *reasons, at=context.now()),
            message=f"run {run.run_id} refused: the data is not fit to train on: {'; '.join(reasons)}",
        )
    incumbent = context.slot.current_path()
    known = known.with_fact(
        Stage.AUDIT, {**asdict(result.verdict), "incumbent_path": str(incumbent) if incumbent else None}
    )
    return Step(
        run=known.moved_to(Stage.TRAIN, at=context.now()),
        message=f"run {run.run_id} audited: fit to train on{_with_warnings(result.verdict)}",
    )


def _with_warnings(verdict: AuditVerdict) -> str:
    """The weightiest warning, and how many more there are."""
    told = [found.message for found in verdict.findings if found.severity is Severity.WARNING]
    more = f", and {len(told) - 1} more (retrain-worker audit)" if len(told) > 1 else ""
    return f"; warning: {told[0]}{more}" if told else ""


def reference_run_id(store: RunStore) -> str | None:
    """The run whose snapshot the last promoted model was trained on; a forced run has none, the judged one has."""
    promoted = store.last_promotion()
    run_id = promoted.run_id if promoted else None
    while run_id is not None and (run := store.run(run_id)) and (forced := run.fact(Stage.GATE).get("forced")):
        run_id = forced["of_run"]
    return run_id


def _reference_dir(context: StageContext) -> str | None:
    """The folder that drift is measured against."""
    run_id = reference_run_id(context.store)
    return str(context.folders.path_of(run_id)) if run_id else None
