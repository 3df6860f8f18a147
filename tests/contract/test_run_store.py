"""What ports.RunStore promises, asked of the state database, which tests of the stages use as well."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain import events
from retrain_worker.domain.facts import PullFacts, RowCounts, RunFacts
from retrain_worker.domain.gates import GatePolicy, decide
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Run, Stage
from retrain_worker.domain.slot_request import SlotRequest, SlotRequestArguments, SlotRequestKind
from tests.run_facts import gate_facts, probation_facts, promote_facts, train_facts
from tests.unit.test_gates import GOOD

AT = datetime(2026, 1, 10, 3, 30, 0, 123456, tzinfo=UTC)
RUN = Run(run_id="20260110_033000", requested_by="once", request_reason="a test", created_at=AT, updated_at=AT)
DEPLOYMENT = Deployment(
    deployment_id=RUN.run_id,
    run_id=RUN.run_id,
    kind=DeploymentKind.PROMOTE,
    version="patchtst_v20260110_033000",
    model_path="/models/patchtst_v20260110_033000.pth",
    sha256="0" * 64,
    size_bytes=7,
    previous_version=None,
    previous_model_path=None,
    state=DeploymentState.INTENDED,
    created_at=AT,
    updated_at=AT,
    requested_by="once",
    reason="every gate has passed",
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateDb]:
    with StateDb(tmp_path / "state.db") as state:
        yield state


def test_a_new_store_remembers_nothing(store: StateDb) -> None:
    assert store.unfinished_run() is None
    assert store.last_deployment() is None
    assert store.watermark_path() is None
    assert store.deployment("x") is None


def test_what_is_recorded_comes_back_as_it_was(store: StateDb) -> None:
    run = replace(
        RUN,
        stage=Stage.TRAIN,
        num_deaths=2,
        num_retries=1,
        not_before=AT + timedelta(minutes=1),
        facts=RunFacts(
            pull=PullFacts(rows=RowCounts(win=3), feature_names=("a", "b"), last_at=AT),
            train=train_facts(final_loss=0.5, history=((1, 0.7, 0.6, 0.5),)),
            gate=gate_facts(verdict=decide(GOOD, GatePolicy()), candidate=GOOD.candidate),
            promote=promote_facts(),
            probation=probation_facts(),
            unreadable={"audit": "Expected `array`, got `int` - at `$.findings`"},
        ),
        seconds={"pull": 1.25},
    )
    store.record(run)
    assert store.unfinished_run() == run


@pytest.mark.parametrize("outcome", [None, Outcome.INTERRUPTED])
def test_a_run_that_can_go_on_is_unfinished(store: StateDb, outcome: Any) -> None:
    store.record(RUN if outcome is None else RUN.ended(outcome, "stopped", at=AT))
    assert store.unfinished_run().run_id == RUN.run_id


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.REFUSED, Outcome.SKIPPED, Outcome.ABANDONED])
def test_a_run_that_has_ended_is_finished(store: StateDb, outcome: Any) -> None:
    store.record(RUN)
    store.record(RUN.ended(outcome, "one reason", "another", at=AT))
    assert store.unfinished_run() is None


def test_a_deployment_is_stored_by_its_id(store: StateDb) -> None:
    swapped = replace(DEPLOYMENT, state=DeploymentState.SWAPPED)
    store.record(RUN, deployment=DEPLOYMENT)
    store.record(RUN, deployment=swapped)
    assert store.deployment(DEPLOYMENT.deployment_id) == swapped


@pytest.mark.parametrize("state", list(DeploymentState))
def test_the_last_deployment_is_one_that_reached_the_env_file(store: StateDb, state: DeploymentState) -> None:
    store.record(RUN, deployment=replace(DEPLOYMENT, state=state))
    reached = store.last_deployment() is not None
    assert reached == (state not in (DeploymentState.INTENDED, DeploymentState.UNDONE))


def test_the_watermark_is_the_one_recorded_last(store: StateDb) -> None:
    store.record(RUN, watermark_path=Path("/runs/a/fingerprints.npy"))
    store.record(RUN)
    assert store.watermark_path() == Path("/runs/a/fingerprints.npy")
    store.record(RUN, watermark_path=Path("/runs/b/fingerprints.npy"))
    assert store.watermark_path() == Path("/runs/b/fingerprints.npy")


def test_an_event_is_enqueued_once_however_often_it_is_recorded(store: StateDb) -> None:
    event = events.started(RUN, at=AT)
    store.record(RUN, events=[event])
    store.record(RUN, events=[event])
    assert [row.event for row in store.pending_events(10)] == [event]


def test_a_run_on_trial_waits_and_lets_another_run_work(store: StateDb) -> None:
    waiting = replace(RUN, stage=Stage.SHADOW)
    working = replace(RUN, run_id="20260110_043000")
    store.record(waiting)
    store.record(working)
    assert store.waiting_runs() == [waiting]
    assert store.unfinished_run() == working
    assert (store.run(waiting.run_id), store.run("20260101_000000")) == (waiting, None)


def test_deployments_are_listed_in_the_order_in_which_they_reached_the_env_file(store: StateDb) -> None:
    store.record(RUN)
    first = replace(DEPLOYMENT, deployment_id="20260110_033000", state=DeploymentState.INTENDED)
    second = replace(
        DEPLOYMENT, deployment_id="external_1", run_id=None, kind=DeploymentKind.EXTERNAL, state=DeploymentState.SWAPPED
    )
    store.record_deployment(first)
    store.record_deployment(second)
    assert store.intended_deployments() == [first]
    assert (store.last_deployment(), store.last_promotion()) == (second, None)

    first = replace(first, state=DeploymentState.SWAPPED)
    store.record_deployment(first)
    assert store.reached_deployments() == [second, first]
    assert (store.last_deployment(), store.last_promotion(), store.intended_deployments()) == (first, first, [])


def test_a_slot_request_is_stored_with_its_deployment_its_event_and_the_run_it_opens(store: StateDb) -> None:
    request = SlotRequest(
        request_id="rollback_20260110_033000",
        kind=SlotRequestKind.ROLLBACK,
        arguments=SlotRequestArguments(version="patchtst_v20260101_000000"),
        requested_by="ada",
        reason="loses money",
        created_at=AT,
        updated_at=AT,
    )
    deployment = replace(DEPLOYMENT, deployment_id=request.request_id, kind=DeploymentKind.ROLLBACK)
    event = events.started(RUN, at=AT)
    store.record_slot_request(request, deployment=deployment, events=[event], run=RUN)
    assert store.request(request.request_id) == request
    assert store.deployment(request.request_id) == deployment
    assert store.unfinished_run() == RUN
    assert [row.event for row in store.pending_events(10)] == [event]
    assert store.request("rollback_20260101_000000") is None


def test_a_move_stores_the_slot_request_of_its_run(store: StateDb) -> None:
    request = SlotRequest(
        request_id=f"rollback_of_{RUN.run_id}",
        kind=SlotRequestKind.ROLLBACK,
        requested_by="probation",
        reason="worse",
        created_at=AT,
        updated_at=AT,
    )
    store.record(RUN, request=request)
    assert store.request(request.request_id) == request


def test_nothing_is_known_against_bytes_that_no_probation_has_taken_back(store: StateDb) -> None:
    store.record(RUN)
    assert store.blocked("0" * 64) is None
    assert store.alpha_spending_before(None) is None
