"""What a worker does outside any run: inspect or export a model, measure a source, write pages.

It works in a temporary folder. Of a worker that failed, the log stays there, because the error names it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.domain.mlflow_request import MlflowRequest
from retrain_worker.domain.report_request import ReportRequest
from retrain_worker.domain.worker_protocol import (
    Broken,
    ExportRequest,
    ExportResult,
    InspectRequest,
    InspectResult,
    OneOffTask,
    PullRequest,
    PullResult,
    Working,
)
from retrain_worker.errors import WorkerFailedError, WorkerInterruptedError
from retrain_worker.settings import Settings

DEADLINE_SECONDS = 600.0
#: within the patience of the job
_MLFLOW_SECONDS = 90.0
_POLL_SECONDS = 0.05
_STOP_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class OneOffWorker:
    """Runs tasks one after the other in one temporary folder. `report` gets each new progress message."""

    folder: str
    workers: WorkerProcesses
    report: Callable[[str], None]

    def result_of(
        self, task: Stage | OneOffTask, request: Any, *, is_stopped: Callable[[], bool] = lambda: False
    ) -> Any:
        """The worker's result, which is waited for. Raises the worker's error, WorkerInterruptedError when stopped."""
        reported = ""
        while isinstance(answer := self.workers.result_of(task, Path(self.folder), request), Working):
            if is_stopped():
                raise WorkerInterruptedError("this process is stopping", where=task.lower())
            if answer.message != reported:
                reported = answer.message
                self.report(reported)
            time.sleep(_POLL_SECONDS)
        if isinstance(answer, Broken):
            raise answer.error
        return answer.result

    def pull(self, settings: Settings, *, name: str, now: str) -> PullResult:
        """A snapshot of the training window, as a first run would take it. Raises the worker's error."""
        request = PullRequest(
            run_id=name,
            run_dir=self.folder,
            policy=settings.data,
            watermark_path=None,
            now=now,
            memory_limit_bytes=settings.worker_memory_bytes,
        )
        result: PullResult = self.result_of(Stage.PULL, request)
        return result


@contextmanager
def stage_worker(settings: Settings, *, report: Callable[[str], None]) -> Iterator[OneOffWorker]:
    """A worker for the stages of a run, with the database and the deadlines of `settings`."""
    with _worker(
        dict.fromkeys(Stage, settings.stage_deadline_minutes * 60),
        report=report,
        database_url=str(settings.database_url),
        niceness=settings.worker_nice,
    ) as worker:
        yield worker


def inspect(paths: tuple[Path, ...]) -> InspectResult:
    """What these files are. A file that cannot be used is a report, not an error."""
    result: InspectResult = _result_of(
        OneOffTask.INSPECT, InspectRequest(paths=tuple(bytes(path.absolute()) for path in paths))
    )
    return result


def export(request: ExportRequest) -> ExportResult:
    """Write a model file for another runtime. Raises UsageError, ArtifactError, ContractError."""
    result: ExportResult = _result_of(OneOffTask.EXPORT, request)
    return result


def write_pages(request: ReportRequest, *, is_stopped: Callable[[], bool] = lambda: False, niceness: int = 0) -> None:
    """Write pages of runs. Raises DiskFullError, SlotError, WorkerFailedError, WorkerInterruptedError."""
    _result_of(OneOffTask.REPORT, request, is_stopped=is_stopped, niceness=niceness)


def log_to_mlflow(request: MlflowRequest, *, tracking_uri: str, is_stopped: Callable[[], bool]) -> None:
    """Log a run to the MLflow server. Raises TrackingUnavailableError, WorkerFailedError, WorkerInterruptedError."""
    options: dict[str, Any] = {"niceness": 10, "database_url": tracking_uri}
    with _worker({OneOffTask.MLFLOW: _MLFLOW_SECONDS}, report=lambda _message: None, **options) as worker:
        worker.result_of(OneOffTask.MLFLOW, request, is_stopped=is_stopped)


def _result_of(
    task: OneOffTask, request: Any, *, is_stopped: Callable[[], bool] = lambda: False, niceness: int = 0
) -> Any:
    with _worker({task: DEADLINE_SECONDS}, report=lambda _message: None, niceness=niceness) as worker:
        return worker.result_of(task, request, is_stopped=is_stopped)


@contextmanager
def _worker(
    deadline_seconds: Mapping[Stage | OneOffTask, float], *, report: Callable[[str], None], **options: Any
) -> Iterator[OneOffWorker]:
    folder = Path(tempfile.mkdtemp(prefix="retrain-worker-"))
    workers = WorkerProcesses(deadline_seconds=deadline_seconds, **options)
    is_log_needed = False
    try:
        yield OneOffWorker(folder=str(folder), workers=workers, report=report)
    except WorkerFailedError:  # its text names the log
        is_log_needed = True
        raise
    finally:
        workers.stop(_STOP_SECONDS)
        _remove(folder, but_logs=is_log_needed)


def _remove(folder: Path, *, but_logs: bool) -> None:
    """Remove what a worker has left; a log only after success."""
    if not but_logs:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix != ".log":
            path.unlink(missing_ok=True)
