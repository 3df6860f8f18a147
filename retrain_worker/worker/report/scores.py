"""The scores of a holdout as a table: candidate, incumbent, trivial baseline, Bayes-optimal; and the tiles above it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from retrain_worker.domain.gates import Scorecard
from retrain_worker.domain.lifecycle import Run
from retrain_worker.report.formatting import NOTHING, count, number
from retrain_worker.report.overview import actions, baseline
from retrain_worker.worker.report.measures import Interval, Measured, Scored

_SCORES = (
    ("auc", "AUC"),
    ("log_loss", "log loss (nats per row)"),
    ("accuracy", "accuracy"),
    ("brier", "Brier score"),
    ("ece", "ECE"),
    ("p_std", "std of P(WIN)"),
)
#: those with an interval
_INTERVALS: dict[str, Callable[[Scored], Interval | None]] = {
    "auc": lambda model: model.auc,
    "log_loss": lambda model: model.log_loss,
    "accuracy": lambda model: model.accuracy,
}


@dataclass(frozen=True, kw_only=True)
class ScoreCell:
    """A number and its interval; the interval is empty where there is none."""

    value: str
    interval: str = ""


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One measure."""

    name: str
    cells: tuple[ScoreCell, ...]


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """A column for each model."""

    head: tuple[str, ...]
    rows: tuple[ScoreRow, ...]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One number at the top of the page, and what puts it in proportion."""

    name: str
    value: str
    lines: tuple[str, ...]


def score_table(run: Run, found: Measured | None, *, bayes_auc: float | None) -> ScoreTable | None:
    """None when the run has measured nothing."""
    gated = run.facts.gate
    if gated is None or gated.candidate is None:
        return None
    models: list[tuple[str, Scorecard, Scored | None]] = [
        ("candidate", gated.candidate, found.candidate if found else None)
    ]
    if gated.incumbent:
        models.append(("incumbent", gated.incumbent, found.incumbent if found else None))
    base = baseline(gated.candidate, run.facts.train.prior if run.facts.train else 0.5)
    rows = []
    for name, title in _SCORES:
        cells = [_cell(getattr(card, name), _interval_of(name, scored)) for _model, card, scored in models]
        cells.append(_cell(base.get(name), None))
        if bayes_auc is not None:
            cells.append(ScoreCell(value=number(bayes_auc) if name == "auc" else NOTHING))
        rows.append(ScoreRow(name=title, cells=tuple(cells)))
    shares = [ScoreCell(value=actions(card.actions)) for _model, card, _scored in models]
    padding = [ScoreCell(value=NOTHING)] * (len(rows[0].cells) - len(shares))
    rows.append(ScoreRow(name="BUY / HOLD / SELL", cells=(*shares, *padding)))
    head = (*(model for model, _card, _scored in models), "baseline")
    return ScoreTable(head=(*head, "Bayes-optimal") if bayes_auc is not None else head, rows=tuple(rows))


def tiles(run: Run, found: Measured | None) -> tuple[Tile, ...]:
    """AUC, log loss, accuracy of the candidate, and its rows."""
    shown, gated, pulled = [], run.facts.gate, run.facts.pull
    if gated and gated.candidate:
        base = baseline(gated.candidate, run.facts.train.prior if run.facts.train else 0.5)
        for name, title in (("auc", "AUC"), ("log_loss", "log loss"), ("accuracy", "accuracy")):
            interval = _interval_of(name, found.candidate if found else None)
            theirs = f"incumbent {number(getattr(gated.incumbent, name))}, " if gated.incumbent else ""
            lines = ((f"95 % {_between(interval)}",) if interval and interval.low is not None else ()) + (
                f"{theirs}baseline {number(base[name])}",
            )
            shown.append(Tile(name=title, value=number(getattr(gated.candidate, name)), lines=lines))
    if pulled:
        age = (run.created_at - pulled.last_at).total_seconds() / 3600 if pulled.last_at else None
        lines = (f"{count(pulled.rows.new_labelled)} new since the last committed run",)
        if age is not None:
            lines += (f"newest row {_age(age)} old at the start",)
        shown.append(Tile(name="labelled rows", value=count(pulled.rows.labelled), lines=lines))
    return tuple(shown)


def _interval_of(name: str, scored: Scored | None) -> Interval | None:
    measure = _INTERVALS.get(name)
    return measure(scored) if measure and scored is not None else None


def _cell(value: float | None, interval: Interval | None) -> ScoreCell:
    is_known = interval is not None and interval.low is not None
    return ScoreCell(value=number(value), interval=_between(interval) if interval and is_known else "")


def _between(interval: Interval) -> str:
    return f"{number(interval.low)} to {number(interval.high)}"


def _age(hours: float) -> str:
    if hours < 1.0:
        return "less than an hour"
    return f"{hours:,.0f} hours" if hours < 72 else f"{hours / 24:,.0f} days"
