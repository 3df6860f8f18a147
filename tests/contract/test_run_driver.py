"""The run driver on a real home: one pass under faults, and the same rules for the daemon and for single commands."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from retrain_worker.adapters.embedded_redis import EmbeddedRedis
from retrain_worker.adapters.outbox_relay import Relay, RelayReport
from retrain_worker.daemon import run_driver
from retrain_worker.daemon.job_backoff import MAX_PAUSE_SECONDS
from retrain_worker.daemon.jobs.slot_watch import SlotWatch
from retrain_worker.daemon.run_schedule import RunSchedule
from retrain_worker.daemon.status import status_line
from retrain_worker.domain.lifecycle import Outcome, Stage
from retrain_worker.domain.slot_request import SlotRequestArguments, SlotRequestKind, SlotRequestState
from retrain_worker.errors import DiskFullError, RedisUnavailableError, StateError
from retrain_worker.stages import slot_requests
from retrain_worker.stages.advance import STAGES
from retrain_worker.stages.step import Step
from tests.daemon_home import an_ended_run, one_pass

NOW = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)


def test_an_attempt_dated_in_the_future_delays_the_next_run_by_at_most_one_interval(components: Any) -> None:
    an_ended_run(components, datetime(2036, 1, 1, tzinfo=UTC))
    schedule = RunSchedule(components.store, components.configuration)
    due = schedule.next_run_at(NOW)

    assert due == NOW + timedelta(hours=4)
    assert schedule.next_run_at(NOW + timedelta(hours=3)) == due
    assert schedule.next_run_at(NOW + timedelta(hours=5)) <= NOW + timedelta(hours=5)
    an_ended_run(components, due)
    assert schedule.next_run_at(due + timedelta(minutes=1)) == due + timedelta(hours=4)


def test_an_error_of_the_state_database_ends_the_process_and_not_the_run(
    components: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    components.store.open_run(requested_by="schedule", reason="test", at=NOW)

    def advance(*_: Any) -> None:
        raise StateError("the disk is gone")

    monkeypatch.setattr(run_driver, "advance", advance)
    one_pass(components, "run driver")

    assert isinstance(components.backoff.fatal, StateError)


@pytest.mark.parametrize("method", ["unfinished_run", "waiting_slot_request", "last_deployment"])
def test_an_error_of_the_state_database_anywhere_in_a_pass_ends_the_process(
    components: Any,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise StateError("the disk is gone")

    monkeypatch.setattr(components.store, method, broken)
    one_pass(components, "run driver")

    assert isinstance(components.backoff.fatal, StateError)


def test_a_full_disk_is_reported_once_and_the_job_is_tried_again(
    components: Any,
    boot_seconds: list[float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, _ = components.store.open_run(requested_by="schedule", reason="test", at=NOW)
    record = components.store.record

    def full(*_: Any, **__: Any) -> None:
        raise DiskFullError("no space is left", where="state.db")

    monkeypatch.setattr(components.store, "record", full)
    monkeypatch.setattr(run_driver, "advance", lambda run, context: context.store.record(run))
    for _ in range(5):
        boot_seconds[0] += MAX_PAUSE_SECONDS
        one_pass(components, "run driver")

    output = capsys.readouterr()
    assert (output.out + output.err).count("no space is left") == 1
    assert "no space is left" in status_line(components)
    assert (components.store.run(run.run_id).num_deaths, components.backoff.fatal) == (0, None)
    monkeypatch.setattr(components.store, "record", record)
    monkeypatch.setattr(run_driver, "advance", lambda run, context: Step(run=run, message="progress"))
    boot_seconds[0] += MAX_PAUSE_SECONDS
    one_pass(components, "run driver")
    assert "no space" not in status_line(components)


def test_no_run_begins_after_an_interrupt(components: Any) -> None:
    components.driver.interrupt()
    components.driver.run_pass()

    assert components.store.history(10) == []


def test_an_external_change_is_recorded_once_when_two_checks_agree(components: Any) -> None:
    env, watch = components.configuration.settings.engine_env_file, SlotWatch()
    for _ in range(4):
        watch.check(components.configuration.context)
    env.write_text("PATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH=/half/writ")
    watch.check(components.configuration.context)
    for path in ("/opt/by_hand.pth", "/opt/by_hand.pth", "/opt/by_hand.pth"):
        env.write_text(f"PATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH={path}\n")
        watch.check(components.configuration.context)

    assert [(one.kind, one.model_path) for one in components.store.deployments(9)] == [("external", "/opt/by_hand.pth")]


def defect(*_: Any) -> None:
    raise KeyError("last_known")


def once(components: Any, run: Any) -> Any:
    return components.driver.drive(run)


def daemon(components: Any, run: Any) -> Any:
    for _ in range(9):
        components.driver.run_pass()
    return components.store.run(run.run_id)


@pytest.mark.parametrize("driven", [once, daemon])
def test_a_run_that_fails_unexpectedly_ends_after_three_attempts_in_every_process(
    components: Any,
    monkeypatch: pytest.MonkeyPatch,
    driven: Any,
) -> None:
    run, _ = components.store.open_run(requested_by="schedule", reason="test", at=NOW)
    monkeypatch.setitem(STAGES, Stage.PULL, defect)
    with capture_logs() as logged:
        ended = driven(components, run)

    assert ended.outcome is Outcome.ABANDONED
    assert components.backoff.fatal is None
    unexpected = [each for each in logged if each["event"] == "unexpected_error" and run.run_id in each["message"]]
    assert len(unexpected) == 3


def a_rollback_request(components: Any) -> Any:
    return components.store.open_slot_request(
        SlotRequestKind.ROLLBACK, arguments=SlotRequestArguments(), requested_by="ada", reason="loses money", at=NOW
    )


def alone(components: Any, request: Any) -> Any:
    return components.driver.carry_out(request.request_id, report=lambda _request: None)


def beside_runs(components: Any, request: Any) -> Any:
    components.driver.run_pass()
    return components.store.request(request.request_id)


@pytest.mark.parametrize("carried_out", [alone, beside_runs])
def test_a_slot_request_that_fails_unexpectedly_is_answered_in_every_process(
    components: Any,
    monkeypatch: pytest.MonkeyPatch,
    carried_out: Any,
) -> None:
    monkeypatch.setattr(slot_requests, "carry_out", defect)
    with capture_logs() as logged:
        request = carried_out(components, a_rollback_request(components))

    assert request.state is SlotRequestState.REFUSED
    assert "unexpected error" in request.answer
    assert [each["event"] for each in logged].count("unexpected_error") == 1


def test_a_waiting_run_that_fails_unexpectedly_is_evaluated_again_later(
    components: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, _ = components.store.open_run(requested_by="schedule", reason="test", at=datetime.now(UTC))
    components.store.record(replace(run, stage=Stage.SHADOW))
    an_ended_run(components, datetime.now(UTC))
    monkeypatch.setitem(STAGES, Stage.SHADOW, defect)
    with capture_logs() as logged:
        for _ in range(3):
            components.driver.run_pass()

    assert [each["event"] for each in logged].count("unexpected_error") == 1
    assert components.store.run(run.run_id).not_before > datetime.now(UTC)


def test_a_request_of_an_operator_is_answered_although_the_current_run_fails(
    components: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    components.store.open_run(requested_by="schedule", reason="test", at=NOW)
    monkeypatch.setitem(STAGES, Stage.PULL, defect)
    request = a_rollback_request(components)
    with capture_logs():
        components.driver.run_pass()

    assert components.store.request(request.request_id).is_answered


def test_new_settings_are_in_force_once_no_run_is_at_work(components: Any) -> None:
    run, _ = components.store.open_run(requested_by="schedule", reason="test", at=datetime.now(UTC))
    before = components.configuration.settings
    components.driver.reconfigure(replace(before, retrain_interval_hours=9.0, model_path=before.home))
    assert components.configuration.settings == before

    components.store.record(run.ended(Outcome.FAILED, "test", at=datetime.now(UTC)))
    components.driver.run_pass()
    assert components.configuration.settings == replace(before, retrain_interval_hours=9.0), "paths need a restart"


def test_an_embedded_redis_that_cannot_be_started_is_a_problem_of_the_relay_and_delays_no_run(components, monkeypatch):
    def no_server(_):
        raise RedisUnavailableError("no redis-server to start", where="redis/")

    monkeypatch.setattr(EmbeddedRedis, "ensure", no_server)
    monkeypatch.setattr(
        Relay, "relay_once", lambda _, **__: RelayReport(sent=0, pending=3, oldest_pending_at=None, problem="x")
    )
    with capture_logs() as logged:
        for _ in range(3):
            one_pass(components, "run driver")
            one_pass(components, "event relay")

    assert components.backoff.problems() == ()
    assert [each["event"] for each in logged].count("redis_problem") == 1
    assert "no redis-server to start" in status_line(components)
