"""What becomes of a pass whose writing down fails.

A state database that is broken ends the process; one that has no room, or is busy, is waited for, which is said once.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from retrain_worker.errors import RetryLaterError, StateError

log = structlog.get_logger()


class Guard:
    """Stands around the passes of all jobs. What a pass expects, it handles itself."""

    def __init__(self) -> None:
        #: our own memory failed: the process must end
        self.broken: StateError | None = None
        #: what each job that cannot go on waits for
        self._problems: dict[str, str] = {}

    def around(self, name: str, work: Callable[[], None]) -> Callable[[], None]:
        """`work`, as the pass of the job called `name`."""

        def guarded() -> None:
            try:
                work()
            except StateError as error:
                self.broken = error
            except RetryLaterError as error:
                self._note(name, str(error))
            else:
                self._note(name, "")

        return guarded

    def messages(self) -> tuple[str, ...]:
        """What is waited for, each once."""
        return tuple(dict.fromkeys(self._problems.values()))

    def _note(self, name: str, problem: str) -> None:
        if problem == self._problems.get(name, ""):
            return
        if problem:
            self._problems[name] = problem
            log.warning("job_waits", message=f"{name} cannot go on, and is tried again: {problem}")
        else:
            del self._problems[name]
            log.info("job_goes_on", message=f"{name} goes on")
