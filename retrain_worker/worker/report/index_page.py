"""The page of all runs: a table that can be sorted, and how models, gates and data have developed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from retrain_worker import durable_file
from retrain_worker.domain.lifecycle import Deployment
from retrain_worker.domain.report_request import IndexedRun, IndexPage
from retrain_worker.report.formatting import count, duration, number, plain, signed
from retrain_worker.report.overview import MARKS, TONES
from retrain_worker.worker.report import history_charts
from retrain_worker.worker.report.drawing import Chart, charts_of
from retrain_worker.worker.report.history_charts import Served
from retrain_worker.worker.report.templating import rendered

_SECONDS_PER_DAY = 86400.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number as it is shown, and as it is sorted."""

    text: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """A run in the table."""

    run_id: str
    at: str
    tone: str
    mark: str
    outcome: str
    reason: str
    cells: tuple[Cell, ...]
    has_page: bool
    has_comparison: bool


def write_index(wanted: IndexPage) -> None:
    """Write the page. Raises DiskFullError, SlotError."""
    with durable_file.replacing(Path(wanted.output_path)) as file:
        file.write(index_page(wanted).encode())


def index_page(wanted: IndexPage) -> str:
    """The page as text."""
    periods = served(wanted.deployments, until=wanted.at)
    return rendered(
        "index.html",
        script="sort.js",
        at=f"{wanted.at:%Y-%m-%d %H:%M} UTC",
        num_runs=f"{count(len(wanted.runs))} run{'s' if len(wanted.runs) != 1 else ''}",
        outcomes=tuple((name, count(found)) for name, found in _outcomes(wanted.runs)),
        serving=plain(periods[-1].version) if periods and periods[-1].is_current else "",
        lines=tuple(map(_line, wanted.runs)),
        charts=_charts(wanted.runs, wanted.deployments, periods),
    )


def served(deployments: Sequence[Deployment], *, until: datetime) -> tuple[Served, ...]:
    """How long each model was in the slot, oldest first; a model that returned has a period for each time."""
    found = []
    for place, one in enumerate(deployments):
        is_last = place + 1 == len(deployments)
        end = until if is_last else deployments[place + 1].created_at
        if one.model_path:
            days = max(0.0, (end - one.created_at).total_seconds()) / _SECONDS_PER_DAY
            found.append(Served(version=one.version, since=one.created_at, until=end, days=days, is_current=is_last))
    return tuple(found)


def _outcomes(runs: Sequence[IndexedRun]) -> list[tuple[str, int]]:
    return Counter(_outcome(run) for run in runs).most_common()


def _outcome(run: IndexedRun) -> str:
    return str(run.outcome or "IN PROGRESS")


def _line(run: IndexedRun) -> Line:
    tone = TONES[run.outcome]
    ahead = None if run.auc is None or run.incumbent_auc is None else run.auc - run.incumbent_auc
    return Line(
        run_id=plain(run.run_id),
        at=f"{run.created_at:%Y-%m-%d %H:%M}",
        tone=tone,
        mark=MARKS[tone],
        outcome=_outcome(run),
        reason=plain(run.reason),
        cells=(
            _cell(run.auc, number),
            _cell(ahead, signed),
            _cell(run.log_loss, number),
            _cell(run.rows, count),
            _cell(run.new_rows, count),
            _cell(run.seconds, duration),
        ),
        has_page=run.has_page,
        has_comparison=run.has_comparison,
    )


def _cell(value: float | None, shown: Callable[[object], str]) -> Cell:
    return Cell(text=shown(value), value="" if value is None else repr(value))


def _charts(
    runs: Sequence[IndexedRun], deployments: Sequence[Deployment], periods: Sequence[Served]
) -> tuple[Chart, ...]:
    oldest_first = tuple(reversed(runs))
    builders = (
        lambda: history_charts.auc(oldest_first, deployments),
        lambda: history_charts.log_loss(oldest_first, deployments),
        lambda: history_charts.days_served(periods),
        lambda: history_charts.refusals(oldest_first),
        lambda: history_charts.data(oldest_first),
    )
    return charts_of(
        builders, failed=lambda error: _log.warning("a chart of the index cannot be drawn", exc_info=error)
    )
