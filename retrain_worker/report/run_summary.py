"""The report of a run for the terminal: outcome and reasons, measurements beside what is required, files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from retrain_worker.domain.gates import Fold, GateResult, Scorecard
from retrain_worker.report.formatting import NOTHING, count, number, plain, share, signed
from retrain_worker.report.overview import (
    GATE_TONES,
    MARKS,
    STYLES,
    Cells,
    Overview,
    Pairs,
    actions,
    overview,
    printable,
)
from retrain_worker.report.result import RunResult

_LABEL_WIDTH = 14


def summary(result: RunResult) -> RenderableType:
    """The summary of a run, as wide as the console. Only paths may be longer, so that they can be copied."""
    seen = overview(result)
    return Group(_head(seen, result.run.run_id), *_body(seen))


def gates_table(gates: Sequence[GateResult]) -> RenderableType:
    """The checks of each gate, and what else its message states."""
    return _gates(printable(gates), has_details=True) or Text("the gates were not evaluated")


def slices_table(card: Scorecard | None) -> RenderableType:
    """Each symbol and each half of the holdout, the weakest first; nothing without slices."""
    slices = sorted(card.slices if card else (), key=lambda part: (part.auc is None, part.auc))
    if not slices:
        return Group()
    table = _table("slice", "rows", "AUC", "upper bound", "BUY / HOLD / SELL")
    for part in slices:
        table.add_row(plain(part.name), count(part.n), number(part.auc), number(part.auc_high), actions(part.actions))
    weakest = slices[0]
    title = Text("\nSlices of the holdout", style="bold")
    if weakest.auc is not None:
        title.append(f"; weakest: {plain(weakest.name)} with AUC {number(weakest.auc)}", style="not bold")
    return Group(title, table)


def folds_table(folds: Sequence[Fold]) -> RenderableType:
    """The backtest folds, newest first; nothing without folds."""
    if not folds:
        return Group()
    table = _table("from", "to", "rows", "AUC", "log loss gain")
    for fold in folds:
        table.add_row(
            *(at[:16].replace("T", " ") for at in (fold.first_at, fold.last_at)),
            count(fold.n),
            number(fold.auc),
            signed(fold.log_loss_gain),
        )
    return Group(Text("\nBacktest folds (same configuration, earlier cut-offs):", style="bold"), table)


def hit_rates(card: Scorecard | None) -> RenderableType:
    """The hit rate in each bucket of P(WIN); nothing without buckets."""
    if card is None or not card.buckets:
        return Group()
    table = _table("P(WIN)", "rows", "mean P(WIN)", "hit rate", "95 % interval")
    for bucket in card.buckets:
        interval = f"{share(bucket.hit_rate_low)} to {share(bucket.hit_rate_high)}"
        table.add_row(
            f"{bucket.low:.1f} to {bucket.high:.1f}",
            count(bucket.n),
            share(bucket.mean_probability),
            share(bucket.hit_rate),
            NOTHING if bucket.hit_rate_low is None else interval,
        )
    return Group(Text("\nHit rate by P(WIN)", style="bold"), table)


def _head(seen: Overview, run_id: str) -> RenderableType:
    style = STYLES[seen.tone]
    lines = [
        Text.assemble((f"{MARKS[seen.tone]} {seen.outcome}", f"bold {style}"), f"   run {run_id}"),
        Text(seen.message),
    ]
    if seen.warnings:
        lines += [Text(), *(Text.assemble(("warning ", "yellow"), warning) for warning in seen.warnings)]
    if seen.reasons:
        lines += [Text(), *(Text.assemble(("reason ", "dim"), reason) for reason in seen.reasons)]
    lines += [Text(), Text.assemble(("next ", "dim"), seen.next_step)] if seen.next_step else []
    return Panel(Group(*lines), box=box.ROUNDED, border_style=style)


def _body(seen: Overview) -> Iterator[RenderableType]:
    no_incumbent = (("no incumbent", seen.incumbent_absence),) if seen.incumbent_absence else ()
    sections = (
        ("Rows", _pairs(seen.rows)),
        ("Classes before and after balancing", _cells(seen.classes)),
        (f"Holdout: {seen.holdout_rows} rows that the candidate was not trained on", _cells(seen.scores)),
        ("", _pairs(no_incumbent)),
        ("Gates", _gates(seen.gates)),
        ("Live evaluation", _pairs(seen.trials)),
        ("PATCHTST_MODEL_PATH", _pairs(seen.slot)),
        ("Event as a consumer received it", _pairs(seen.event)),
        ("Engine traffic during the swap", _cells(seen.traffic)),
        ("Files", _pairs(seen.files)),
        ("Time", Text(f"  {seen.seconds}") if seen.seconds else None),
    )
    for title, content in sections:
        if content is not None:
            yield from [Text(f"\n{title}", style="bold")] if title else []
            yield content


def _pairs(pairs: Pairs) -> RenderableType | None:
    """Name and text in two columns; a text without spaces (a path, a hash) is not wrapped."""
    lines: list[RenderableType] = []
    for name, text in pairs:
        label = f"  {name:<{_LABEL_WIDTH}}"
        if " " not in text:
            lines.append(Text.assemble((label, "dim"), text, no_wrap=True, overflow="ignore"))
            continue
        row = Table.grid()
        row.add_column(width=len(label), no_wrap=True, style="dim")
        row.add_column()
        row.add_row(Text(label), Text(text))
        lines.append(row)
    return Group(*lines) if lines else None


def _cells(cells: Cells | None) -> RenderableType | None:
    if cells is None or not cells.rows:
        return None
    table = _table(*cells.head)
    for place, row in enumerate(cells.rows):
        is_bold = cells.is_first_row_bold and place == 0
        table.add_row(*(Text(cell) for cell in row), style="bold" if is_bold else "")
    return table


def _gates(gates: Sequence[GateResult], *, has_details: bool = False) -> Table | None:
    if not gates:
        return None
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column("  gate", overflow="fold", min_width=19, max_width=24)
    table.add_column("measured", ratio=1, overflow="fold")
    table.add_column("required", no_wrap=True)
    for gate in gates:
        if not gate.checks:
            table.add_row(_mark(gate), Text(gate.message), Text())
        for place, check in enumerate(gate.checks):
            style = "" if check.is_met or not gate.counts else STYLES[GATE_TONES[gate.result]]
            table.add_row(_mark(gate) if place == 0 else Text(), Text(check.measured, style), Text(check.required))
        if has_details and gate.checks and gate.detail:
            table.add_row(Text(), Text(gate.detail, "dim"), Text())
    return table


def _mark(gate: GateResult) -> Text:
    tone = GATE_TONES[gate.result]
    if gate.counts:
        return Text(f"  {MARKS[tone]} {gate.name}", style=STYLES[tone])
    return Text(f"  {MARKS[tone]} {gate.name} (advisory)", style="dim")


def _table(first: str, *others: str) -> Table:
    """The first column to the left, numbers to the right."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column(Text(first), min_width=14)
    for name in others:
        table.add_column(Text(name), justify="right")
    return table
