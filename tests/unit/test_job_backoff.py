"""A job that raises is tried again after growing pauses; the state database ends the process."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from retrain_worker.daemon.job_backoff import MAX_PAUSE_SECONDS, JobBackoff
from retrain_worker.errors import DiskFullError, SlotError, StateError


class Failing:
    """A job that raises `error` while there is one, and counts its calls."""

    def __init__(self, error: Exception | None) -> None:
        self.error, self.calls = error, 0

    def __call__(self) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (DiskFullError("no space left on device", where="state.db"), "job_failed"),
        (SlotError("is not there", where="ai-engine.env", remedy="create it"), "job_failed"),
        (KeyError("last_known"), "unexpected_error"),
    ],
)
def test_every_error_is_logged_once_shown_while_it_lasts_and_its_end_logged(error: Any, event: str) -> None:
    now = [0.0]
    backoff, job = JobBackoff(clock=lambda: now[0]), Failing(error)
    guarded = backoff.around("event relay", job)
    with capture_logs() as logged:
        for _ in range(20):
            guarded()
            now[0] += MAX_PAUSE_SECONDS
        assert str(error.args[0]) in backoff.problems()[0].message
        job.error = None
        guarded()

    assert [each["event"] for each in logged] == [event, "job_recovered"]
    assert (job.calls, backoff.problems(), backoff.fatal) == (21, (), None)


def test_the_pauses_between_attempts_grow_to_a_maximum() -> None:
    now = [0.0]
    job = Failing(RuntimeError("defect"))
    guarded = JobBackoff(clock=lambda: now[0]).around("retention", job)
    at = []
    with capture_logs():
        for second in range(120):
            now[0] = float(second)
            before = job.calls
            guarded()
            if job.calls > before:
                at.append(second)

    assert at == [0, 1, 3, 7, 15, 31, 61, 91]


def test_another_error_of_a_failing_job_is_logged_again() -> None:
    now = [0.0]
    backoff, job = JobBackoff(clock=lambda: now[0]), Failing(None)
    guarded = backoff.around("bookkeeping", job)
    with capture_logs() as logged:
        for cause in ("busy", "busy", "disk full"):
            job.error = DiskFullError(cause)
            guarded()
            now[0] += MAX_PAUSE_SECONDS

    assert [each["event"] for each in logged] == ["job_failed", "job_failed"]
    assert [problem.cause for problem in backoff.problems()] == ["disk full"]


def test_a_failing_job_delays_no_other_job() -> None:
    backoff, relay = JobBackoff(clock=lambda: 0.0), Failing(None)
    with capture_logs():
        backoff.around("retention", Failing(RuntimeError("defect")))()
    guarded = backoff.around("event relay", relay)
    for _ in range(3):
        guarded()

    assert relay.calls == 3


def test_an_error_of_the_state_database_ends_the_process() -> None:
    backoff, error = JobBackoff(clock=lambda: 0.0), StateError("malformed", where="state.db")
    backoff.around("run driver", Failing(error))()

    assert backoff.fatal is error
