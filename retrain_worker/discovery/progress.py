"""Progress of a search, and its end on request: every phase reports each step, and ends there when it is stopped."""

from __future__ import annotations


class Stopped(Exception):  # noqa: N818 - a request of the operator, not an error
    """The operator has interrupted the search; `args[0]` is the phase."""


class Progress:
    """Shows nothing. A subclass overrides `show`."""

    def __init__(self) -> None:
        self._phase = ""
        self._is_stopped = False

    def stop(self) -> None:
        """Let the next step or check raise Stopped."""
        self._is_stopped = True

    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._is_stopped

    def check(self) -> None:
        """Raise Stopped after `stop`."""
        if self._is_stopped:
            raise Stopped(self._phase)

    def step(self, phase: str, done: int, total: int | None, subject: object) -> None:
        """Begin with `subject` after `done` of `total` (None: unknown). Raises Stopped after `stop`."""
        self.check()
        self._phase = phase
        self.show(phase, done, total, str(subject))

    def show(self, phase: str, done: int, total: int | None, subject: str) -> None:
        """Show the state of a phase."""
