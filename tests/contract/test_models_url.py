"""Models that a follower fetches: from a folder, an HTTP server, S3. What is wrong there keeps the last good one."""
# ruff: noqa: F811 - fixtures of another module

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from retrain_worker import durable_file, remote_files
from retrain_worker.adapters.event_confirmations import EventConfirmations
from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.domain.current_model import named_by, to_fields
from retrain_worker.domain.events import CURRENT_MODEL_KEY, SERVED_STREAM
from retrain_worker.domain.upload_request import UploadRequest
from retrain_worker.domain.worker_protocol import Broken, Done, OneOffTask, Working
from retrain_worker.errors import DiskFullError, RemoteUnavailableError, RetrainError, SettingsError
from retrain_worker.serving import model_cache, model_watch
from retrain_worker.serving.follower import ModelFollower
from tests.contract.test_model_follower import (  # noqa: F401
    Model,
    answers_like,
    look,
    models,
    promote,
    relay,
    rewritten,
    short_waits,
    wait_until,
)
from tests.known import known
from tests.redis_world import PATIENCE_SECONDS, Clock, RedisServer

ROOT = Path(__file__).parents[2]


class _Server(http.server.ThreadingHTTPServer):
    """Serves a folder; `damage` writes the answer of a GET instead."""

    damage: Callable[[Any, bytes], None] | None = None


class _Handler(http.server.SimpleHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        if self.server.damage is None:
            return super().do_GET()
        content = (Path(self.directory) / self.path.lstrip("/")).read_bytes()
        with contextlib.suppress(OSError):
            self.server.damage(self, content)
        return None

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def _answer(handler: Any, content: bytes, length: int | None) -> None:
    handler.send_response(200)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(content)


def _other_bytes(handler: Any, content: bytes) -> None:
    _answer(handler, bytes(len(content)), len(content))


def _truncated(handler: Any, content: bytes) -> None:
    _answer(handler, content[: len(content) // 2], len(content))


def _cut(handler: Any, content: bytes) -> None:
    _answer(handler, content[: len(content) // 2], len(content) // 2)


def _endless(handler: Any, _content: bytes) -> None:
    _answer(handler, b"", None)
    while True:
        handler.wfile.write(bytes(1 << 16))


def _slow(handler: Any, content: bytes) -> None:
    _answer(handler, b"", len(content))
    for number in range(len(content)):
        handler.wfile.write(content[number : number + 1])
        handler.wfile.flush()
        time.sleep(0.05)


def _gone(handler: Any, _content: bytes) -> None:
    handler.send_error(404)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Any]:
    folder = tmp_path / "web"
    folder.mkdir()
    server = _Server(("127.0.0.1", 0), lambda *given: _Handler(*given, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetch(redis_server: RedisServer, tmp_path: Path) -> Iterator[Any]:
    """A follower on another host: the paths of the hash do not exist there."""
    started = []

    def fetch(models_url: str, *, url: str = redis_server.url, **options: Any) -> ModelFollower:
        given: dict[str, Any] = {"consumer": "engine-7", "cache_directory": tmp_path / "cache", "instance": ""}
        follower = ModelFollower(url, models_url=models_url, **{**given, **options})
        started.append(follower)
        follower.start()
        return follower

    yield fetch
    for follower in started:
        follower.stop()


def put(model: Model, folder: Path) -> None:
    (folder / model.path.name).write_bytes(model.path.read_bytes())


def acknowledgements(client: redis.Redis) -> list[dict[str, Any]]:
    found: Any = client.xrange(SERVED_STREAM)
    return [json.loads(fields[b"payload"]) for _, fields in found]


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_a_promoted_model_is_fetched_verified_and_acknowledged_with_host_and_instance(
    scheme: str, promote: Any, fetch: Any, web: Any, models: list[Model], client: redis.Redis
) -> None:
    _, folder, address = web
    for model in models:
        put(model, folder)
    elsewhere = {"model_path": f"/nowhere/{models[0].path.name}", "model_url": "https://never.example/asked.pth"}
    promote(models[0], **elsewhere)

    follower = fetch(f"file://{folder}" if scheme == "file" else address)

    assert answers_like(follower, models[0]), follower.problem
    promote(models[1], model_path=f"/nowhere/{models[1].path.name}")
    wait_until(lambda: answers_like(follower, models[1]))
    wait_until(lambda: len(acknowledgements(client)) == 2)
    newest = acknowledgements(client)[-1]
    assert (newest["host"], newest["instance"], newest["version"]) == (os.uname().nodename, "", models[1].path.stem)
    (seen,) = EventConfirmations(client).followers()
    assert (seen.consumer, seen.host, seen.version) == ("engine-7", os.uname().nodename, models[1].path.stem)
    assert client.hget(CURRENT_MODEL_KEY, "model_url") == b""


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_other_bytes, "its sha256 is"),
        (_truncated, "cannot be read or written"),
        (_cut, "its sha256 is"),
        (_endless, "more than 10,000,000 bytes"),
        (_slow, "cannot be read or written"),
        (_gone, "FileNotFoundError"),
    ],
)
def test_what_is_wrong_with_the_server_keeps_the_last_good_model_until_it_is_mended(
    damage: Any, why: str, promote: Any, fetch: Any, web: Any, models: list[Model], tmp_path: Path, monkeypatch: Any
) -> None:
    server, folder, address = web
    monkeypatch.setattr(model_cache, "_MAX_BYTES", 10_000_000)
    monkeypatch.setattr(model_watch, "RETRY_SECONDS", 0.2)
    for model in models:
        put(model, folder)
    promote(models[0])
    follower = fetch(address, fetch_timeout_seconds=1.0)
    assert answers_like(follower, models[0])
    server.damage = damage

    promote(models[1])

    wait_until(lambda: why in (follower.problem or ""), why)
    assert f"{models[0].path.stem} continues" in follower.problem
    assert not (tmp_path / f"cache/{models[1].sha256}.pth").exists(), "only verified bytes are written"
    assert answers_like(follower, models[0])
    server.damage = None
    wait_until(lambda: answers_like(follower, models[1]))
    wait_until(lambda: follower.problem is None)


def test_the_last_good_model_is_served_after_a_restart_without_redis_and_without_the_server(
    promote: Any, fetch: Any, web: Any, models: list[Model], client: redis.Redis, tmp_path: Path
) -> None:
    _, folder, address = web
    put(models[0], folder)
    promote(models[0])
    fetch(address).stop()
    away = {"models_url": "http://127.0.0.1:9/gone", "fetch_timeout_seconds": 1.0}

    assert answers_like(fetch(**away, url="unix:///nowhere/redis.sock"), models[0])

    promote(models[1])
    follower = fetch(**away)
    assert answers_like(follower, models[0]), "the new one cannot be fetched"
    assert f"{models[1].path.stem} is refused" in (follower.problem or "")
    look(follower)
    assert answers_like(follower, models[0])
    (tmp_path / "cache/last_good.json").write_text("{")
    assert fetch(**away).served is None


def test_an_offered_model_is_the_last_good_one_when_the_slot_names_it(
    promote: Any, fetch: Any, models: list[Model], client: redis.Redis, clock: Clock, tmp_path: Path
) -> None:
    for model in models[:2]:
        put(model, tmp_path)
    promote(models[0])
    follower = fetch(f"file://{tmp_path}")
    payload = {
        "new_version": models[1].path.stem,
        "model_path": str(models[1].path),
        "sha256": models[1].sha256,
        "promoted_at": (clock() + timedelta(seconds=1)).isoformat(),
    }
    offered = replace(known(named_by("model.promoted", "e", payload)), event_id="", run_id="run")
    offer = {**to_fields(offered), "consumers": ["engine-7"]}
    client.hset(CURRENT_MODEL_KEY, "rollout", json.dumps(offer))
    wait_until(lambda: answers_like(follower, models[1]))
    clock.advance(2.0)
    promote(models[1])
    wait_until(lambda: follower.served is not None and bool(follower.served.named.event_id))
    follower.stop()
    client.hset(CURRENT_MODEL_KEY, "rollout", b"\xff")

    assert answers_like(fetch(f"file://{tmp_path}", url="unix:///nowhere/redis.sock"), models[1])


def test_a_slot_that_names_no_model_is_kept_as_well(
    promote: Any, fetch: Any, models: list[Model], tmp_path: Path
) -> None:
    put(models[0], tmp_path)
    promote(models[0])
    follower = fetch(f"file://{tmp_path}")
    promote(models[0], "model.rolled_back", new_version="none", model_path="", sha256="")
    wait_until(lambda: follower.served is None)
    follower.stop()

    assert fetch(f"file://{tmp_path}", url="unix:///nowhere/redis.sock").served is None


def test_the_cache_keeps_two_files_and_a_full_disk_keeps_the_last_good_one(
    promote: Any, fetch: Any, models: list[Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in models:
        put(model, tmp_path)
    promote(models[0])
    follower = fetch(f"file://{tmp_path}")
    promote(models[1])
    wait_until(lambda: answers_like(follower, models[1]))
    real = durable_file.replace_file

    def full(target: Path, content: bytes, **options: Any) -> None:
        raise DiskFullError("no space left on device", where=str(target))

    monkeypatch.setattr(durable_file, "replace_file", full)
    promote(models[2])
    wait_until(lambda: "no space left on device" in (follower.problem or ""))
    assert answers_like(follower, models[1])

    monkeypatch.setattr(durable_file, "replace_file", real)
    monkeypatch.setattr(model_watch, "RETRY_SECONDS", 0.0)
    follower._watch._retry_at = 0.0
    wait_until(lambda: answers_like(follower, models[2]))
    kept = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert kept == sorted([f"{models[1].sha256}.pth", f"{models[2].sha256}.pth", "last_good.json"])


def test_a_pipe_in_the_folder_is_refused_at_once(promote: Any, fetch: Any, models: list[Model], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / models[0].path.name)
    promote(models[0])
    assert "not a regular file" in (fetch(f"file://{tmp_path}").problem or "")


@pytest.mark.parametrize("name", ["..", "a b.pth", ".hidden.pth", "x" * 300])
def test_a_forged_name_reaches_no_other_file(name: str, promote: Any, fetch: Any, models: list[Model]) -> None:
    promote(models[0], model_path=f"/nowhere/{name}")
    assert "not a plain name of a file" in (fetch("file:///tmp").problem or "")


def test_a_model_at_fault_is_reported_at_once_and_one_that_cannot_be_fetched_the_second_time(
    promote: Any,
    fetch: Any,
    models: list[Model],
    client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "bad").mkdir()

    def wrong(content: dict[str, Any]) -> None:
        content["canary"]["probabilities"] += 0.2

    bad = rewritten(models[1], tmp_path / "bad", wrong)
    put(models[0], tmp_path)
    put(bad, tmp_path)
    promote(models[0])
    follower = fetch(f"file://{tmp_path}")
    promote(bad)
    wait_until(lambda: len(acknowledgements(client)) == 2)
    told = acknowledgements(client)[-1]
    assert (told["version"], told["problem_version"]) == (models[0].path.stem, bad.path.stem)
    assert told["is_fault"] is True
    assert "canary differ" in told["problem"]

    monkeypatch.setattr(model_watch, "RETRY_SECONDS", 0.0)
    promote(models[2])
    wait_until(lambda: len(acknowledgements(client)) == 3)
    assert acknowledgements(client)[-1]["is_fault"] is False

    follower.report_fault("answers NaN")
    wait_until(lambda: len(acknowledgements(client)) == 4)
    assert acknowledgements(client)[-1]["problem_version"] == models[0].path.stem


def test_settings_of_a_follower_are_refused_with_the_reason(tmp_path: Path) -> None:
    for url in (
        "/mnt/models",
        "s3://key:secret@bucket/x",
        "simplecache::http://h/x",
        "http://h/x?token=1",
        "file://mnt",
    ):
        with pytest.raises(SettingsError, match="models_url") as refused:
            ModelFollower("redis://localhost", consumer="c", models_url=url, cache_directory=tmp_path)
        assert "secret" not in str(refused.value)
    with pytest.raises(SettingsError, match="cache_directory"):
        ModelFollower("redis://localhost", consumer="c", models_url="file:///mnt/models")


# ---------------------------------------------------------------- upload


def uploaded(request: UploadRequest, folder: Path, **options: Any) -> Any:
    """The result of a real worker, with its confinement; its error is raised."""
    workers = WorkerProcesses(deadline_seconds={OneOffTask.UPLOAD: 60.0}, **options)
    folder.mkdir(exist_ok=True)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while isinstance(answer := workers.result_of(OneOffTask.UPLOAD, folder, request), Working):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if isinstance(answer, Broken):
        raise answer.error
    assert isinstance(answer, Done)
    return answer.result


def test_a_worker_copies_candidate_and_incumbent_with_their_sidecars_and_repeats_nothing(
    models: list[Model], tmp_path: Path
) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    request = UploadRequest(
        models=((str(models[1].path), models[1].sha256), (str(models[0].path), models[0].sha256), ("/gone.pth", "0")),
        models_url=f"file://{bucket}",
    )
    assert len(uploaded(request, tmp_path / "run").urls) == 6
    for model in models[:2]:
        for suffix in ("", ".sha256", ".json"):
            name = model.path.name + suffix
            assert (bucket / name).read_bytes() == model.path.with_name(name).read_bytes()
    written = {path: path.stat().st_mtime_ns for path in bucket.iterdir()}
    uploaded(request, tmp_path / "again")
    assert {path: path.stat().st_mtime_ns for path in bucket.iterdir()} == written

    with pytest.raises(RetrainError, match="its sha256 is"):
        uploaded(
            UploadRequest(models=((str(models[1].path), "0" * 64),), models_url=f"file://{bucket}"), tmp_path / "b"
        )
    with pytest.raises(RetrainError, match="create it, or name another path"):
        uploaded(UploadRequest(models=request.models, models_url=f"file://{tmp_path}/gone"), tmp_path / "c")


S3 = """
import os, sys, time
from pathlib import Path
import boto3
from moto.server import ThreadedMotoServer
from retrain_worker import remote_files
from retrain_worker.adapters.worker_process import WorkerProcesses
from retrain_worker.domain.upload_request import UploadRequest
from retrain_worker.domain.worker_protocol import OneOffTask, Working
from retrain_worker.errors import RemoteUnavailableError
server = ThreadedMotoServer(port=0, verbose=False); server.start()
host, port = server.get_host_and_port()
access = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_DEFAULT_REGION": "us-east-1",
          "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
path, sha256, folder = sys.argv[1:]
workers = WorkerProcesses(deadline_seconds={OneOffTask.UPLOAD: 60.0}, credentials=access)
request = UploadRequest(models=((path, sha256),), models_url="s3://models/btc")
def answer():
    while isinstance(found := workers.result_of(OneOffTask.UPLOAD, Path(folder), request), Working):
        time.sleep(0.05)
    return found
boto3.client("s3", aws_access_key_id="k", aws_secret_access_key="hidden", region_name="us-east-1",
             endpoint_url=access["AWS_ENDPOINT_URL"]).create_bucket(Bucket="models")
found = answer().result
os.environ |= access
assert found.urls[0] == f"s3://models/btc/{Path(path).name}", found
assert remote_files.read(found.urls[0], limit_bytes=1 << 30, seconds=9) == Path(path).read_bytes()
for url, limit in (("s3://models/btc/none.pth", 9), (found.urls[0], 1000), ("s3://none/x.pth", 9)):
    try:
        remote_files.read(url, limit_bytes=limit, seconds=9)
        raise SystemExit(f"{url} was read")
    except RemoteUnavailableError as error:
        print(error)
written = b"".join(each.read_bytes() for each in Path(folder).iterdir() if each.is_file())
assert b"hidden" not in written and b"models/btc" in written
server.stop()
"""


def test_s3_by_s3fs_against_a_server_of_its_interface(models: list[Model], tmp_path: Path) -> None:
    """s3fs needs an older dateutil than other tests, so it has a folder of its own."""
    packages = ROOT / "build/s3/site-packages"  # a name that mypy leaves out
    if not (packages / "moto").is_dir():
        wanted = ["s3fs", "moto[s3]", "flask", "flask-cors"]
        command = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--target", str(packages)]
        done = subprocess.run(
            [*command, "--python", sys.executable, *wanted], check=False, capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no registry: {done.stderr.strip()[-200:]}")
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", S3, str(models[0].path), models[0].sha256, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{packages}:{ROOT}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.count("s3://") == 3
    assert "hidden" not in ran.stdout


def test_a_missing_package_is_named_with_the_remedy() -> None:
    with pytest.raises(SettingsError) as missing:
        remote_files.read("gs://bucket/x", limit_bytes=9, seconds=1.0)
    assert missing.value.remedy == "pip install gcsfs"
    with pytest.raises(RemoteUnavailableError, match="nosuch"):
        remote_files.read("nosuch://bucket/x", limit_bytes=9, seconds=1.0)
