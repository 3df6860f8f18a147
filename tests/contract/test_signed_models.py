"""A follower that requires signatures serves what this worker has promoted, whoever writes to Redis or to its files."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from retrain_worker import settings, signing
from retrain_worker.adapters.model_slot import ModelSlot
from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.cli.checks import _signatures
from retrain_worker.daemon.signatures import required_verifier, signer_of, verifier_of
from retrain_worker.domain import signed_statement
from retrain_worker.domain.artifact import signature_file
from retrain_worker.domain.current_model import from_fields
from retrain_worker.domain.events import CURRENT_MODEL_KEY, EventType, stream_of
from retrain_worker.errors import ArtifactError, SettingsError
from retrain_worker.redis_client import entries_in
from retrain_worker.serving import model_watch
from retrain_worker.serving.follower import ModelFollower
from retrain_worker.serving.io_drivers import drive
from retrain_worker.signing import Signer, Verifier
from tests.redis_world import Clock, RedisServer, an_event, enqueue
from tests.slot_home import write_model

STATEMENT = {"purpose": "model", "sha256": "a" * 64, "promoted_at": "2026-01-10T00:00:00+00:00"}
Model = tuple[Path, str]


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer(signing.new_key())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    """Two that are promoted, and one that is not."""
    folder = tmp_path_factory.mktemp("models")
    return [write_model(folder, f"patchtst_v2026010{day}_000000", seed=day) for day in (1, 2, 3)]


@pytest.fixture
def promote(client: redis.Redis, outbox: StateDb, clock: Clock, signer: Signer) -> Callable[..., dict[str, str]]:
    """Put a model into service as the daemon does; the hash after it."""
    relay = Relay(client, outbox, clock, signer=signer, origin={"instance": "blue"})

    def promote(model: Model, event_type: EventType = EventType.PROMOTED) -> dict[str, str]:
        clock.advance(1)
        at = clock().isoformat()
        instants = {"promoted_at": at, "rolled_back_at": at, "changed_at": at}
        named = {"new_version": model[0].stem, "model_path": str(model[0]), "sha256": model[1], "size_bytes": 1}
        enqueue(outbox, an_event(int(clock().timestamp() * 1e6), event_type, at=clock(), **named, **instants))
        relay.relay_once(at_once=True)
        return hash_of(client)

    return promote


@pytest.fixture
def follow(
    redis_server: RedisServer, models: list[Model], signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., ModelFollower]]:
    monkeypatch.setattr(model_watch, "BLOCK_SECONDS", 0.05)
    started: list[ModelFollower] = []

    def follow(**options: Any) -> ModelFollower:
        keys: dict[str, Any] = {"require_signature": True, "public_keys": [signer.public_key], "instance": "blue"}
        directories = [models[0][0].parent]
        follower = ModelFollower(redis_server.url, consumer="c", allowed_directories=directories, **keys | options)
        started.append(follower)
        return follower

    yield follow
    for follower in started:
        follower._client.close()


def hash_of(client: redis.Redis) -> dict[str, str]:
    # the follower of the instance reads a key of its own
    return {name.decode(): value.decode() for name, value in client.hgetall(CURRENT_MODEL_KEY).items()}


def update(follower: ModelFollower) -> Path | None:
    """What it serves after another look."""
    drive(follower._watch.update(), follower._client, follower._stopped)
    return follower.served.model_path if follower.served else None


@pytest.fixture(autouse=True)
def one_key_for_all_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else Redis keeps the instances apart by the name of the key, before any signature does."""
    monkeypatch.setattr("retrain_worker.domain.redis_names.RedisNames.actual", lambda _self, name: name)


def write(client: redis.Redis, fields: dict[str, str]) -> None:
    client.delete(CURRENT_MODEL_KEY)
    client.hset(CURRENT_MODEL_KEY, items=[each for pair in fields.items() for each in pair])


def forged(genuine: dict[str, str], **changes: str) -> dict[str, str]:
    return genuine | changes


def test_what_the_worker_puts_into_service_is_followed(
    promote: Callable[..., dict[str, str]], follow: Callable[..., ModelFollower], models: list[Model]
) -> None:
    follower = follow()
    for model, kind in ((0, EventType.PROMOTED), (1, EventType.PROMOTED), (0, EventType.ROLLED_BACK)):
        promote(models[model], kind)
        assert update(follower) == models[model][0]
        assert follower.problem is None


def test_no_entry_of_another_hand_changes_anything(
    promote: Callable[..., dict[str, str]],
    follow: Callable[..., ModelFollower],
    models: list[Model],
    client: redis.Redis,
    signer: Signer,
) -> None:
    first = promote(models[0])
    genuine = promote(models[1])
    follower = follow()
    assert update(follower) == models[1][0]
    path, sha256 = models[2]
    other = {"model_path": str(path), "sha256": sha256, "version": path.stem}
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    stranger = Signer(signing.new_key())
    by_stranger = forged(genuine, **other, promoted_at=later)
    statement = signed_statement.of_slot(from_fields(by_stranger), instance="blue")
    elsewhere = forged(genuine, **other, promoted_at=later)
    entries = {
        "another model": forged(genuine, **other),
        "a later date": forged(genuine, promoted_at=later),
        "both, without a signature": forged(genuine, **other, promoted_at=later, signature=""),
        "an unknown key": by_stranger | {"signature": stranger.sign(statement)},
        "a known key id": by_stranger | {"signature": f"{signer.key_id}:{stranger.sign(statement).partition(':')[2]}"},
        "of another instance": elsewhere
        | {"signature": signer.sign(signed_statement.of_slot(from_fields(elsewhere), instance="green"))},
        "of another purpose": elsewhere
        | {
            "signature": signer.sign(
                {**signed_statement.of_slot(from_fields(elsewhere), instance="blue"), "purpose": "model"}
            )
        },
        "no model": forged(genuine, model_path="", sha256="", version="none", promoted_at=later),
        "no base64": forged(genuine, signature=f"{signer.key_id}:\udcff".encode(errors="replace").decode()),
    }
    for name, entry in entries.items():
        write(client, entry)
        assert update(follower) == models[1][0], name
        assert "is ignored" in str(follower.problem), name
        assert update(follow()) is None, f"a new follower: {name}"

    write(client, first)  # replay: signed, and older than what is served
    assert update(follower) == models[1][0]

    write(client, genuine)
    assert update(follower) == models[1][0]
    assert follower.problem is None


def test_an_external_change_of_the_slot_is_not_signed(
    promote: Callable[..., dict[str, str]],
    follow: Callable[..., ModelFollower],
    models: list[Model],
    client: redis.Redis,
) -> None:
    follower = follow()
    promote(models[0])
    assert update(follower) == models[0][0]
    assert promote(models[2], EventType.CHANGED_EXTERNALLY)["signature"] == ""
    assert update(follower) == models[0][0]
    assert update(follow(require_signature=False)) == models[2][0]
    entries = entries_in(client.xrange(stream_of(EventType.CHANGED_EXTERNALLY)))
    assert [fields.get(b"signature", b"") for _, fields in entries] == [b""]


def test_the_event_of_a_promotion_carries_the_signature_of_the_slot(
    promote: Callable[..., dict[str, str]], models: list[Model], client: redis.Redis, signer: Signer
) -> None:
    current = promote(models[0])
    ((_, fields),) = entries_in(client.xrange(stream_of(EventType.PROMOTED)))
    assert fields[b"signature"].decode() == current["signature"]
    statement = signed_statement.of_slot(from_fields(current), instance="blue")
    assert Verifier([signer.public_key]).check(statement, current["signature"]) == signer.key_id


def test_while_redis_is_down_the_env_file_counts_with_a_signed_model_only(
    follow: Callable[..., ModelFollower], redis_server: RedisServer, models: list[Model], signer: Signer, tmp_path: Path
) -> None:
    redis_server.kill()
    env_file = tmp_path / "ai-engine.env"
    (path, sha256), (other, _) = models[0], models[2]
    signer.write(path, STATEMENT | {"sha256": sha256})
    follower = follow(env_file=env_file)
    for model, expected in ((other, None), (path, path), (other, path)):
        env_file.write_text(f"PATCHTST_MODEL_PATH={model}\n")
        assert update(follower) == expected
    assert "not signed" in str(follower.problem)
    signature_file(path).unlink()


def test_two_keys_are_valid_while_they_are_changed_and_no_third(signer: Signer) -> None:
    other = Signer(signing.new_key())
    both = Verifier([signer.public_key, other.public_key])
    assert [both.check(STATEMENT, each.sign(STATEMENT)) for each in (signer, other)] == [signer.key_id, other.key_id]
    with pytest.raises(ArtifactError, match=f"not signed with key {other.key_id}"):
        Verifier([other.public_key]).check(STATEMENT, signer.sign(STATEMENT))
    for keys in ([], [signer.public_key, other.public_key, Signer(signing.new_key()).public_key]):
        with pytest.raises(SettingsError, match="public keys"):
            Verifier(keys)


@pytest.mark.parametrize("text", ["", "hunter2", "aHVudGVyMg==", "not base64"])
def test_a_text_that_is_no_key_is_a_settings_error_without_it(text: str) -> None:
    for kind in (Signer, lambda key: Verifier([key])):
        with pytest.raises(SettingsError) as caught:
            kind(text)
        assert not text or text not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"statement": {}, "signature": ""}', "[" * 100_000])
def test_a_signature_file_that_is_none_is_refused(tmp_path: Path, signer: Signer, content: str) -> None:
    model = tmp_path / "m.pth"
    signature_file(model).write_text(content)
    with pytest.raises(ArtifactError):
        Verifier([signer.public_key]).check_model(model, "a" * 64)


def test_a_published_model_is_signed_and_keeps_its_signature_when_it_is_withdrawn(
    tmp_path: Path, models: list[Model], signer: Signer
) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "ai-engine.env").write_text("PATCHTST_SHADOW_ONLY=true\n")
    slot = ModelSlot(
        engine_models_dir=tmp_path / "engine",
        engine_env_file=tmp_path / "ai-engine.env",
        withdrawn_dir=tmp_path / "withdrawn",
        signer=signer,
        instance="blue",
    )
    verifier = Verifier([signer.public_key])
    candidate, sha256 = models[0]
    published = slot.publish(candidate, expected_sha256=sha256)

    statement = verifier.check_model(published, sha256).statement
    named = {name: statement[name] for name in ("version", "instance", "run_id", "purpose")}
    assert named == {
        "version": candidate.stem,
        "instance": "blue",
        "run_id": "20260101_000000",
        "purpose": "model",
    }
    assert json.loads(statement["contract"])["feature_names"] == ["rsi", "ma_cross"]
    slot.keep_only(None)
    assert not signature_file(published).exists()
    verifier.check_model(slot.located(published), sha256)
    slot.restore(published, expected_sha256=sha256)
    verifier.check_model(published, sha256)
    with pytest.raises(ArtifactError, match="another file"):
        verifier.check_model(published, "b" * 64)


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "retrain_worker", *map(str, arguments)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_keygen_writes_a_key_that_inspect_verifies(tmp_path: Path, models: list[Model]) -> None:
    made = command("keygen", tmp_path / "key")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    private_key = (tmp_path / "key").read_text()
    assert private_key.strip() not in made.stdout
    public_key = made.stdout.partition("MODEL_PUBLIC_KEYS=")[2].strip()
    assert (
        command("keygen", tmp_path / "key").returncode == os.EX_USAGE or (tmp_path / "key").read_text() == private_key
    )

    path, sha256 = models[1]
    unsigned = command("inspect", path, MODEL_PUBLIC_KEYS=public_key)
    assert (unsigned.returncode, "INVALID: not signed" in unsigned.stdout) == (11, True)
    Signer(private_key).write(path, STATEMENT | {"sha256": sha256, "run_id": "r"})
    signed = command("inspect", path, "--public-key", public_key)
    assert (signed.returncode, "valid, by key" in signed.stdout) == (0, True), signed.stdout
    unknown = command("inspect", path, "--json", "--public-key", Signer(signing.new_key()).public_key)
    assert (unknown.returncode, json.loads(unknown.stdout)[0]["is_signature_valid"]) == (11, False)
    assert "not verified" in command("inspect", path).stdout
    signature_file(path).unlink()


def test_the_keys_of_the_settings(tmp_path: Path, signer: Signer) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(signing.new_key() + "\n")
    key_file.chmod(0o600)
    known = {"SIGNING_KEY_FILE": str(key_file)}

    def found(**environment: str) -> settings.Settings:
        return settings.load(environment, home=tmp_path)

    assert signer_of(found()) is None
    assert "not signed" in _signatures(found()).finding
    ours = signer_of(found(**known))
    assert ours is not None
    assert ours.key_id in _signatures(found(**known)).finding
    assert verifier_of(found(**known), ours) is not None
    assert required_verifier(found(**known), ours) is None
    check = _signatures(found(**known, MODEL_PUBLIC_KEYS=signer.public_key))
    assert (check.is_ok, ours.public_key in check.remedy) == (False, True)
    with pytest.raises(SettingsError, match="MODEL_PUBLIC_KEYS names no key"):
        required_verifier(found(SIGNED_MODELS="required"))
    assert not _signatures(found(SIGNED_MODELS="required", MODEL_PUBLIC_KEYS=signer.public_key)).is_ok
    key_file.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        signer_of(found(**known))
    with pytest.raises(SettingsError, match="cannot be read"):
        signer_of(found(SIGNING_KEY_FILE=str(tmp_path / "missing")))
