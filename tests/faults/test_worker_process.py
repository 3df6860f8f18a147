"""For every end of a worker the daemon gets a typed answer without blocking, and no process is left."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from retrain_worker import durable_file
from retrain_worker.adapters import worker_process
from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.domain.audit_findings import AuditVerdict
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.domain.worker_protocol import (
    AuditRequest,
    AuditResult,
    Broken,
    DatabaseAccess,
    Done,
    OneOffTask,
    PullRequest,
    Working,
)
from retrain_worker.errors import (
    DatabaseBusyError,
    DiskFullError,
    SettingsError,
    WorkerFailedError,
    WorkerInterruptedError,
)
from tests.worker_harness import WorkerHarness, wait_for

RESULT = AuditResult(verdict=AuditVerdict(is_fit=True, findings=()))
GOOD = json.dumps({"kind": "result", "stage": "AUDIT", "result": msgspec.to_builtins(RESULT)})
#: every worker script begins with this
HEAD = f"""
import json, os, signal, subprocess, sys, time
request, result = sys.argv[-2:]
def leave(text=None):
    with open(result + ".tmp", "w") as file:
        file.write({GOOD!r} if text is None else text)
    os.rename(result + ".tmp", result)
"""


class ScriptedWorkers(WorkerHarness):
    def __init__(self, root: Path) -> None:
        run_dir = root / "20260110_033000"
        run_dir.mkdir()
        request = AuditRequest(run_id=run_dir.name, run_dir=str(run_dir), policy=DataPolicy(), now="now")
        super().__init__(run_dir, Stage.AUDIT, request)

    def workers(self, script: str, **options: Any) -> WorkerProcesses:
        path = self.run_dir / "worker.py"
        path.write_text(HEAD + script)
        options = {"deadline_seconds": dict.fromkeys((*Stage, *OneOffTask), 60.0), "grace_seconds": 5.0, **options}
        return self.create(command=(sys.executable, "-S", "-P", str(path)), **options)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[ScriptedWorkers]:
    harness = ScriptedWorkers(tmp_path)
    yield harness
    harness.stop()


def test_a_result_is_given_as_its_dataclass(harness: ScriptedWorkers) -> None:
    workers = harness.workers("leave()")
    assert isinstance(harness.ask(workers), Working)
    assert workers.is_running
    assert harness.answer(workers) == Done(result=RESULT)
    assert not workers.is_running


def test_the_same_request_is_answered_again_without_a_start_also_after_a_restart(harness: ScriptedWorkers) -> None:
    assert harness.answer(harness.workers("leave()")) == Done(result=RESULT)
    later = harness.workers("raise SystemExit('started again')")
    assert harness.ask(later) == Done(result=RESULT)
    assert later.pid is None


def test_another_request_is_not_answered_with_an_old_result(harness: ScriptedWorkers) -> None:
    assert harness.answer(harness.workers("leave()")) == Done(result=RESULT)
    other = AuditRequest(run_id="x", run_dir=str(harness.run_dir), policy=DataPolicy(min_samples=7), now="now")
    assert isinstance(harness.answer(harness.workers("sys.exit(9)"), request=other), Broken)


def test_the_worker_gets_its_request_in_a_file_that_only_its_user_can_read(harness: ScriptedWorkers) -> None:
    workers = harness.workers("json.load(open(request))['request']['run_id'] == '20260110_033000' and leave()")
    assert isinstance(harness.answer(workers), Done)
    (request,) = harness.run_dir.glob("audit.*.request.json")
    assert request.stat().st_mode & 0o777 == 0o600


def test_progress_is_the_message_of_a_running_worker_and_other_output_is_ignored(harness: ScriptedWorkers) -> None:
    script = """
print('{"message": "epoch 3 of 40"}'); print('{broken'); print("not json", flush=True)
print('{"message": "epoch 4 of 40", "fields": {"epoch": 4}}', flush=True)
sys.stdin.read()
"""
    workers = harness.workers(script)
    wait_for(lambda: harness.ask(workers) == Working(message="epoch 4 of 40"))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("sys.exit(9)", "exit status 9"),
        ("raise ValueError('the reason why')", "the reason why"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("os.abort()", "SIGABRT"),
        (
            "print('memory allocation of 8388608 bytes failed', file=sys.stderr, flush=True); os.abort()",
            "out of memory",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", "memory"),
        ("", "wrote no result"),
        ("leave('')", "cannot be decoded"),
        ("leave('[1, 2')", "cannot be decoded"),
        ("leave('[' * 100000)", "cannot be decoded"),
        ('leave(\'{"kind": "result", "stage": "AUDIT", "result": {"verdict": 3}}\')', "cannot be decoded"),
        ('leave(\'{"kind": "result", "stage": "TRAIN", "result": {}}\')', "stage 'TRAIN'"),
        ('leave(\'{"kind": "other"}\')', "kind 'other'"),
        ("leave('x' * 300000)", "at most 200000 bytes"),
        ("os.mkdir(result)", "at most 200000 bytes"),
        ("os.symlink('/etc/hostname', result)", "wrote no result"),
        ("leave(); sys.exit(3)", "its exit status reports an error"),
    ],
)
def test_an_end_without_a_valid_result_is_a_failure_with_its_cause(
    harness: ScriptedWorkers, script: str, said: str
) -> None:
    workers = harness.workers(script, result_limit_bytes=200_000)
    answer = harness.answer(workers)
    assert isinstance(answer, Broken)
    assert type(answer.error) is WorkerFailedError
    assert said in str(answer.error)
    assert answer.error.remedy


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("DatabaseBusyError", DatabaseBusyError),
        ("DiskFullError", DiskFullError),
        ("SettingsError", SettingsError),
        ("MemoryError", WorkerFailedError),
        ("BaseException", WorkerFailedError),
    ],
)
def test_the_error_of_the_worker_is_the_error_of_the_daemon(
    harness: ScriptedWorkers, kind: str, expected: type[Exception]
) -> None:
    error = {"kind": "error", "error": {"kind": kind, "what": "so it is", "where": "there", "remedy": "do that"}}
    answer = harness.answer(harness.workers(f"leave({json.dumps(error)!r}); sys.exit(3)"))
    assert type(answer.error) is expected
    assert str(answer.error) == "there: so it is; do that"


def test_after_an_error_the_same_request_starts_again(harness: ScriptedWorkers) -> None:
    workers = harness.workers(
        'leave(\'{"kind": "error", "error": {"kind": "DiskFullError", "what": "full"}}\') or sys.exit(3) '
        "if not os.path.exists('tried') and not open('tried', 'w').close() else leave()"
    )
    assert isinstance(harness.answer(workers), Broken)
    assert harness.answer(workers) == Done(result=RESULT)


def test_an_error_of_an_earlier_worker_is_not_that_of_this_one(harness: ScriptedWorkers) -> None:
    error = '{"kind": "error", "error": {"kind": "DiskFullError", "what": "full"}}'
    workers = harness.workers(
        f"if not os.path.exists('tried'):\n    open('tried', 'w').close(); leave({error!r})\nsys.exit(3)"
    )
    assert type(harness.answer(workers).error) is DiskFullError
    assert type(harness.answer(workers).error) is WorkerFailedError


def test_a_worker_that_hangs_is_ended_at_its_deadline(harness: ScriptedWorkers) -> None:
    workers = harness.workers(
        "signal.signal(15, signal.SIG_IGN)\nwhile True: time.sleep(1)",
        deadline_seconds=dict.fromkeys(Stage, 0.2),
        grace_seconds=0.2,
    )
    answer = harness.answer(workers)
    assert type(answer.error) is WorkerFailedError
    assert "deadline" in str(answer.error)


def test_a_worker_that_is_frozen_is_ended_at_its_deadline(harness: ScriptedWorkers) -> None:
    workers = harness.workers(
        "os.kill(os.getpid(), signal.SIGSTOP)", deadline_seconds=dict.fromkeys(Stage, 0.2), grace_seconds=0.2
    )
    assert "deadline" in str(harness.answer(workers).error)


def test_nothing_that_a_worker_has_started_outlives_it(harness: ScriptedWorkers) -> None:
    script = """
code = "import time, signal; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
for _ in range(3):
    subprocess.Popen([sys.executable, "-S", "-c", code, request])
leave()
"""
    assert isinstance(harness.answer(harness.workers(script)), Done)
    wait_for(lambda: harness.pids() == [])


def test_a_worker_outlives_the_thread_that_started_it(harness: ScriptedWorkers) -> None:
    workers = harness.workers("while not os.path.exists('go'): time.sleep(0.01)\nleave()")
    starter = threading.Thread(target=lambda: harness.ask(workers))
    starter.start()
    starter.join()
    (harness.run_dir / "go").touch()

    assert harness.answer(workers) == Done(result=RESULT)


def test_stop_gives_a_worker_time_to_save_its_state(harness: ScriptedWorkers) -> None:
    script = """
def end(*_):
    open("checkpoint", "w").close()
    sys.exit(4)
signal.signal(15, end)
open("ready", "w").close()
while True: time.sleep(1)
"""
    workers = harness.workers(script)
    harness.ask(workers)
    wait_for((harness.run_dir / "ready").exists)
    workers.stop()
    assert (harness.run_dir / "checkpoint").exists()
    assert harness.pids() == []
    answer = harness.ask(workers)
    assert type(answer.error) is WorkerInterruptedError
    assert workers.pid is None


def test_stop_kills_a_worker_that_ignores_sigterm(harness: ScriptedWorkers) -> None:
    workers = harness.workers("signal.signal(15, signal.SIG_IGN); open('ready', 'w').close(); time.sleep(60)")
    harness.ask(workers)
    wait_for((harness.run_dir / "ready").exists)
    workers.stop(0.1)
    assert harness.pids() == []
    workers.stop()


def test_a_worker_that_an_external_signal_stops_is_interrupted(harness: ScriptedWorkers) -> None:
    workers = harness.workers("sys.exit(4)")
    assert type(harness.answer(workers).error) is WorkerInterruptedError


def test_another_request_ends_the_worker_of_the_first(harness: ScriptedWorkers) -> None:
    workers = harness.workers("sys.stdin.read()")
    harness.ask(workers)
    first = workers.pid
    other = AuditRequest(run_id="x", run_dir=str(harness.run_dir), policy=DataPolicy(min_samples=7), now="now")
    wait_for(lambda: harness.ask(workers, request=other) and workers.pid not in (None, first))
    assert first is not None
    assert not psutil.pid_exists(first)


def test_the_environment_of_the_worker_holds_no_secret_and_no_socket(
    harness: ScriptedWorkers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_FDS",
        "CREDENTIALS_DIRECTORY",
        "REDIS_URL",
        "REDIS_PASSWORD",
        "DATABASE_URL",
        "PGPASSWORD",
        "LD_PRELOAD",
    ):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    script = "json.dump(dict(os.environ), open('environment', 'w')); leave()"
    harness.answer(harness.workers(script, database_url="postgresql://u:p@h/d"))
    found = json.loads((harness.run_dir / "environment").read_text())
    assert "secret" not in found.values()
    assert (found["OMP_NUM_THREADS"], found["PATH"]) == ("3", os.environ["PATH"])


def test_the_niceness_of_a_worker_is_never_below_that_of_the_daemon(harness: ScriptedWorkers) -> None:
    ours = os.nice(0)
    for asked, expected in ((min(ours + 3, 19), min(ours + 3, 19)), (0, ours)):
        script = f"""
until = time.monotonic() + 10
while os.nice(0) != {expected} and time.monotonic() < until:
    time.sleep(0.01)
open("niceness", "w").write(str(os.nice(0)))
"""
        harness.answer(harness.workers(script, niceness=asked))
        assert int((harness.run_dir / "niceness").read_text()) == expected


@pytest.mark.parametrize("stage", [Stage.PULL, Stage.AUDIT])
def test_only_workers_that_read_the_database_get_its_url_and_only_on_stdin(
    harness: ScriptedWorkers, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    request = PullRequest(run_id="x", run_dir=str(harness.run_dir), policy=DataPolicy(), watermark_path=None, now="now")
    script = """
os.set_blocking(0, False)
open('environ', 'wb').write(open('/proc/self/environ', 'rb').read() + open('/proc/self/cmdline', 'rb').read())
time.sleep(0.5)
try: line = os.read(0, 65536)
except BlockingIOError: line = b""
open('line', 'wb').write(line)
"""
    url = "postgresql://u:hunter2@h/d"
    harness.answer(harness.workers(script, database_url=url), stage=stage, request=request)
    line = (harness.run_dir / "line").read_bytes()
    assert b"hunter2" not in (harness.run_dir / "environ").read_bytes()
    assert not [path for path in harness.run_dir.glob("pull.*") if b"hunter2" in path.read_bytes()]
    if stage is Stage.PULL:
        access = msgspec.json.decode(line, type=DatabaseAccess)
        assert access == DatabaseAccess(url=os.fsencode(url), environment={"PGPASSWORD": b"hunter2"})
        assert "hunter2" not in repr(access)
    else:
        assert line == b""


def test_a_password_in_the_log_of_a_worker_is_not_repeated(harness: ScriptedWorkers) -> None:
    answer = harness.answer(harness.workers("sys.exit('cannot reach redis://u:hunter2@h/0')"))
    assert "hunter2" not in str(answer.error)
    assert "redis://u:***@h/0" in str(answer.error)


def test_a_worker_that_cannot_be_started_is_a_failure(
    harness: ScriptedWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        worker_process, "start_worker", lambda *_, **__: (_ for _ in ()).throw(OSError(11, "try again"))
    )
    answer = harness.ask(harness.workers(""))
    assert type(answer.error) is WorkerFailedError
    assert "try again" in str(answer.error)


DAEMON = """
import os, sys, time
from pathlib import Path
import msgspec
from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.domain.worker_protocol import AuditRequest
from retrain_worker.domain.lifecycle import Stage
run_dir = Path(sys.argv[1])
request = msgspec.json.decode(sys.argv[2], type=AuditRequest)
workers = WorkerProcesses(command=(sys.executable, "-S", "-P", str(run_dir / "worker.py")),
                          deadline_seconds=dict.fromkeys(Stage, 60.0))
workers.result_of(Stage.AUDIT, run_dir, request)
while not (run_dir / "ready").exists():
    time.sleep(0.01)
print(workers.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def killed_daemon(harness: ScriptedWorkers, script: str) -> int:
    """The worker that a daemon leaves behind when it is killed."""
    harness.workers(script)
    request = msgspec.json.encode(harness.request).decode()
    daemon = subprocess.run(
        [sys.executable, "-c", DAEMON, str(harness.run_dir), request], capture_output=True, text=True, check=False
    )
    assert daemon.returncode == -signal.SIGKILL, daemon.stderr
    return int(daemon.stdout)


def test_the_worker_of_a_killed_daemon_ends_by_itself(harness: ScriptedWorkers) -> None:
    pid = killed_daemon(harness, "open('ready', 'w').close(); sys.stdin.read()")
    wait_for(lambda: pid not in harness.pids())


def test_while_the_worker_of_a_killed_daemon_lives_none_is_started_beside_it(harness: ScriptedWorkers) -> None:
    pid = killed_daemon(harness, "open('ready', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.01)")
    workers = harness.workers("leave()", grace_seconds=60)
    for _ in range(5):
        assert "earlier" in harness.ask(workers).message
    assert harness.pids() == [pid]
    (harness.run_dir / "go").touch()
    assert harness.answer(workers) == Done(result=RESULT)


def test_a_worker_of_a_killed_daemon_that_does_not_end_is_killed(harness: ScriptedWorkers) -> None:
    pid = killed_daemon(harness, "open('ready', 'w').close(); time.sleep(60)")
    workers = harness.workers("leave()", grace_seconds=0.1)
    assert harness.answer(workers) == Done(result=RESULT)
    assert pid not in harness.pids()


def test_the_command_is_found_from_any_directory(tmp_path: Path) -> None:
    found = subprocess.run(
        [*worker_process.COMMAND],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
    )
    assert "usage" in found.stderr
    assert found.returncode == 2


def test_a_full_disk_is_named(harness: ScriptedWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise DiskFullError("no space", where=str(harness.run_dir))

    monkeypatch.setattr(durable_file, "replace_file", full)
    answer = harness.ask(harness.workers("leave()"))
    assert type(answer.error) is DiskFullError


@pytest.mark.parametrize(
    ("stage", "url", "is_passed"),
    [
        (Stage.PULL, "postgres://u@h/d", True),
        (Stage.PULL, "sqlite:////t.db", False),
        (OneOffTask.MLFLOW, "postgres://u@h/d", False),
    ],
)
def test_what_libpq_reads_reaches_the_workers_that_read_a_postgresql_database(
    harness: ScriptedWorkers,
    monkeypatch: pytest.MonkeyPatch,
    stage: Stage | OneOffTask,
    url: str,
    is_passed: bool,
) -> None:
    names = {"PGPASSFILE", "PGSERVICE", "PGSERVICEFILE", "PGSSLMODE", "PGSSLROOTCERT"}
    for name in names:
        monkeypatch.setenv(name, "given")
    request = PullRequest(run_id="x", run_dir=str(harness.run_dir), policy=DataPolicy(), watermark_path=None, now="now")
    monkeypatch.setenv("PGPASSWORD", "given")
    script = """
json.dump({**os.environ, **json.loads(sys.stdin.readline())["environment"]}, open("environment", "w"))
"""
    harness.answer(harness.workers(script, database_url=url), stage=stage, request=request)
    found = json.loads((harness.run_dir / "environment").read_text())
    names.add("PGPASSWORD")
    assert names & found.keys() == (names if is_passed else set())
