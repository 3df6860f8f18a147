"""The progress of a search on a terminal, and its end on SIGINT or SIGTERM."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import ExitStack
from types import FrameType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from retrain_worker.discovery.progress import Progress, Stopped
from retrain_worker.domain.printable import printable

_SECONDS_BETWEEN_UPDATES = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ProgressBar(Progress):
    """Shown on stderr where that is a terminal. The first signal stops the search, the second one ends the process."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[subject]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._bar.add_task("", count="", subject="")
        self._updated_at = 0.0
        self._phase = ""
        self._raises = False
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        """Take over the signals and begin to show."""
        for number in _SIGNALS:
            self._resources.callback(signal.signal, number, signal.signal(number, self._on_signal))
        self._resources.enter_context(self._bar)
        return self

    def __exit__(self, *_error: object) -> None:
        """Remove the bar and give the signals back."""
        self._resources.close()

    def show(self, phase: str, done: int, total: int | None, subject: str) -> None:
        """Update the bar, at most ten times a second within a phase."""
        now = time.monotonic()
        if phase == self._phase and now - self._updated_at < _SECONDS_BETWEEN_UPDATES:
            return
        self._updated_at, self._phase = now, phase
        count = f"{done:,} files" if total is None else f"{done:,}/{total:,}"
        self._bar.update(
            self._task, description=phase, completed=done, total=total, count=count, subject=printable(subject)
        )

    def begin_uninterrupted(self, phase: str) -> None:
        """Begin a phase without steps: a signal raises Stopped at once. Raises Stopped when one has come already."""
        self.step(phase, 0, None, "")
        self._raises = True

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        self.stop()
        if self._raises:
            raise Stopped(self._phase)
