"""A run as one self-contained HTML page: nothing is fetched, nothing is executed, every text is escaped."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from retrain_worker.domain.audit_findings import Finding, Severity
from retrain_worker.domain.gates import GateResult, Scorecard
from retrain_worker.domain.lifecycle import Run
from retrain_worker.report import charts
from retrain_worker.report.formatting import NOTHING, count, number, plain, share
from retrain_worker.report.overview import BAD, GATE_TONES, GOOD, MARKS, OPEN, Cells, Overview, Pairs, overview
from retrain_worker.report.result import RunResult

#: the browser loads nothing else, even if a text were not escaped
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #5c6570; --faint: #f1f3f6; --line: #d5dae1;
  --good: #14753c; --bad: #b42318; --open: #8a5a00; --quiet: #1f5f8b; --mark: #1f5fbf; --shade: #cfe8d8 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #16181c; --soft: #9aa3ae; --faint: #20242a;
  --line: #3a3f47; --good: #4cc38a; --bad: #ff7a6b; --open: #e0b050; --quiet: #7ab0d8; --mark: #7ab0ff;
  --shade: #1f4a33 } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 0 auto; padding: 1.25rem 1rem 4rem }
header { border-left: .4rem solid var(--tone); background: var(--faint); padding: .9rem 1.1rem; border-radius: .3rem }
h1 { font-size: 1.45rem; margin: 0; color: var(--tone) } h1 small { color: var(--soft); font-weight: 400 }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .5rem } p { margin: .4rem 0 } ul { margin: .4rem 0; padding-left: 1.2rem }
.good { --tone: var(--good) } .bad { --tone: var(--bad) } .open { --tone: var(--open) } .quiet { --tone: var(--quiet) }
td.good, td.bad, td.open, td.quiet, b { color: var(--tone) } .next, .note, .advisory { color: var(--soft) }
div.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; vertical-align: top; padding: .32rem .9rem .32rem 0; border-bottom: 1px solid var(--line) }
th { font-weight: 600 } thead th { color: var(--soft); font-weight: 400; font-size: .88rem }
td.number, th.number { text-align: right; white-space: nowrap } tr.first td, tr.first th { font-weight: 600 }
table.pairs th { width: 9.5rem; color: var(--soft); font-weight: 400 } table.pairs td { overflow-wrap: anywhere }
.gates { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: .8rem }
.gate { border: 1px solid var(--line); border-radius: .3rem; padding: .6rem .8rem; overflow-wrap: anywhere }
.gate h3 { font-size: 1rem; margin: 0 } .gate h3 span { color: var(--tone) } .gate p { font-size: .88rem }
.check { display: grid; grid-template-columns: 1fr auto; column-gap: 1rem; font-size: .88rem; margin-top: .4rem }
.check .bar { grid-column: 1 / 3 } .check .required { color: var(--soft) }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1.5rem }
figure { margin: 0 } figcaption { font-size: .88rem; color: var(--soft) } svg { width: 100%; height: auto }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif } .frame { fill: none; stroke: var(--line) }
polyline { fill: none; stroke-width: 2 } .candidate { stroke: var(--mark) } circle.candidate { fill: var(--mark) }
.incumbent { stroke: var(--soft); stroke-dasharray: 5 4 } circle.incumbent { fill: var(--paper); stroke-dasharray: none }
.ideal { stroke: var(--line) } .count { fill: var(--mark); opacity: .45 } .best { fill: none; stroke: var(--good);
  stroke-width: 3 } .scale { fill: var(--line) } .allowed { fill: var(--shade) } .limit { stroke: var(--ink) }
.inside { fill: var(--good) } .outside { fill: var(--bad) }
@media (max-width: 40rem) { th, td { padding-right: .5rem } td.number { white-space: normal } table.pairs th { width: 6rem } }
"""  # noqa: E501 (a style sheet)
_SEVERITY_TONES = {Severity.OK: GOOD, Severity.WARNING: OPEN, Severity.REFUSAL: BAD}


def write_page(result: RunResult, path: Path) -> None:
    """Write the page of a run; `path` holds the whole page, or its former content after an error."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(page(result), encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def page(result: RunResult) -> str:
    """The page as text."""
    seen, facts = overview(result), result.run.facts
    sections = (
        ("PATCHTST_MODEL_PATH", _pairs(seen.slot)),
        ("Live evaluation", _pairs(seen.trials)),
        ("Holdout: rows that the candidate was not trained on", _scores(seen)),
        ("Gates", _gates(seen.gates)),
        ("Charts", _charts(result)),
        ("Classes before and after balancing", _table(seen.classes)),
        ("Slices of the holdout", _slices(result.candidate)),
        ("Rows", _pairs(seen.rows)),
        ("Audit findings", _findings(facts.audit.findings if facts.audit else ())),
        ("Event as a consumer received it", _pairs(seen.event)),
        ("Engine traffic during the swap", _table(seen.traffic)),
        ("Files", _pairs(seen.files)),
        ("Run", _pairs(_run(result.run, seen))),
    )
    body = "".join(f"<h2>{escape(title)}</h2>{content}" for title, content in sections if content)
    title, header = escape(f"{seen.outcome} {plain(result.run.run_id)}"), _header(seen, result.run.run_id)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>{header}{body}</body></html>\n"
    )


def _header(seen: Overview, run_id: str) -> str:
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in seen.reasons)
    return (
        f'<header class="{seen.tone}"><h1>{MARKS[seen.tone]} {escape(seen.outcome)} '
        f"<small>run {escape(plain(run_id))}</small></h1><p>{escape(seen.message)}</p>"
        + (f"<ul>{reasons}</ul>" if reasons else "")
        + (f'<p class="next">Next: {escape(seen.next_step)}</p>' if seen.next_step else "")
        + "</header>"
    )


# ---------------------------------------------------------------- sections


def _scores(seen: Overview) -> str:
    if seen.scores is None:
        return ""
    absent = f'<p class="note">No incumbent: {escape(seen.incumbent_absence)}.</p>' if seen.incumbent_absence else ""
    return f'<p class="note">{escape(seen.holdout_rows)} rows.</p>{_table(seen.scores)}{absent}'


def _gates(gates: Sequence[GateResult]) -> str:
    return f'<div class="gates">{"".join(_gate(gate) for gate in gates)}</div>' if gates else ""


def _gate(gate: GateResult) -> str:
    tone = GATE_TONES[gate.result]
    note = "" if gate.counts else ' <small class="advisory">advisory</small>'
    checks = "".join(
        f'<div class="check"><span>{escape(check.measured)}</span><span class="required">required '
        f"{escape(check.required)}</span>{charts.bar(check)}</div>"
        for check in gate.checks
    )
    return (
        f'<div class="gate {tone}"><h3><span>{MARKS[tone]}</span> {escape(gate.name)}{note}</h3>{checks}'
        f"<p>{escape(gate.message)}</p></div>"
    )


def _charts(result: RunResult) -> str:
    figures, trained = [], result.run.facts.train
    if result.candidate and result.candidate.buckets:
        others = result.incumbent.buckets if result.incumbent else ()
        figures.append(
            (
                charts.reliability(result.candidate.buckets, others),
                "Hit rate by probability: candidate (blue), incumbent (dashed), a perfectly calibrated model "
                "(thin). Vertical bars: 95 % intervals. Below: rows of the candidate by probability.",
            )
        )
    if trained and trained.history:
        figures.append(
            (
                charts.history(trained.history, best_epoch=trained.best_epoch),
                "Validation log loss (blue) and training loss (dashed) by epoch; the ring marks the kept epoch.",
            )
        )
    drawn = "".join(f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" for svg, caption in figures)
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def _slices(candidate: Scorecard | None) -> str:
    rows = tuple(
        (
            plain(part.name),
            count(part.n),
            number(part.auc),
            number(part.p_std),
            *(share(part.actions.get(name)) for name in ("BUY", "HOLD", "SELL")),
        )
        for part in (candidate.slices if candidate else ())
    )
    return _table(Cells(head=("slice", "rows", "AUC", "std of P(WIN)", "BUY", "HOLD", "SELL"), rows=rows))


def _findings(findings: Sequence[Finding]) -> str:
    rows = []
    for finding in findings:
        tone = _SEVERITY_TONES[finding.severity]
        examples = "; ".join(plain(example) for example in finding.examples)
        shown = f'<br><small class="note">{escape(examples)}</small>' if examples else ""
        rows.append(f'<tr><td class="{tone}">{MARKS[tone]}</td><td>{escape(plain(finding.message))}{shown}</td></tr>')
    return f'<div class="wide"><table>{"".join(rows)}</table></div>' if rows else ""


def _run(run: Run, seen: Overview) -> Pairs:
    facts = run.facts
    found = (
        ("requested by", run.requested_by),
        ("started", run.created_at.isoformat()),
        ("finished", run.finished_at and run.finished_at.isoformat()),
        ("time", seen.seconds),
        ("event id", facts.promote and facts.promote.event_id),
        ("data sha256", facts.pull and facts.pull.data_sha256),
        ("contract", _flat(asdict(facts.train.contract)) if facts.train else ""),
        ("policy", _flat(asdict(facts.gate.verdict.policy)) if facts.gate else ""),
        *((f"unreadable: {name}", cause) for name, cause in facts.unreadable.items()),
    )
    return tuple((name, plain(value)) for name, value in found if value)


# ---------------------------------------------------------------- pieces


def _pairs(pairs: Pairs) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in pairs)
    return f'<table class="pairs">{rows}</table>' if rows else ""


def _table(cells: Cells | None) -> str:
    """The first column to the left, numbers to the right."""
    if cells is None or not cells.rows:
        return ""
    first, *others = cells.head
    head = f"<th>{escape(first)}</th>" + "".join(f'<th class="number">{escape(name)}</th>' for name in others)
    body = ""
    for place, (name, *numbers) in enumerate(cells.rows):
        kind = ' class="first"' if cells.is_first_row_bold and place == 0 else ""
        body += f"<tr{kind}><td>{escape(name)}</td>"
        body += "".join(f'<td class="number">{escape(cell)}</td>' for cell in numbers) + "</tr>"
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _flat(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {NOTHING if value is None else value}" for name, value in values.items())
