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
from retrain_worker.domain.printable import printable
from retrain_worker.domain.worker_protocol import (
    DATABASE_URL_VARIABLE,
    AuditRequest,
    AuditResult,
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
from retrain_worker.errors import DiskFullError, RetrainError, SourceUnfitError, UsageError
from retrain_worker.worker import openblas
from retrain_worker.worker.stop_signal import StopFlag, StoppedError

Request = (
    PullRequest
    | AuditRequest
    | TrainRequest
    | GateRequest
    | TrialEvaluationRequest
    | VerifyRequest
    | InspectRequest
    | ExportRequest
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
)
Report = Callable[[Progress], None]

#: high, but below the maximum
OOM_SCORE = 800
#: training can stop after its batch; the other stages have nothing to resume
GRACE_SECONDS: dict[Stage | OneOffTask, float] = {Stage.TRAIN: 5.0}
USAGE = 2

#: for a task that an operator starts on a file of any origin
_DIRECT_LIMIT_BYTES = 4 << 30
_MAX_FILE_BYTES = 64 << 30
_MAX_OPEN_FILES = 1024

_REQUESTS: dict[Stage | OneOffTask, type[Request]] = {
    Stage.PULL: PullRequest,
    Stage.AUDIT: AuditRequest,
    Stage.TRAIN: TrainRequest,
    Stage.GATE: GateRequest,
    OneOffTask.INSPECT: InspectRequest,
    OneOffTask.EXPORT: ExportRequest,
    OneOffTask.VERIFY: VerifyRequest,
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
    try:
        stage, request = _read_request(request_path)
        stopping = StopFlag(grace_seconds=GRACE_SECONDS.get(stage, 0.0))
        stopping.watch()
        os.environ["TMPDIR"] = str(result_path.parent)  # PyTorch looks for a folder that it can write to
        confine(
            writable=_writable(request, result_path.parent),
            uses_network=isinstance(request, PullRequest | TrialEvaluationRequest),
        )
        _limit_resources(
            _DIRECT_LIMIT_BYTES if isinstance(request, InspectRequest | ExportRequest) else request.memory_limit_bytes
        )
        result = _run(request, _reporter(stdout), stopping)
        _write(result_path, {"kind": "result", "stage": stage, "result": result})
    except StoppedError as stopped:
        _log.info("%s", stopped)
        return WorkerExit.INTERRUPTED
    except Exception as error:
        known = _worker_error(error)
        if known is None:
            raise
        _write(result_path, {"kind": "error", "error": known})
        return WorkerExit.ERROR
    return WorkerExit.DONE


def _run(request: Request, report: Report, stopping: Callable[[], bool]) -> Result:  # noqa: PLR0911 - one per task
    """Execute the request. Only training and scoring import torch."""
    if isinstance(request, InspectRequest | ExportRequest | VerifyRequest):
        # as scoring does itself: under MemoryDenyWriteExecute= a model computes without oneDNN only
        from retrain_worker.worker import compute

        compute.prepare(device="cpu", threads=0)
    match request:
        case PullRequest():
            from retrain_worker.worker.data.pull import pull

            return pull(request, os.environ.pop(DATABASE_URL_VARIABLE, ""), report)
        case AuditRequest():
            from retrain_worker.worker.data.audit import audit

            return audit(request, report)
        case TrainRequest():
            openblas.choose()
            from retrain_worker.worker.training.train import train

            return train(request, report, stopping)
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

            return evaluate(request, os.environ.pop(DATABASE_URL_VARIABLE, ""), report)
        case VerifyRequest():
            from retrain_worker.worker.model_verification import verify

            return verify(request)


def _read_request(path: Path) -> tuple[Stage | OneOffTask, Request]:
    try:
        found = typed_json.decode(path.read_bytes(), dict[str, Any])
        task = OneOffTask(found["stage"]) if found["stage"] in set(OneOffTask) else Stage(found["stage"])
        return task, typed_json.convert(found["request"], _REQUESTS[task])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"not a request ({type(error).__name__}: {error})", where=str(path)) from error


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


def _writable(request: Request, run_dir: Path) -> list[Path]:
    """The folders that this task writes to."""
    found = [run_dir]
    match request:
        case TrainRequest():
            found.append(Path(request.checkpoint_dir))
            found[-1].mkdir(parents=True, exist_ok=True)
        case ExportRequest():
            found.append(Path(request.output_path).parent)
        case PullRequest() | TrialEvaluationRequest():
            # a reader of a database in WAL mode writes to the -shm file beside it
            from retrain_worker.worker.data.source import parse_url

            with suppress(SourceUnfitError):  # the stage reports it
                url = parse_url(os.environ.get(DATABASE_URL_VARIABLE, ""))
                if url.get_backend_name() == "sqlite" and url.database:
                    found.append(Path(url.database).resolve().parent)
    if "COVERAGE_FILE" in os.environ:  # which lines the tests have run
        found.append(Path(os.environ["COVERAGE_FILE"]).parent)
    return [folder for folder in found if folder.is_dir()]


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
