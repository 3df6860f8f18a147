"""The progress of a search on a terminal, and its end on SIGINT or SIGTERM."""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack
from types import FrameType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from retrain_worker.discovery.progress import Progress
from retrain_worker.domain.printable import printable

_REFRESHES_PER_SECOND = 8
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ProgressBar(Progress):
    """Shown on stderr where that is a terminal. The first signal stops the search, the second one ends the process."""

    def __init__(self) -> None:
        super().__init__()
        self._state: tuple[str, int, int | None, str] = ("", 0, None, "")
        self._raises = False
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        """Take over the signals and begin to show."""
        for number in _SIGNALS:
            self._resources.callback(signal.signal, number, signal.signal(number, self._on_signal))
        if sys.stderr.isatty():
            live = Live(
                get_renderable=self._line,
                console=Console(stderr=True),
                refresh_per_second=_REFRESHES_PER_SECOND,
                transient=True,
            )
            self._resources.enter_context(live)
        return self

    def __exit__(self, *_error: object) -> None:
        """Remove the bar and give the signals back."""
        self._resources.close()

    def show(self, phase: str, done: int, total: int | None, subject: str) -> None:
        """Note the state, which is drawn a few times a second."""
        self._state = phase, done, total, subject

    def begin_without_steps(self, phase: str) -> None:
        """Begin a phase in which a signal raises Stopped at once. Raises Stopped when one has come already."""
        self.step(phase, 0, None, "")
        self._raises = True

    def _line(self) -> Table:
        phase, done, total, subject = self._state
        line = Table.grid(padding=(0, 1))
        count = f"{done:,}/{total:,}" if total is not None else f"{done:,} files" if done else ""
        bar = Bar(total=total, completed=done, pulse=total is None, width=20)
        line.add_row(phase, bar, count, Text(printable(subject), no_wrap=True, overflow="ellipsis"))
        return line

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        self.stop()
        if self._raises:
            self.check()
