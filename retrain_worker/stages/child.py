"""Asks the child for the result of a stage, and tells waiting, broken and done apart."""

from __future__ import annotations

from typing import Any

from retrain_worker.domain.handoff import Broken, Done, Working
from retrain_worker.domain.lifecycle import Run
from retrain_worker.stages.ports import World
from retrain_worker.stages.step import Step


def ask(run: Run, world: World, request: Any) -> Step | Any:
    """The stage's result, or a Step that waits. Raises the child's error."""
    answer = world.children.result_of(run.stage, world.folders.run_dir(run.run_id), request)
    match answer:
        case Working(sentence=sentence):
            return Step(run=run, sentence=sentence)
        case Broken(error=error):
            raise error
        case Done(result=result):
            return result
