"""The page of two runs side by side: outcome, scores, gates, settings, and their curves in one chart."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from retrain_worker import durable_file
from retrain_worker.domain.gates import Scorecard
from retrain_worker.domain.labels import Label
from retrain_worker.domain.lifecycle import Run
from retrain_worker.domain.report_request import ComparisonPage
from retrain_worker.errors import RetrainError
from retrain_worker.report.formatting import NOTHING, count, number, plain, signed
from retrain_worker.report.overview import MARKS, Cells, Overview, Pairs, overview
from retrain_worker.report.result import RunResult
from retrain_worker.worker import predictions_file
from retrain_worker.worker.report import charts
from retrain_worker.worker.report.drawing import Chart, Key
from retrain_worker.worker.report.gate_cards import GateCard, gate_cards
from retrain_worker.worker.report.lineage import changed_settings
from retrain_worker.worker.report.measures import Interval, Measured, measured
from retrain_worker.worker.report.templating import rendered

_SCORES = (
    ("auc", "AUC"),
    ("log_loss", "log loss (nats per row)"),
    ("accuracy", "accuracy"),
    ("brier", "Brier score"),
    ("ece", "ECE"),
    ("calibration_slope", "calibration slope"),
    ("p_std", "std of P(WIN)"),
)

_CALIBRATION = (
    "Each candidate on its own holdout. Vertical bars, and the rows below: the later run. Dotted: perfectly calibrated."
)

_log = logging.getLogger(__name__)


def write_comparison(wanted: ComparisonPage) -> None:
    """Write the page. Raises DiskFullError, SlotError."""
    with durable_file.replacing(Path(wanted.output_path)) as file:
        file.write(comparison_page(wanted).encode())


def comparison_page(wanted: ComparisonPage) -> str:
    """The page as text."""
    seen = tuple(overview(RunResult(run=run)) for run in wanted.runs)
    found = tuple(_measured(folder) for folder in wanted.run_dirs)
    return rendered(
        "compare.html",
        runs=tuple(zip(map(_id, wanted.runs), seen, (MARKS[each.tone] for each in seen), strict=True)),
        links=_links(wanted),
        scores=_scores(wanted.runs, found),
        gates=_gates(wanted.runs),
        differences=tuple(_differences(wanted.runs, seen)),
        charts=_charts(wanted.runs, found),
        notes=tuple(
            f"Run {_id(run)} has no stored predictions: its curves are left out."
            for run, each in zip(wanted.runs, found, strict=True)
            if each is None
        ),
    )


def _id(run: Run) -> str:
    return plain(run.run_id)


def _links(wanted: ComparisonPage) -> tuple[tuple[str, str], ...]:
    if not wanted.is_in_site:
        return ()
    pages = tuple((f"../{_id(run)}/report.html", f"Run {_id(run)}") for run in wanted.runs)
    return (("../index/index.html", "All runs"), *pages)


def _measured(folder: str) -> Measured | None:
    try:
        return measured(predictions_file.read(Path(folder)))
    except RetrainError:
        return None


def _scores(runs: tuple[Run, Run], found: tuple[Measured | None, ...]) -> Cells | None:
    cards = [run.facts.gate.candidate if run.facts.gate else None for run in runs]
    if not any(cards):
        return None
    rows = [
        (title, *(number(getattr(card, name, None)) for card in cards), _change(name, cards)) for name, title in _SCORES
    ]
    areas = [each.candidate.auc if each else None for each in found]
    rows.insert(1, ("AUC, 95 % interval", *map(_between, areas), ""))
    rows.append(("rows of the holdout", *(count(card.n if card else None) for card in cards), ""))
    return Cells(head=("candidate on its holdout", *map(_id, runs), "change"), rows=tuple(rows), is_first_row_bold=True)


def _change(name: str, cards: list[Scorecard | None]) -> str:
    before, after = (getattr(card, name, None) for card in cards)
    return NOTHING if before is None or after is None else signed(after - before)


def _between(found: Interval | None) -> str:
    return f"{number(found.low)} to {number(found.high)}" if found and found.low is not None else NOTHING


def _gates(runs: tuple[Run, Run]) -> tuple[tuple[str, GateCard | None, GateCard | None], ...]:
    """(gate, its card in each run), in the order of the gates."""
    cards = [
        {card.name: card for card in gate_cards(run.facts.gate.verdict.gates)} if run.facts.gate else {} for run in runs
    ]
    names = dict.fromkeys([*cards[0], *cards[1]])
    return tuple((name, cards[0].get(name), cards[1].get(name)) for name in names)


def _differences(runs: tuple[Run, Run], seen: tuple[Overview, ...]) -> Iterator[tuple[str, str, str, bool]]:
    """(name, text in each run, whether they differ)."""
    texts: list[dict[str, str]] = []
    for run, each in zip(runs, seen, strict=True):
        trained = run.facts.train
        pairs: Pairs = (
            ("requested by", plain(f"{run.requested_by}: {run.request_reason}")),
            *each.rows,
            ("epochs", count(trained.epochs if trained else None)),
            ("changed settings", plain("; ".join(changed_settings(run)))),
            ("time spent", each.seconds),
        )
        texts.append(dict(pairs))
    for name in dict.fromkeys([*texts[0], *texts[1]]):
        before, after = (text.get(name, NOTHING) for text in texts)
        yield name, before, after, before != after


def _charts(runs: tuple[Run, Run], found: tuple[Measured | None, ...]) -> tuple[Chart, ...]:
    models = [(_id(run), each.candidate) for run, each in zip(runs, found, strict=True) if each is not None]
    if not models:
        return ()
    label = next((run.facts.train.contract.label for run in runs if run.facts.train), Label.OUTCOME)
    names = charts.classes(label)
    before, after = (
        run.facts.gate.candidate.buckets if run.facts.gate and run.facts.gate.candidate else () for run in runs
    )
    keys = tuple(
        Key(kind=kind, label=f"run {_id(run)}") for kind, run in zip(("incumbent", "candidate"), runs, strict=True)
    )
    try:
        calibration = charts.reliability(after, before, names)
        return (
            charts.roc_of(models, names),
            *((replace(calibration, keys=keys, caption=_CALIBRATION),) if calibration else ()),
        )
    except Exception:  # the tables are worth a page of their own
        _log.warning("the charts of the comparison cannot be drawn", exc_info=True)
        return ()
