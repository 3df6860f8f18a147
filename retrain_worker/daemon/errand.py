"""What a child does outside any run, in a folder that is thrown away: tell what a file is, export a model."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retrain_worker.adapters.child_process import ChildProcesses
from retrain_worker.domain.handoff import (
    Broken,
    Errand,
    ExportRequest,
    ExportResult,
    InspectRequest,
    InspectResult,
    Working,
)
from retrain_worker.domain.lifecycle import Stage

DEADLINE_SECONDS = 600.0
_POLL_SECONDS = 0.05


def inspect(paths: tuple[Path, ...]) -> InspectResult:
    """What these files are. A file that cannot be used is a report, not an error."""
    result: InspectResult = _done(Errand.INSPECT, InspectRequest(paths=tuple(str(path.absolute()) for path in paths)))
    return result


def export(request: ExportRequest) -> ExportResult:
    """Write a model file for another runtime. Raises UsageError, ArtifactError, ContractError."""
    result: ExportResult = _done(Errand.EXPORT, request)
    return result


def awaited(
    children: ChildProcesses, task: Stage | Errand, folder: Path, request: Any, say: Callable[[str], None]
) -> Any:
    """The child's result, its progress said on the way. Raises what the child raised."""
    said = ""
    while isinstance(answer := children.result_of(task, folder, request), Working):
        if answer.sentence != said:
            said = answer.sentence
            say(said)
        time.sleep(_POLL_SECONDS)
    if isinstance(answer, Broken):
        raise answer.error
    return answer.result


def _done(errand: Errand, request: Any) -> Any:
    with tempfile.TemporaryDirectory(prefix="retrain-worker-errand-") as folder:
        children = ChildProcesses(deadline_seconds={errand: DEADLINE_SECONDS})
        try:
            return awaited(children, errand, Path(folder), request, say=lambda _sentence: None)
        finally:
            children.stop(1.0)
