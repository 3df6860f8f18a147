import hashlib
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import torch

from retrain_worker.adapters.event_confirmations import EventConfirmations
from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain import artifact
from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.events import CURRENT_MODEL_KEY, SERVED_STREAM, EventType
from retrain_worker.domain.recipe import InputTransform, Preset
from retrain_worker.errors import RetryLaterError
from retrain_worker.model import bundle, presets
from retrain_worker.model.patchtst import PatchTST
from retrain_worker.redis_client import entries_in
from retrain_worker.serving import model_watch
from retrain_worker.serving.follower import ModelFollower
from retrain_worker.serving.io_drivers import drive
from tests.redis_world import PATIENCE_SECONDS, Clock, RedisServer, an_event, enqueue
from tests.worker.test_bundle import as_newer_minor

CONTRACT = ModelContract(
    preset=Preset.PAPER, context_length=32, feature_names=("rsi", "ma_cross"), input_transform=InputTransform.INSTANCE
)
WINDOWS = np.random.default_rng(3).normal(size=(7, 32, 2)).astype(np.float32)


@dataclass
class Model:
    path: Path
    sha256: str
    answers: Any


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Three models that answer differently."""
    folder = tmp_path_factory.mktemp("models")
    made = []
    for number in range(3):
        torch.manual_seed(number)
        path = artifact.model_file(folder, f"patchtst_v20260101_00000{number}")
        manifest = bundle.write(
            path,
            model=PatchTST(presets.config_for(CONTRACT, dropout=0.0)),
            contract=CONTRACT,
            canary_windows=WINDOWS,
            origin=bundle.Origin(),
        )
        made.append(Model(path, manifest.sha256, bundle.read(path).probabilities(WINDOWS)))
    assert not np.allclose(made[0].answers, made[1].answers)
    return made


def rewritten(model: Model, folder: Path, change: Callable[[dict[str, Any]], None]) -> Model:
    """A file with the model's content, changed."""
    content = torch.load(model.path, weights_only=True)
    change(content)
    path = folder / model.path.name
    torch.save(content, path)
    return Model(path, hashlib.sha256(path.read_bytes()).hexdigest(), model.answers)


@pytest.fixture
def newer(models: list[Model], tmp_path: Path) -> Model:
    """The second model in a file of a later minor."""
    return rewritten(models[1], tmp_path, as_newer_minor)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_watch, "BLOCK_SECONDS", 0.05)


@pytest.fixture
def relay(client: redis.Redis, outbox: StateDb, clock: Clock) -> Relay:
    return Relay(client, outbox, clock)


@pytest.fixture
def promote(relay: Relay, outbox: StateDb, clock: Clock) -> Any:
    """Say that a model is in service, as the daemon does."""

    def promote(model: Any, event_type: Any = EventType.PROMOTED, *, relay: Any = relay, **changes: Any) -> None:
        clock.advance(0.001)
        said = {
            "new_version": model.path.stem,
            "model_path": str(model.path),
            "sha256": model.sha256,
            "size_bytes": 1,
            "promoted_at": clock().isoformat(),
            "rolled_back_at": clock().isoformat(),
            **changes,
        }
        enqueue(outbox, an_event(int(clock().timestamp() * 1e6), event_type, at=clock(), **said))
        relay.relay_once(at_once=True)

    return promote


@pytest.fixture
def follow(redis_server: RedisServer, models: list[Model], tmp_path: Path) -> Iterator[Any]:
    started = []

    def follow(url: Any = redis_server.url, **options: Any) -> ModelFollower:
        directories = [models[0].path.parent, tmp_path]
        follower = ModelFollower(url, consumer="test-1", **{"allowed_directories": directories, **options})
        started.append(follower)
        follower.start()
        return follower

    yield follow
    for follower in started:
        follower.stop()


def wait_until(question: Callable[..., Any], what: str = "it") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not question():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.005)


def look(follower: ModelFollower) -> None:
    drive(follower._watch.update(), follower._client, follower._stopped)


def answers_like(follower: Any, model: Any) -> Any:
    return follower.served is not None and np.array_equal(follower.predict(WINDOWS), model.answers)


def test_a_follower_serves_what_a_newer_version_of_the_daemon_writes(
    follow: Any, models: list[Model], newer: Model, client: redis.Redis
) -> None:
    """Unknown fields in the hash, the entry, the payload and the model file; a newer schema version and minor."""
    first = {"version": models[0].path.stem, "model_path": str(models[0].path), "sha256": models[0].sha256}
    at = datetime(2026, 1, 1, tzinfo=UTC)
    fields: dict[str, str | int] = {
        "size_bytes": 1,
        "run_id": "",
        "promoted_at": at.isoformat(),
        "event_id": "e",
        "shadow_only": "true",
    }
    later = {"confirmed": "true", "added_later": "x"}
    for name, value in (first | fields | later).items():
        client.hset(CURRENT_MODEL_KEY, name, value)
    follower = follow()
    assert answers_like(follower, models[0])

    named = {"version": newer.path.stem, "model_path": str(newer.path), "sha256": newer.sha256}
    newer_fields = {**fields, **named, "promoted_at": (at + timedelta(days=1)).isoformat(), "event_id": "e2"}
    client.hset(CURRENT_MODEL_KEY, mapping=dict(newer_fields.items()))  # at once, as the daemon does
    client.xadd(
        "quantum:stream:model.promoted",
        {"event_type": "model.promoted", "schema_version": "99", "event_id": "e2", "added_later": "x", "payload": "?"},
    )

    wait_until(lambda: answers_like(follower, newer), "serving the newer file")
    assert follower.problem is None
    wait_until(lambda: client.xlen(SERVED_STREAM) == 2, "the acknowledgement")
    ((_, served),) = entries_in(client.xrevrange(SERVED_STREAM, count=1))
    acknowledged = json.loads(served[b"payload"])
    assert (acknowledged["sha256"], acknowledged["canary_max_error"]) == (newer.sha256, 0.0)


def test_a_file_of_another_major_is_refused_and_the_served_model_stays(
    promote: Any, follow: Any, models: list[Model], tmp_path: Path
) -> None:
    promote(models[0])
    follower = follow()
    another = rewritten(models[1], tmp_path, lambda content: content.update(format="patchtst/2.0"))
    promote(another)

    wait_until(lambda: follower.problem, "the refusal")
    assert answers_like(follower, models[0])
    assert f"{another.path}: its format is patchtst/2.0, and this version reads patchtst/1.x" in follower.problem


def test_it_starts_from_the_hash_without_having_seen_an_event(
    promote: Any,
    follow: Any,
    models: list[Model],
    client: redis.Redis,
) -> None:
    promote(models[0])
    client.delete("quantum:stream:model.promoted")

    follower = follow()

    assert answers_like(follower, models[0])
    assert follower.problem is None
    for _ in range(3):
        look(follower)
    assert client.xlen(SERVED_STREAM) == 1


def test_it_takes_over_a_promotion_and_a_roll_back_and_acknowledges_each(
    promote: Any,
    follow: Any,
    models: list[Model],
    client: redis.Redis,
) -> None:
    promote(models[0])
    follower = follow()
    confirmations = EventConfirmations(client)
    for model, event_type in ((models[1], EventType.PROMOTED), (models[0], EventType.ROLLED_BACK)):
        since = datetime.now(UTC)
        promote(model, event_type)
        wait_until(
            lambda model=model, since=since: confirmations.seen_serving(
                version=model.path.stem, sha256=model.sha256, model_path=str(model.path), since=since
            )
        )
        assert answers_like(follower, model)


def forged(model: Model, **changes: Any) -> dict[Any, Any]:
    """A promotion that any client of Redis can write."""
    payload = {
        "new_version": "forged",
        "model_path": str(model.path),
        "promoted_at": "9999-12-31T23:59:59+00:00",
        **changes,
    }
    return {"event_type": "model.promoted", "event_id": str(changes), "payload": json.dumps(payload)}


@pytest.mark.parametrize("is_served", [True, False])
def test_a_forged_promotion_changes_nothing_and_does_not_hold_up_a_genuine_one(
    promote: Any, follow: Any, models: list[Model], client: redis.Redis, is_served: bool
) -> None:
    if is_served:
        promote(models[0])
    follower = follow()
    forgeries: tuple[dict[str, str], ...] = (
        {},
        {"sha256": models[2].sha256},
        {"model_path": "/dev/zero"},
        {"promoted_at": "0001-01-01T00:00:00+23:59"},
    )
    for changes in forgeries:
        client.xadd("quantum:stream:model.promoted", forged(models[2], **changes))
    for _ in range(3):
        look(follower)

    assert (follower.problem, follower.served is not None) == (None, is_served)
    promote(models[1])
    wait_until(lambda: answers_like(follower, models[1]))
    for changes in forgeries:
        client.xadd("quantum:stream:model.promoted", forged(models[2], **changes))
    look(follower)
    assert answers_like(follower, models[1])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"sha256": ""}, "its sha256 is not known"),
        ({"sha256": "0"}, "sha256 is not a sha256"),
        (
            {"promoted_at": "9999-12-31T23:59:59+00:00"},
            "promoted_at '9999-12-31T23:59:59+00:00' is not between 1970 and",
        ),
        ({"promoted_at": "0001-01-01T00:00:00+23:59"}, "neither ISO 8601 nor a time since the epoch"),
        ({"version": "v\x1b[2J"}, "holds characters that cannot be printed"),
        ({"version": "v" * 2_000_000}, "it has a field of 2,000,000 bytes"),
        ({"size_bytes": "9" * 5000}, "is not a number"),
        ({"model_path": "/dev/zero"}, "it does not lie in"),
        ({"model_path": "{folder}/../{name}"}, "it does not lie in"),
        ({"model_path": "{folder}/deeper/{name}"}, "it does not lie in"),
    ],
)
def test_a_forged_hash_is_refused_and_does_not_hold_up_a_genuine_promotion(
    promote: Any, follow: Any, models: list[Model], client: redis.Redis, change: dict[str, str], problem: str
) -> None:
    promote(models[0])
    follower = follow()
    genuine: dict[Any, Any] = client.hgetall(CURRENT_MODEL_KEY)
    forgery: dict[Any, Any] = {
        "version": "forged",
        "model_path": str(models[2].path),
        "sha256": models[2].sha256,
        "promoted_at": datetime.now(UTC).isoformat(),
    }
    folder, name = models[2].path.parent, models[2].path.name
    client.hset(
        CURRENT_MODEL_KEY,
        mapping=forgery | {key: text.format(folder=folder, name=name) for key, text in change.items()},
    )
    look(follower)

    assert problem in (follower.problem or "")
    assert answers_like(follower, models[0])
    assert answers_like(follow(), models[2]) is False, "nor by one that starts now"
    client.hset(CURRENT_MODEL_KEY, mapping=genuine)
    promote(models[1])
    wait_until(lambda: answers_like(follower, models[1]))
    wait_until(lambda: follower.problem is None)


def test_an_entry_that_is_dated_in_the_future_holds_up_no_promotion(
    promote: Any, follow: Any, models: list[Model], client: redis.Redis
) -> None:
    promote(models[0])
    follower = follow()
    later: dict[Any, Any] = {
        "model_path": str(models[2].path),
        "sha256": models[2].sha256,
        "promoted_at": (datetime.now(UTC) + timedelta(days=3650)).isoformat(),
    }
    client.hset(CURRENT_MODEL_KEY, mapping=later)
    wait_until(lambda: answers_like(follower, models[2]))

    promote(models[1])

    wait_until(lambda: answers_like(follower, models[1]))


def wide_canary(content: dict[str, Any]) -> None:
    """20 million windows in a file of 111 kB."""
    content["canary"] = {
        "windows": torch.zeros(1).expand(20_000_000, 32, 2),
        "probabilities": torch.zeros(1, dtype=torch.float64).expand(20_000_000),
    }


@pytest.mark.parametrize("trap", ["pipe", "device", "link", "canary"])
def test_a_file_that_is_a_trap_is_refused_at_once(
    promote: Any, follow: Any, models: list[Model], tmp_path: Path, trap: str
) -> None:
    promote(models[0])
    follower = follow()
    bad = Model(tmp_path / "patchtst_v20260101_000009.pth", models[1].sha256, None)
    if trap == "pipe":
        os.mkfifo(bad.path)
    elif trap == "device":
        bad.path.symlink_to("/dev/zero")
    elif trap == "link":
        bad.path.symlink_to(models[1].path)
    else:
        bad = rewritten(Model(models[1].path, "", None), tmp_path, wide_canary)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    promote(bad)
    wait_until(lambda: follower.problem)

    assert "is refused" in follower.problem
    assert answers_like(follower, models[0])
    assert time.monotonic() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kB"
    promote(models[2])
    wait_until(lambda: answers_like(follower, models[2]))


def test_by_default_models_lie_in_the_directory_of_the_daemon(
    promote: Any, follow: Any, models: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(models[0])
    assert "does not lie in /opt/quantum/ai_engine/models;" in follow(allowed_directories=None).problem

    monkeypatch.setenv("ENGINE_MODELS_DIR", str(models[0].path.parent))

    assert answers_like(follow(allowed_directories=None), models[0])


def test_a_model_of_the_env_file_needs_its_checksum_file(follow: Any, models: list[Model], tmp_path: Path) -> None:
    path = tmp_path / models[0].path.name
    path.write_bytes(models[0].path.read_bytes())
    env_file = tmp_path / "ai-engine.env"
    env_file.write_text(f"PATCHTST_MODEL_PATH={path}\n")
    follower = follow(env_file=env_file)
    assert f"{path}: its sha256 is not known; sha256sum {path.name} > {path.name}.sha256" in follower.problem

    artifact.checksum_file(path).write_text(f"{models[1].sha256}  {path.name}\n")
    assert f"its sha256 is {models[0].sha256}, expected {models[1].sha256}" in follow(env_file=env_file).problem

    artifact.checksum_file(path).write_text(f"{models[0].sha256}  {path.name}\n")
    assert answers_like(follow(env_file=env_file), models[0])


def test_without_a_model_it_waits(follow: Any) -> None:
    follower = follow()
    assert not follower.wait_for_model(0)
    with pytest.raises(RetryLaterError, match="nothing names one yet"):
        follower.predict(WINDOWS)


def test_the_same_file_promoted_again_is_acknowledged_again_without_a_load(
    promote: Any,
    follow: Any,
    models: list[Model],
    client: redis.Redis,
) -> None:
    promote(models[0])
    follower = follow()
    loaded = follower.served.bundle
    promote(models[0])

    wait_until(lambda: client.xlen(SERVED_STREAM) == 2)

    assert follower.served.bundle is loaded


@pytest.mark.parametrize("damage", ["other bytes", "missing", "not a model", "a directory"])
def test_a_bad_file_keeps_the_old_model_and_says_so(
    promote: Any,
    follow: Any,
    models: list[Model],
    tmp_path: Path,
    damage: str,
) -> None:
    promote(models[0])
    follower = follow()
    bad = Model(tmp_path / "patchtst_v20260101_000009.pth", models[1].sha256, None)
    if damage == "other bytes":
        bad.path.write_bytes(models[2].path.read_bytes())
    elif damage == "not a model":
        bad.path.write_bytes(b"nonsense")
    elif damage == "a directory":
        bad.path.mkdir()

    promote(bad)
    wait_until(lambda: follower.problem)

    assert "patchtst_v20260101_000009 is refused" in follower.problem
    assert "continues" in follower.problem
    assert answers_like(follower, models[0])
    promote(models[1])
    wait_until(lambda: answers_like(follower, models[1]))
    wait_until(lambda: follower.problem is None)


def test_a_file_that_arrives_late_is_looked_at_again(
    promote: Any,
    follow: Any,
    models: list[Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_watch, "RETRY_SECONDS", 0.05)
    late = Model(tmp_path / "patchtst_v20260101_000008.pth", models[2].sha256, models[2].answers)
    follower = follow()
    promote(late)
    wait_until(lambda: follower.problem)

    late.path.write_bytes(models[2].path.read_bytes())

    wait_until(lambda: answers_like(follower, late))


def test_no_answer_ever_mixes_two_models_and_none_is_missing(promote: Any, follow: Any, models: list[Model]) -> None:
    promote(models[0])
    follower = follow()
    stopped, answers, versions = threading.Event(), [], set()

    def ask() -> None:
        while not stopped.is_set():
            answers.append(follower.predict(WINDOWS))

    asker = threading.Thread(target=ask)
    asker.start()
    for turn in range(1, 9):
        promote(models[turn % 3])
        wait_until(lambda turn=turn: follower.served.sha256 == models[turn % 3].sha256)
        wait_until(lambda turn=turn: np.array_equal(answers[-1], models[turn % 3].answers), "an answer of the new one")
    stopped.set()
    asker.join()

    for answer in answers:
        versions.add(next(number for number, model in enumerate(models) if np.array_equal(answer, model.answers)))
    assert versions == {0, 1, 2}


def test_redis_away_at_the_start_the_env_file_says_it_later_the_hash(
    models: list[Model],
    promote: Any,
    follow: Any,
    tmp_path: Path,
    outbox: StateDb,
    clock: Clock,
) -> None:
    env_file = tmp_path / "ai-engine.env"
    env_file.write_text(f'# by hand\nOTHER=1\nPATCHTST_MODEL_PATH="{models[0].path}"\n')
    os.utime(env_file, (0, 0))
    server = RedisServer()
    try:
        follower = follow(server.url, env_file=env_file)
        assert answers_like(follower, models[0])
        assert "cannot be reached" in follower.problem

        server.start()
        relay = Relay(server.client(), outbox, clock)
        wait_until(lambda: server.client().xlen(SERVED_STREAM) == 1, "the acknowledgement")
        promote(models[1], relay=relay)
        wait_until(lambda: answers_like(follower, models[1]))
        wait_until(lambda: follower.problem is None)
    finally:
        follower.stop()
        server.remove()


def test_redis_goes_away_and_a_swap_is_seen_in_the_env_file(
    models: list[Model],
    promote: Any,
    follow: Any,
    tmp_path: Path,
    redis_server: RedisServer,
) -> None:
    env_file = tmp_path / "ai-engine.env"
    env_file.write_text(f"PATCHTST_MODEL_PATH={models[2].path}\n")
    os.utime(env_file, (0, 0))
    promote(models[0])
    follower = follow(env_file=env_file)
    redis_server.kill()
    wait_until(lambda: follower.problem)
    look(follower)
    assert answers_like(follower, models[0]), "an env file that was left behind does not turn it back"

    env_file.write_text(f"PATCHTST_MODEL_PATH={models[1].path}\n")
    later = (datetime.now(UTC) + timedelta(seconds=5)).timestamp()
    os.utime(env_file, (later, later))

    wait_until(lambda: answers_like(follower, models[1]))


def test_a_redis_that_came_back_with_older_news_does_not_turn_it_back(
    promote: Any,
    follow: Any,
    models: list[Model],
    client: redis.Redis,
    relay: Relay,
) -> None:
    promote(models[0])
    older: dict[Any, Any] = client.hgetall(CURRENT_MODEL_KEY)
    promote(models[1])
    follower = follow()

    client.flushall()
    client.hset(CURRENT_MODEL_KEY, mapping=older)
    look(follower)
    assert answers_like(follower, models[1])
    promote(models[2])
    wait_until(lambda: answers_like(follower, models[2]))


def test_a_clock_that_went_back_holds_up_no_promotion(
    promote: Any,
    follow: Any,
    models: list[Model],
    clock: Clock,
) -> None:
    promote(models[0])
    follower = follow()
    clock.advance(-3600)
    for model in models[1:]:
        promote(model)
        wait_until(lambda model=model: answers_like(follower, model))


def test_a_model_that_was_withdrawn_answers_no_more(promote: Any, follow: Any, models: list[Model]) -> None:
    promote(models[0])
    follower = follow()
    promote(models[0], EventType.ROLLED_BACK, new_version="none", model_path="", sha256="", size_bytes=0)
    wait_until(lambda: follower.served is None)

    for each in (follower, follow()):
        with pytest.raises(RetryLaterError, match="names none"):
            each.predict(WINDOWS)
    promote(models[1])
    wait_until(lambda: answers_like(follower, models[1]))
    assert follower.problem is None


@pytest.mark.parametrize("hash_value", [{"version": "v"}, {"promoted_at": "yesterday"}, {b"\xff": b"\xfe"}])
def test_a_hash_that_makes_no_sense_is_passed_over(
    follow: Any,
    models: list[Model],
    client: redis.Redis,
    tmp_path: Path,
    hash_value: dict[Any, Any],
) -> None:
    client.hset(CURRENT_MODEL_KEY, mapping=hash_value)
    env_file = tmp_path / "ai-engine.env"
    env_file.write_text(f"PATCHTST_MODEL_PATH={models[0].path}\n")

    assert answers_like(follow(env_file=env_file), models[0])


def test_it_needs_no_torch_until_a_model_is_loaded() -> None:
    code = (
        "import sys; from retrain_worker.serving.follower import ModelFollower;"
        "ModelFollower('redis://localhost:1', consumer='x').start();"
        "print([m for m in ('torch', 'numpy', 'msgspec') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
