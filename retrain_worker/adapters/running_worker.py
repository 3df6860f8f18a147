"""One worker process from start to end, with the processes that it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from retrain_worker import typed_json
from retrain_worker.adapters.worker_files import WorkerFiles
from retrain_worker.domain.masking import masked
from retrain_worker.domain.worker_protocol import Progress
from retrain_worker.errors import MalformedError

_LINE_LIMIT_BYTES = 1 << 16
_JOIN_SECONDS = 1.0


def start_worker(
    command: tuple[str, ...],
    files: WorkerFiles,
    *,
    environment: dict[str, str],
    lock_fd: int,
    niceness: int = 0,
    first_line: bytes = b"",
) -> RunningWorker:
    """Start `command REQUEST RESULT` in a session of its own, in the run's folder. Raises OSError.

    `first_line` goes to its stdin: at most what a pipe holds, which the worker need not read.
    """
    log_fd = os.open(files.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        log_start_bytes = os.fstat(log_fd).st_size
        process = subprocess.Popen(
            [*command, str(files.request_path), str(files.result_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_fd,
            cwd=files.run_dir,
            env=environment,
            start_new_session=True,
            pass_fds=(lock_fd,),
        )
    finally:
        os.close(log_fd)
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended; `poll` reports how
        process.stdin.write(first_line)
        process.stdin.flush()
    # refused by a SystemCallFilter, or because this process has a higher niceness: the worker runs nevertheless
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, max(niceness, os.getpriority(os.PRIO_PROCESS, 0)))
    return RunningWorker(process, files, log_start_bytes=log_start_bytes)


class RunningWorker:
    """A started worker. `poll` until there is an exit status; then no process of it is left."""

    def __init__(self, process: subprocess.Popen[bytes], files: WorkerFiles, *, log_start_bytes: int) -> None:
        self.files = files
        self.log_start_bytes = log_start_bytes
        #: whether this process has ended it, by SIGTERM or SIGKILL
        self.was_stopped = False
        self._process = process
        self._started_at = time.monotonic()
        self._kills_before = _memory_kills()
        self._last_line = b""
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True, name="worker-progress")
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id, also that of its session and its process group."""
        return self._process.pid

    @property
    def age_seconds(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started_at

    def progress(self) -> Progress | None:
        """The newest progress; None while there is none that can be read."""
        try:
            found = typed_json.decode(self._last_line, Progress)
        except MalformedError:
            return None
        return replace(found, message=masked(found.message))

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs. At its end its process group is killed."""
        if self._process.returncode is not None:
            return self._process.returncode
        # It is not reaped yet, so its id is not reused: the group can be killed safely.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        self._kill_group()
        status = self._process.wait()
        self._close_pipes()
        return status

    def terminate(self) -> None:
        """SIGTERM, once."""
        if not self.was_stopped:
            self.was_stopped = True
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to its process group."""
        self.was_stopped = True
        self._kill_group()

    def was_killed_for_memory(self) -> bool:
        """Whether the kernel has killed a process of this control group for memory since the start."""
        return _memory_kills() > self._kills_before

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _close_pipes(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        # A process that has left the group may still hold the other end; the thread ends with that process.
        self._reader.join(_JOIN_SECONDS)
        if not self._reader.is_alive():
            self._process.stdout.close()

    def _read(self, stdout: IO[bytes]) -> None:
        with suppress(OSError, ValueError):
            while line := stdout.readline(_LINE_LIMIT_BYTES):
                if line.startswith(b"{"):
                    self._last_line = line


def _memory_kills() -> int:
    """`oom_kill` of this process's control group (version 2), 0 where there is none."""
    with suppress(OSError, ValueError, StopIteration):
        group = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        for line in Path(f"/sys/fs/cgroup{group}/memory.events").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
