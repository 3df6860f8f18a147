"""Model files, checkpoints, folds, prediction logs and Redis entries that 157e5f3 wrote are read by this version."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis
import torch

from retrain_worker.domain.artifact import CANARY_TOLERANCE, Manifest, manifest_file
from retrain_worker.domain.envelope import parts_of
from retrain_worker.domain.events import CURRENT_MODEL_KEY, EventType, stream_of
from retrain_worker.model import bundle
from retrain_worker.serving import ModelEvents, ModelFollower, model_watch
from retrain_worker.worker import prediction_log
from retrain_worker.worker.training import training_identity
from retrain_worker.worker.training.backtest_folds import read_folds
from retrain_worker.worker.training.checkpoint import Checkpoint
from tests.known import known
from tests.redis_world import RedisServer
from tests.upgrades import stored_home

FOLDER = stored_home.FOLDER
MODELS = sorted(FOLDER.rglob("*.pth"))


def relative(path: Path) -> str:
    return str(path.relative_to(FOLDER))


@pytest.mark.parametrize("path", MODELS, ids=relative)
def test_a_model_file_is_verified_and_reproduces_its_canary(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    assert content["format"] == "patchtst/1"

    found = bundle.read(path)

    assert known(found.canary_error()) <= CANARY_TOLERANCE
    assert found.manifest.version == path.stem
    assert found.manifest.training["run_id"] == content["training"]["run_id"]
    assert content["config"].keys() - found.manifest.config.keys() == {"dropout", "input_noise"}


@pytest.mark.parametrize("path", [manifest_file(path) for path in MODELS], ids=relative)
def test_a_manifest_is_that_of_its_file(path: Path) -> None:
    stored = msgspec.json.decode(path.read_bytes(), type=Manifest)
    found = bundle.read(path.with_suffix("")).manifest
    assert (stored.sha256, stored.contract, stored.thresholds) == (found.sha256, found.contract, found.thresholds)


def test_a_checkpoint_is_not_resumed_and_the_log_states_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_id = "20260107_164818"
    shutil.copy(FOLDER / f"train/checkpoints/{run_id}/{run_id}.checkpoint", tmp_path)
    checkpoint = Checkpoint(tmp_path, run_id, {"revision": 1})

    with caplog.at_level(logging.WARNING):
        assert checkpoint.load() == {}

    reason = f"{checkpoint.path} cannot be resumed: its format is 0, and this version reads 1"
    assert f"training starts afresh: {reason}" in caplog.text


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("folds/1.npz")), ids=relative)
def test_a_backtest_fold_counts_at_the_gate_and_as_one_of_another_training(path: Path) -> None:
    (fold,) = read_folds(path.parents[1])
    assert len(fold.positions) == len(fold.answers) > 0
    with np.load(path) as file:
        assert training_identity.difference(str(file["identity"]), {"revision": 1})


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("book_*.npy")), ids=relative)
def test_a_prediction_log_is_continued(path: Path) -> None:
    logged = prediction_log._read(path)
    assert len(logged) > 0
    assert np.isfinite(logged["model"]).all()


# ---------------------------------------------------------------- what stays in Redis


@pytest.fixture
def recorded(tmp_path: Path, client: redis.Redis) -> list[dict[str, Any]]:
    """The stored streams in Redis and the stored model files in `tmp_path`; the entries."""
    stored_home.load("history", tmp_path / "home")
    text = (FOLDER / "streams.jsonl").read_text().replace(stored_home.PLACEHOLDER, str(tmp_path / "home"))
    entries = [json.loads(line) for line in text.splitlines()]
    (current,) = (entry for entry in entries if "hash" in entry)
    client.hset(current["hash"], mapping=current["fields"])
    for entry in sorted((entry for entry in entries if entry is not current), key=lambda entry: parts_of(entry["id"])):
        client.xadd(entry["stream"], entry["fields"], id=entry["id"])
    return entries


def test_a_follower_serves_the_model_that_the_hash_names(
    recorded: list[dict[str, Any]], redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_watch, "BLOCK_SECONDS", 0.05)
    (fields,) = (entry["fields"] for entry in recorded if entry.get("hash") == CURRENT_MODEL_KEY)
    directory = Path(fields["model_path"]).parent
    with ModelFollower(redis_server.url, consumer="test", allowed_directories=[directory]) as follower:
        assert follower.wait_for_model(30)
        served = known(follower.served)
        assert (served.version, served.sha256) == (fields["version"], fields["sha256"])
        assert follower.problem is None


def test_a_consumer_reads_the_events_that_it_has_not_handled(
    recorded: list[dict[str, Any]], redis_server: RedisServer, tmp_path: Path
) -> None:
    handled = {json.loads(line) for line in (FOLDER / "handled.jsonl").read_text().splitlines()}
    shutil.copy(FOLDER / "handled.jsonl", tmp_path)
    streams = {stream_of(kind) for kind in EventType}
    expected = [
        entry["fields"]["event_id"]
        for entry in recorded
        if entry.get("stream") in streams and entry["fields"]["event_id"] not in handled
    ]
    found = []
    with ModelEvents(redis_server.url, group="g", consumer="c", handled_file=tmp_path / "handled.jsonl") as events:
        for event in events:
            found.append(event.event_id)
            events.acknowledge(event)
            if len(found) == len(expected):
                break
    assert sorted(found) == sorted(expected)
