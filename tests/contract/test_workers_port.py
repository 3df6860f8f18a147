"""What ports.Workers promises, asked of the worker processes and of the double that tests of the stages use."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.domain.worker_protocol import Broken, Done, OneOffTask, VerifyRequest, VerifyResult, Working
from retrain_worker.errors import ArtifactError
from retrain_worker.stages.ports import Workers
from tests.fakes import FakeWorkers

STAGE = "VERIFY"
SOUND = VerifyResult(sha256="a" * 64, canary_error=0.0)
DAMAGED = ArtifactError("the canary differs", where="/m.pth", remedy="choose another version")
#: (answer, exit status) by the path of the model
ANSWERS = {
    "/sound.pth": ({"kind": "result", "stage": STAGE, "result": msgspec.to_builtins(SOUND)}, 0),
    "/damaged.pth": (
        {
            "kind": "error",
            "error": {"kind": "ArtifactError", "what": DAMAGED.what, "where": DAMAGED.where, "remedy": DAMAGED.remedy},
        },
        3,
    ),
}
SCRIPT = """
import json, os, sys
request, result = sys.argv[-2:]
content, status = json.loads({answers!r})[json.load(open(request))["request"]["model_path"]]
with open(result + ".tmp", "w") as file:
    json.dump(content, file)
os.rename(result + ".tmp", result)
sys.exit(status)
"""


def a_request(model_path: str) -> VerifyRequest:
    return VerifyRequest(request_id="rollback_1", model_path=model_path, expected_sha256=None)


@pytest.fixture(params=["worker processes", "double"])
def workers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workers]:
    if request.param == "double":
        results: dict[str, Done | Broken] = {"/sound.pth": Done(result=SOUND), "/damaged.pth": Broken(error=DAMAGED)}
        answer: Callable[[VerifyRequest], Done | Broken] = lambda asked: results[asked.model_path]  # noqa: E731
        yield FakeWorkers(answers={STAGE: answer})
        return
    script = tmp_path / "worker.py"
    script.write_text(SCRIPT.format(answers=json.dumps(ANSWERS)))
    processes = WorkerProcesses(
        command=(sys.executable, "-S", "-P", str(script)), deadline_seconds={OneOffTask(STAGE): 60.0}
    )
    yield processes
    processes.stop(0)


def end_of(workers: Workers, run_dir: Path, request: VerifyRequest) -> Done | Broken:
    until = time.monotonic() + 60
    while isinstance(answer := workers.result_of(STAGE, run_dir, request), Working):
        assert time.monotonic() < until, "the worker does not end"
        time.sleep(0.01)
    return answer


def test_a_result_is_given_again_for_the_same_request(workers: Workers, tmp_path: Path) -> None:
    for _ in range(2):
        assert end_of(workers, tmp_path, a_request("/sound.pth")) == Done(result=SOUND)


def test_an_error_of_the_worker_keeps_its_type_and_its_words(workers: Workers, tmp_path: Path) -> None:
    answer = end_of(workers, tmp_path, a_request("/damaged.pth"))
    assert isinstance(answer, Broken)
    assert isinstance(answer.error, ArtifactError)
    assert str(answer.error) == str(DAMAGED)


def test_another_request_has_an_answer_of_its_own(workers: Workers, tmp_path: Path) -> None:
    assert end_of(workers, tmp_path, a_request("/sound.pth")) == Done(result=SOUND)
    assert isinstance(end_of(workers, tmp_path, a_request("/damaged.pth")), Broken)
