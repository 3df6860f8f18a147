"""Progress of a search, and its end on request: every phase reports each step, and stops there when asked to."""

from __future__ import annotations


class Stopped(Exception):  # noqa: N818 - a request of the operator, not an error
    """The operator has interrupted the search; `args[0]` is the phase."""


class Progress:
    """Shows nothing. A subclass overrides `show`."""

    def __init__(self) -> None:
        self._is_stopped = False

    def stop(self) -> None:
        """Let the next step raise Stopped."""
        self._is_stopped = True

    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._is_stopped

    def step(self, phase: str, done: int, total: int | None, subject: object) -> None:
        """Begin with `subject` after `done` of `total` (None: unknown). Raises Stopped after `stop`."""
        if self._is_stopped:
            raise Stopped(phase)
        self.show(phase, done, total, str(subject))

    def show(self, phase: str, done: int, total: int | None, subject: str) -> None:
        """Show the state of a phase."""
