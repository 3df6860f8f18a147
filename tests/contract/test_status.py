"""What STATUS= and `retrain-worker status` say of the same home."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from retrain_worker import settings
from retrain_worker.cli.options import prepare_home
from retrain_worker.cli.screen import as_json
from retrain_worker.cli.status import as_text
from retrain_worker.daemon.run_log import log_step
from retrain_worker.daemon.status import followers_of, in_words, note_activity, status_line, status_of
from retrain_worker.domain.events import SERVED_STREAM
from retrain_worker.domain.facts import PromoteFacts, PullFacts
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Stage
from retrain_worker.domain.slot_request import SlotRequestArguments, SlotRequestKind
from retrain_worker.redis_client import connect
from retrain_worker.stages.step import Step
from tests.daemon_home import an_ended_run
from tests.known import known
from tests.screen_text import text_of as shown_text

INCUMBENT = "/opt/best_2025.pth"


def put_incumbent(components: Any, kind: Any = DeploymentKind.EXTERNAL, state: Any = DeploymentState.NOT_ASKED) -> None:
    now = datetime.now(UTC)
    components.store.record_deployment(
        Deployment(
            deployment_id="deployment_1",
            run_id=None,
            kind=kind,
            version="best_2025",
            model_path=INCUMBENT,
            sha256="0" * 64,
            size_bytes=1,
            previous_version=None,
            previous_model_path=None,
            state=state,
            confirmation="nobody answered",
            created_at=now,
            updated_at=now,
            requested_by="unknown",
            reason="",
        )
    )
    env_file = components.configuration.settings.engine_env_file
    env_file.write_text(f"PATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH={INCUMBENT}\n")


def text_of(components: Any) -> str:
    found = status_of(components.configuration.settings)
    assert as_json(found)
    return shown_text(as_text(found), width=200)


def test_before_the_first_run(components: Any) -> None:
    assert status_line(components) == "starting the first run; no incumbent"
    assert "last run  none" in text_of(components)

    put_incumbent(components)
    assert status_line(components) == "starting the first run; incumbent best_2025 (external)"
    assert f"serving   {INCUMBENT}" in text_of(components)


def test_between_two_runs(components: Any) -> None:
    an_ended_run(components, datetime.now(UTC))
    put_incumbent(components, DeploymentKind.PROMOTE)

    assert status_line(components).startswith(
        "idle; next run in 3 h 59 min; incumbent best_2025; last run FAILED: test"
    )
    text = text_of(components)
    assert "promote   best_2025" in text
    assert "FAILED" in text
    assert "3 h 59 min" in text


def test_a_current_run_a_queued_run_a_run_on_trial_and_a_slot_request(components: Any) -> None:
    now = datetime.now(UTC)
    on_trial, _ = components.store.open_run(requested_by="schedule", reason="test", at=now - timedelta(hours=1))
    for stage in (Stage.AUDIT, Stage.TRAIN, Stage.GATE, Stage.SHADOW):
        on_trial = on_trial.moved_to(stage, at=now)
    components.store.record(on_trial)
    run = components.driver.begin("trigger", "ops: new exchange")
    components.store.open_slot_request(
        SlotRequestKind.ROLLBACK, arguments=SlotRequestArguments(), requested_by="ada", reason="loses money", at=now
    )

    assert status_line(components) == f"run {run.run_id} started: ops: new exchange"
    text = text_of(components)
    assert f"{run.run_id} at PULL" in text
    assert f"(run {on_trial.run_id})" in text
    assert "request   rollback_" in text


def test_an_env_file_that_cannot_be_read_and_one_that_was_changed_externally(components: Any) -> None:
    put_incumbent(components)
    env_file = components.configuration.settings.engine_env_file
    env_file.write_text("PATCHTST_SHADOW_ONLY=true\n")
    assert "changed externally since" in text_of(components)

    env_file.unlink()
    assert str(env_file) in known(status_of(components.configuration.settings).slot_problem)


def test_a_problem_is_displayed_until_it_is_over(components: Any) -> None:
    store, now = components.store, datetime.now(UTC)

    def ended(outcome: Outcome, stage: Stage, hours: int, last_at: datetime) -> None:
        run, _ = store.open_run(requested_by="schedule", reason="test", at=now + timedelta(hours=hours))
        run = replace(run.with_fact(PullFacts(last_at=last_at)), stage=stage)
        store.record(run.ended(outcome, "why", at=now))

    def problems() -> list[str]:
        found = list(status_of(components.configuration.settings).problems)
        assert all(problem in status_line(components) for problem in found)
        shown = " ".join(text_of(components).split())
        assert all(f"problem {problem}" in shown for problem in found)
        return found

    put_incumbent(components, DeploymentKind.PROMOTE, DeploymentState.NOT_CONFIRMED)
    ended(Outcome.REFUSED, Stage.AUDIT, 1, now - timedelta(hours=80))
    refused, stale, unconfirmed = problems()
    assert refused == "last run REFUSED: why; see retrain-worker audit"
    assert "the newest row that was read is 80 h old" in stale
    assert unconfirmed.startswith("best_2025 not confirmed: nobody answered")

    ended(Outcome.REFUSED, Stage.GATE, 2, now)
    assert problems() == [unconfirmed]


@pytest.mark.parametrize(
    ("outcome", "stage", "confirmed", "level"),
    [
        (Outcome.REFUSED, Stage.GATE, None, "info"),
        (Outcome.SKIPPED, Stage.PULL, None, "info"),
        (Outcome.PROMOTED, Stage.PROMOTE, True, "info"),
        (Outcome.PROMOTED, Stage.PROMOTE, False, "warning"),
        (Outcome.REFUSED, Stage.PULL, None, "warning"),
        (Outcome.REFUSED, Stage.AUDIT, None, "warning"),
        (Outcome.FAILED, Stage.TRAIN, None, "warning"),
    ],
)
def test_the_log_level_of_an_outcome_is_what_an_operator_needs(
    components: Any, outcome: Any, stage: Any, confirmed: Any, level: str
) -> None:
    now = datetime.now(UTC)
    run, _ = components.store.open_run(requested_by="schedule", reason="test", at=now)
    promoted = PromoteFacts(version="v", model_path="/m", sha256="0", confirmed=confirmed)
    run = replace(run.with_fact(promoted) if outcome is Outcome.PROMOTED else run, stage=stage)
    with capture_logs() as logged:
        log_step(Step(run=run.ended(outcome, "why", at=now), message="ended", is_end=True))

    assert [entry["log_level"] for entry in logged] == [level]


@pytest.mark.parametrize(
    ("wait", "words"),
    [
        (timedelta(seconds=-1), "now"),
        (timedelta(), "now"),
        (timedelta(seconds=59), "59 s"),
        (timedelta(seconds=60), "1 min"),
        (timedelta(hours=3, minutes=12), "3 h 12 min"),
    ],
)
def test_a_wait_in_words(wait: Any, words: str) -> None:
    assert in_words(wait) == words


def test_what_a_running_daemon_does_is_shown(components: Any) -> None:
    settings = components.configuration.settings
    note_activity(settings.state_path, "training 20260110_033000: epoch 7 of 40, about 40 s left")

    assert status_of(settings).activity == "training 20260110_033000: epoch 7 of 40, about 40 s left"
    assert "now" in text_of(components)


def test_whoever_cannot_read_the_signing_key_sees_the_status(tmp_path: Path) -> None:
    loaded = settings.load({"SIGNING_KEY_FILE": str(tmp_path / "of-root")}, home=tmp_path / "home")
    prepare_home(loaded)

    assert status_of(loaded).slot_problem is None


def test_it_shows_which_follower_serves_what(components: Any) -> None:
    client = connect(components.redis_url)
    for number in range(7):
        served = {"version": "patchtst_v2", "sha256": "b" * 64, "consumer": f"engine-{number}", "host": f"h{number}"}
        if number == 3:
            served |= {"version": "patchtst_v1", "problem": "its canary differs", "problem_version": "patchtst_v2"}
        client.xadd(SERVED_STREAM, {"event_type": "model.served", "payload": json.dumps(served)})
    loaded = components.configuration.settings

    found = replace(status_of(loaded), followers=followers_of(loaded, components.redis_url))

    text = " ".join(shown_text(as_text(found), width=200).split())
    assert "6 followers patchtst_v2: engine-0, engine-1, engine-2, engine-4, engine-5 and 1 more" in text
    assert "follower patchtst_v1: engine-3 engine-3: its canary differs" in text
    assert (found.followers[3].host, found.followers[3].problem_version) == ("h3", "patchtst_v2")
    client.close()
    assert followers_of(loaded, "unix:///nowhere/redis.sock") == ()
