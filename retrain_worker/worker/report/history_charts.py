"""The charts of the index: models, gates and data over time. Each returns one Chart, or None without data for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, Outcome
from retrain_worker.domain.report_request import IndexedRun
from retrain_worker.report.formatting import number
from retrain_worker.worker.report.charts import BASELINE, CANDIDATE, INCUMBENT, INCUMBENT_LINE, days, floats, time_axis
from retrain_worker.worker.report.drawing import PALETTE, SIZE, Chart, Key, canvas, short

#: with more runs, only those that changed the slot have a marker
_MAX_MARKERS = 150
_MAX_PERIODS = 12
_MAX_LINES = 60
_OTHERS: frozenset[Outcome | None] = frozenset({None, *Outcome}) - {Outcome.PROMOTED, Outcome.ROLLED_BACK}
_MARKERS: tuple[tuple[frozenset[Outcome | None], str, Literal["full", "none"]], ...] = (
    (_OTHERS, "o", "none"),
    (frozenset({Outcome.PROMOTED}), "o", "full"),
    (frozenset({Outcome.ROLLED_BACK}), "X", "full"),
)
_EVENTS: dict[DeploymentKind, dict[str, Any]] = {
    DeploymentKind.PROMOTE: {"color": PALETTE["good"], "linewidth": 1.0, "alpha": 0.5},
    DeploymentKind.ROLLBACK: {"color": PALETTE["bad"], "linewidth": 1.2, "alpha": 0.7, "linestyle": (0, (4, 2))},
    DeploymentKind.EXTERNAL: {"color": PALETTE["soft"], "linewidth": 1.0, "linestyle": (0, (1, 2))},
}
_KEYS = (
    CANDIDATE,
    INCUMBENT,
    Key(kind="good", label="promotion"),
    Key(kind="bad", label="rollback"),
    Key(kind="baseline", label="external change"),
)


@dataclass(frozen=True, kw_only=True)
class Served:
    """A period in which one model was in the slot."""

    version: str
    since: datetime
    until: datetime
    days: float
    #: whether it is there now
    is_current: bool


def auc(runs: Sequence[IndexedRun], deployments: Sequence[Deployment]) -> Chart | None:
    """AUC of candidates and incumbents over time; runs are the oldest first."""
    return _scores(
        "AUC",
        runs,
        deployments,
        candidate=lambda run: run.auc,
        incumbent=lambda run: run.incumbent_auc,
        trivial=lambda _run: 0.5,
    )


def log_loss(runs: Sequence[IndexedRun], deployments: Sequence[Deployment]) -> Chart | None:
    """The same of the log loss."""
    return _scores(
        "log loss",
        runs,
        deployments,
        candidate=lambda run: run.log_loss,
        incumbent=lambda run: run.incumbent_log_loss,
        trivial=lambda run: run.prior_log_loss,
    )


def days_served(periods: Sequence[Served]) -> Chart | None:
    """When each of the newest models was in the slot."""
    if not periods:
        return None
    versions = list(dict.fromkeys(each.version for each in reversed(periods)))[:_MAX_PERIODS]
    with canvas("served", size=(SIZE[0], 1.1 + 0.27 * len(versions))) as drawn:
        axes = drawn.axes[0]
        # a period is wide enough to be seen
        shortest = max((periods[-1].until - periods[0].since).days / 200, 1e-3)
        for each in periods:
            if each.version in versions:
                axes.barh(
                    versions.index(each.version),
                    max(each.days, shortest),
                    left=days([each.since]),
                    height=0.55,
                    color=PALETTE["good" if each.is_current else "candidate"],
                    alpha=0.6,
                )
        total = {name: sum(each.days for each in periods if each.version == name) for name in versions}
        axes.set_yticks(range(len(versions)), [f"{_version(name)}, {_duration(total[name])}" for name in versions])
        axes.set(ylim=(len(versions) - 0.4, -0.6))
        axes.grid(visible=False, axis="y")
        time_axis(axes)
        more = len({each.version for each in periods}) - len(versions)
        return Chart(
            title="Days served by each model",
            caption="Green: the model in the slot now." + (f" {more} earlier models are not shown." if more else ""),
            svg=drawn.svg("days served: " + ", ".join(f"{short(name)} {_duration(total[name])}" for name in versions)),
        )


def refusals(runs: Sequence[IndexedRun]) -> Chart | None:
    """How often each gate has kept a candidate back."""
    counts = Counter(name for run in runs for name in run.failed_gates).most_common()
    if not counts:
        return None
    with canvas("refusals", size=(SIZE[0], 1.0 + 0.27 * len(counts))) as drawn:
        axes, places = drawn.axes[0], np.arange(len(counts))
        axes.barh(places, [found for _name, found in counts], height=0.55, color=PALETTE["bad"], alpha=0.5)
        axes.set_yticks(places, [short(name) for name, _found in counts])
        axes.set(xlabel="runs", ylim=(len(counts) - 0.4, -0.6), xlim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(visible=False, axis="y")
        return Chart(
            title="Refusals by gate",
            caption="Runs in which a gate that counts was failed or could not be decided; a run may have several.",
            svg=drawn.svg("refusals: " + ", ".join(f"{short(name)} {found}" for name, found in counts)),
        )


def data(runs: Sequence[IndexedRun]) -> Chart | None:
    """Labelled rows of each run, and the age of the newest one when it started."""
    known = [run for run in runs if run.rows is not None]
    if not known:
        return None
    with canvas("data", 2, 1, size=(SIZE[0], 3.9), sharex=True) as drawn:
        above, below = drawn.axes
        at = days(run.created_at for run in known)
        above.plot(at, [run.rows or 0 for run in known], color=PALETTE["candidate"], marker=_marker(known))
        above.plot(at, [run.new_rows or 0 for run in known], **INCUMBENT_LINE, marker=_marker(known))
        above.set(ylabel="labelled rows", ylim=(0, None))
        dated = [(run.created_at, run.newest_row_at) for run in known if run.newest_row_at]
        ages = [max(0.0, (start - newest).total_seconds() / 3600) for start, newest in dated]
        below.plot(days(start for start, _newest in dated), ages, color=PALETTE["candidate"], marker=_marker(known))
        below.set(ylabel="age of newest (h)", ylim=(0, None))
        _padded(below, known)
        time_axis(below)
        return Chart(
            title="Data volume and freshness",
            caption="Below: hours between the newest labelled row and the start of the run.",
            keys=(Key(kind="candidate", label="all labelled rows"), Key(kind="incumbent", label="new ones")),
            svg=drawn.svg("labelled rows of each run, and the age of the newest row"),
        )


def _scores(
    name: str,
    runs: Sequence[IndexedRun],
    deployments: Sequence[Deployment],
    *,
    candidate: Callable[[IndexedRun], float | None],
    incumbent: Callable[[IndexedRun], float | None],
    trivial: Callable[[IndexedRun], float | None],
) -> Chart | None:
    known = [run for run in runs if candidate(run) is not None]
    if not known:
        return None
    with canvas(f"history-{name}") as drawn:
        axes = drawn.axes[0]
        since = known[0].created_at
        for one in [one for one in deployments if one.created_at >= since][-_MAX_LINES:]:
            axes.axvline(one.created_at.timestamp() / 86_400.0, **_EVENTS[one.kind])
        for measure, style in ((trivial, BASELINE), (incumbent, INCUMBENT_LINE)):
            with_it = [run for run in known if measure(run) is not None]
            marker = _marker(with_it) if style is INCUMBENT_LINE else ""
            axes.plot(days(run.created_at for run in with_it), floats(map(measure, with_it)), marker=marker, **style)
        at, values = days(run.created_at for run in known), floats(map(candidate, known))
        axes.plot(at, values, color=PALETTE["candidate"])
        for outcomes, marker, filling in _MARKERS:
            places = [place for place, run in enumerate(known) if run.outcome in outcomes]
            if outcomes is not _OTHERS or len(known) <= _MAX_MARKERS:
                is_cross = marker == "X"
                axes.plot(
                    at[places],
                    values[places],
                    marker,
                    color=PALETTE["bad" if is_cross else "candidate"],
                    markersize=8 if is_cross else 5.5,
                    fillstyle=filling,
                )
        axes.set(ylabel=f"{name} on the holdout")
        _padded(axes, known)
        time_axis(axes)
        return Chart(
            title=f"{name[0].upper()}{name[1:]} over time",
            caption="Filled: promoted; cross: promoted, then rolled back; ring: not promoted. Dotted: "
            + ("no skill." if name == "AUC" else "the prior alone."),
            keys=_KEYS,
            svg=drawn.svg(f"{name} of {len(known)} runs; the newest {number(values[-1])}"),
        )


def _padded(axes: Axes, runs: Sequence[IndexedRun]) -> None:
    """Room beside the first and the last run, and around a single one."""
    first, last = days([runs[0].created_at, runs[-1].created_at])
    room = max((last - first) * 0.04, 0.1)
    axes.set_xlim(first - room, last + room)


def _marker(runs: Sequence[IndexedRun]) -> str:
    return "." if len(runs) <= _MAX_MARKERS else ""


def _version(name: str) -> str:
    """`patchtst_v20260110_033000` without what all versions share."""
    return short(name.removeprefix("patchtst_v"))


def _duration(found: float) -> str:
    return f"{found:,.1f} d" if found >= 1.0 else f"{found * 24:.1f} h"
