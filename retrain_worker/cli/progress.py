"""One line on stderr while a command works: what it does, how much is done, and how long it will take.

It is shown on a terminal only, and removed at the end.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from types import FrameType
from typing import TYPE_CHECKING, Self

from retrain_worker.discovery.progress import Progress
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.domain.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

    from retrain_worker.stages.step import Step

_REFRESHES_PER_SECOND = 8
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BAR_WIDTH = 20


class Activity:
    """The line. As a context manager: shown inside, where stderr is a terminal."""

    def __init__(self) -> None:
        self._text, self._count = "", ""
        self._share: float | None = None
        self._began_at = time.monotonic()
        self._seconds_left: float | None = None
        self._noted_at = self._began_at
        self._resources = ExitStack()
        self.is_shown = False

    def __enter__(self) -> Self:
        from rich.live import Live

        from retrain_worker.cli.screen import console

        screen = console(stderr=True)
        if screen.is_terminal and not screen.is_dumb_terminal:
            live = Live(
                get_renderable=self._line,
                console=screen,
                refresh_per_second=_REFRESHES_PER_SECOND,
                transient=True,
            )
            self._resources.enter_context(live)
            self.is_shown = True
        return self

    def __exit__(self, *_error: object) -> None:
        """Remove the line."""
        self._resources.close()

    def message(
        self, text: str, *, share: float | None = None, seconds_left: float | None = None, count: str = ""
    ) -> None:
        """Show `text`; `share` of the work is done, `seconds_left` remain, as of now."""
        self._text, self._share, self._seconds_left, self._count = text, share, seconds_left, count
        self._noted_at = time.monotonic()

    def _line(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        from retrain_worker.report.formatting import duration

        now = time.monotonic()
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(width=_BAR_WIDTH)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        share, left = self._share, self._seconds_left
        if left is not None:
            left = max(0.0, left - (now - self._noted_at))
            timing = f"about {duration(left)} left" if left >= 1 else "about to end"
        else:
            timing = duration(now - self._began_at)
        bar = ProgressBar(total=None if share is None else 1.0, completed=share or 0.0, pulse=share is None)
        text = Text(printable(self._text), no_wrap=True, overflow="ellipsis")
        line.add_row(bar, text, Text(" ".join(filter(None, (self._count, timing))), "dim"))
        return line


class RunActivity(Activity):
    """The line of a run; without a terminal the steps are log entries.

    A stage that does not report its progress is expected to take as long as in `last_seconds`, which has the seconds of
    an earlier run by stage.
    """

    def __init__(self, last_seconds: Mapping[str, float]) -> None:
        super().__init__()
        self._last_seconds = last_seconds
        self._stage: Stage | None = None
        self._stage_began_at = self._began_at

    def step(self, step: Step) -> None:
        """Show a step of the run."""
        if not self.is_shown:
            from retrain_worker.daemon.run_log import log_step

            log_step(step)
            return
        now = time.monotonic()
        if step.run.stage is not self._stage:
            self._stage, self._stage_began_at = step.run.stage, now
        share, left = step.share, step.seconds_left
        expected = self._last_seconds.get(step.run.stage.lower())
        if share is None and expected and not step.is_end:
            elapsed = now - self._stage_began_at
            share, left = min(elapsed / expected, 0.99), max(0.0, expected - elapsed)
        self.message(step.message, share=share, seconds_left=left)


class SearchActivity(Progress, Activity):
    """The line of a search. The first SIGINT or SIGTERM stops the search, the second one ends the process."""

    def __init__(self) -> None:
        Progress.__init__(self)
        Activity.__init__(self)
        self._raises = False

    def __enter__(self) -> Self:
        """Take over the signals and begin to show."""
        for number in _SIGNALS:
            self._resources.callback(signal.signal, number, signal.signal(number, self._on_signal))
        return super().__enter__()

    def show(self, phase: str, done: int, total: int | None, subject: str) -> None:
        """Note the state, which is drawn a few times a second."""
        count = f"{done:,}/{total:,}" if total is not None else f"{done:,} files" if done else ""
        self.message(f"{phase} {subject}", share=done / total if total else None, count=count)

    def begin_without_steps(self, phase: str) -> None:
        """Begin a phase in which a signal raises Stopped at once. Raises Stopped when one has come already."""
        self.step(phase, 0, None, "")
        self._raises = True

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        self.stop()
        if self._raises:
            self.check()
