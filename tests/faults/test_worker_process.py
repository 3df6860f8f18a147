"""For every end of a worker the daemon gets a typed answer without blocking, and no process is left."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
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


class Nursery:
    """Runs scripts as workers, and knows which processes they left."""

    def __init__(self, root: Path) -> None:
        self.run_dir = root / "20260110_033000"
        self.run_dir.mkdir()
        self.request = AuditRequest(run_id="20260110_033000", run_dir=str(self.run_dir), policy=DataPolicy(), now="now")
        self.started: list[WorkerProcesses] = []

    def workers(self, script: str, **settings: Any) -> WorkerProcesses:
        path = self.run_dir / "worker.py"
        path.write_text(HEAD + script)
        settings = {"deadline_seconds": dict.fromkeys(Stage, 60.0), "grace_seconds": 5.0, **settings}
        made = WorkerProcesses(command=(sys.executable, "-S", "-P", str(path)), **settings)
        self.started.append(made)
        return made

    def ask(self, workers: WorkerProcesses, stage: Stage = Stage.AUDIT, request: AuditRequest | None = None) -> Any:
        return workers.result_of(stage, self.run_dir, request or self.request)

    def end_of(self, workers: WorkerProcesses, **what: Any) -> Any:
        until = time.monotonic() + 120
        while isinstance(answer := self.ask(workers, **what), Working):
            assert time.monotonic() < until, "the worker never ended"
            time.sleep(0.01)
        return answer

    def living(self) -> list[int]:
        """Processes that work for this run."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline", "status"]):
            command = " ".join(process.info["cmdline"] or ())
            if str(self.run_dir) in command and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        return found


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path)
    yield nursery
    for workers in nursery.started:
        workers.stop(0)
    assert nursery.living() == []


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.01)


def test_a_result_is_given_as_its_dataclass(nursery: Nursery) -> None:
    workers = nursery.workers("leave()")
    assert isinstance(nursery.ask(workers), Working)
    assert workers.is_running
    assert nursery.end_of(workers) == Done(result=RESULT)
    assert not workers.is_running


def test_the_same_request_is_answered_again_without_a_start_also_after_a_restart(nursery: Nursery) -> None:
    assert nursery.end_of(nursery.workers("leave()")) == Done(result=RESULT)
    later = nursery.workers("raise SystemExit('started again')")
    assert nursery.ask(later) == Done(result=RESULT)
    assert later.pid is None


def test_another_request_is_not_answered_with_an_old_result(nursery: Nursery) -> None:
    assert nursery.end_of(nursery.workers("leave()")) == Done(result=RESULT)
    other = AuditRequest(run_id="x", run_dir=str(nursery.run_dir), policy=DataPolicy(min_samples=7), now="now")
    assert isinstance(nursery.end_of(nursery.workers("sys.exit(9)"), request=other), Broken)


def test_the_worker_gets_its_request_in_a_file_that_only_its_user_can_read(nursery: Nursery) -> None:
    workers = nursery.workers("json.load(open(request))['request']['run_id'] == '20260110_033000' and leave()")
    assert isinstance(nursery.end_of(workers), Done)
    (request,) = nursery.run_dir.glob("audit.*.request.json")
    assert request.stat().st_mode & 0o777 == 0o600


def test_progress_is_the_message_of_a_running_worker_and_other_output_is_ignored(nursery: Nursery) -> None:
    script = """
print('{"message": "epoch 3 of 40"}'); print('{broken'); print("not json", flush=True)
print('{"message": "epoch 4 of 40", "fields": {"epoch": 4}}', flush=True)
sys.stdin.read()
"""
    workers = nursery.workers(script)
    wait_for(lambda: nursery.ask(workers) == Working(message="epoch 4 of 40"))


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
def test_an_end_without_a_valid_result_is_a_failure_with_its_cause(nursery: Nursery, script: str, said: str) -> None:
    workers = nursery.workers(script, result_limit_bytes=200_000)
    answer = nursery.end_of(workers)
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
    nursery: Nursery, kind: str, expected: type[Exception]
) -> None:
    error = {"kind": "error", "error": {"kind": kind, "what": "so it is", "where": "there", "remedy": "do that"}}
    answer = nursery.end_of(nursery.workers(f"leave({json.dumps(error)!r}); sys.exit(3)"))
    assert type(answer.error) is expected
    assert str(answer.error) == "there: so it is; do that"


def test_after_an_error_the_same_request_starts_again(nursery: Nursery) -> None:
    workers = nursery.workers(
        'leave(\'{"kind": "error", "error": {"kind": "DiskFullError", "what": "full"}}\') or sys.exit(3) '
        "if not os.path.exists('tried') and not open('tried', 'w').close() else leave()"
    )
    assert isinstance(nursery.end_of(workers), Broken)
    assert nursery.end_of(workers) == Done(result=RESULT)


def test_an_error_of_an_earlier_worker_is_not_that_of_this_one(nursery: Nursery) -> None:
    error = '{"kind": "error", "error": {"kind": "DiskFullError", "what": "full"}}'
    workers = nursery.workers(
        f"if not os.path.exists('tried'):\n    open('tried', 'w').close(); leave({error!r})\nsys.exit(3)"
    )
    assert type(nursery.end_of(workers).error) is DiskFullError
    assert type(nursery.end_of(workers).error) is WorkerFailedError


def test_a_worker_that_hangs_is_ended_at_its_deadline(nursery: Nursery) -> None:
    workers = nursery.workers(
        "signal.signal(15, signal.SIG_IGN)\nwhile True: time.sleep(1)",
        deadline_seconds=dict.fromkeys(Stage, 0.2),
        grace_seconds=0.2,
    )
    answer = nursery.end_of(workers)
    assert type(answer.error) is WorkerFailedError
    assert "deadline" in str(answer.error)


def test_a_worker_that_is_frozen_is_ended_at_its_deadline(nursery: Nursery) -> None:
    workers = nursery.workers(
        "os.kill(os.getpid(), signal.SIGSTOP)", deadline_seconds=dict.fromkeys(Stage, 0.2), grace_seconds=0.2
    )
    assert "deadline" in str(nursery.end_of(workers).error)


def test_nothing_that_a_worker_has_started_outlives_it(nursery: Nursery) -> None:
    script = """
code = "import time, signal; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
for _ in range(3):
    subprocess.Popen([sys.executable, "-S", "-c", code, request])
leave()
"""
    assert isinstance(nursery.end_of(nursery.workers(script)), Done)
    wait_for(lambda: nursery.living() == [])


def test_a_worker_outlives_the_thread_that_started_it(nursery: Nursery) -> None:
    workers = nursery.workers("while not os.path.exists('go'): time.sleep(0.01)\nleave()")
    starter = threading.Thread(target=lambda: nursery.ask(workers))
    starter.start()
    starter.join()
    (nursery.run_dir / "go").touch()

    assert nursery.end_of(workers) == Done(result=RESULT)


def test_stop_gives_a_worker_time_to_save_its_state(nursery: Nursery) -> None:
    script = """
def end(*_):
    open("checkpoint", "w").close()
    sys.exit(4)
signal.signal(15, end)
open("ready", "w").close()
while True: time.sleep(1)
"""
    workers = nursery.workers(script)
    nursery.ask(workers)
    wait_for((nursery.run_dir / "ready").exists)
    workers.stop()
    assert (nursery.run_dir / "checkpoint").exists()
    assert nursery.living() == []
    answer = nursery.ask(workers)
    assert type(answer.error) is WorkerInterruptedError
    assert workers.pid is None


def test_stop_kills_a_worker_that_ignores_sigterm(nursery: Nursery) -> None:
    workers = nursery.workers("signal.signal(15, signal.SIG_IGN); open('ready', 'w').close(); time.sleep(60)")
    nursery.ask(workers)
    wait_for((nursery.run_dir / "ready").exists)
    workers.stop(0.1)
    assert nursery.living() == []
    workers.stop()


def test_a_worker_that_an_external_signal_stops_is_interrupted(nursery: Nursery) -> None:
    workers = nursery.workers("sys.exit(4)")
    assert type(nursery.end_of(workers).error) is WorkerInterruptedError


def test_another_request_ends_the_worker_of_the_first(nursery: Nursery) -> None:
    workers = nursery.workers("sys.stdin.read()")
    nursery.ask(workers)
    first = workers.pid
    other = AuditRequest(run_id="x", run_dir=str(nursery.run_dir), policy=DataPolicy(min_samples=7), now="now")
    wait_for(lambda: nursery.ask(workers, request=other) and workers.pid not in (None, first))
    assert first is not None
    assert not psutil.pid_exists(first)


def test_the_environment_of_the_worker_holds_no_secret_and_no_socket(
    nursery: Nursery,
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
    nursery.end_of(nursery.workers(script, database_url="postgresql://u:p@h/d"))
    found = json.loads((nursery.run_dir / "environment").read_text())
    assert "secret" not in found.values()
    assert (found["OMP_NUM_THREADS"], found["PATH"]) == ("3", os.environ["PATH"])


def test_the_niceness_of_a_worker_is_never_below_that_of_the_daemon(nursery: Nursery) -> None:
    ours = os.nice(0)
    for asked, expected in ((min(ours + 3, 19), min(ours + 3, 19)), (0, ours)):
        script = f"""
until = time.monotonic() + 10
while os.nice(0) != {expected} and time.monotonic() < until:
    time.sleep(0.01)
open("niceness", "w").write(str(os.nice(0)))
"""
        nursery.end_of(nursery.workers(script, niceness=asked))
        assert int((nursery.run_dir / "niceness").read_text()) == expected


@pytest.mark.parametrize("stage", [Stage.PULL, Stage.AUDIT])
def test_only_workers_that_read_the_database_get_its_url_and_only_on_stdin(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    request = PullRequest(run_id="x", run_dir=str(nursery.run_dir), policy=DataPolicy(), watermark_path=None, now="now")
    script = """
os.set_blocking(0, False)
open('environ', 'wb').write(open('/proc/self/environ', 'rb').read() + open('/proc/self/cmdline', 'rb').read())
time.sleep(0.5)
try: line = os.read(0, 65536)
except BlockingIOError: line = b""
open('line', 'wb').write(line)
"""
    url = "postgresql://u:hunter2@h/d"
    nursery.end_of(nursery.workers(script, database_url=url), stage=stage, request=request)
    line = (nursery.run_dir / "line").read_bytes()
    assert b"hunter2" not in (nursery.run_dir / "environ").read_bytes()
    assert not [path for path in nursery.run_dir.glob("pull.*") if b"hunter2" in path.read_bytes()]
    if stage is Stage.PULL:
        access = msgspec.json.decode(line, type=DatabaseAccess)
        assert access == DatabaseAccess(url=os.fsencode(url), environment={"PGPASSWORD": b"hunter2"})
        assert "hunter2" not in repr(access)
    else:
        assert line == b""


def test_a_password_in_the_log_of_a_worker_is_not_repeated(nursery: Nursery) -> None:
    answer = nursery.end_of(nursery.workers("sys.exit('cannot reach redis://u:hunter2@h/0')"))
    assert "hunter2" not in str(answer.error)
    assert "redis://u:***@h/0" in str(answer.error)


def test_a_worker_that_cannot_be_started_is_a_failure(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        worker_process, "start_worker", lambda *_, **__: (_ for _ in ()).throw(OSError(11, "try again"))
    )
    answer = nursery.ask(nursery.workers(""))
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


def killed_daemon(nursery: Nursery, script: str) -> int:
    """The worker that a daemon leaves behind when it is killed."""
    nursery.workers(script)
    request = msgspec.json.encode(nursery.request).decode()
    daemon = subprocess.run(
        [sys.executable, "-c", DAEMON, str(nursery.run_dir), request], capture_output=True, text=True, check=False
    )
    assert daemon.returncode == -signal.SIGKILL, daemon.stderr
    return int(daemon.stdout)


def test_the_worker_of_a_killed_daemon_ends_by_itself(nursery: Nursery) -> None:
    pid = killed_daemon(nursery, "open('ready', 'w').close(); sys.stdin.read()")
    wait_for(lambda: pid not in nursery.living())


def test_while_the_worker_of_a_killed_daemon_lives_none_is_started_beside_it(nursery: Nursery) -> None:
    pid = killed_daemon(nursery, "open('ready', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.01)")
    workers = nursery.workers("leave()", grace_seconds=60)
    for _ in range(5):
        assert "earlier" in nursery.ask(workers).message
    assert nursery.living() == [pid]
    (nursery.run_dir / "go").touch()
    assert nursery.end_of(workers) == Done(result=RESULT)


def test_a_worker_of_a_killed_daemon_that_does_not_end_is_killed(nursery: Nursery) -> None:
    pid = killed_daemon(nursery, "open('ready', 'w').close(); time.sleep(60)")
    workers = nursery.workers("leave()", grace_seconds=0.1)
    assert nursery.end_of(workers) == Done(result=RESULT)
    assert pid not in nursery.living()


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


def test_a_full_disk_is_named(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise DiskFullError("no space", where=str(nursery.run_dir))

    monkeypatch.setattr(durable_file, "replace_file", full)
    answer = nursery.ask(nursery.workers("leave()"))
    assert type(answer.error) is DiskFullError


@pytest.mark.parametrize(("url", "is_passed"), [("postgres://u@h/d", True), ("sqlite:////t.db", False)])
def test_what_libpq_reads_reaches_the_workers_that_read_a_postgresql_database(
    nursery: Nursery,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    is_passed: bool,
) -> None:
    names = {"PGPASSFILE", "PGSERVICE", "PGSERVICEFILE", "PGSSLMODE", "PGSSLROOTCERT"}
    for name in names:
        monkeypatch.setenv(name, "given")
    request = PullRequest(run_id="x", run_dir=str(nursery.run_dir), policy=DataPolicy(), watermark_path=None, now="now")
    script = "json.dump(dict(os.environ), open('environment', 'w'))"
    nursery.end_of(nursery.workers(script, database_url=url), stage=Stage.PULL, request=request)
    found = json.loads((nursery.run_dir / "environment").read_text())
    assert names & found.keys() == (names if is_passed else set())
