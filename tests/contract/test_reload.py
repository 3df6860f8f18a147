"""`reload` waits for the result of the reload that it has requested, not of an earlier one."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.adapters.reload_result import ReloadResult, reload_process, write
from retrain_worker.errors import OperatorActionError

DAEMON = """
import os, signal, sys, time
from pathlib import Path
from retrain_worker.adapters.reload_result import ReloadResult, write
signal.signal(signal.SIGHUP, lambda *_: write(Path(sys.argv[1]), ReloadResult(
    pid=os.getpid(), began_at_ns=time.monotonic_ns(), problems=tuple(sys.argv[2:]))))
print("at work", flush=True)
while True:  # a signal just before a sleep is handled after it
    time.sleep(0.05)
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Any]:
    started = []

    def start(*problems: Any) -> Any:
        started.append(
            subprocess.Popen([sys.executable, "-c", DAEMON, tmp_path / "answer", *problems], stdout=subprocess.PIPE)
        )
        started[-1].stdout.readline()
        return started[-1].pid

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_result_comes_from_the_process_that_was_signalled(daemon: Any, tmp_path: Path) -> None:
    pid = daemon('LABEL: "up" is not one of outcome, direction')
    answer = reload_process(pid, tmp_path / "answer", wait_seconds=60)

    assert answer.problems == ('LABEL: "up" is not one of outcome, direction',)


def test_the_result_of_an_earlier_reload_does_not_count(tmp_path: Path) -> None:
    sleeper = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, time; signal.signal(1, signal.SIG_IGN); print('', flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    sleeper.stdout.readline()
    write(tmp_path / "answer", ReloadResult(pid=sleeper.pid, began_at_ns=time.monotonic_ns()))
    try:
        with pytest.raises(OperatorActionError, match="no result"):
            reload_process(sleeper.pid, tmp_path / "answer", wait_seconds=0.3)
    finally:
        sleeper.kill()
        sleeper.wait()
        sleeper.stdout.close()


def test_a_process_that_has_ended_gives_no_result(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(OperatorActionError, match="has ended"):
        reload_process(gone.pid, tmp_path / "answer", wait_seconds=60)
