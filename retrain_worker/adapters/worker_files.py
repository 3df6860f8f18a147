"""The files between daemon and worker: request, result and log of one stage, named by the hash of the request.

A result belongs to the request whose hash is in its name: a result of an earlier start is used for the identical
request only, and a worker of an earlier daemon cannot answer another request.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from retrain_worker import durable_file, errors, typed_json
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.domain.masking import masked
from retrain_worker.domain.mlflow_request import MlflowResult
from retrain_worker.domain.printable import printable
from retrain_worker.domain.report_request import ReportResult
from retrain_worker.domain.upload_request import UploadResult
from retrain_worker.domain.worker_protocol import (
    AuditResult,
    ExportResult,
    GateMeasured,
    InspectResult,
    OneOffTask,
    PullResult,
    TrainResult,
    TrialEvaluationResult,
    VerifyResult,
    WorkerError,
)
from retrain_worker.errors import MalformedError, RetrainError, UsageError, WorkerFailedError

_RESULT_TYPES: dict[str, type[Any]] = {
    Stage.PULL: PullResult,
    Stage.AUDIT: AuditResult,
    Stage.TRAIN: TrainResult,
    Stage.GATE: GateMeasured,
    Stage.SHADOW: TrialEvaluationResult,
    Stage.PROBATION: TrialEvaluationResult,
    OneOffTask.INSPECT: InspectResult,
    OneOffTask.EXPORT: ExportResult,
    OneOffTask.VERIFY: VerifyResult,
    OneOffTask.REPORT: ReportResult,
    OneOffTask.MLFLOW: MlflowResult,
    OneOffTask.UPLOAD: UploadResult,
}
_LOG_TAIL_BYTES = 4096
_LOG_TAIL_CHARACTERS = 300


class _Answer(msgspec.Struct):
    """The content of a result file, with `result` not decoded yet."""

    kind: str
    stage: str = ""
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: WorkerError | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerFiles:
    """The paths of one request, its result, and the log of its stage."""

    stage: str
    run_dir: Path
    content: bytes

    @property
    def request_path(self) -> Path:
        """The request, JSON."""
        return self._path("request.json")

    @property
    def result_path(self) -> Path:
        """The result, JSON."""
        return self._path("result.json")

    @property
    def log_path(self) -> Path:
        """The worker's stderr, appended to at each start."""
        return self.run_dir / f"{self.stage.lower()}.log"

    def _path(self, ending: str) -> Path:
        return self.run_dir / f"{self.stage.lower()}.{hashlib.sha256(self.content).hexdigest()[:16]}.{ending}"


def files_of(stage: str, run_dir: Path, request: object) -> WorkerFiles:
    """The files of this request. Equal requests have equal files. Raises UsageError for text that is not UTF-8."""
    try:
        content = msgspec.json.encode({"stage": str(stage), "request": request})
    except UnicodeEncodeError as error:
        where = printable(error.object)
        raise UsageError("not valid UTF-8", where=where, remedy="rename the file or the directory") from None
    return WorkerFiles(stage=str(stage), run_dir=run_dir, content=content)


def remove_older(files: WorkerFiles) -> None:
    """Remove the requests and results of earlier evaluations, which are not needed again."""
    for path in files.run_dir.glob(f"{files.stage.lower()}.*.json"):
        if path not in (files.request_path, files.result_path):
            path.unlink(missing_ok=True)


def read_result(files: WorkerFiles, *, limit_bytes: int) -> Any:
    """The worker's result. Raises the worker's error, or WorkerFailedError when there is no valid result."""
    answer = _decoded(_content(files, limit_bytes), _Answer, files)
    if answer.kind == "error" and answer.error is not None:
        raise _error_of(answer.error)
    if answer.kind != "result" or answer.stage != files.stage:
        raise WorkerFailedError(
            f"the worker's result is of kind {answer.kind!r} and stage {answer.stage!r}",
            where=str(files.result_path),
            remedy=f"see {files.log_path}",
        )
    return _decoded(answer.result, _RESULT_TYPES[files.stage], files)


def log_tail(files: WorkerFiles, *, since_bytes: int) -> str:
    """The end of the worker's log since that position, one line, without passwords."""
    try:
        with files.log_path.open("rb") as file:
            file.seek(max(since_bytes, file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            text = file.read(_LOG_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""
    return masked(" | ".join(line.strip() for line in text.splitlines() if line.strip()))[-_LOG_TAIL_CHARACTERS:]


def _content(files: WorkerFiles, limit_bytes: int) -> bytes:
    try:
        fd = durable_file.open_unfollowed(files.result_path)
    except OSError as error:
        raise WorkerFailedError(
            f"the worker wrote no result ({error.strerror})",
            where=str(files.result_path),
            remedy=f"see {files.log_path}",
        ) from error
    try:
        size = os.fstat(fd).st_size
        if not stat.S_ISREG(os.fstat(fd).st_mode) or size > limit_bytes:
            raise WorkerFailedError(
                f"the worker's result is not a file of at most {limit_bytes} bytes ({size})",
                where=str(files.result_path),
                remedy=f"see {files.log_path}",
            )
        return durable_file.read_all(fd, limit_bytes)
    except OSError as error:
        raise WorkerFailedError(
            f"the worker's result cannot be read ({error.strerror})",
            where=str(files.result_path),
            remedy="check the disk",
        ) from error
    finally:
        os.close(fd)


def _decoded(content: bytes | msgspec.Raw, kind: type[Any], files: WorkerFiles) -> Any:
    try:
        return typed_json.decode(content, kind)
    except MalformedError as error:
        raise WorkerFailedError(
            f"the worker's result cannot be decoded: {error}",
            where=str(files.result_path),
            remedy=f"see {files.log_path}",
        ) from error


def _error_of(found: WorkerError) -> RetrainError:
    """An error of the class of that name; a WorkerFailedError when there is none."""
    kind = next((kind for kind in _all_errors(RetrainError) if kind.__name__ == found.kind), WorkerFailedError)
    if issubclass(kind, errors.SettingsError):
        return kind((found.what,), where=found.where, remedy=found.remedy)
    return kind(found.what, where=found.where, remedy=found.remedy)


def _all_errors(kind: type[RetrainError]) -> Iterator[type[RetrainError]]:
    yield kind
    for worker in kind.__subclasses__():
        yield from _all_errors(worker)
