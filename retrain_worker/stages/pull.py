"""Pull: a worker copies the rows of the training window into an immutable snapshot, and counts the new ones."""

from __future__ import annotations

from datetime import datetime

from retrain_worker.domain.facts import PullFacts, RowCounts
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.domain.worker_protocol import PullRequest, PullResult
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.step import Step
from retrain_worker.stages.worker_call import ask


def pull(run: Run, context: StageContext) -> Step:
    """SKIPPED when too few rows are newly labelled since the last committed run; else the audit is due."""
    watermark, policy = context.store.watermark_path(), context.policies.data
    answer = ask(
        run,
        context,
        PullRequest(
            run_id=run.run_id,
            run_dir=str(context.folders.run_dir(run.run_id)),
            policy=policy,
            watermark_path=str(watermark) if watermark else None,
            now=run.created_at.isoformat(),
            memory_limit_bytes=context.policies.worker_memory_bytes,
        ),
    )
    if isinstance(answer, Step):
        return answer
    result: PullResult = answer
    known = run.with_fact(_facts(result))
    is_forced = run.facts.request is not None and run.facts.request.is_forced
    if not is_forced and watermark is not None and result.new_labelled < policy.min_new_samples:
        reason = (
            f"{result.new_labelled} newly labelled rows since the last run, MIN_NEW_SAMPLES is {policy.min_new_samples}"
        )
        return Step(
            run=known.ended(Outcome.SKIPPED, reason, at=context.now()), message=f"run {run.run_id} skipped: {reason}"
        )
    message = (
        f"run {run.run_id} pulled {result.loaded} rows, {result.labelled} labelled "
        f"({result.win} WIN, {result.loss} LOSS), {result.new_labelled} of them new"
    )
    return Step(run=known.moved_to(Stage.AUDIT, at=context.now()), message=message)


def _facts(result: PullResult) -> PullFacts:
    return PullFacts(
        rows=RowCounts(
            loaded=result.loaded,
            labelled=result.labelled,
            win=result.win,
            loss=result.loss,
            neutral=result.neutral,
            open=result.open,
            new_labelled=result.new_labelled,
            quarantined=result.quarantined,
            contradictions=result.contradictions,
        ),
        symbols=result.symbols,
        feature_names=result.feature_names,
        first_at=_instant(result.first_at),
        last_at=_instant(result.last_at),
        data_sha256=result.data_sha256,
        watermark_path=result.watermark_path,
    )


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
