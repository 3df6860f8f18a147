"""The worker process: `python -m retrain_worker.worker REQUEST RESULT` (protocol: domain/worker_protocol.py).

Covered: the worker is a preferred victim of the out-of-memory killer, ends on SIGTERM or when the daemon has ended,
keeps to a memory limit with a typed error, writes progress as JSON lines to stdout and everything else to stderr, and
writes a result file atomically.
Not covered: deadlines, and leftovers of a native crash; the daemon handles both.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import msgspec

from retrain_worker import durable_file, typed_json
from retrain_worker.confinement import confine
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.domain.mlflow_request import MlflowRequest, MlflowResult
from retrain_worker.domain.printable import printable
from retrain_worker.domain.report_request import ReportRequest, ReportResult
from retrain_worker.domain.upload_request import UploadRequest, UploadResult
from retrain_worker.domain.worker_protocol import (
    GETS_URL,
    AuditRequest,
    AuditResult,
    DatabaseAccess,
    ExportRequest,
    ExportResult,
    GateMeasured,
    GateRequest,
    InspectRequest,
    InspectResult,
    OneOffTask,
    Progress,
    PullRequest,
    PullResult,
    TrainRequest,
    TrainResult,
    TrialEvaluationRequest,
    TrialEvaluationResult,
    VerifyRequest,
    VerifyResult,
    WorkerError,
    WorkerExit,
)
from retrain_worker.errors import DiskFullError, MalformedError, RetrainError, UsageError
from retrain_worker.worker.ranks import Rank, end_with_launcher, rank_of
from retrain_worker.worker.stop_signal import StopFlag, StoppedError
from retrain_worker.worker.task_paths import paths_of

Request = (
    PullRequest
    | AuditRequest
    | TrainRequest
    | GateRequest
    | TrialEvaluationRequest
    | VerifyRequest
    | InspectRequest
    | ExportRequest
    | ReportRequest
    | MlflowRequest
    | UploadRequest
)
Result = (
    PullResult
    | AuditResult
    | TrainResult
    | GateMeasured
    | TrialEvaluationResult
    | VerifyResult
    | InspectResult
    | ExportResult
    | ReportResult
    | MlflowResult
    | UploadResult
)
Report = Callable[[Progress], None]

#: high, but below the maximum
OOM_SCORE = 800
#: training can stop after its batch, or report an error of which the launcher has seen another process end; the other
#: stages have nothing to resume
GRACE_SECONDS: dict[Stage | OneOffTask, float] = {Stage.TRAIN: 5.0}
USAGE = 2

#: for a task that an operator starts on a file of any origin
_DIRECT_LIMIT_BYTES = 4 << 30
_MAX_FILE_BYTES = 64 << 30
_MAX_OPEN_FILES = 1024
_ACCESS_BYTES = 1 << 16

_REQUESTS: dict[Stage | OneOffTask, type[Request]] = {
    Stage.PULL: PullRequest,
    Stage.AUDIT: AuditRequest,
    Stage.TRAIN: TrainRequest,
    Stage.GATE: GateRequest,
    OneOffTask.INSPECT: InspectRequest,
    OneOffTask.EXPORT: ExportRequest,
    OneOffTask.VERIFY: VerifyRequest,
    OneOffTask.REPORT: ReportRequest,
    OneOffTask.MLFLOW: MlflowRequest,
    OneOffTask.UPLOAD: UploadRequest,
    Stage.SHADOW: TrialEvaluationRequest,
    Stage.PROBATION: TrialEvaluationRequest,
}
_log = logging.getLogger("retrain_worker.worker")


def main(arguments: list[str]) -> int:
    """Run the stage of the request file, write the result file, return a WorkerExit. Unknown exceptions propagate."""
    _offer_to_oom_killer()
    stdout = _claim_stdout()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m retrain_worker.worker REQUEST RESULT\n")
        return USAGE
    request_path, result_path = (Path(argument) for argument in arguments)
    rank = Rank()
    try:
        rank = rank_of(os.environ)
        if rank.is_distributed:
            end_with_launcher()
        stage, request = _read_request(request_path)
        url = _read_url() if stage in GETS_URL else ""
        stopping = StopFlag(grace_seconds=GRACE_SECONDS.get(stage, 0.0))
        stopping.watch()
        os.environ["TMPDIR"] = str(result_path.parent)  # PyTorch looks for a folder that it can write to
        paths = paths_of(request, result_path.parent, url=url, has_peers=rank.is_distributed)
        confine(
            readable=paths.readable,
            writable=paths.writable,
            uses_network=stage in GETS_URL or rank.is_distributed,
            has_peers=rank.is_distributed,
        )
        _limit_resources(
            _DIRECT_LIMIT_BYTES
            if isinstance(request, InspectRequest | ExportRequest | ReportRequest | MlflowRequest)
            else request.memory_limit_bytes // rank.local_size
        )
        result = _run(request, url, _reporter(stdout) if rank.is_first else _no_report, stopping, rank)
        if rank.is_first:
            _write(result_path, {"kind": "result", "stage": stage, "result": result})
    except StoppedError as stopped:
        _log.info("%s", stopped)
        return WorkerExit.INTERRUPTED
    except Exception as error:
        known = _worker_error(error)
        if known is None:
            raise
        if rank.is_first:
            _write(result_path, {"kind": "error", "error": known})
        else:
            _log.error("rank %d: %s", rank.number, error)  # the first process has the same, or reports a lost one
        return WorkerExit.ERROR
    return WorkerExit.DONE


def _run(  # noqa: PLR0911 - one per task
    request: Request, url: str, report: Report, stopping: Callable[[], bool], rank: Rank
) -> Result:
    """Execute the request. Only training and scoring import torch."""
    if isinstance(request, InspectRequest | ExportRequest | VerifyRequest):
        # as scoring does itself: under MemoryDenyWriteExecute= a model computes without oneDNN only
        from retrain_worker.worker import compute

        compute.prepare(device="cpu", threads=0)
    match request:
        case PullRequest():
            from retrain_worker.worker.data.pull import pull

            return pull(request, url, report)
        case AuditRequest():
            from retrain_worker.worker.data.audit import audit

            return audit(request, report)
        case TrainRequest():
            from retrain_worker.worker.training.process_group import ProcessGroup
            from retrain_worker.worker.training.train import train

            with ProcessGroup(rank) as group:
                return train(request, report, stopping, group)
        case GateRequest():
            from retrain_worker.worker.gate_measurement import measure

            return measure(request, report)
        case InspectRequest():
            from retrain_worker.model.inspection import inspect

            return InspectResult(reports=tuple(inspect(Path(os.fsdecode(path))) for path in request.paths))
        case ExportRequest():
            from retrain_worker.model.export import export

            return export(request)
        case TrialEvaluationRequest():
            from retrain_worker.worker.prediction_log import evaluate

            return evaluate(request, url, report)
        case VerifyRequest():
            from retrain_worker.worker.model_verification import verify

            return verify(request)
        case ReportRequest():
            from retrain_worker.worker.report.write import write

            return write(request)
        case MlflowRequest():
            from retrain_worker.worker.mlflow_run import log_run

            return log_run(request, url)
        case UploadRequest():
            from retrain_worker.worker.model_upload import upload

            return upload(request)


def _read_request(path: Path) -> tuple[Stage | OneOffTask, Request]:
    try:
        found = typed_json.decode(path.read_bytes(), dict[str, Any])
        task = OneOffTask(found["stage"]) if found["stage"] in set(OneOffTask) else Stage(found["stage"])
        return task, typed_json.convert(found["request"], _REQUESTS[task])
    except (OSError, KeyError, TypeError, ValueError, MalformedError) as error:
        raise UsageError(f"not a request ({type(error).__name__}: {error})", where=str(path)) from error


def _read_url() -> str:
    """The URL in the first line of stdin; the password beside it gets into the environment, where libpq finds it."""
    line = b""
    while not line.endswith(b"\n"):
        if not (part := os.read(0, _ACCESS_BYTES)):
            raise StoppedError("stdin closed: the daemon has ended")
        line += part
    access = typed_json.decode(line, DatabaseAccess)
    for name, value in access.environment.items():  # /proc shows the environment of the start only
        os.environ[name] = os.fsdecode(value)
    return os.fsdecode(access.url)


def _write(path: Path, content: dict[str, Any]) -> None:
    with durable_file.replacing(path) as file:
        file.write(msgspec.json.encode(content))


def _worker_error(error: Exception) -> WorkerError | None:
    """The typed error for `error`; None when it is unforeseen."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        error = DiskFullError(f"no space left to write ({error.strerror})", where=str(error.filename or ""))
    if isinstance(error, RetrainError):
        what, where, remedy = (printable(text) for text in (error.what, error.where, error.remedy))
        return WorkerError(kind=type(error).__name__, what=what, where=where, remedy=remedy)
    # torch's allocators raise a RuntimeError with this text
    messages = ("can't allocate memory", "out of memory")
    if isinstance(error, MemoryError) or any(message in str(error) for message in messages):
        return WorkerError(
            kind=MemoryError.__name__,
            what=f"not enough memory ({(str(error).splitlines() or ['MemoryError'])[0][:200]})",
            where="the worker process",
            remedy="raise its memory limit, or make TRAIN_WINDOW_DAYS or BATCH_SIZE smaller",
        )
    return None


# ---------------------------------------------------------------- the process


def _offer_to_oom_killer() -> None:
    # best effort: not every /proc is writable
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def _claim_stdout() -> TextIO:
    """The real stdout, for progress lines only; other output goes to stderr."""
    stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stdout


def _reporter(stdout: TextIO) -> Report:
    def report(progress: Progress) -> None:
        with suppress(BrokenPipeError):  # the daemon has ended; stdin closes as well
            stdout.write(msgspec.json.encode(progress).decode() + "\n")
            stdout.flush()

    return report


def _no_report(_progress: Progress) -> None:
    """Only the first process of a distributed training reports."""


def _limit_resources(memory_bytes: int) -> None:
    """Limit private writable memory (0: to the machine's), which counts what is used, not address space; and files."""
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for kind, wanted in (
        (resource.RLIMIT_DATA, memory_bytes or machine_bytes),
        (resource.RLIMIT_FSIZE, _MAX_FILE_BYTES),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
    ):
        _soft, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
