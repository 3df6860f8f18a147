"""One worker process from its start to its end, with everything that it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from retrain_worker.adapters.worker_files import WorkerFiles
from retrain_worker.domain.masking import masked
from retrain_worker.domain.worker_protocol import Progress

_LINE_LIMIT_BYTES = 1 << 16
_JOIN_SECONDS = 1.0


def start_worker(
    command: tuple[str, ...],
    files: WorkerFiles,
    *,
    environment: dict[str, str],
    lock_fd: int,
    niceness: int = 0,
) -> RunningWorker:
    """Start `command REQUEST RESULT` in a session of its own, in the run's folder. Raises OSError."""
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
    # what is refused (by a SystemCallFilter, or because we are nicer already) is no reason not to work
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, max(niceness, os.getpriority(os.PRIO_PROCESS, 0)))
    return RunningWorker(process, files, log_start_bytes=log_start_bytes)


class RunningWorker:
    """A started worker. `poll` until it gives a status; then nothing of it is left."""

    def __init__(self, process: subprocess.Popen[bytes], files: WorkerFiles, *, log_start_bytes: int) -> None:
        self.files = files
        self.log_start_bytes = log_start_bytes
        #: whether we have asked it, or forced it, to end
        self.was_told_to_stop = False
        self._process = process
        self._started_at = time.monotonic()
        self._kills_before = _memory_kills()
        self._last_line = b""
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True, name="worker-progress")
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id, which is the id of its session and its group as well."""
        return self._process.pid

    @property
    def age_seconds(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started_at

    def last_sentence(self) -> str:
        """The newest progress it has told, or nothing."""
        try:
            return masked(msgspec.json.decode(self._last_line, type=Progress).message)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return ""

    def poll(self) -> int | None:
        """Its exit status, negative for a signal, or None while it lives. At its end its whole group is killed."""
        if self._process.returncode is not None:
            return self._process.returncode
        # Not reaped yet, its id cannot belong to anybody else: the moment to kill what it has started.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        self._kill_group()
        status = self._process.wait()
        self._close_pipes()
        return status

    def terminate(self) -> None:
        """Ask it to end, once."""
        if not self.was_told_to_stop:
            self.was_told_to_stop = True
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Force it and all it has started to end."""
        self.was_told_to_stop = True
        self._kill_group()

    def was_killed_for_memory(self) -> bool:
        """Whether the kernel has killed a process of our control group for memory since the start."""
        return _memory_kills() > self._kills_before

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _close_pipes(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        # A process that has left the group may still hold the other end; the thread then ends with it.
        self._reader.join(_JOIN_SECONDS)
        if not self._reader.is_alive():
            self._process.stdout.close()

    def _read(self, stdout: IO[bytes]) -> None:
        with suppress(OSError, ValueError):
            while line := stdout.readline(_LINE_LIMIT_BYTES):
                if line.startswith(b"{"):
                    self._last_line = line


def _memory_kills() -> int:
    """`oom_kill` of our own control group (version 2), 0 where there is none."""
    with suppress(OSError, ValueError, StopIteration):
        group = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        for line in Path(f"/sys/fs/cgroup{group}/memory.events").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
