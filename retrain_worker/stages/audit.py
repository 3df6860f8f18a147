"""Audit: is this data fit to train on."""

from __future__ import annotations

from dataclasses import asdict

from retrain_worker.domain.audit import AuditVerdict, Severity
from retrain_worker.domain.handoff import AuditRequest, AuditResult
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.stages.child import ask
from retrain_worker.stages.ports import RunStore, World
from retrain_worker.stages.step import Step


def audit(run: Run, world: World) -> Step:
    """REFUSED with the reasons in order of weight, or training is due. Notes which incumbent the training is for."""
    answer = ask(
        run,
        world,
        AuditRequest(
            run_id=run.run_id,
            run_dir=str(world.folders.run_dir(run.run_id)),
            policy=world.policies.data,
            now=run.created_at.isoformat(),
            reference_dir=_reference_dir(world),
            memory_limit_bytes=world.policies.child_memory_bytes,
        ),
    )
    if isinstance(answer, Step):
        return answer
    result: AuditResult = answer
    known = run.with_fact(Stage.AUDIT, asdict(result.verdict))
    if not result.verdict.is_fit:
        reasons = result.verdict.reasons
        return Step(
            run=known.ended(Outcome.REFUSED, *reasons, at=world.now()),
            sentence=f"run {run.run_id} refused: the data is not fit to train on: {'; '.join(reasons)}",
        )
    incumbent = world.slot.current_path()
    known = known.with_fact(
        Stage.AUDIT, {**asdict(result.verdict), "incumbent_path": str(incumbent) if incumbent else None}
    )
    return Step(
        run=known.moved_to(Stage.TRAIN, at=world.now()),
        sentence=f"run {run.run_id} audited: fit to train on{_with_warnings(result.verdict)}",
    )


def _with_warnings(verdict: AuditVerdict) -> str:
    """The weightiest warning, and how many more there are."""
    told = [found.sentence for found in verdict.findings if found.severity is Severity.WARNING]
    more = f", and {len(told) - 1} more (retrain-worker audit)" if len(told) > 1 else ""
    return f"; warning: {told[0]}{more}" if told else ""


def reference_run_id(store: RunStore) -> str | None:
    """The run whose snapshot the last promoted model was trained on; a forced run has none, the judged one has."""
    promoted = store.last_promotion()
    run_id = promoted.run_id if promoted else None
    while run_id is not None and (run := store.run(run_id)) and (forced := run.fact(Stage.GATE).get("forced")):
        run_id = forced["of_run"]
    return run_id


def _reference_dir(world: World) -> str | None:
    """The folder that drift is measured against."""
    run_id = reference_run_id(world.store)
    return str(world.folders.path_of(run_id)) if run_id else None
