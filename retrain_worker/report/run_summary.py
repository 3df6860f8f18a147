"""The report of a run for the terminal: outcome and reasons, measurements beside what is required, files."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from retrain_worker.domain.gates import GateResult, Scorecard
from retrain_worker.report.formatting import NOTHING, count, share
from retrain_worker.report.overview import (
    BAD,
    GATE_TONES,
    GOOD,
    MARKS,
    OPEN,
    QUIET,
    Cells,
    Overview,
    Pairs,
    overview,
    printable,
)
from retrain_worker.report.result import RunResult

_WIDTH = 100
_LABEL_WIDTH = 14
_STYLES = {GOOD: "green", BAD: "red", OPEN: "yellow", QUIET: "cyan"}


def summary(result: RunResult, *, colour: bool = False) -> str:
    """The summary of a run, 100 columns wide. Only paths may be longer, so that they can be copied."""
    seen = overview(result)
    return _printed(_head(seen, result.run.run_id), *_body(seen), colour=colour)


def gates_table(gates: Sequence[GateResult]) -> str:
    """The checks of each gate, and its message."""
    shown, messages = printable(gates), Table.grid(padding=(0, 2))
    for gate in shown:
        messages.add_row(_mark(gate), Text(gate.message))
    table = _gates(shown)
    return _printed(table, Text(), messages, colour=False) if table else "the gates were not evaluated"


def hit_rates(card: Scorecard | None) -> str:
    """The hit rate in each bucket of P(WIN); empty without buckets."""
    table = _table("P(WIN)", "rows", "mean P(WIN)", "hit rate", "95 % interval")
    for bucket in card.buckets if card else ():
        interval = f"{share(bucket.hit_rate_low)} to {share(bucket.hit_rate_high)}"
        table.add_row(
            f"{bucket.low:.1f} to {bucket.high:.1f}",
            count(bucket.n),
            share(bucket.mean_probability),
            share(bucket.hit_rate),
            NOTHING if bucket.hit_rate_low is None else interval,
        )
    return _printed(table, colour=False) if table.row_count else ""


def _head(seen: Overview, run_id: str) -> RenderableType:
    style = _STYLES[seen.tone]
    lines = [
        Text.assemble((f"{MARKS[seen.tone]} {seen.outcome}", f"bold {style}"), f"   run {run_id}"),
        Text(seen.message),
    ]
    if seen.reasons:
        lines += [Text(), *(Text.assemble(("reason ", "dim"), reason) for reason in seen.reasons)]
    lines += [Text(), Text.assemble(("next ", "dim"), seen.next_step)] if seen.next_step else []
    return Panel(Group(*lines), box=box.ROUNDED, border_style=style, width=_WIDTH)


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


def _gates(gates: Sequence[GateResult]) -> Table | None:
    if not gates:
        return None
    table = Table(box=box.SIMPLE_HEAD, width=_WIDTH, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column("  gate", no_wrap=True, width=24)
    table.add_column("measured", ratio=1, overflow="fold")
    table.add_column("required", no_wrap=True, width=13)
    for gate in gates:
        if not gate.checks:
            table.add_row(_mark(gate), Text(gate.message), Text())
        for place, check in enumerate(gate.checks):
            style = "" if check.is_met or not gate.counts else _STYLES[GATE_TONES[gate.result]]
            table.add_row(_mark(gate) if place == 0 else Text(), Text(check.measured, style), Text(check.required))
    return table


def _mark(gate: GateResult) -> Text:
    tone = GATE_TONES[gate.result]
    if gate.counts:
        return Text(f"  {MARKS[tone]} {gate.name}", style=_STYLES[tone])
    return Text(f"  {MARKS[tone]} {gate.name} (advisory)", style="dim")


def _table(first: str, *others: str) -> Table:
    """The first column to the left, numbers to the right."""
    table = Table(box=None, padding=(0, 3, 0, 2), header_style="dim")
    table.add_column(Text(first), min_width=22)
    for name in others:
        table.add_column(Text(name), justify="right")
    return table


def _printed(*parts: RenderableType, colour: bool) -> str:
    """Without markup: symbols and reasons may contain brackets."""
    file = io.StringIO()
    console = Console(
        file=file,
        width=_WIDTH,
        force_terminal=colour,
        no_color=not colour,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    for part in parts:
        console.print(part, crop=False)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())
