"""Training in two real processes: the quality of one, the same bits each time, and a clean end when one is lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from retrain_worker import confinement
from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.domain.recipe import Balance, InputTransform, Preset
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.worker_protocol import Broken, Done, TrainResult, Working
from retrain_worker.errors import DataUnfitError, SettingsError, UsageError, WorkerFailedError
from retrain_worker.model import presets
from retrain_worker.worker.data import snapshot as snapshots
from retrain_worker.worker.data.samples import select_samples, split_samples
from retrain_worker.worker.ranks import Rank, rank_of
from retrain_worker.worker.training import loop
from retrain_worker.worker.training.loop import TrainingSet
from retrain_worker.worker.training.process_group import ALONE, ProcessGroup
from retrain_worker.worker.training.train import train
from tests.worker.synthetic_market import market, saved
from tests.worker.test_training import RECIPE, never, request, weights_of
from tests.worker_harness import WorkerHarness, wait_for

TWO = ("torchrun", "--nproc-per-node", "2")
SPLIT = SplitPolicy(backtest_folds=1)


class TrainingWorkers(WorkerHarness):
    def __init__(self, run_dir: Path) -> None:
        saved(run_dir)
        super().__init__(run_dir, Stage.TRAIN, request(run_dir, split=SPLIT))

    def workers(self, launcher: tuple[str, ...] = TWO, **options: Any) -> WorkerProcesses:
        return self.create(**({"deadline_seconds": {Stage.TRAIN: 300.0}, "launcher": launcher} | options))

    def trained(self, workers: WorkerProcesses) -> TrainResult:
        answer = self.answer(workers)
        assert isinstance(answer, Done), f"{answer}\n{self.log()}"
        result: TrainResult = answer.result
        return result

    def wait_for_message(self, workers: WorkerProcesses, words: str) -> None:
        def reports() -> bool:
            answer = self.ask(workers)
            assert isinstance(answer, Working), f"{answer}\n{self.log()}"
            return words in answer.message

        wait_for(reports, self.log)

    def rank(self, number: int) -> psutil.Process:
        (found,) = (each for each in self.processes() if each.environ().get("RANK") == str(number))
        return found

    def killed(self, workers: WorkerProcesses, process: Callable[[], psutil.Process], *, at: str) -> Any:
        """SIGKILL to a process when the training says `at`; the answer to it. No process may be left."""
        self.wait_for_message(workers, at)
        process().kill()
        killed_at = time.monotonic()
        answer = self.answer(workers)
        assert time.monotonic() - killed_at < 30
        assert self.processes() == []
        return answer


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[TrainingWorkers]:
    harness = TrainingWorkers(tmp_path)
    yield harness
    harness.stop(wait_seconds=10)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainResult, Path]:
    """What two undisturbed processes have trained."""
    harness = TrainingWorkers(tmp_path_factory.mktemp("two"))
    return harness.trained(harness.workers()), harness.run_dir


def test_two_processes_train_as_well_as_one(two: tuple[TrainResult, Path], tmp_path: Path) -> None:
    saved(tmp_path)
    one = train(request(tmp_path), lambda _progress: None, never)
    # between seeds these have standard deviations of 0.011 and 0.006
    assert two[0].validation_log_loss == pytest.approx(one.validation_log_loss, abs=0.05)
    assert two[0].history[-1][3] == pytest.approx(one.history[-1][3], abs=0.03)
    assert two[0].manifest.training["parts"] == one.manifest.training["parts"]


def test_only_what_one_process_leaves_is_left(two: tuple[TrainResult, Path]) -> None:
    result, folder = two
    assert weights_of(result)
    assert [path.name for path in (folder / "folds").iterdir()] == ["1.npz"]
    assert list((folder / "checkpoints").glob("*.checkpoint")) == []
    assert not (folder / "snapshot.mapped").exists()


def test_a_lost_process_ends_the_attempt_and_the_next_resumes_to_the_same_bits(
    harness: TrainingWorkers, two: tuple[TrainResult, Path]
) -> None:
    workers = harness.workers()
    answer = harness.killed(workers, lambda: harness.rank(1), at="epoch 2 of")
    assert isinstance(answer, Broken)
    assert type(answer.error) is WorkerFailedError
    assert weights_of(harness.trained(workers)) == weights_of(two[0])
    assert harness.log().count("training resumes after epoch") == 2
    folds = [np.load(folder / "folds/1.npz")["answers"] for folder in (harness.run_dir, two[1])]
    np.testing.assert_array_equal(*folds)


# ---------------------------------------------------------------- the launcher, with a worker that loads no library

#: `behaviour` stands for the training
STAND_IN = """
import json, os, resource, socket, sys, time
from pathlib import Path
from retrain_worker.domain.worker_protocol import Progress
from retrain_worker.errors import DataUnfitError
from retrain_worker.worker import __main__ as work
from retrain_worker.worker.stop_signal import StoppedError

def behaviour(request, report, stopping, rank):
    marks = [Path(request.run_dir) / f"rank{number}" for number in range(rank.size)]
    marks[rank.number].touch()
    while not all(mark.exists() for mark in marks):
        time.sleep(0.01)
    BEHAVIOUR

work._run = lambda request, url, report, stopping, rank: behaviour(request, report, stopping, rank)
sys.exit(work.main(sys.argv[1:]))
"""
ENDLESS = """
    report(Progress(message="at work"))
    while not stopping():
        time.sleep(0.01)
    raise StoppedError("stopped")
"""


def stand_in(behaviour: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-c", STAND_IN.replace("    BEHAVIOUR", behaviour))


def test_without_the_process_that_writes_the_attempt_fails(harness: TrainingWorkers) -> None:
    answer = harness.killed(harness.workers(command=stand_in(ENDLESS)), lambda: harness.rank(0), at="at work")
    assert isinstance(answer, Broken)
    assert type(answer.error) is WorkerFailedError
    assert "exit status 1" in str(answer.error)


def test_without_the_launcher_no_process_goes_on(harness: TrainingWorkers) -> None:
    # a rank that is asked to stop does not: only the end of its parent ends it
    workers = harness.workers(command=stand_in(ENDLESS.replace("not stopping()", "True")))
    answer = harness.killed(workers, lambda: psutil.Process(workers.pid), at="at work")
    assert isinstance(answer, Broken)
    assert "SIGKILL" in str(answer.error)


def test_a_deadline_ends_every_process(harness: TrainingWorkers) -> None:
    workers = harness.workers(command=stand_in(ENDLESS))
    harness.wait_for_message(workers, "at work")
    workers.reconfigure(deadline_seconds={Stage.TRAIN: 0.0}, launcher=TWO)
    answer = harness.answer(workers)
    assert isinstance(answer, Broken)
    assert "deadline" in str(answer.error)
    assert harness.processes() == []


def test_an_error_that_all_processes_have_is_the_error_of_the_attempt(harness: TrainingWorkers) -> None:
    # the process that writes is the last to have it
    behaviour = """
    time.sleep(rank.number == 0)
    raise DataUnfitError("two rows")
"""
    answer = harness.answer(harness.workers(command=stand_in(behaviour)))
    assert isinstance(answer, Broken)
    assert type(answer.error) is DataUnfitError


@pytest.mark.skipif(not confinement.version(), reason="this kernel has no Landlock")
def test_every_process_is_confined_and_has_its_part_of_the_memory(harness: TrainingWorkers) -> None:
    behaviour = """
    found = {"memory": resource.getrlimit(resource.RLIMIT_DATA)[0]}
    try:
        Path(request.run_dir).with_name("outside").write_text("x")
        found["writes"] = True
    except PermissionError:
        found["writes"] = False
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    (Path(request.run_dir) / f"probe{rank.number}").write_text(json.dumps(found))
    sys.exit(0)
"""
    harness.answer(
        harness.workers(command=stand_in(behaviour)), request=replace(harness.request, memory_limit_bytes=2 << 30)
    )
    found = [json.loads((harness.run_dir / f"probe{number}").read_text()) for number in (0, 1)]
    assert found == [{"memory": 1 << 30, "writes": False}] * 2, harness.log()


def test_a_command_line_starts_the_worker(harness: TrainingWorkers) -> None:
    script = harness.run_dir / "submit"
    script.write_text('#!/bin/sh\necho "$1" >"$2"; shift 2\nexec "$@"\n')
    script.chmod(0o755)
    workers = harness.workers((str(script), "two words", str(harness.run_dir / "submitted")), command=stand_in(ENDLESS))
    harness.wait_for_message(workers, "at work")
    assert (harness.run_dir / "submitted").read_text() == "two words\n"


# ---------------------------------------------------------------- the same steps


FIT = """
import json, os, sys
from pathlib import Path
from retrain_worker.worker.ranks import rank_of
from retrain_worker.worker.training.process_group import ProcessGroup
from tests.worker.test_distributed import history

with ProcessGroup(rank_of(os.environ)) as group:
    found = history(Path(sys.argv[1]), group)
Path(sys.argv[1], f"history{group.rank.number}").write_text(json.dumps(found))
"""


def history(folder: Path, group: ProcessGroup) -> list[list[float]]:
    """Of a network without batch norm and dropout, whose batches have weights and windows without information."""
    torch.set_num_threads(1)
    group.join(torch.device("cpu"))
    snapshot = snapshots.load(folder)
    parts = split_samples(select_samples(snapshot, policy=DataPolicy(), seq_len=32), SplitPolicy())
    config = presets.paper(num_features=4, context_length=32, input_transform=InputTransform.INSTANCE, dropout=0.0)
    fitted = loop.fit(
        loop.FitAttempt(config=replace(config, norm="layernorm"), seed=1, learning_rate=2e-3),
        TrainingSet(
            features=snapshot.features,
            fitting_rows=snapshot.features,
            train=parts.train,
            validation=parts.validation,
            preset=Preset.ENGINE,
        ),
        replace(RECIPE, max_epochs=2, batch_size=33, balance=Balance.WEIGHTS),
        device=torch.device("cpu"),
        saved=None,
        after_epoch=lambda _epoch, _state: None,
        stopping=never,
        group=group,
    )
    return [loop.packed(epoch) for epoch in fitted.history]


def test_two_processes_with_unequal_shares_take_the_steps_of_one(tmp_path: Path) -> None:
    saved(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", FIT, str(tmp_path)],
            cwd=Path(__file__).parents[2],
            env=os.environ | world | {"RANK": number, "LOCAL_RANK": number},
        )
        for number in ("0", "1")
    ]
    expected = history(tmp_path, ALONE)
    assert [each.wait(120) for each in started] == [0, 0]
    histories = [json.loads((tmp_path / f"history{number}").read_text()) for number in range(2)]
    assert histories[0] == histories[1]
    np.testing.assert_allclose(histories[0], expected, rtol=2e-4)


def test_shares_are_the_whole() -> None:
    for size in (1, 2, 3, 5):
        shares = [range(16)[ProcessGroup(Rank(number=number, size=size)).share(16)] for number in range(size)]
        assert [item for share in shares for item in share] == list(range(16))


def test_a_batch_has_a_sample_for_each_process() -> None:
    group = ProcessGroup(Rank(number=0, size=64))
    with pytest.raises(SettingsError, match="BATCH_SIZE"):
        loop._refuse_small_batch(32, group)


@pytest.mark.parametrize("found", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "two", "RANK": "0"}])
def test_variables_of_another_launcher_are_refused(found: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="torchrun"):
        rank_of(found)


def test_mapped_rows_are_the_rows(tmp_path: Path) -> None:
    rows = market()
    snapshots.save_mapped(rows, tmp_path / "mapped")
    found = snapshots.load_mapped(tmp_path / "mapped")
    assert (found.symbols, found.feature_names, found.data_sha256) == (
        rows.symbols,
        rows.feature_names,
        rows.data_sha256,
    )
    for name in snapshots.ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(rows, name))
    with pytest.raises(ValueError, match="read-only"):
        found.features[0, 0] = 1.0
