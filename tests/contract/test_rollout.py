"""A staged promotion with real followers, Redis and relay: it passes, or a fault at an early host ends it."""
# ruff: noqa: F811 - fixtures of another module

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from retrain_worker.adapters.event_confirmations import EventConfirmations
from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.acknowledgement import Acknowledgement
from retrain_worker.domain.confirmation import Quorum, quorum_of
from retrain_worker.domain.events import CURRENT_MODEL_KEY, EventType, stream_of
from retrain_worker.domain.facts import RolloutFacts
from retrain_worker.domain.lifecycle import DeploymentState, Outcome, Run, Stage
from retrain_worker.domain.rollout import Offer, RolloutPolicy, judged, offered, ordered, serving, stages_of
from retrain_worker.errors import MalformedError
from retrain_worker.serving.follower import ModelFollower
from retrain_worker.serving.slot_entry import SlotEntries
from retrain_worker.signing import Signer, Verifier, new_key
from retrain_worker.stages.advance import advance
from retrain_worker.stages.rollout import offer_in
from tests.contract.test_model_follower import (  # noqa: F401
    Model,
    answers_like,
    models,
    rewritten,
    short_waits,
    wait_until,
)
from tests.contract.test_run_store import DEPLOYMENT
from tests.fakes import FakeContext, FakeSlot, fake_context
from tests.redis_world import PATIENCE_SECONDS, Clock, RedisServer, an_event, enqueue
from tests.run_facts import gate_facts, train_facts
from tests.unit.test_current_model import MODEL, PAYLOAD

RUN_ID = "20260101_000001"
VERSION = f"patchtst_v{RUN_ID}"
CONSUMERS = [f"engine-{number}" for number in range(5)]
FIRST, *OTHERS = ordered(CONSUMERS, VERSION)


def _now() -> datetime:
    return datetime.now(UTC)


class World:
    """A daemon's promotion, step by step, and five followers of the incumbent."""

    def __init__(self, server: RedisServer, root: Path, models: list[Model], policy: RolloutPolicy) -> None:
        self.client = server.client()
        self.old, self.new = models[:2]
        self.confirmations = EventConfirmations(self.client)
        slot = FakeSlot(
            named=self.old.path, hashes={str(self.old.path): self.old.sha256, str(self.new.path): self.new.sha256}
        )
        context = fake_context(
            root,
            clock=_now,
            slot=slot,
            confirmations=self.confirmations,
            acknowledgements=self.confirmations.acknowledgements,
        )
        policies = replace(context.policies, rollout=policy, engine_confirm_seconds=PATIENCE_SECONDS)
        self.context: FakeContext = replace(context, policies=policies)
        store = self.context.store
        self.relay = Relay(self.client, store, _now, offer=lambda: offer_in(store, self.context.policies))
        fields = {
            "new_version": self.old.path.stem,
            "model_path": str(self.old.path),
            "sha256": self.old.sha256,
            "promoted_at": _now().isoformat(),
        }
        enqueue(store, an_event(1, EventType.PROMOTED, at=_now(), **fields))
        self.relay.relay_once(at_once=True)
        self.followers = {
            name: ModelFollower(server.url, consumer=name, allowed_directories=[self.old.path.parent, root])
            for name in CONSUMERS
        }
        for follower in self.followers.values():
            follower.start()
        wait_until(lambda: len(self.confirmations.followers()) == len(CONSUMERS))
        self.seen: list[frozenset[str]] = []
        self.run = Run(
            run_id=RUN_ID,
            requested_by="x",
            request_reason="",
            created_at=_now(),
            updated_at=_now(),
            stage=Stage.PROMOTE,
        ).with_fact(
            train_facts(
                version=VERSION,
                candidate_path=str(self.new.path),
                sha256=self.new.sha256,
                incumbent_path=str(self.old.path),
            )
        )
        self.run = self.run.with_fact(gate_facts())
        store.record(self.run)

    def pass_on(self) -> str:
        """One step of the daemon, and of its relay; its message."""
        step = advance(self.run, self.context)
        self.run = step.run
        self.relay.relay_once(at_once=True)
        return step.message

    def drive(self, until: Callable[[], object]) -> list[str]:
        messages: list[str] = []
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not until():
            assert time.monotonic() < deadline, messages[-3:]
            before, message = self.slot, self.pass_on()
            messages += [message] if message not in messages[-1:] else []
            serving = frozenset(name for name in CONSUMERS if answers_like(self.followers[name], self.new))
            if before == self.slot == str(self.old.path):
                self.seen.append(serving)
            time.sleep(0.01)
        return messages

    @property
    def slot(self) -> str:
        return str(self.context.slot.current_path())

    def field(self, name: str) -> str:
        found: Any = self.client.hget(CURRENT_MODEL_KEY, name)
        return (found or b"").decode()


@pytest.fixture
def world(redis_server: RedisServer, tmp_path: Path, models: list[Model]) -> Iterator[Any]:
    made: list[World] = []

    def world(stages: str = "1,60%,100%", new: Model | None = None, **policy: Any) -> World:
        chosen = RolloutPolicy(stages=stages_of(stages), **{"stage_seconds": 0.3, **policy})
        made.append(World(redis_server, tmp_path, [models[0], new or models[1]], chosen))
        return made[-1]

    yield world
    for each in made:
        for follower in each.followers.values():
            follower.stop()


def test_a_model_reaches_one_then_some_then_all(world: Any) -> None:
    there = world()

    messages = there.drive(lambda: there.run.is_finished)

    assert there.run.outcome is Outcome.PROMOTED
    assert f"is offered to 1 of 5 followers: {FIRST}" in " ".join(messages)
    assert "offered to 3 followers" in " ".join(messages)
    seen = [*dict.fromkeys(there.seen)]
    assert frozenset({FIRST}) in seen, "one alone"
    assert seen == sorted(seen, key=len), "nobody goes back"
    assert max(seen, key=len) == {FIRST, *OTHERS[:2]}, "the slot changes after the last stage"
    wait_until(lambda: all(answers_like(follower, there.new) for follower in there.followers.values()))
    there.pass_on()
    assert (there.field("version"), there.field("rollout")) == (VERSION, "")
    assert all(follower.problem is None for follower in there.followers.values())


def ended_and_withdrawn(there: World) -> None:
    """The slot has not changed, and every follower serves its model again."""
    assert there.run.outcome is Outcome.ROLLED_BACK
    assert there.slot == str(there.old.path)
    assert there.context.store.known_deployment(RUN_ID).state is DeploymentState.UNDONE
    there.relay.relay_once(at_once=True)
    there.relay.relay_once(at_once=True)
    assert there.field("rollout") == ""
    assert there.field("version") == there.old.path.stem
    assert there.client.xlen(stream_of(EventType.PROMOTED)) == 1
    wait_until(lambda: all(answers_like(follower, there.old) for follower in there.followers.values()))


def test_a_fault_that_an_early_host_reports_withdraws_the_model(world: Any) -> None:
    there = world(stage_seconds=PATIENCE_SECONDS)
    there.drive(lambda: answers_like(there.followers[FIRST], there.new))

    there.followers[FIRST].report_fault("answers NaN")
    there.drive(lambda: there.run.is_finished)

    assert f"follower {FIRST} reports: answers NaN" in there.run.reasons[0]
    ended_and_withdrawn(there)


def test_an_offer_is_withdrawn_while_another_stream_refuses_its_events(world: Any) -> None:
    there = world(stage_seconds=PATIENCE_SECONDS)
    there.client.set(stream_of(EventType.STARTED), "not a stream")
    enqueue(there.context.store, an_event(2, EventType.STARTED, at=_now()))
    there.drive(lambda: answers_like(there.followers[FIRST], there.new))
    there.followers[FIRST].report_fault("answers NaN")
    there.drive(lambda: there.run.is_finished)

    assert there.context.store.num_pending() >= 1
    ended_and_withdrawn(there)


def test_a_rollout_whose_stages_were_shortened_ends(world: Any) -> None:
    there = world(stage_seconds=PATIENCE_SECONDS)
    there.drive(lambda: there.run.facts.rollout is not None)
    begun = there.run.facts.rollout
    there.run = there.run.with_fact(replace(begun, stage=2))
    policy = RolloutPolicy(stages=stages_of("100%"), stage_seconds=0.0)
    there.context = replace(there.context, policies=replace(there.context.policies, rollout=policy))
    there.drive(lambda: there.run.is_finished)

    assert there.run.outcome is Outcome.PROMOTED


def test_a_bad_canary_at_the_first_host_reaches_no_other(world: Any, models: list[Model], tmp_path: Path) -> None:
    def wrong(content: dict[str, Any]) -> None:
        content["canary"]["probabilities"] += 0.2

    there = world(new=rewritten(models[1], tmp_path, wrong))
    there.drive(lambda: there.run.is_finished)

    assert "canary differ" in there.run.reasons[0]
    assert set(there.seen) == {frozenset()}
    ended_and_withdrawn(there)


def test_a_host_that_does_not_answer_ends_it_unless_a_share_is_enough(world: Any) -> None:
    there = world("60%")
    there.context = replace(there.context, policies=replace(there.context.policies, engine_confirm_seconds=0.5))
    there.followers[OTHERS[0]].stop()

    there.drive(lambda: there.run.is_finished)

    assert f"2 of 3 followers serve {VERSION}" in there.run.reasons[0]
    assert f"missing: {OTHERS[0]}" in there.run.reasons[0]
    ended_and_withdrawn(there)


def test_an_offer_for_others_or_a_malformed_one_changes_nothing(world: Any) -> None:
    there = world()
    offer = {"version": "x", "model_path": str(there.new.path), "sha256": there.new.sha256}
    for text in (json.dumps({**offer, "consumers": ["someone"]}), json.dumps({"consumers": CONSUMERS}), "{", "[]"):
        there.client.hset(CURRENT_MODEL_KEY, "rollout", text)
        time.sleep(0.2)
        assert all(answers_like(follower, there.old) for follower in there.followers.values()), text
    assert "offer in the hash" in (there.followers[FIRST].problem or "")
    there.relay.relay_once(at_once=True)
    assert there.field("rollout") == ""
    wait_until(lambda: there.followers[FIRST].problem is None)


def test_a_signed_offer_is_for_the_consumers_that_it_names(client: redis.Redis, outbox: StateDb, clock: Clock) -> None:
    signer = Signer(new_key())
    model = replace(MODEL, promoted_at=clock() + timedelta(seconds=1))
    offers = [Offer(model=model, consumers=("engine-1", "engine-2"))]
    relay = Relay(client, outbox, clock, signer=signer, offer=lambda: offers[0])
    enqueue(outbox, an_event(1, EventType.PROMOTED, at=clock(), **PAYLOAD, promoted_at=clock().isoformat()))
    relay.relay_once(at_once=True)
    relay.relay_once(at_once=True)
    raw: Any = client.hgetall(CURRENT_MODEL_KEY)
    entries = SlotEntries([Path("/engine")], verifier=Verifier([signer.public_key]))

    found = entries.offer_in(raw, consumer="engine-2")

    assert found is not None
    assert (found.version, found.sha256) == (model.version, model.sha256)
    assert entries.offer_in(raw, consumer="engine-3") is None
    for forged in (raw[b"rollout"].replace(b"engine-2", b"engine-3"), raw[b"rollout"].replace(b"aaaa", b"bbbb")):
        with pytest.raises(MalformedError, match="signature"):
            entries.offer_in({**raw, b"rollout": forged}, consumer="engine-1")


@pytest.mark.parametrize(
    ("text", "offered_of_ten"),
    [("1,10%,100%", [1, 1]), ("1, 25%, 50%", [1, 3, 5]), ("5,1", [5, 5]), ("100", [10]), ("100%", []), ("", [])],
)
def test_stages_never_shrink(text: str, offered_of_ten: list[int]) -> None:
    stages = stages_of(text)
    facts = RolloutFacts(of_deployment_at=_now(), consumers=tuple("abcdefghij"), began_at=_now(), stage_began_at=_now())
    policy = RolloutPolicy(stages=stages)
    found = [len(offered(replace(facts, stage=number), policy)) for number in range(len(stages))]
    assert found == offered_of_ten


def test_only_followers_of_the_hash_that_know_of_offers_take_part() -> None:
    usual: Any = {"version": "v0", "sha256": "0", "since": _now(), "canary_max_error": 0.0}
    known = {
        "of the hash": Acknowledgement(consumer="a", host="h", event_id="e", **usual),
        "of the env file": Acknowledgement(consumer="b", host="h", **usual),
        "older": Acknowledgement(consumer="c", event_id="e", **usual),
        "of another model": Acknowledgement(consumer="d", host="h", event_id="e", **{**usual, "sha256": "1"}),
    }
    assert serving(known, "0") == ["of the hash"]
    assert serving(known, None) == []


def test_another_version_begins_with_another_follower() -> None:
    firsts = {ordered(CONSUMERS, f"patchtst_v20260101_00000{number}")[0] for number in range(9)}
    assert len(firsts) > 2
    with pytest.raises(ValueError, match="last stage"):
        stages_of("100%,1")


@pytest.mark.parametrize(("quorum", "goes_on"), [("", False), ("50%", True), ("2", False), ("1", False)])
def test_when_its_time_is_over_a_stage_needs_all_its_followers_or_the_quorum(quorum: str, goes_on: bool) -> None:
    began = _now()
    facts = RolloutFacts(of_deployment_at=began, consumers=("a", "b"), began_at=began, stage_began_at=began)
    policy = RolloutPolicy(stages=stages_of("2"), quorum=quorum_of(quorum) if quorum else Quorum())
    ack = Acknowledgement(version="v", sha256="f", consumer="a", since=began, canary_max_error=0.0)
    deployment = replace(DEPLOYMENT, version="v", sha256="f")
    asked: Any = {"newest_first": [ack], "deployment": deployment, "seconds": 120.0}
    early = judged(facts, policy, now=began + timedelta(seconds=100), **asked)
    late = judged(facts, policy, now=began + timedelta(seconds=121), **asked)
    assert not (early.is_passed or early.is_stopped)
    assert (late.is_passed, late.is_stopped) == (goes_on, not goes_on)
