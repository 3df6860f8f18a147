"""Gets the result of a stage from the worker: waiting, failed or done."""

from __future__ import annotations

from typing import Any

from retrain_worker.domain.lifecycle import Run
from retrain_worker.domain.worker_protocol import Broken, Done, Working
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.step import Step


def ask(run: Run, context: StageContext, request: Any) -> Step | Any:
    """The stage's result, or a Step that waits. Raises the worker's error."""
    answer = context.workers.result_of(run.stage, context.folders.run_dir(run.run_id), request)
    match answer:
        case Working():
            return Step(run=run, message=answer.message, share=answer.share, seconds_left=answer.seconds_left)
        case Broken(error=error):
            raise error
        case Done(result=result):
            return result
