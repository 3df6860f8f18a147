"""What ports.RunStore promises, asked of the state database, which tests of the stages use as well."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain import events
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Run, Stage

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
def store(tmp_path):
    with StateDb(tmp_path / "state.db") as state:
        yield state


def test_a_new_store_remembers_nothing(store):
    assert store.unfinished_run() is None
    assert store.last_deployment() is None
    assert store.watermark_path() is None
    assert store.deployment("x") is None


def test_what_is_recorded_comes_back_as_it_was(store):
    run = replace(
        RUN,
        stage=Stage.TRAIN,
        num_deaths=2,
        num_retries=1,
        not_before=AT + timedelta(minutes=1),
        facts={"pull": {"rows": {"win": 3}, "names": ["a", "b"], "share": 0.5, "none": None}},
        seconds={"pull": 1.25},
    )
    store.record(run)
    assert store.unfinished_run() == run


@pytest.mark.parametrize("outcome", [None, Outcome.INTERRUPTED])
def test_a_run_that_can_go_on_is_unfinished(store, outcome):
    store.record(RUN if outcome is None else RUN.ended(outcome, "stopped", at=AT))
    assert store.unfinished_run().run_id == RUN.run_id


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.REFUSED, Outcome.SKIPPED, Outcome.ABANDONED])
def test_a_run_that_has_ended_is_finished(store, outcome):
    store.record(RUN)
    store.record(RUN.ended(outcome, "one reason", "another", at=AT))
    assert store.unfinished_run() is None


def test_a_deployment_is_stored_by_its_id(store):
    swapped = replace(DEPLOYMENT, state=DeploymentState.SWAPPED)
    store.record(RUN, deployment=DEPLOYMENT)
    store.record(RUN, deployment=swapped)
    assert store.deployment(DEPLOYMENT.deployment_id) == swapped


@pytest.mark.parametrize("state", list(DeploymentState))
def test_the_last_deployment_is_one_that_reached_the_env_file(store, state):
    store.record(RUN, deployment=replace(DEPLOYMENT, state=state))
    reached = store.last_deployment() is not None
    assert reached == (state not in (DeploymentState.INTENDED, DeploymentState.UNDONE))


def test_the_watermark_is_the_one_recorded_last(store):
    store.record(RUN, watermark_path=Path("/runs/a/fingerprints.npy"))
    store.record(RUN)
    assert store.watermark_path() == Path("/runs/a/fingerprints.npy")
    store.record(RUN, watermark_path=Path("/runs/b/fingerprints.npy"))
    assert store.watermark_path() == Path("/runs/b/fingerprints.npy")


def test_an_event_is_enqueued_once_however_often_it_is_recorded(store):
    event = events.started(RUN, at=AT)
    store.record(RUN, events=[event])
    store.record(RUN, events=[event])
    assert [row.event for row in store.pending_events(10)] == [event]
