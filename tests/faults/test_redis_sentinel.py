"""Sentinel, TLS with client certificates and passwords, on real servers; a failover under each user of Redis."""

import asyncio
import contextlib
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import torch
from redis.exceptions import RedisError

from retrain_worker import settings
from retrain_worker.adapters.embedded_redis import find_server
from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.retrain_requests import Requests, trigger
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain import artifact
from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.events import EventType
from retrain_worker.domain.recipe import InputTransform, Preset
from retrain_worker.errors import RedisUnavailableError, SettingsError
from retrain_worker.model import bundle, presets
from retrain_worker.model.patchtst import PatchTST
from retrain_worker.redis_client import connect, problem_of, where_is
from retrain_worker.serving import AsyncModelEvents, event_reader
from retrain_worker.serving.follower import ModelFollower
from tests.redis_world import PATIENCE_SECONDS, Clock, an_event, enqueue
from tests.sentinel_world import MASTER, SentinelWorld

PASSWORD = "hunter2"
CONTRACT = ModelContract(
    preset=Preset.PAPER, context_length=32, feature_names=("rsi",), input_transform=InputTransform.INSTANCE
)
_REQUEST_SECONDS = 0.02


@dataclass(frozen=True)
class Certificates:
    """An authority, and a certificate that it has signed for 127.0.0.1, used by servers and clients."""

    folder: Path

    def make(self) -> None:
        (self.folder / "san").write_text("subjectAltName=IP:127.0.0.1")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        for command in (
            ("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority"),
            ("req", *key, "-keyout", "own.key", "-out", "own.csr", "-subj", "/CN=test"),
            (
                *("x509", "-req", "-in", "own.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-out", "own.pem"),
                "-extfile",
                "san",
            ),
        ):
            subprocess.run(["openssl", *command], cwd=self.folder, check=True, capture_output=True)

    @property
    def lines(self) -> dict[str, str]:
        """Options of Redis."""
        names = {"tls-ca-cert-file": "ca.pem", "tls-cert-file": "own.pem", "tls-key-file": "own.key"}
        files = {option: str(self.folder / name) for option, name in names.items()}
        return {"port": "0", **files, "tls-auth-clients": "yes", "tls-replication": "yes"}

    @property
    def environment(self) -> dict[str, str]:
        """Settings."""
        names = {"REDIS_CA": "ca.pem", "REDIS_CERT": "own.pem", "REDIS_KEY": "own.key"}
        return {name: str(self.folder / file) for name, file in names.items()}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("tls"))
    made.make()
    return made


@pytest.fixture(scope="module")
def world(certificates: Certificates) -> Iterator[SentinelWorld]:
    """Everything over TLS, and with a password."""
    if b"SSL_CTX_new" not in find_server().read_bytes():
        pytest.skip("this server was built without TLS")
    given = certificates.environment

    def plain(port: int) -> redis.Redis:
        return redis.Redis(
            port=port,
            password=PASSWORD,
            ssl=True,
            ssl_ca_certs=given["REDIS_CA"],
            ssl_certfile=given["REDIS_CERT"],
            ssl_keyfile=given["REDIS_KEY"],
            ssl_check_hostname=False,
        )

    options = {**certificates.lines, "requirepass": PASSWORD, "masterauth": PASSWORD}
    of_sentinels = {**certificates.lines, "requirepass": PASSWORD, "sentinel sentinel-pass": PASSWORD}
    made = SentinelWorld(
        options=[word for name, value in options.items() for word in (f"--{name}", value)],
        sentinel_options="".join(f"{name} {value}\n" for name, value in of_sentinels.items()),
        sentinel_ending=f"sentinel auth-pass {MASTER} {PASSWORD}\n",
        port_option="--tls-port",
        plain=plain,
    )
    try:
        yield made.start()
    finally:
        made.remove()


def url_of(world: SentinelWorld, certificates: Certificates, **changed: str) -> str:
    """As the daemon, and anybody who follows it, gets it."""
    url = f"rediss+sentinel://:{PASSWORD}@{world.hosts}/{MASTER}/0?sentinel_password={PASSWORD}"
    return str(settings.load({"REDIS_URL": url, **certificates.environment, **changed}).redis_url)


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def test_without_a_client_certificate_or_with_another_authority_there_is_no_connection(
    world: SentinelWorld, certificates: Certificates
) -> None:
    with contextlib.closing(connect(url_of(world, certificates))) as client:
        assert client.ping()
        assert where_is(client).startswith("redis+sentinel://127.0.0.1:")
        assert where_is(client).endswith("/mymaster/0")
    port, secret = world.master_port(), f":{PASSWORD}@127.0.0.1"
    direct = str(settings.load({"REDIS_URL": f"rediss://{secret}:{port}/0", **certificates.environment}).redis_url)
    with contextlib.closing(connect(direct)) as client:
        assert client.ping()
    for url in (
        url_of(world, certificates, REDIS_CERT="", REDIS_KEY=""),
        url_of(world, certificates, REDIS_CA=""),
        url_of(world, certificates, REDIS_KEY="/nowhere"),
        f"rediss://{secret}:{port}/0",
        direct.replace("own.key", "ca.key"),
    ):
        with contextlib.closing(connect(url)) as client:
            with pytest.raises(RedisError) as refused:
                client.ping()
            problem = problem_of(refused.value, client)
        assert problem.is_transient
        assert PASSWORD not in problem.message
        assert "has no master" in problem.message or "cannot be reached" in problem.message, problem


def test_files_of_tls_without_tls_are_a_problem() -> None:
    with pytest.raises(SettingsError, match="TLS needs a REDIS_URL of rediss://"):
        settings.load({"REDIS_URL": "redis://h/0", "REDIS_CA": "/ca.pem"})
    for url in ("redis://h/0?ssl_ca_certs=/ca.pem", "redis+sentinel://h/mymaster?ssl_ca_certs=/ca.pem"):
        with pytest.raises(SettingsError, match="options of TLS need rediss"):
            connect(url)


@pytest.mark.parametrize(
    "url", ["redis+sentinel://h", "redis+sentinel://h:1,h:2/", "redis+sentinel://h:99999/mymaster"]
)
def test_a_url_of_sentinels_names_a_master(url: str) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        connect(url)


@pytest.fixture
def models(tmp_path: Path) -> list[tuple[Path, str]]:
    """Two models, and their sha256."""
    made = []
    for number in range(2):
        torch.manual_seed(number)
        path = artifact.model_file(tmp_path, f"patchtst_v20260101_00000{number}")
        manifest = bundle.write(
            path,
            model=PatchTST(presets.config_for(CONTRACT, dropout=0.0)),
            contract=CONTRACT,
            canary_windows=np.zeros((2, 32, 1), np.float32),
            origin=bundle.Origin(),
        )
        made.append((path, manifest.sha256))
    return made


@dataclass
class Asker:
    """Requests runs until it is stopped, in a thread."""

    client: redis.Redis
    stopped: threading.Event = field(default_factory=threading.Event)
    #: entries that a replica has, entries that none has yet, and calls that have failed
    safe: list[str] = field(default_factory=list)
    unsafe: list[str] = field(default_factory=list)
    num_failed: int = 0

    def ask(self) -> None:
        while not self.stopped.wait(_REQUEST_SECONDS):
            try:
                added = trigger(self.client, reason="test", requested_by="test")
            except RedisUnavailableError:
                self.num_failed += 1
            else:
                (self.safe if added.is_replicated else self.unsafe).append(added.entry_id)


def take(requests: Requests, taken: Counter[str]) -> bool:
    """Take what there is, as the daemon does; whether Redis has answered."""
    found = requests.poll()
    requests.acknowledge(request.stream_id for request in found.requests)
    taken.update(request.stream_id for request in found.requests)
    return found.problem is None and not found.is_full


def promotion(number: int, model: tuple[Path, str], at: datetime) -> Any:
    path, sha256 = model
    named = {"new_version": path.stem, "model_path": str(path), "sha256": sha256, "size_bytes": 1}
    return an_event(number, EventType.PROMOTED, at=at, promoted_at=at.isoformat(), **named)


def test_requests_a_follower_and_a_consumer_live_through_a_failover(
    world: SentinelWorld,
    certificates: Certificates,
    models: list[tuple[Path, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_reader, "BLOCK_SECONDS", 0.2)
    url = url_of(world, certificates)
    clock, handled, taken = Clock(), list[str](), Counter[str]()
    with contextlib.ExitStack() as resources:
        asking, reading, relaying = (resources.enter_context(contextlib.closing(connect(url))) for _ in range(3))
        outbox = resources.enter_context(StateDb(tmp_path / "state.db"))
        relay, requests = Relay(relaying, outbox, clock), Requests(reading, clock)
        enqueue(outbox, promotion(0, models[0], clock()))
        relay.relay_once()
        follower = resources.enter_context(ModelFollower(url, consumer="engine", allowed_directories=[tmp_path]))
        assert follower.wait_for_model(PATIENCE_SECONDS)

        async def consume() -> None:
            async with AsyncModelEvents(url, group="service", consumer="host") as events:
                async for event in events:
                    handled.append(event.event_id)
                    await events.acknowledge(event)
                    if len(set(handled)) == 2:
                        return

        consumer = threading.Thread(target=asyncio.run, args=(consume(),))
        consumer.start()
        asker = Asker(asking)
        asking_thread = threading.Thread(target=asker.ask)
        asking_thread.start()
        wait_until(lambda: take(requests, taken) and len(taken) >= 10, "requests before the failover")
        killed = world.kill_master()
        wait_until(lambda: asker.num_failed, "a request during the failover")
        world.wait_failover(killed)
        enqueue(outbox, promotion(1, models[1], clock()))
        wait_until(lambda: relay.relay_once(at_once=True).pending == 0, "the relay")
        wait_until(lambda: follower.served and follower.served.sha256 == models[1][1], "the newer model")
        num_before = len(asker.unsafe)
        wait_until(lambda: len(asker.unsafe) > num_before, "requests after the failover, when there is no replica")
        asker.stopped.set()
        asking_thread.join()
        consumer.join(PATIENCE_SECONDS)
        clock.advance(31)
        wait_until(lambda: take(requests, taken), "the last requests")

    lost, again = set(asker.safe) - set(taken), sum(count > 1 for count in taken.values())
    print(
        f"requests: {len(asker.safe)} confirmed by a replica, {len(asker.unsafe)} by the master only, "
        f"{asker.num_failed} refused; of the confirmed ones {len(lost)} lost; {again} delivered again; "
        f"{len(handled)} of 2 events handled"
    )
    assert lost == set()
    assert len(handled) == 2
