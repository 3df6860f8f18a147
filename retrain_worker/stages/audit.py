"""Audit: whether the data is fit to train on."""

from __future__ import annotations

from retrain_worker.domain.audit_findings import AuditVerdict, Severity
from retrain_worker.domain.facts import AuditFacts
from retrain_worker.domain.host_names import command
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.domain.worker_protocol import AuditRequest, AuditResult
from retrain_worker.stages.engine_contract import known_contract, window_length
from retrain_worker.stages.ports import RunStore, StageContext
from retrain_worker.stages.step import Step
from retrain_worker.stages.worker_call import ask


def audit(run: Run, context: StageContext) -> Step:
    """REFUSED with the reasons in order of weight, or training is due. Stores which incumbent the training is for."""
    contract, incumbent = known_contract(context.store), context.slot.current_path()
    incumbent_path = str(incumbent) if incumbent else None
    answer = ask(
        run,
        context,
        AuditRequest(
            run_id=run.run_id,
            run_dir=str(context.folders.run_dir(run.run_id)),
            policy=context.policies.data,
            now=run.created_at.isoformat(),
            reference_dir=reference_dir(context),
            engine_features=contract.feature_names if contract else (),
            split=context.policies.split,
            seq_len=window_length(context.policies.recipe, context.store, incumbent_path=incumbent_path),
            memory_limit_bytes=context.policies.worker_memory_bytes,
        ),
    )
    if isinstance(answer, Step):
        return answer
    result: AuditResult = answer
    verdict = result.verdict
    if not verdict.is_fit:
        return Step(
            run=run.with_fact(AuditFacts(findings=verdict.findings)).ended(
                Outcome.REFUSED, *verdict.reasons, at=context.now()
            ),
            message=f"run {run.run_id} refused: the data is not fit to train on: {'; '.join(verdict.reasons)}",
        )
    known = run.with_fact(AuditFacts(findings=verdict.findings, incumbent_path=incumbent_path))
    return Step(
        run=known.moved_to(Stage.TRAIN, at=context.now()),
        message=f"run {run.run_id} audited: fit to train on{_with_warnings(verdict)}",
    )


def _with_warnings(verdict: AuditVerdict) -> str:
    """The weightiest warning, and how many more there are."""
    warnings = [finding.message for finding in verdict.findings if finding.severity is Severity.WARNING]
    more = f", and {len(warnings) - 1} more ({command()} audit)" if len(warnings) > 1 else ""
    return f"; warning: {warnings[0]}{more}" if warnings else ""


def reference_run_id(store: RunStore) -> str | None:
    """The run whose snapshot the last promoted model was trained on; a forced run has none, the judged one has."""
    promoted = store.last_promotion()
    run_id = promoted.run_id if promoted else None
    while run_id is not None and (run := store.run(run_id)) and run.facts.gate and run.facts.gate.forced:
        run_id = run.facts.gate.forced.of_run
    return run_id


def reference_dir(context: StageContext) -> str | None:
    """The folder that drift is measured against."""
    run_id = reference_run_id(context.store)
    return str(context.folders.path_of(run_id)) if run_id else None
