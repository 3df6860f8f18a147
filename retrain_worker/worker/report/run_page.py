"""The page of a run: self-contained HTML that fetches and executes nothing, and the predictions as CSV beside it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from retrain_worker import durable_file
from retrain_worker.domain.audit_findings import Finding, Severity
from retrain_worker.domain.facts import RunFacts
from retrain_worker.domain.gates import Scorecard
from retrain_worker.domain.labels import Label
from retrain_worker.domain.report_request import PREDICTIONS_FILE, RunPage
from retrain_worker.errors import RetrainError
from retrain_worker.report.formatting import count, number, plain, share
from retrain_worker.report.overview import BAD, GOOD, MARKS, WARN, Cells, overview
from retrain_worker.report.result import RunResult
from retrain_worker.worker import predictions_file
from retrain_worker.worker.predictions_file import Predictions, PredictionsInfo
from retrain_worker.worker.report import charts
from retrain_worker.worker.report.drawing import Chart, charts_of
from retrain_worker.worker.report.gate_cards import gate_cards
from retrain_worker.worker.report.lineage import lineage
from retrain_worker.worker.report.measures import Measured, Scored, measured
from retrain_worker.worker.report.scores import score_table, tiles
from retrain_worker.worker.report.templating import rendered

CSV_NAME = "predictions.csv"
COMPARISON_NAME = "compare.html"

_TONES = {Severity.OK: GOOD, Severity.WARNING: WARN, Severity.REFUSAL: BAD}
#: a spreadsheet takes a cell that begins so for a formula
_FORMULA = r"^[=+\-@\t\r]"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """The charts of a page by section, and what is left out and why."""

    holdout: tuple[Chart, ...] = ()
    parts: tuple[Chart, ...] = ()
    training: tuple[Chart, ...] = ()
    data: tuple[Chart, ...] = ()
    notes: tuple[str, ...] = ()


def write_run_page(wanted: RunPage) -> None:
    """Write the page, and in the site the CSV file. Raises DiskFullError, SlotError."""
    predictions, notes = _predictions(wanted)
    found = measured(predictions) if predictions else None
    info = predictions.info if predictions else None
    drawn = drawings(wanted, found, info, notes=notes)
    text = page(wanted, found, info, drawn)
    output = Path(wanted.output_path)
    if predictions and wanted.is_in_site:
        with durable_file.replacing(output.with_name(CSV_NAME)) as file:
            predictions.rows.with_columns(
                pl.col("symbol").str.replace(_FORMULA, "'${0}"), *_as_text("decided_at", "known_at")
            ).write_csv(file)
    with durable_file.replacing(output) as file:
        file.write(text.encode())


def page(
    wanted: RunPage, found: Measured | None = None, info: PredictionsInfo | None = None, drawn: Drawings | None = None
) -> str:
    """The page as text."""
    drawn = drawn or Drawings()
    run, facts = wanted.run, wanted.run.facts
    output = Path(wanted.output_path)
    result = RunResult(run=run, report=output, bayes_auc=wanted.bayes_auc, event=wanted.event, engine=wanted.engine)
    seen = overview(result)
    findings = facts.audit.findings if facts.audit else ()
    return rendered(
        "run.html",
        seen=seen,
        mark=MARKS[seen.tone],
        run_id=plain(run.run_id),
        links=_links(wanted, has_predictions=info is not None),
        tiles=tiles(run, found),
        gates=gate_cards(facts.gate.verdict.gates) if facts.gate else (),
        scores=score_table(run, found, bayes_auc=wanted.bayes_auc),
        confusion=_confusion(found, charts.classes(_label(facts))),
        slices=_slices(result.candidate),
        findings=tuple(_findings(findings)),
        lineage=lineage(run, seen, info, previous_run_id=wanted.previous_run_id),
        holdout_charts=drawn.holdout,
        part_charts=drawn.parts,
        training_charts=drawn.training,
        data_charts=drawn.data,
        notes=drawn.notes,
    )


def drawings(
    wanted: RunPage, found: Measured | None, info: PredictionsInfo | None, *, notes: Iterable[str] = ()
) -> Drawings:
    """The charts; one that cannot be drawn is named in the notes, and the page has the others."""
    facts, failures = wanted.run.facts, list(notes)
    names = charts.classes(_label(facts))
    findings = facts.audit.findings if facts.audit else ()

    def note(error: Exception) -> None:
        _log.warning("run %s: a chart cannot be drawn", wanted.run.run_id, exc_info=error)
        failures.append(f"A chart could not be drawn: {type(error).__name__}; the log of the worker has more.")

    def drawn(*builders: Callable[[], Chart | None]) -> tuple[Chart, ...]:
        return charts_of(builders, failed=note)

    gated, trained = facts.gate, facts.train
    buckets = gated.candidate.buckets if gated and gated.candidate else ()
    theirs = gated.incumbent.buckets if gated and gated.incumbent else ()
    of_both = (charts.roc, charts.precision_recall, charts.probabilities, charts.cumulative_hits, charts.deciles)
    sections = {
        "holdout": drawn(
            *([lambda draw=draw: draw(found, names) for draw in of_both] if found else []),
            lambda: charts.reliability(buckets, theirs, names),
        ),
        "parts": drawn(
            lambda: charts.areas(
                "AUC by symbol",
                found.candidate.by_symbol() if found else (),
                caption="The candidate on the rows of each symbol, weakest first.",
                name="symbols",
            ),
            lambda: charts.areas(
                "AUC by backtest fold",
                found.folds if found and len(found.folds) > 1 else (),
                caption="The holdout and earlier stretches, newest first, each predicted by the same configuration "
                "trained on the rows before it.",
                name="folds",
            ),
        ),
        "training": drawn(
            lambda: charts.learning(trained) if trained else None,
        ),
        "data": drawn(lambda: charts.drift(findings), lambda: charts.features(info, findings) if info else None),
    }
    if info is not None and found is None:
        failures.append("A probability of the candidate is not a number, so no curve is drawn.")
    return Drawings(**sections, notes=tuple(failures))


# ---------------------------------------------------------------- sections


def _predictions(wanted: RunPage) -> tuple[Predictions | None, list[str]]:
    """The stored predictions; else what is left out, where the run has come to its gates."""
    if wanted.run.facts.gate is None:
        return None, []
    try:
        return predictions_file.read(Path(wanted.run_dir)), []
    except RetrainError as error:
        return None, [
            f"Curves, histograms, intervals, AUC by symbol and by fold, features: {plain(error.what)}. Runs before "
            "version 0.2 have stored none; with KEEP_RUNS the folder of a run is removed."
        ]


def _label(facts: RunFacts) -> Label:
    return facts.train.contract.label if facts.train else Label.OUTCOME


def _links(wanted: RunPage, *, has_predictions: bool) -> tuple[tuple[str, str], ...]:
    if not wanted.is_in_site:
        return ()
    found = [("../index/index.html", "All runs")]
    if wanted.previous_run_id:
        found.append((COMPARISON_NAME, f"Compare with run {plain(wanted.previous_run_id)}"))
    if has_predictions:
        found += [(CSV_NAME, "Predictions (CSV)"), (PREDICTIONS_FILE, "Predictions (Parquet)")]
    return tuple(found)


def _confusion(found: Measured | None, names: tuple[str, str]) -> tuple[tuple[str, Cells], ...]:
    if found is None:
        return ()
    models: list[tuple[str, Scored]] = [("Candidate", found.candidate)]
    if found.incumbent is not None:
        models.append(("Incumbent", found.incumbent))
    return tuple(
        (
            f"{name}: BUY above {model.thresholds.buy:g}, SELL below {model.thresholds.sell:g}",
            Cells(
                head=("action", names[0], names[1], "rows", f"share of {names[0]}"),
                rows=tuple(
                    (action, count(ones), count(zeros), count(ones + zeros), _share(ones, ones + zeros))
                    for action, ones, zeros in model.confusion()
                ),
            ),
        )
        for name, model in models
    )


def _slices(candidate: Scorecard | None) -> Cells | None:
    rows = tuple(
        (
            plain(part.name),
            count(part.n),
            number(part.auc),
            number(part.auc_high),
            number(part.p_std),
            *(share(part.actions.get(name)) for name in ("BUY", "HOLD", "SELL")),
        )
        for part in (candidate.slices if candidate else ())
    )
    head = ("slice", "rows", "AUC", "upper bound", "std of P(WIN)", "BUY", "HOLD", "SELL")
    return Cells(head=head, rows=rows) if rows else None


@dataclass(frozen=True, kw_only=True)
class _Finding:
    tone: str
    mark: str
    severity: str
    message: str
    examples: str


@dataclass(frozen=True, kw_only=True)
class _Findings:
    """The findings of one kind: those that are fine are folded."""

    summary: str
    is_folded: bool
    findings: tuple[_Finding, ...]


def _findings(findings: Iterable[Finding]) -> Iterator[_Findings]:
    for is_fine, what in ((False, "to check"), (True, "fine")):
        shown = tuple(_finding(finding) for finding in findings if (finding.severity is Severity.OK) is is_fine)
        if shown:
            yield _Findings(summary=f"{len(shown)} {what}", is_folded=is_fine, findings=shown)


def _finding(finding: Finding) -> _Finding:
    tone = _TONES[finding.severity]
    return _Finding(
        tone=tone,
        mark=MARKS[tone],
        severity=finding.severity.lower(),
        message=plain(finding.message),
        examples="; ".join(plain(example) for example in finding.examples),
    )


def _share(part: int, whole: int) -> str:
    return share(part / whole if whole else None)


def _as_text(*names: str) -> list[pl.Expr]:
    return [pl.col(name).dt.to_string("%Y-%m-%dT%H:%M:%S%.6fZ") for name in names]
