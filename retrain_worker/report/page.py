"""A finished run as one self-contained HTML page: no request leaves the browser, every text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1b1f24, #e6e6e6); --paper: light-dark(#fff, #16181c);
  --faint: light-dark(#eef0f3, #24272d); --line: light-dark(#c9ced6, #3a3f47); --good: light-dark(#14753c, #4cc38a);
  --bad: light-dark(#b42318, #ff7a6b); --unsure: light-dark(#8a5a00, #e0b050); --mark: light-dark(#1f5fbf, #7ab0ff) }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top; padding: .35rem .7rem
  .35rem 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere } th { font-weight: 600; width: 11rem }
.PASS, .PROMOTED { color: var(--good) } .FAIL, .REFUSAL, .FAILED { color: var(--bad) }
.UNDECIDED, .WARNING, .REFUSED, .SKIPPED { color: var(--unsure) } .advisory { opacity: .65 }
code { font-size: .85em; overflow-wrap: anywhere } figure { margin: 0; overflow-x: auto } figcaption { font-size: .9rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1.5rem }
svg { width: 100%; height: auto } svg text { fill: var(--ink); font: 11px system-ui }
"""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 360, 240, 40, 30
_MARKS = {"PASS": "✔", "FAIL": "✘", "UNDECIDED": "?"}


def write_page(result: Mapping[str, Any], path: Path) -> None:
    """Write the page of `result` (report.result)."""
    path.write_text(page(result), encoding="utf-8")


def page(result: Mapping[str, Any]) -> str:
    """The page as text."""
    outcome = escape(str(result["outcome"]))
    sections = [
        _section("Models", _table(_models(result))), _section("Gates", _gates(result["gates"])),
        _section("Pictures", _pictures(result)), _section("Slices", _slices(result["candidate"])),
        _section("Rows", _table(_rows(result))), _section("Audit", _findings(result["findings"])),
        _section("Run", _table(_run(result))),
    ]
    reasons = "".join(f"<li>{escape(str(reason))}</li>" for reason in result["reasons"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{outcome} {escape(result['run_id'])}</title><style>{_STYLE}</style>"
        f'<h1><span class="{outcome}">{outcome}</span> run {escape(result["run_id"])}</h1>'
        f"<ul>{reasons}</ul>{''.join(sections)}</html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>{body}" if body else ""


def _table(rows: Sequence[tuple[str, Any]]) -> str:
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(_shown(value))}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>" if cells else ""


def _models(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    candidate, incumbent = result["candidate"], result["incumbent"]
    found = [("new PATCHTST_MODEL_PATH", result["model_path"] or "unchanged"), ("old", result["previous_model_path"]),
             ("sha256", result["sha256"]), ("confirmation", result["confirmation"])]
    for name in ("auc", "log_loss", "brier", "ece", "accuracy", "p_std", "n") if candidate else ():
        beside = f"; incumbent {_shown(incumbent[name])}" if incumbent else ""
        found.append((name.replace("_", " "), f"{_shown(candidate[name])}{beside}"))
    return [(name, value) for name, value in found if value is not None]


def _gates(gates: Sequence[Mapping[str, Any]]) -> str:
    rows = ""
    for gate in gates:
        said = escape(gate["result"])
        advisory, note = ("", "") if gate["counts"] else (' class="advisory"', " (advisory)")
        rows += (f'<tr{advisory}><th><span class="{said}">{_MARKS[gate["result"]]}</span> {escape(gate["name"])}{note}'
                 f"</th><td>{escape(gate['sentence'])}</td></tr>")
    return f"<table>{rows}</table>" if rows else ""


def _pictures(result: Mapping[str, Any]) -> str:
    figures = []
    if result["candidate"] and result["candidate"]["buckets"]:
        figures.append(_figure(_reliability(result["candidate"]["buckets"]),
                               "Hit rate by probability on the holdout; the area is the number of rows"))
    if result["history"]:
        figures.append(_figure(_training(result["history"]), "Validation log loss by epoch; the mark is the one kept"))
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def _slices(candidate: Mapping[str, Any] | None) -> str:
    return _table([
        (part["name"], f"{part['n']} rows, AUC {_shown(part['auc'])}, "
                       + ", ".join(f"{name} {share:.0%}" for name, share in part["actions"].items()))
        for part in (candidate or {}).get("slices", ())
    ])


def _rows(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in result["rows"].items():
        found.append((name.replace("_", " "), value))
    found += [(name.replace("_", " "), f"{part.get('win', 0)} WIN, {part.get('loss', 0)} LOSS")
              for name, part in result["parts"].items()]
    return [*found, ("left out", result["left_out"]), ("symbols", result["symbols"]),
            ("features", ", ".join(result["feature_names"])), ("from", result["first_at"]), ("to", result["last_at"]),
            ("data sha256", result["data_sha256"])]


def _findings(findings: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f'<tr><th><span class="{escape(str(found["severity"]))}">{escape(found["name"])}</span></th>'
        f"<td>{escape(found['sentence'])}</td></tr>" for found in findings)
    return f"<table>{rows}</table>" if rows else ""


def _run(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [("started", result["started_at"]), ("finished", result["finished_at"]),
            ("asked for by", result["requested_by"]), ("seconds by stage", result["seconds"]),
            ("event id", result["event_id"]), ("contract", result["contract"]), ("policy", result["policy"])]


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _reliability(buckets: Sequence[Mapping[str, Any]]) -> str:
    known = [bucket for bucket in buckets if bucket["hit_rate"] is not None]
    most = max((bucket["n"] for bucket in known), default=1)
    dots = "".join(
        f'<circle cx="{_x(bucket["mean_probability"]):.1f}" cy="{_y(bucket["hit_rate"]):.1f}" '
        f'r="{3 + 9 * (bucket["n"] / most) ** 0.5:.1f}" fill="var(--mark)" fill-opacity=".75"><title>'
        f'{bucket["n"]} rows, said {bucket["mean_probability"]:.2f}, hit {bucket["hit_rate"]:.2f}</title></circle>'
        for bucket in known)
    diagonal = f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}" stroke="var(--line)" stroke-dasharray="4"/>'
    return _chart(diagonal + dots, ("0", "0.5", "1"), ("0", "0.5", "1"), "reliability diagram")


def _training(history: Sequence[Sequence[float]]) -> str:
    losses = [epoch[2] for epoch in history]
    low, high = min(losses), max(losses)
    height = (high - low) or 1.0
    points = [(_x(index / max(1, len(losses) - 1)), _y((loss - low) / height)) for index, loss in enumerate(losses)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    best_x, best_y = points[losses.index(low)]
    drawn = (f'<polyline points="{line}" fill="none" stroke="var(--mark)" stroke-width="2"/>'
             f'<circle cx="{best_x:.1f}" cy="{best_y:.1f}" r="5" fill="var(--good)"/>')
    return _chart(drawn, (str(int(history[0][0])), "", str(int(history[-1][0]))),
                  (f"{low:.3f}", "", f"{high:.3f}"), "training history")


def _chart(drawn: str, across: Sequence[str], upwards: Sequence[str], name: str) -> str:
    frame = (f'<rect x="{_LEFT}" y="8" width="{_WIDTH - _LEFT - 8}" height="{_HEIGHT - _BOTTOM - 8}" fill="none" '
             'stroke="var(--line)"/>')
    labels = "".join(f'<text x="{_x(index / 2):.0f}" y="{_HEIGHT - 10}" text-anchor="middle">{text}</text>'
                     for index, text in enumerate(across))
    labels += "".join(f'<text x="{_LEFT - 5}" y="{_y(index / 2) + 4:.0f}" text-anchor="end">{text}</text>'
                      for index, text in enumerate(upwards))
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(name)}">{frame}{labels}{drawn}</svg>'


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - 8)


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - 8)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items()) or "none"
    return "unknown" if value is None else str(value)
