"""What becomes of a job that raises: the same for every job.

A StateError ends the process, which can do nothing without its state database. After any other error the job is tried
again, each time after a longer pause, up to MAX_PAUSE_SECONDS; the error is logged when it begins and shown in STATUS
while it lasts. What a job can charge to a run or a slot request, it does (unexpected_error.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from retrain_worker.domain.problem import Problem, ProblemKind, problem_of
from retrain_worker.errors import StateError

log = structlog.get_logger()

MAX_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class _Failure:
    problem: Problem
    pause_seconds: float
    retry_at: float


class JobBackoff:
    """Wraps the jobs; knows which of them fail now."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        """`clock`: seconds that never go back."""
        #: the error of the state database that ends this process
        self.fatal: StateError | None = None
        self._clock = clock
        self._failures: dict[str, _Failure] = {}

    def around(self, name: str, job: Callable[[], object]) -> Callable[[], None]:
        """`job`, called `name` in the log; it never raises, and does nothing during a pause."""

        def guarded() -> None:
            failure = self._failures.get(name)
            if failure is not None and self._clock() < failure.retry_at:
                return
            try:
                job()
            except StateError as error:
                self.fatal = error
            except Exception as error:
                self._fail(name, error)
            else:
                self._recover(name)

        return guarded

    def problems(self) -> tuple[Problem, ...]:
        """Why jobs fail now, each problem once."""
        return tuple(dict.fromkeys(failure.problem for failure in list(self._failures.values())))

    def _fail(self, name: str, error: Exception) -> None:
        problem, before = problem_of(error, kind=ProblemKind.JOB), self._failures.get(name)
        pause = 1.0 if before is None else min(before.pause_seconds * 2, MAX_PAUSE_SECONDS)
        self._failures[name] = _Failure(problem=problem, pause_seconds=pause, retry_at=self._clock() + pause)
        if before is not None and before.problem == problem:
            return
        message = f"job {name} failed; retrying: {problem.message}"
        if problem.kind is ProblemKind.DEFECT:
            log.error("unexpected_error", message=message, exc_info=error)
        else:
            log.warning("job_failed", message=message, job=name)

    def _recover(self, name: str) -> None:
        if self._failures.pop(name, None) is not None:
            log.info("job_recovered", message=f"job {name} works again", job=name)
