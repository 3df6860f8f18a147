"""The demo's market, incumbent and engine together with the program's own worker, bundle and follower."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import torch

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.adapters.trade_intents import TradeIntents
from retrain_worker.demo.engine import newest_windows
from retrain_worker.demo.incumbent import write_incumbent
from retrain_worker.demo.market import Market, continue_market, write_market
from retrain_worker.demo.trades import NAMES, features_of
from retrain_worker.domain import env_file
from retrain_worker.domain.artifact import ModelContract, checksum_file, manifest_file
from retrain_worker.domain.current_model import named_by, to_fields
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.envelope import fields_of
from retrain_worker.domain.events import CURRENT_MODEL_KEY, Event, EventType
from retrain_worker.domain.recipe import InputTransform, Preset, Recipe
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.worker_protocol import PullRequest
from retrain_worker.errors import WorkerFailedError
from retrain_worker.model import bundle, presets
from retrain_worker.model.patchtst import PatchTST
from retrain_worker.worker.data import snapshot as snapshots
from retrain_worker.worker.data.pull import pull
from retrain_worker.worker.data.samples import select_samples, split_samples
from tests.known import known
from tests.redis_world import RedisServer

END = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)
CONTRACT = ModelContract(
    preset=Preset.PAPER, context_length=32, feature_names=NAMES[:4], input_transform=InputTransform.STANDARDISE
)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return write_market(tmp_path_factory.mktemp("market") / "m.db", seed=7, end=END, rows=1_500, days=8.0)


def write_model(path: Any, *, seed: int = 1, contract: ModelContract = CONTRACT) -> Any:
    """A model with random weights: it answers, and that is all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = PatchTST(presets.config_for(contract, dropout=0.0)).eval()
    windows = np.random.default_rng(0).normal(size=(4, contract.context_length, 4)).astype(np.float32)
    return bundle.write(path, model=model, contract=contract, canary_windows=windows, origin=bundle.Origin())


# ---------------------------------------------------------------- the market as the program reads it


def test_the_program_reads_the_market_as_it_was_written(market: Market, tmp_path: Path) -> None:
    request = PullRequest(
        run_id="r", run_dir=str(tmp_path), policy=DataPolicy(), watermark_path=None, now=END.isoformat()
    )
    found = pull(request, f"sqlite:///{market.path}", lambda progress: None)

    assert (found.loaded, found.labelled, found.contradictions, dict(found.quarantined)) == (1_560, 1_488, 12, {})
    assert found.feature_names == NAMES[:4]

    snapshot = snapshots.load(tmp_path)
    samples = select_samples(snapshot, policy=request.policy, seq_len=64)
    holdout = split_samples(samples, SplitPolicy()).holdout
    assert snapshot.ids[holdout.positions].tolist() == market.newest(len(holdout)).tolist()
    by_id = dict(zip(market.rows["id"].tolist(), market.rows["is_win"].tolist(), strict=True))
    assert [by_id[i] for i in snapshot.ids[holdout.positions].tolist()] == holdout.labels.astype(bool).tolist()


# ---------------------------------------------------------------- the incumbent


def test_the_incumbent_is_a_sound_model_that_the_env_file_names_among_other_keys(
    market: Market,
    tmp_path: Path,
) -> None:
    models, engine_env = tmp_path / "engine/models", tmp_path / "engine/ai-engine.env"
    recipe = Recipe(preset=Preset.PAPER, seq_len=32, max_epochs=1, device="cpu", threads=1)

    path = write_incumbent(
        market.path,
        work_dir=tmp_path / "work",
        engine_models_dir=models,
        engine_env_file=engine_env,
        trained_at=END,
        recipe=recipe,
    )

    assert path == models / "patchtst_v20260110_033000.pth"
    assert bundle.read(path).contract == CONTRACT
    assert sorted(found.name for found in models.iterdir()) == sorted(
        each.name for each in (path, checksum_file(path), manifest_file(path))
    )
    said = env_file.parse(engine_env.read_bytes())
    assert said["PATCHTST_MODEL_PATH"] == str(path)
    assert said["PATCHTST_SHADOW_ONLY"] == "true"
    assert len(said) > 5
    assert engine_env.read_text().startswith("#")


def test_an_incumbent_that_cannot_be_trained_says_why(tmp_path: Path) -> None:
    empty = tmp_path / "empty.db"
    empty.touch()

    with pytest.raises(WorkerFailedError, match="the file is empty"):
        write_incumbent(
            empty,
            work_dir=tmp_path / "work",
            engine_models_dir=tmp_path / "models",
            engine_env_file=tmp_path / "engine.env",
            trained_at=END,
        )
    assert not (tmp_path / "engine.env").exists()


# ---------------------------------------------------------------- the engine's windows


@pytest.mark.parametrize("as_objects", [False, True])
def test_the_engine_sees_the_newest_rows_of_each_symbol_oldest_first_by_name(tmp_path: Path, as_objects: bool) -> None:
    market = write_market(tmp_path / "m.db", seed=2, end=END, rows=400, as_objects=as_objects)
    turned = replace(CONTRACT, feature_names=("returns_1h", "rsi"), context_length=5)

    found = newest_windows(market.path, turned)

    features = features_of(market.signals)
    expected = [features[market.rows["symbol_code"] == code][-5:][:, [3, 0]] for code in range(5)]
    assert found == pytest.approx(np.array(expected, dtype=np.float32))


def test_the_engine_sees_new_rows_when_they_come(tmp_path: Path) -> None:
    market = write_market(tmp_path / "m.db", seed=2, end=END, rows=400)
    before = newest_windows(market.path, CONTRACT)
    continue_market(market, rows=50)

    assert (newest_windows(market.path, CONTRACT) != before).any(axis=(1, 2)).all()


def test_without_a_full_window_there_is_nothing_to_answer(tmp_path: Path) -> None:
    market = write_market(tmp_path / "m.db", seed=2, end=END, rows=20, open_rows=0)

    with pytest.raises(ValueError, match="no symbol has 32 rows"):
        newest_windows(market.path, CONTRACT)


# ---------------------------------------------------------------- the engine as a process


class Engine:
    """The stand-in, started on a market with an incumbent, heard through its log."""

    def __init__(self, folder: Path, database: Any, redis_url: Any) -> None:
        self.log, self.env = folder / "engine.jsonl", folder / "ai-engine.env"
        self.incumbent = folder / "models/patchtst_v20260101_000000.pth"
        write_model(self.incumbent)
        self.env.write_text(f"# engine\nPATCHTST_MODEL_PATH={self.incumbent}\nPATCHTST_SHADOW_ONLY=true\n")
        self.command = [
            sys.executable,
            "-m",
            "retrain_worker.demo.engine",
            "--env-file",
            self.env,
            "--models-dir",
            folder / "models",
            "--redis-url",
            redis_url,
            "--db",
            database,
            "--log",
            self.log,
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.command)
        self.wait_for("swap")

    def lines(self, kind: str) -> list[Any]:
        text = self.log.read_text() if self.log.exists() else ""
        found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in found if line["kind"] == kind]

    def wait_for(self, kind: str, count: int = 1, seconds: int = 60) -> Any:
        deadline = time.monotonic() + seconds
        while len(self.lines(kind)) < count:
            assert time.monotonic() < deadline, f"no {kind} came: {self.log.read_text()}"
            assert self.process is None or self.process.poll() is None, "the engine has ended"
            time.sleep(0.02)
        return self.lines(kind)[count - 1]

    def stop(self) -> Any:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(120) == 0
        return self.lines("stopped")[-1]


@pytest.fixture
def engine(tmp_path: Path, market: Market, redis_server: RedisServer) -> Iterator[Engine]:
    engine = Engine(tmp_path, market.path, redis_server.url)
    yield engine
    if engine.process is not None:
        engine.process.kill()
        engine.process.wait()


def promote(client: redis.Redis, path: Path, manifest: Any, *, sha256: Any = None) -> Event:
    """What the relay does with a promotion: the event and the hash."""
    payload = {
        "new_version": path.stem,
        "old_version": "x",
        "model_path": str(path),
        "shadow_only": True,
        "sha256": sha256 or manifest.sha256,
        "size_bytes": manifest.size_bytes,
        "promoted_at": datetime.now(UTC).isoformat(),
    }
    event = Event(
        event_id=f"event-{path.stem}",
        event_type=EventType.PROMOTED,
        payload=payload,
        correlation_id="run",
        timestamp=datetime.now(UTC),
    )
    current: dict[Any, Any] = dict(to_fields(known(named_by(event.event_type, event.event_id, payload))))
    entry: dict[Any, Any] = dict(fields_of(event, json.dumps(payload)))
    client.hset(CURRENT_MODEL_KEY, mapping=current)
    client.xadd(event.stream, entry)
    return event


def test_the_engine_answers_without_a_pause_while_it_takes_over_a_promoted_model(
    engine: Engine,
    client: redis.Redis,
    tmp_path: Path,
) -> None:
    engine.start()
    first = engine.wait_for("swap")
    assert (first["old_version"], first["model_path"]) == (None, str(engine.incumbent))
    assert len(first["first_answers"]) == 5

    path = tmp_path / "models/patchtst_v20260110_033000.pth"
    manifest = write_model(path, seed=2, contract=replace(CONTRACT, context_length=48))
    event = promote(client, path, manifest)

    swap = engine.wait_for("swap", count=2)
    assert (swap["old_version"], swap["version"]) == (engine.incumbent.stem, path.stem)
    assert (swap["event_id"], swap["sha256"]) == (event.event_id, manifest.sha256)
    seen = engine.wait_for("event")
    assert (seen["event_id"], seen["event_type"]) == (event.event_id, "model.promoted")
    assert seen["payload"]["model_path"] == str(path)

    last = engine.stop()
    assert set(last["answers"]) == {engine.incumbent.stem, path.stem}
    assert all(count["failed"] == 0 and count["answered"] >= 5 for count in last["answers"].values())
    assert engine.lines("failure") == []


def test_the_engine_goes_on_with_its_model_when_a_promoted_file_is_not_what_it_says(
    engine: Engine,
    client: redis.Redis,
    tmp_path: Path,
) -> None:
    engine.start()
    path = tmp_path / "models/patchtst_v20260110_033000.pth"
    promote(client, path, write_model(path, seed=2), sha256="0" * 64)

    assert "its sha256 is" in engine.wait_for("problem")["problem"]
    last = engine.stop()
    assert set(last["answers"]) == {engine.incumbent.stem}
    assert len(engine.lines("swap")) == 1


def test_the_engine_ends_with_the_process_that_started_it(engine: Engine) -> None:
    starter = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(600)"
    parent = subprocess.Popen([sys.executable, "-c", starter, *engine.command])
    try:
        engine.wait_for("swap")
    finally:
        parent.kill()
        parent.wait()

    orphan = engine.lines("started")[0]["pid"]
    try:
        engine.wait_for("stopped")
        deadline = time.monotonic() + 120
        while not _is_gone(orphan):
            assert time.monotonic() < deadline, "it still lives"
            time.sleep(0.05)
    finally:
        if not _is_gone(orphan):
            os.kill(orphan, signal.SIGKILL)


def _is_gone(pid: Any) -> bool:
    """Ended; a zombie counts, because nobody may be there to reap it."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def test_the_engine_says_what_its_model_answers_once_for_each_row_and_the_program_understands_it(
    engine: Engine,
    client: redis.Redis,
    outbox: StateDb,
) -> None:
    engine.start()
    engine.wait_for("swap")
    serving_monitor = TradeIntents(client, outbox)
    until = time.monotonic() + 60
    while serving_monitor.tally.answers < 5 and time.monotonic() < until:
        serving_monitor.read(model_path=str(engine.incumbent), at=datetime(2026, 1, 1, tzinfo=UTC))
        time.sleep(0.1)
    engine.stop()
    serving_monitor.read(model_path=str(engine.incumbent), at=datetime(2026, 1, 1, tzinfo=UTC))
    tally = serving_monitor.tally

    assert (tally.entries, tally.answers, tally.malformed, tally.live) == (5, 5, 0, 0)
    assert {one.names for one in tally.newest} == {(engine.incumbent.stem,)}
    assert serving_monitor.seen_serving(version=engine.incumbent.stem, sha256="", model_path="", since=END) is not None
