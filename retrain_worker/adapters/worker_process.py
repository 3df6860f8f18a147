"""Runs the heavy part of a stage in a worker process, and reports its progress and its result.

The worker is the leader of a session of its own and ends when its stdin closes, so it cannot outlive this process for
long; the processes that it has started are killed with it. It inherits a lock on the run's folder: a worker of a daemon
that was killed is noticed until it has ended, and no two workers use one folder. The worker of TRAIN may be started by
a launcher (TRAIN_LAUNCHER), also as several processes, of which the first writes progress and result.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from retrain_worker import durable_file
from retrain_worker.adapters.running_worker import RunningWorker, start_worker
from retrain_worker.adapters.worker_files import WorkerFiles, files_of, log_tail, read_result, remove_older
from retrain_worker.adapters.worker_launcher import environment_for, launched
from retrain_worker.domain.database_url import is_postgresql
from retrain_worker.domain.host_names import INSTANCE_VARIABLE
from retrain_worker.domain.lifecycle import WAITING, Stage
from retrain_worker.domain.worker_protocol import (
    GETS_URL,
    READS_DATABASE,
    Broken,
    DatabaseAccess,
    Done,
    OneOffTask,
    WorkerExit,
    Working,
)
from retrain_worker.errors import RetrainError, WorkerFailedError, WorkerInterruptedError

#: -P: nothing is imported from the working directory
COMMAND = (sys.executable, "-P", "-m", "retrain_worker.worker")
#: what a worker gets of the environment: no passwords, notify socket or credentials
_PASSED_NAMES = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "VIRTUAL_ENV",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONHASHSEED",
        "PYTHONDONTWRITEBYTECODE",
        "LD_LIBRARY_PATH",
        INSTANCE_VARIABLE,
    }
)
_PASSED_PREFIXES = (
    "LC_",
    "OMP_",
    "MKL_",
    "KMP_",
    "OPENBLAS_",
    "NUMEXPR_",
    "GOMP_",
    "ATEN_",
    "TORCH_",
    "PYTORCH_",
    "CUDA_",
    "CUBLAS_",
    "NVIDIA_",
    "MALLOC_",
    "POLARS_",
    "COVERAGE_",
    "GLOO_",
    "NCCL_",
)
#: what libpq takes from the environment beside a PostgreSQL URL; a password goes the way of the URL
_LIBPQ_NAMES = frozenset({"PGPASSFILE", "PGSERVICE", "PGSERVICEFILE", "PGSYSCONFDIR"})
_LIBPQ_PASSWORD = "PGPASSWORD"  # noqa: S105 - a name
_LIBPQ_PREFIX = "PGSSL"
#: what Polars writes before it ends the process for want of memory
_RUST_OUT_OF_MEMORY = "memory allocation of"
_LOCK_NAME = ".worker.lock"
_POLL_SECONDS = 0.02
_REAP_SECONDS = 5.0


class WorkerProcesses:
    """At most one worker at a time. Implements stages.ports.Workers."""

    def __init__(
        self,
        *,
        deadline_seconds: Mapping[Stage | OneOffTask, float],
        grace_seconds: float = 10.0,
        database_url: str = "",
        command: tuple[str, ...] = COMMAND,
        launcher: tuple[str, ...] = (),
        niceness: int = 0,
        result_limit_bytes: int = 64 << 20,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        """`deadline_seconds` by task, from the start; `grace_seconds` from SIGTERM to SIGKILL; `niceness` is a minimum.

        Only the workers of GETS_URL get `database_url`, on their stdin, and those of READS_DATABASE with a PostgreSQL
        URL what libpq takes from the environment; `credentials` go the same way into their environment. `launcher`:
        the words of TRAIN_LAUNCHER.
        """
        self._deadline_seconds = {str(task): seconds for task, seconds in deadline_seconds.items()}
        self._grace_seconds = grace_seconds
        self._database_url = database_url
        self._command, self._launcher, self._niceness = command, launcher, niceness
        self._result_limit_bytes = result_limit_bytes
        self._credentials = {name: os.fsencode(value) for name, value in (credentials or {}).items()}
        self._lock = threading.RLock()
        self._worker: RunningWorker | None = None
        self._stopped = False
        self._leftover_since: float | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the running worker, or None."""
        worker = self._worker
        return worker.pid if worker is not None else None

    @property
    def is_running(self) -> bool:
        """Whether a worker is running."""
        return self._worker is not None

    def reconfigure(
        self, *, deadline_seconds: Mapping[Stage | OneOffTask, float], launcher: tuple[str, ...] = ()
    ) -> None:
        """New deadlines, for the running worker, too, and the launcher of the next one."""
        self._deadline_seconds = {str(task): seconds for task, seconds in deadline_seconds.items()}
        self._launcher = launcher

    def result_of(self, stage: str, run_dir: Path, request: object) -> Working | Done | Broken:
        """Start the worker for this request if it is not running; its state. Never blocks.

        A valid result of the identical request is Done without a start. After Broken, the next call starts the worker
        again; after `stop`, none is started.
        """
        files = files_of(stage, run_dir, request)
        with self._lock:
            if self._worker is not None and self._worker.files != files:
                return self._ending_other(self._worker)
            try:
                return self._standing(self._worker) if self._worker is not None else self._begun(files)
            except RetrainError as error:
                return Broken(error=error)

    def stop(self, grace_seconds: float | None = None) -> None:
        """End the worker for good: SIGTERM, grace, SIGKILL to its session."""
        grace = self._grace_seconds if grace_seconds is None else grace_seconds
        with self._lock:
            self._stopped = True
            worker = self._worker
            if worker is None:
                return
            worker.terminate()
            if not _ended_within(grace, worker):
                worker.kill()
                _ended_within(_REAP_SECONDS, worker)
            self._worker = None

    def _begun(self, files: WorkerFiles) -> Working | Done:
        with suppress(RetrainError):
            return Done(result=read_result(files, limit_bytes=self._result_limit_bytes))
        if self._stopped:
            raise WorkerInterruptedError("this process is stopping and starts no worker", where=files.stage)
        lock_fd = self._locked(files)
        if lock_fd is None:
            return Working(message=f"{_name(files)}: waiting for the worker of an earlier process to end")
        try:
            with durable_file.named_errors(files.run_dir):
                files.result_path.unlink(missing_ok=True)
                if files.stage in WAITING:
                    remove_older(files)
            durable_file.replace_file(files.request_path, files.content, mode=0o600)
            launcher = self._launcher if files.stage == Stage.TRAIN else ()
            self._worker = start_worker(
                launched(self._command, launcher),
                files,
                environment=environment_for(launcher) | self._environment(files.stage),
                lock_fd=lock_fd,
                niceness=self._niceness,
                first_line=self._database_access(files.stage),
            )
            os.pwrite(lock_fd, f"{self._worker.pid:<16}\n".encode(), 0)
        except OSError as error:
            raise WorkerFailedError(
                f"the worker could not be started: {error.strerror}",
                where=_name(files),
                remedy="check the limits of memory, processes and open files of this service",
            ) from error
        finally:
            os.close(lock_fd)
        return Working(message=f"{_name(files)}: started")

    def _standing(self, worker: RunningWorker) -> Working | Done:
        status = worker.poll()
        if status is None:
            self._keep_deadline(worker)
            progress = worker.progress()
            if progress is None or not progress.message:
                return Working(message=f"{_name(worker.files)}: started")
            return Working(message=progress.message, share=progress.share, seconds_left=progress.seconds_left)
        self._worker = None
        return Done(result=self._result_after(status, worker))

    def _keep_deadline(self, worker: RunningWorker) -> None:
        over = worker.age_seconds - self._deadline_seconds[worker.files.stage]
        if over > self._grace_seconds:
            worker.kill()
        elif over > 0:
            worker.terminate()

    def _result_after(self, status: int, worker: RunningWorker) -> object:
        """The result of a worker that has ended. Raises its error."""
        where = _name(worker.files)
        # a launcher ends with a status of its own
        has_reported = status > 0 and not worker.was_stopped and worker.files.result_path.exists()
        if status in (WorkerExit.DONE, WorkerExit.ERROR) or has_reported:
            result = read_result(worker.files, limit_bytes=self._result_limit_bytes)
            if status == WorkerExit.DONE:
                return result
            raise WorkerFailedError(
                "the worker wrote a result, but its exit status reports an error",
                where=where,
                remedy=f"see {worker.files.log_path}",
            )
        if worker.was_stopped:
            limit = self._deadline_seconds[worker.files.stage]
            raise WorkerFailedError(
                f"the worker exceeded its deadline of {limit:.0f} s",
                where=where,
                remedy="raise STAGE_DEADLINE_MIN, or lower TRAIN_WINDOW_DAYS or MAX_EPOCHS",
            )
        if status == WorkerExit.INTERRUPTED:
            raise WorkerInterruptedError("the worker was stopped by an external signal", where=where)
        tail = log_tail(worker.files, since_bytes=worker.log_start_bytes)
        log = f"see {worker.files.log_path}" + (f", which ends: {tail}" if tail else "")
        less = f"raise the memory limit, or lower TRAIN_WINDOW_DAYS or BATCH_SIZE; {log}"
        if status == -signal.SIGKILL:
            cause = "out of memory" if worker.was_killed_for_memory() else "probably out of memory"
            cause = f"the worker was killed by the kernel or by a user (SIGKILL): {cause}"
            raise WorkerFailedError(cause, where=where, remedy=less)
        if status == -signal.SIGABRT and _RUST_OUT_OF_MEMORY in tail:
            raise WorkerFailedError("the worker ran out of memory (SIGABRT)", where=where, remedy=less)
        how = f"crashed ({signal.Signals(-status).name})" if status < 0 else f"ended with exit status {status}"
        raise WorkerFailedError(f"the worker {how}", where=where, remedy=log)

    def _ending_other(self, worker: RunningWorker) -> Working:
        worker.kill()
        if worker.poll() is not None:
            self._worker = None
        return Working(message=f"{_name(worker.files)}: ended, because another request replaces it")

    def _locked(self, files: WorkerFiles) -> int | None:
        """The lock on the run's folder, for the worker to inherit; None while an earlier worker holds it."""
        with durable_file.named_errors(files.run_dir):
            fd = os.open(files.run_dir / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._end_leftover(fd, files)
            os.close(fd)
            return None
        self._leftover_since = None
        return fd

    def _end_leftover(self, fd: int, files: WorkerFiles) -> None:
        """A worker of an earlier process ends by itself; if not within the grace, it is killed."""
        now = time.monotonic()
        self._leftover_since = self._leftover_since or now
        if now - self._leftover_since < self._grace_seconds:
            return
        with suppress(OSError, ValueError):
            pid = int(os.pread(fd, 32, 0))
            if str(files.run_dir).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.killpg(pid, signal.SIGKILL)

    def _environment(self, stage: str) -> dict[str, str]:
        passed = {
            name: value
            for name, value in os.environ.items()
            if name in _PASSED_NAMES or name.startswith(_PASSED_PREFIXES)
        }
        if self._uses_libpq(stage):
            passed |= {
                name: value
                for name, value in os.environ.items()
                if name in _LIBPQ_NAMES or name.startswith(_LIBPQ_PREFIX)
            }
        return passed

    def _uses_libpq(self, stage: str) -> bool:
        return stage in READS_DATABASE and is_postgresql(self._database_url)

    def _database_access(self, stage: str) -> bytes:
        """The first line for a worker that gets a URL."""
        if stage not in GETS_URL:
            return b""
        environment = dict(self._credentials)
        if self._uses_libpq(stage) and _LIBPQ_PASSWORD in os.environ:
            environment[_LIBPQ_PASSWORD] = os.environb[_LIBPQ_PASSWORD.encode()]
        access = DatabaseAccess(url=os.fsencode(self._database_url), environment=environment)
        return msgspec.json.encode(access) + b"\n"


def _ended_within(seconds: float, worker: RunningWorker) -> bool:
    until = time.monotonic() + seconds
    while worker.poll() is None:
        if time.monotonic() >= until:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _name(files: WorkerFiles) -> str:
    return f"{files.stage.lower()} {files.run_dir.name}"
