"""The next run counts from the persisted last attempt."""

import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from retrain_worker.daemon.job_schedule import Job, JobSchedule, Wakeups
from retrain_worker.daemon.run_schedule import next_run_at

NOW = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)
INTERVAL = timedelta(hours=4)


def test_the_first_run_is_due_at_once() -> None:
    assert next_run_at(last_attempt_at=None, interval=INTERVAL, now=NOW) == NOW


def test_a_run_missed_while_down_is_due_once_and_then_an_interval_later() -> None:
    missed = NOW - timedelta(days=3)

    assert next_run_at(last_attempt_at=missed, interval=INTERVAL, now=NOW) <= NOW
    assert next_run_at(last_attempt_at=NOW, interval=INTERVAL, now=NOW) == NOW + INTERVAL


@given(st.timedeltas(min_value=timedelta(days=-4000), max_value=timedelta(days=4000)))
def test_the_next_run_is_at_most_one_interval_ahead_after_any_clock_jump(jump: Any) -> None:
    assert next_run_at(last_attempt_at=NOW, interval=INTERVAL, now=NOW + jump) <= NOW + jump + INTERVAL


def test_a_daemon_restarted_every_ten_minutes_still_runs_every_interval() -> None:
    last, runs, clock = NOW, [], NOW
    for _ in range(6 * 24):
        clock += timedelta(minutes=10)  # every pass is a restart: nothing but `last` survives
        if next_run_at(last_attempt_at=last, interval=INTERVAL, now=clock) <= clock:
            runs.append(clock)
            last = clock

    assert len(runs) == 6
    assert all(later - earlier == INTERVAL for earlier, later in pairwise(runs))


def test_a_job_that_does_not_return_is_reported_as_stuck() -> None:
    clock = [0.0]
    release, entered = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        release.wait(120)

    schedule = JobSchedule(
        (Job(name="relay", action=hang, every_seconds=1.0, patience_seconds=10.0),), clock=lambda: clock[0]
    )
    schedule.start()
    try:
        assert entered.wait(120)
        assert schedule.stuck() == ()
        clock[0] = 12.0
        assert schedule.stuck() == ("relay",)
    finally:
        release.set()
        schedule.stop()


def test_an_idle_job_waits_for_a_wake_up_and_a_busy_one_does_not() -> None:
    passes, busy, wakeups = threading.Semaphore(0), threading.Event(), Wakeups()
    schedule = JobSchedule(
        (
            Job(
                name="relay",
                action=passes.release,
                every_seconds=0.01,
                idle_seconds=3600.0,
                is_idle=lambda: not busy.is_set(),
                patience_seconds=10.0,
            ),
        ),
        clock=lambda: 0.0,
        wakeups=wakeups,
    )
    schedule.start()
    try:
        assert passes.acquire(timeout=60), "the first pass is at once"
        assert not passes.acquire(timeout=0.3)
        wakeups.wake("relay")
        assert passes.acquire(timeout=60)
        assert not passes.acquire(timeout=0.3), "one pass for one wake-up"
        busy.set()
        wakeups.wake("relay")
        for _ in range(3):
            assert passes.acquire(timeout=60)
    finally:
        schedule.stop(wait_seconds=60)


def test_a_wake_up_during_a_pass_is_not_lost() -> None:
    wakeups, entered, release, passes = Wakeups(), threading.Event(), threading.Event(), threading.Semaphore(0)

    def work() -> None:
        entered.set()
        release.wait(60)
        passes.release()

    schedule = JobSchedule(
        (Job(name="relay", action=work, every_seconds=3600.0, patience_seconds=10.0),),
        clock=lambda: 0.0,
        wakeups=wakeups,
    )
    schedule.start()
    try:
        assert entered.wait(60)
        wakeups.wake("relay")
        release.set()
        assert passes.acquire(timeout=60)
        assert passes.acquire(timeout=60)
    finally:
        release.set()
        schedule.stop(wait_seconds=60)


def test_no_pass_begins_after_the_stop_and_the_threads_end() -> None:
    num_passes, wakeups = [0], Wakeups()

    def work() -> None:
        num_passes[0] += 1

    schedule = JobSchedule(
        (Job(name="ends", action=work, every_seconds=0.001, patience_seconds=10.0),),
        clock=lambda: 0.0,
        wakeups=wakeups,
    )
    schedule.start()
    schedule.stop(wait_seconds=60)
    seen = num_passes[0]
    for thread in threading.enumerate():
        if thread.name == "ends":
            thread.join(60)

    wakeups.wake("ends")
    assert num_passes[0] == seen
    assert "ends" not in {thread.name for thread in threading.enumerate()}
