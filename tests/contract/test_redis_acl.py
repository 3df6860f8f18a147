"""Each role on a real Redis with exactly the rights that `retrain-worker redis-acl` prints, and with one command less.

Without a command a message names it, and what does not work meanwhile; everything else goes on.
"""

import json
import logging
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from retrain_worker.__main__ import main
from retrain_worker.adapters import outbox_relay
from retrain_worker.adapters.event_confirmations import EventConfirmations
from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.request_arrival import SOCKET_SECONDS, RequestArrival
from retrain_worker.adapters.retrain_requests import Requests, trigger
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.adapters.trade_intents import TradeIntents
from retrain_worker.domain.engine_answers import INTENT_STREAM
from retrain_worker.domain.events import CURRENT_MODEL_KEY, REQUEST_STREAM, SERVED_STREAM, EventType, stream_of
from retrain_worker.domain.redis_names import RedisNames
from retrain_worker.domain.redis_rights import RIGHTS, Role, acl_rules, commands_of
from retrain_worker.errors import RedisUnavailableError
from retrain_worker.redis_client import connect
from retrain_worker.serving import ModelEvents, ModelFollower, event_reader, model_watch
from tests.redis_world import Clock, RedisServer, a_promotion, an_event, enqueue

SERVED: dict[Any, Any] = {
    "event_type": "model.served",
    "payload": '{"version": "v", "sha256": "' + "a" * 64 + '", "consumer": "engine-1", "canary_max_error": 0}',
}
ANSWER = {"action": "BUY", "confidence": 1, "version": "v"}
PROMOTED = stream_of(EventType.PROMOTED)


def modern_server() -> str | None:
    """A redis-server of this host with selectors in its ACLs."""
    for path in (shutil.which("redis-server"), "/usr/bin/redis-server", shutil.which("valkey-server")):
        if path and Path(path).exists():
            version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
            if int(re.findall(r"v=(\d+)", version)[0]) >= 7:
                return path
    return None


pytestmark = pytest.mark.skipif(modern_server() is None, reason="no Redis 7 on this host")


@dataclass(frozen=True, kw_only=True)
class Server:
    server: RedisServer
    admin: redis.Redis

    def url(self, role: Role, *, lacking: str = "") -> str:
        """The URL of a user with the rights of `role`, but for one command."""
        rules = " ".join(acl_rules(role, RedisNames()))
        name = f"{role}-{lacking.replace('|', '-') or 'complete'}"
        rules = re.sub(rf"\+{re.escape(lacking)}(?=[ )]|$)", "", rules) if lacking else rules
        self.admin.execute_command("ACL", "SETUSER", name, ">word", *_words(rules))
        return f"unix://{name}:word@{self.server.socket}"

    def refused(self) -> set[str]:
        """The commands and keys that were refused, but for the label of a client."""
        objects = {entry["object"] for entry in self.admin.acl_log()}
        return {text_of(name) for name in objects} - {"client|setinfo"}


def text_of(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _words(rules: str) -> list[str]:
    """The arguments of ACL SETUSER: a selector is one. One that has lost its only command is left out."""
    found = re.findall(r"\([^)]*\)|\S+", rules)
    return [word for word in found if not word.startswith("(") or "+" in word]


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    from tests import redis_world

    path = modern_server()
    patch = pytest.MonkeyPatch()
    patch.setattr(redis_world, "find_server", lambda: path)
    server = RedisServer().start()
    patch.undo()
    yield Server(server=server, admin=redis.Redis(unix_socket_path=str(server.socket)))
    server.remove()


@pytest.fixture
def server(running: Server) -> Server:
    running.admin.flushall()
    running.admin.execute_command("ACL", "LOG", "RESET")
    return running


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_reader, "BLOCK_SECONDS", 0.05)
    monkeypatch.setattr(event_reader, "_LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(model_watch, "BLOCK_SECONDS", 0.05)


# ---------------------------------------------------------------- the product at work, role by role


@dataclass
class Seen:
    """What worked, and what was said."""

    works: dict[str, bool]
    messages: list[str]

    def message_of(self, command: str) -> str:
        return next((message for message in self.messages if f"the command {command}" in message), "")


def daemon(server: Server, url: str, outbox: StateDb, clock: Clock) -> Seen:
    client = connect(url, role=Role.DAEMON)
    relay, works, messages = Relay(client, outbox, clock), dict[str, bool](), list[str]()

    def relayed() -> None:
        clock.advance(60)
        report = relay.relay_once(at_once=True)
        messages.append(report.problem or "")
        messages.extend(report.notices)

    enqueue(outbox, a_promotion(1, at=clock()), an_event(1))
    relayed()
    relayed()
    works["events are published"] = server.admin.xlen(PROMOTED) == 1
    works["the hash is written"] = server.admin.hget(CURRENT_MODEL_KEY, "event_id") is not None
    server.admin.delete(PROMOTED, CURRENT_MODEL_KEY)
    relayed()
    relayed()
    works["lost events are published again"] = server.admin.xlen(PROMOTED) == 1
    server.admin.xadd(SERVED_STREAM, SERVED, id="1-0")
    clock.advance(outbox_relay.TRIM_EVERY.total_seconds() + 1)
    relayed()
    works["old entries are removed"] = server.admin.xlen(SERVED_STREAM) == 0

    requests = Requests(client, clock, abandoned_after=timedelta())
    server.admin.xgroup_create(REQUEST_STREAM, "retraining_workers", id="0", mkstream=True)
    trigger(server.server.client(), reason="left", requested_by="x")
    server.admin.xreadgroup("retraining_workers", "another", {REQUEST_STREAM: ">"})
    server.admin.xadd(REQUEST_STREAM, {"payload": "{"})
    trigger(server.server.client(), reason="new", requested_by="x")
    taken = []
    for _ in range(2):
        clock.advance(60)
        poll = requests.poll()
        messages.append(poll.problem.message if poll.problem else "")
        taken += [request.reason for request in poll.requests]
        requests.acknowledge(request.stream_id for request in poll.requests)
    works["requests are taken"] = taken.count("new") == 1
    works["requests that another consumer has left are taken"] = taken.count("left") == 1
    pending = server.admin.xpending(REQUEST_STREAM, "retraining_workers")["pending"]
    works["requests are acknowledged"] = pending == 0 or "left" not in taken
    works["malformed requests are kept"] = server.admin.xlen("quantum:dead_letter:retraining_workers") == 1

    arrived, lost = threading.Event(), list[str]()
    waiting = connect(url, role=Role.DAEMON, socket_timeout_seconds=SOCKET_SECONDS)
    with RequestArrival(
        waiting, on_arrival=arrived.set, on_loss=lambda problem: lost.append(problem.message)
    ) as arrival:
        until = time.monotonic() + 1
        while not (arrival.is_waiting or lost) and time.monotonic() < until:
            time.sleep(0.01)
        arrived.wait(1)
        time.sleep(0.5)
        arrived.clear()
        trigger(server.server.client(), reason="newest", requested_by="x")
        works["requests are noticed at once"] = arrived.wait(2)
    messages += lost
    waiting.close()

    server.admin.xadd(SERVED_STREAM, SERVED)
    server.admin.xadd(INTENT_STREAM, {"payload": json.dumps({"model_breakdown": {"patchtst": ANSWER}})})
    intents, question = TradeIntents(client, outbox), {"version": "v", "sha256": "a" * 64, "model_path": "/m"}
    for name, confirmations in (("followers", EventConfirmations(client)), ("answers", intents)):
        since = datetime.now(UTC) - timedelta(minutes=1)
        try:
            works[f"{name} confirm"] = confirmations.seen_serving(since=since, **question) is not None
        except RedisUnavailableError as error:
            works[f"{name} confirm"] = False
            messages.append(error.what)
    problem = intents.read(model_path="/m", at=datetime(2020, 1, 1, tzinfo=UTC))
    messages.append(problem.message if problem else "")
    works["answers are counted"] = intents.tally.answers == 1
    client.close()
    return Seen(works=works, messages=messages)


def follower(server: Server, url: str, tmp_path: Path) -> Seen:
    """There is no model file: what is named is refused, and the problem names it."""
    env_file = tmp_path / "ai-engine.env"
    env_file.write_text("PATCHTST_MODEL_PATH=/opt/quantum/ai_engine/models/of_the_env_file.pth\n")
    fields: dict[Any, Any] = {
        "version": "of_the_hash",
        "model_path": "/opt/quantum/ai_engine/models/x.pth",
        "sha256": "a" * 64,
        "size_bytes": "1",
        "run_id": "",
        "promoted_at": datetime.now(UTC).isoformat(),
        "event_id": "e",
        "shadow_only": "true",
        "confirmed": "true",
    }
    server.admin.hset(CURRENT_MODEL_KEY, mapping=fields)
    with ModelFollower(url, consumer="c", env_file=env_file) as one:
        named = one.problem or ""
        watch = one._watch
        watch.served = model_watch.Served(
            bundle=None,  # type: ignore[arg-type]
            version="v",
            model_path=Path("/m"),
            sha256="a" * 64,
            served_at=datetime.now(UTC),
            canary_max_error=0.0,
            named=watch._entries.from_hash({name.encode(): value.encode() for name, value in fields.items()}),
        )
        for _ in range(200):
            if server.admin.xlen(SERVED_STREAM) or "do not acknowledge" in (one.problem or ""):
                break
            one._stopped.wait(0.05)
        for _ in range(40):
            if "does not permit" in (one.problem or ""):  # perhaps noticed after the acknowledgement
                break
            one._stopped.wait(0.05)
        problem = one.problem or ""
    works = {
        "the hash is followed": "of_the_hash" in named,
        "the model is acknowledged": server.admin.xlen(SERVED_STREAM) == 1,
    }
    return Seen(works=works, messages=[named, problem])


def consumer(server: Server, url: str, caplog: pytest.LogCaptureFixture) -> Seen:
    """One entry is pending at another consumer, one was handled, one is malformed, one is new."""
    admin, entries = server.admin, []
    admin.xgroup_create(PROMOTED, "g", id="0", mkstream=True)
    for name in ("handled", "left"):
        entries.append(admin.xadd(PROMOTED, {"event_id": name, "payload": "{}"}))
        admin.xreadgroup("g", "another", {PROMOTED: ">"})
    admin.xack(PROMOTED, "g", entries[0])
    admin.xadd(PROMOTED, {"payload": "{"})
    for name in ("handled", "new", "last"):
        admin.xadd(PROMOTED, {"event_id": name, "payload": "{}"})
    delivered: list[str] = []
    with (
        caplog.at_level(logging.WARNING),
        ModelEvents(url, group="g", consumer="c", types=["model.promoted"], reclaim_after_seconds=0.3) as events,
    ):
        until = time.monotonic() + 3
        while time.monotonic() < until:
            event = next_event(events)
            if event is not None:
                delivered.append(event.event_id)
                events.acknowledge(event)
            if {"left", "last"} <= set(delivered):
                break
    works = {
        "events are delivered": {"new", "last"} <= set(delivered),
        "events that another consumer has left are delivered": "left" in delivered,
        "handled events are not repeated": "handled" not in delivered,
        "handled events are acknowledged": admin.xpending(PROMOTED, "g")["pending"] == 0 or "left" not in delivered,
        "malformed entries are kept": admin.xlen("quantum:dead_letter:g") == 1,
    }
    return Seen(works=works, messages=[record.getMessage() for record in caplog.records])


def next_event(events: ModelEvents) -> Any:
    from retrain_worker.serving.io_drivers import drive

    return drive(events._reader.step(), events._client, events._stopped)


def operator(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Seen:
    server.admin.xadd(PROMOTED, {"payload": "{}"})
    for name, value in {"REDIS_URL": url, "STATE_PATH": str(tmp_path), "DB_PATH": "/none.db"}.items():
        monkeypatch.setenv(name, value)
    messages = []

    def ran(*arguments: str) -> bool:
        monkeypatch.setattr(sys, "argv", ["retrain-worker", *arguments])
        code = main()
        messages.append("".join(capsys.readouterr()))
        return code == 0

    works = {"trigger": ran("trigger"), "events tail": ran("events", "tail")}
    client = connect(url, role=Role.OPERATOR)
    from retrain_worker.adapters.event_tail import EventTail
    from retrain_worker.redis_client import examine

    tail = EventTail(client, [PROMOTED])

    def tried(read: Callable[[], object]) -> bool:
        try:
            read()
        except RedisUnavailableError as error:
            messages.append(error.what)
            return False
        return True

    works["events tail"] &= tried(lambda: tail.newest(1))
    works["events tail --follow"] = not works["events tail"] or tried(tail.coming)
    works["check"] = tried(lambda: examine(client))
    client.close()
    return Seen(works=works, messages=messages)


@pytest.fixture
def at_work(
    server: Server,
    outbox: StateDb,
    clock: Clock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Seen]:
    def at_work(role: Role, *, lacking: str = "") -> Seen:
        url = server.url(role, lacking=lacking)
        match role:
            case Role.DAEMON:
                return daemon(server, url, outbox, clock)
            case Role.FOLLOWER | Role.ENGINE:
                found = follower(server, url, tmp_path)
                if role is Role.ENGINE:
                    with publishing(server, url, found):
                        connect(url, role=role).xadd(INTENT_STREAM, {"payload": "{}"})
                return found
            case Role.CONSUMER:
                return consumer(server, url, caplog)
            case Role.OPERATOR:
                return operator(server, url, monkeypatch, capsys, tmp_path)

    return at_work


@contextmanager
def publishing(server: Server, url: str, found: Seen) -> Iterator[None]:
    """The engine's own entries."""
    from retrain_worker.redis_client import problem_of

    try:
        yield
    except redis.exceptions.NoPermissionError as error:
        found.messages.append(problem_of(error, connect(url, role=Role.ENGINE), key=INTENT_STREAM).message)
    found.works["answers are published"] = server.admin.xlen(INTENT_STREAM) == 1


@pytest.mark.parametrize("role", list(Role))
def test_the_rights_of_a_role_are_enough(role: Role, server: Server, at_work: Callable[..., Seen]) -> None:
    seen = at_work(role)

    assert [what for what, works in seen.works.items() if not works] == []
    assert server.refused() == set()
    assert not any("does not permit" in message for message in seen.messages)


#: role and command -> what does not work without it; where it is not named, everything works, a little later
LOST: dict[tuple[Role, str], set[str]] = {
    (Role.DAEMON, "info"): set(),
    (Role.DAEMON, "xadd"): {
        "events are published",
        "lost events are published again",
        "malformed requests are kept",
    },
    (Role.DAEMON, "multi"): set(),
    (Role.DAEMON, "exec"): {"events are published", "lost events are published again"},
    (Role.DAEMON, "xinfo|stream"): {
        "events are published",
        "the hash is written",
        "lost events are published again",
        "requests are noticed at once",
    },
    (Role.DAEMON, "xread"): {"requests are noticed at once"},
    (Role.DAEMON, "xrange"): {"lost events are published again", "answers are counted"},
    (Role.DAEMON, "hset"): {"the hash is written"},
    (Role.DAEMON, "hmget"): set(),
    (Role.DAEMON, "watch"): set(),  # of a leader: test_fencing.py
    (Role.DAEMON, "unwatch"): set(),
    (Role.DAEMON, "xinfo|groups"): {"old entries are removed"},
    (Role.DAEMON, "xpending"): set(),
    (Role.DAEMON, "xtrim"): {"old entries are removed"},
    (Role.DAEMON, "xgroup|create"): set(),
    (Role.DAEMON, "xreadgroup"): {
        "requests are taken",
        "requests that another consumer has left are taken",
        "malformed requests are kept",
    },
    (Role.DAEMON, "xautoclaim"): {"requests that another consumer has left are taken"},
    (Role.DAEMON, "xack"): {"requests are acknowledged"},
    (Role.DAEMON, "xrevrange"): {"followers confirm", "answers confirm"},
    (Role.FOLLOWER, "hmget"): {"the hash is followed"},
    (Role.FOLLOWER, "xread"): set(),
    (Role.FOLLOWER, "xinfo|stream"): set(),
    (Role.FOLLOWER, "xadd"): {"the model is acknowledged"},
    (Role.ENGINE, "xadd"): {"the model is acknowledged", "answers are published"},
    (Role.CONSUMER, "xgroup|create"): {
        "events are delivered",
        "events that another consumer has left are delivered",
        "malformed entries are kept",
    },
    (Role.CONSUMER, "xreadgroup"): {"events are delivered", "malformed entries are kept"},
    (Role.CONSUMER, "xinfo|groups"): {"handled events are not repeated"},
    (Role.CONSUMER, "xrevrange"): {"handled events are not repeated"},
    (Role.CONSUMER, "xack"): {"handled events are acknowledged"},
    (Role.CONSUMER, "xpending"): {"events that another consumer has left are delivered"},
    (Role.CONSUMER, "xclaim"): {"events that another consumer has left are delivered"},
    (Role.CONSUMER, "xrange"): set(),
    (Role.CONSUMER, "xadd"): {"malformed entries are kept"},
    (Role.OPERATOR, "xadd"): set(),  # the request is stored for the daemon
    (Role.OPERATOR, "wait"): set(),  # used with sentinels
    (Role.OPERATOR, "xinfo|stream"): {"events tail"},
    (Role.OPERATOR, "xrevrange"): {"events tail"},
    (Role.OPERATOR, "xread"): {"events tail --follow"},
    (Role.OPERATOR, "info"): {"check"},
}
#: needed only where something else has happened before
SELDOM = {
    (Role.DAEMON, "xgroup|create"),
    (Role.DAEMON, "xpending"),
    (Role.CONSUMER, "xrange"),
    (Role.OPERATOR, "wait"),
    (Role.DAEMON, "watch"),
    (Role.DAEMON, "unwatch"),
}


def test_every_command_is_taken_away_once() -> None:
    shared = {(Role.ENGINE, command) for command in commands_of(Role.FOLLOWER)} - {(Role.ENGINE, "xadd")}
    assert {(role, command) for role in RIGHTS for command in commands_of(role)} - shared == set(LOST)


@pytest.mark.parametrize(("role", "command"), LOST, ids=str)
def test_without_a_command_a_message_names_it_and_everything_else_goes_on(
    role: Role, command: str, at_work: Callable[..., Seen]
) -> None:
    seen = at_work(role, lacking=command)

    assert {what for what, works in seen.works.items() if not works} == LOST[role, command], seen.messages
    if (role, command) not in SELDOM:
        message = seen.message_of(command)
        assert f"does not permit the command {command}: " in message, seen.messages
        assert "grant the rights that `retrain-worker redis-acl` prints" in message
        print(message)


@pytest.mark.parametrize("role", [Role.DAEMON, Role.FOLLOWER])
def test_a_label_that_is_refused_is_not_missed(role: Role, at_work: Callable[..., Seen]) -> None:
    seen = at_work(role, lacking="client|setname")

    assert all(seen.works.values())
    assert not any("does not permit" in message for message in seen.messages)


def test_no_role_can_forge_what_another_one_writes(server: Server) -> None:
    for role, keys in {
        Role.CONSUMER: (PROMOTED, SERVED_STREAM, REQUEST_STREAM),
        Role.FOLLOWER: (PROMOTED, REQUEST_STREAM, INTENT_STREAM),
        Role.OPERATOR: (PROMOTED, SERVED_STREAM),
        Role.ENGINE: (PROMOTED, REQUEST_STREAM),
    }.items():
        client = connect(server.url(role))
        for key in keys:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.xadd(key, {"payload": "{}"})
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.hset(CURRENT_MODEL_KEY, "version", "v")
        client.close()


def test_the_command_prints_a_line_for_each_role_that_redis_accepts(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["retrain-worker", "redis-acl"])
    monkeypatch.setenv("REDIS_PREFIX", "staging")
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()

    assert len(lines) == len(Role)
    for line in lines:
        assert "~staging:stream:" in line
        assert "quantum" not in line
        words = _words(line)
        assert server.admin.execute_command(*words)
    assert {user.split()[1] for user in server.admin.acl_list()} >= {f"retrain-{role}" for role in Role}
