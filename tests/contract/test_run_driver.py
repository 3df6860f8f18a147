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
from retrain_worker.daemon.jobs.waiting_runs import WaitingRuns
from retrain_worker.daemon.run_schedule import RunSchedule
from retrain_worker.daemon.status import status_line
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.domain.slot_request import SlotRequest, SlotRequestArguments, SlotRequestKind, SlotRequestState
from retrain_worker.errors import DiskFullError, RedisUnavailableError, StateError
from retrain_worker.stages import slot_requests
from retrain_worker.stages.advance import STAGES
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.slot_requests import SlotRequestStep
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


def test_an_embedded_redis_that_cannot_be_started_is_a_problem_of_the_relay_and_delays_no_run(
    components: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_server(_: Any) -> None:
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


def test_a_promotion_takes_every_step_that_needs_no_waiting_in_one_pass(
    components: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = components.store.open_run(requested_by="schedule", reason="test", at=datetime.now(UTC))
    components.store.record(replace(run, stage=Stage.PROMOTE))
    steps = []

    def promote(run: Run, _context: Any) -> Step:
        steps.append(run.reasons)
        is_last = len(steps) == 4
        return Step(run=run if is_last else replace(run, reasons=(str(len(steps)),)), message=f"step {len(steps)}")

    monkeypatch.setitem(STAGES, Stage.PROMOTE, promote)
    components.driver.run_pass()

    assert steps == [(), ("1",), ("2",), ("3",)]


def test_the_current_run_makes_no_step_while_the_worker_evaluates_a_waiting_run(
    components: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = components.store.open_run(requested_by="schedule", reason="test", at=datetime.now(UTC))
    monkeypatch.setattr(WaitingRuns, "is_evaluating", property(lambda _: True))
    monkeypatch.setitem(STAGES, Stage.PULL, defect)
    components.driver.run_pass()

    assert components.store.run(run.run_id) == run


def test_what_a_pass_stores_is_relayed_at_once(components: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    relayed: list[bool] = []

    def relay_once(_: Relay, *, at_once: bool) -> RelayReport:
        relayed.append(at_once)
        return RelayReport(sent=0, pending=0, oldest_pending_at=None, problem=None)

    monkeypatch.setattr(Relay, "relay_once", relay_once)
    an_ended_run(components, datetime.now(UTC))
    components.driver.run_pass()
    assert relayed == [], "nothing was stored"

    a_rollback_request(components)
    components.driver.run_pass()
    assert relayed == [False]


def test_an_external_change_is_part_of_the_history_before_a_slot_request_is_carried_out(components: Any) -> None:
    components.configuration.settings.engine_env_file.write_text("PATCHTST_MODEL_PATH=/opt/external.pth\n")
    components.store.open_slot_request(
        SlotRequestKind.PROMOTE,
        arguments=SlotRequestArguments(run_id="20200101_000000"),
        requested_by="ada",
        reason="test",
        at=NOW,
    )
    request = components.store.waiting_slot_request()
    assert alone(components, request).state is SlotRequestState.REFUSED

    assert [one.model_path for one in components.store.deployments(9)] == ["/opt/external.pth"]


def test_the_run_that_a_slot_request_opens_is_driven_to_its_end(
    components: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_run(request: SlotRequest, context: StageContext) -> SlotRequestStep:
        run, _ = components.store.open_run(requested_by="ada", reason="forced", at=NOW)
        opened = replace(request.arguments, opened_run_id=run.run_id)
        answered = replace(request, arguments=opened).answered(SlotRequestState.DONE, "opened", at=NOW)
        context.store.record_slot_request(answered)
        return SlotRequestStep(request=answered, message="opened", is_move=True)

    monkeypatch.setattr(slot_requests, "carry_out", open_run)

    def skip(run: Run, _context: Any) -> Step:
        return Step(run=run.ended(Outcome.SKIPPED, "nothing new", at=NOW), message="skipped")

    monkeypatch.setitem(STAGES, Stage.PULL, skip)
    request = alone(components, a_rollback_request(components))

    assert components.store.run(request.arguments.opened_run_id).outcome is Outcome.SKIPPED


def test_the_first_model_found_in_the_slot_causes_no_event_and_a_later_change_causes_one(components: Any) -> None:
    env, watch = components.configuration.settings.engine_env_file, SlotWatch()
    pending = []
    for path in ("/opt/first.pth", "/opt/second.pth"):
        env.write_text(f"PATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH={path}\n")
        with capture_logs() as logged:
            for _ in range(3):
                watch.check(components.configuration.context)
        pending.append(components.store.num_pending())

    assert pending == [0, 1]
    assert [each["log_level"] for each in logged] == ["warning"]
    assert "/opt/second.pth (was /opt/first.pth)" in logged[0]["message"]


def test_a_slot_that_cannot_be_read_is_reported_once(components: Any) -> None:
    env, watch = components.configuration.settings.engine_env_file, SlotWatch()
    env.unlink()
    with capture_logs() as logged:
        for _ in range(3):
            watch.check(components.configuration.context)

    assert [each["event"] for each in logged] == ["slot_problem"]
