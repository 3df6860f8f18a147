"""Starts workers in the folder of a run, and knows which processes they left."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.domain.worker_protocol import OneOffTask, Working

#: long enough for a loaded machine; nothing passes or fails by it unless something hangs
PATIENCE_SECONDS = 240.0


def wait_for(condition: Callable[[], object], log: Callable[[], str] = str) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until, log()
        time.sleep(0.01)


class WorkerHarness:
    def __init__(self, run_dir: Path, stage: Stage, request: Any) -> None:
        self.run_dir, self.stage, self.request = run_dir, stage, request
        self._created: list[WorkerProcesses] = []

    def create(self, **options: Any) -> WorkerProcesses:
        self._created.append(WorkerProcesses(**options))
        return self._created[-1]

    def ask(self, workers: WorkerProcesses, *, stage: Stage | OneOffTask | None = None, request: object = None) -> Any:
        return workers.result_of(stage or self.stage, self.run_dir, request or self.request)

    def answer(self, workers: WorkerProcesses, **asked: Any) -> Any:
        """The first answer that is not Working."""
        until = time.monotonic() + PATIENCE_SECONDS
        while isinstance(answer := self.ask(workers, **asked), Working):
            assert time.monotonic() < until, self.log()
            time.sleep(0.01)
        return answer

    def log(self) -> str:
        return (self.run_dir / f"{self.stage.lower()}.log").read_text()

    def processes(self) -> list[psutil.Process]:
        """Those that work for this run."""
        return [
            process
            for process in psutil.process_iter(["cmdline", "status"])
            if str(self.run_dir) in " ".join(process.info["cmdline"] or ())
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]

    def pids(self) -> list[int]:
        return [process.pid for process in self.processes()]

    def stop(self, wait_seconds: float = 0.0) -> None:
        """Stop every worker; none of their processes may be left after `wait_seconds`."""
        for workers in self._created:
            workers.stop(0)
        psutil.wait_procs(self.processes(), timeout=wait_seconds)
        assert self.processes() == []
