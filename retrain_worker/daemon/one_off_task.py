"""What a worker does outside any run, in a folder that is thrown away: tell what a file is, export a model."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.domain.worker_protocol import (
    Broken,
    ExportRequest,
    ExportResult,
    InspectRequest,
    InspectResult,
    OneOffTask,
    Working,
)

DEADLINE_SECONDS = 600.0
_POLL_SECONDS = 0.05


def inspect(paths: tuple[Path, ...]) -> InspectResult:
    """What these files are. A file that cannot be used is a report, not an error."""
    result: InspectResult = _done(
        OneOffTask.INSPECT, InspectRequest(paths=tuple(str(path.absolute()) for path in paths))
    )
    return result


def export(request: ExportRequest) -> ExportResult:
    """Write a model file for another runtime. Raises UsageError, ArtifactError, ContractError."""
    result: ExportResult = _done(OneOffTask.EXPORT, request)
    return result


def awaited(
    workers: WorkerProcesses, task: Stage | OneOffTask, folder: Path, request: Any, say: Callable[[str], None]
) -> Any:
    """The worker's result, its progress said on the way. Raises what the worker raised."""
    said = ""
    while isinstance(answer := workers.result_of(task, folder, request), Working):
        if answer.message != said:
            said = answer.message
            say(said)
        time.sleep(_POLL_SECONDS)
    if isinstance(answer, Broken):
        raise answer.error
    return answer.result


def _done(one_off_task: OneOffTask, request: Any) -> Any:
    with tempfile.TemporaryDirectory(prefix="retrain-worker-one-off task-") as folder:
        workers = WorkerProcesses(deadline_seconds={one_off_task: DEADLINE_SECONDS})
        try:
            return awaited(workers, one_off_task, Path(folder), request, say=lambda _sentence: None)
        finally:
            workers.stop(1.0)
