"""Rows: how many cannot be used, when they are from, which symbols they cover, what they record beside."""

from __future__ import annotations

import unicodedata
from collections import defaultdict

import polars as pl

from retrain_worker.domain.audit_findings import Finding, Severity
from retrain_worker.worker.data.audit_rules.rule import (
    EXAMPLES,
    LABELLED,
    Audited,
    Rule,
    appended_to,
    counted,
    finding,
    safe_name,
    shared,
    warning_if,
)
from retrain_worker.worker.data.copies import REASONS as COPIES
from retrain_worker.worker.data.instants import MICROSECONDS, in_words
from retrain_worker.worker.data.outcomes import UNKNOWN_ACTION

RULES: list[Rule] = []
rule = appended_to(RULES)

_HOUR = 3600 * MICROSECONDS
#: a symbol with a smaller share of the rows of the largest symbol is named
_THIN_SYMBOL = 0.05
#: share of rows whose order among their neighbours is unknown; a few share a second by chance
_TIED = 0.05
#: share of rows that record one and the same confidence, and their number: more looks like a constant or a cap
_SAME_CONFIDENCE, _SAME_CONFIDENCE_ROWS = 0.05, 30
_FALLBACK_CONFIDENCE = 0.5
_MAX_SYMBOLS_SHOWN = 8
#: Cyrillic and Greek capitals that are drawn like Latin ones (from Unicode's confusables.txt, UTS 39)
_CONFUSABLE = str.maketrans("АВЕЅІЈКМНОРСТХУΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABESIJKMHOPCTXYABEZHIKMNOPTYX")  # noqa: RUF001

_DECIDED, _CONFIDENCE = pl.col("decided_at"), pl.col("confidence")


@rule
def quarantined(audited: Audited) -> Finding:
    """Rows that cannot be used, apart from copies; MAX_QUARANTINE_SHARE is the limit."""
    found, names = audited.facts.quarantined, ", ".join(audited.names.values()) or "none"
    reasons = {reason: rows for reason, rows in found.items() if rows and reason not in COPIES}
    listed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items(), key=lambda each: -each[1]))
    return shared(
        "rows.quarantined",
        sum(reasons.values()),
        len(audited.rows) + sum(found.values()),
        "rows cannot be used",
        refuse_over=audited.policy.max_quarantine_share,
        details=f": {listed}" if listed else "",
        examples=audited.facts.quarantined_examples,
        remedy=f"correct the service that writes them (features trained on: {names}; FEATURE_NAMES sets them)",
        effect="the other rows are used",
    )


@rule
def hard_links(audited: Audited) -> Finding:
    """Other names of a WAL database: what is committed under one of them is in a -wal file beside that name."""
    return counted(
        "source.hard_links",
        audited.facts.noted.get("hard_links", 0),
        "other hard links of a database in WAL mode",
        remedy="rows committed under another name are missing here: make it a symbolic link, or set DB_PATH to the "
        "name that the trading services open",
    )


@rule
def future(audited: Audited) -> Finding:
    """Rows dated ahead of this host's clock."""
    rows, words = (
        audited.facts.quarantined.get("timestamp_future", 0),
        "dated more than a day ahead of this host's clock",
    )
    remedy = "check the clocks, and the service that writes these rows"
    return counted("time.future", rows, f"rows are {words}, quarantined", remedy=remedy)


@rule
def staleness(audited: Audited) -> Finding:
    """Age of the newest labelled row; WARN_STALENESS_HOURS is the limit."""
    newest, limit = audited.rows.select(_DECIDED.filter(LABELLED).max()).item(), audited.policy.warn_staleness_hours
    if newest is None:
        return finding("time.staleness", Severity.WARNING, "no row is labelled, so none is recent")
    hours = max(0.0, (audited.now - newest) / _HOUR)
    return finding(
        "time.staleness",
        warning_if(hours > limit > 0),
        f"the newest labelled row is {hours:,.0f} hours old ({in_words(newest)}; a warning over {limit:g})",
        measured=hours,
        limit=limit,
        remedy="check whether outcomes are still written",
    )


@rule
def time_range(audited: Audited) -> Finding:
    """First and last decision."""
    first, last = audited.rows.select(_DECIDED.min().alias("first"), _DECIDED.max().alias("last")).row(0)
    rows, before, days = len(audited.rows), audited.facts.before_window, (last - first) / (24 * _HOUR)
    text = (
        f"{rows:,} rows from {in_words(first)} to {in_words(last)}, {days:.1f} days; {before:,} rows before the window"
    )
    counts = {"rows": rows, "before_window": before}
    return finding("time.range", Severity.OK, text, measured=days, counts=counts)


@rule
def gaps(audited: Audited) -> Finding:
    """Steps between two rows of a symbol; MAX_GAP_HOURS is the limit."""
    step, limit = _DECIDED.diff().over("symbol") / _HOUR, audited.policy.max_gap_hours
    longest: float = audited.rows.select(step.max().fill_null(0.0)).item()
    rows = audited.count(step > limit) if limit > 0 else 0
    return finding(
        "time.gaps",
        warning_if(rows > 0),
        f"{rows:,} gaps of more than {limit:g} hours between two rows of a symbol, the longest {longest:.1f}",
        measured=longest,
        limit=limit,
        counts={"count": rows},
        remedy="no window runs across them",
    )


@rule
def ties(audited: Audited) -> Finding:
    """Rows of one symbol and one instant: a window may then hold what was decided after its last row."""
    return shared(
        "time.ties",
        audited.count(pl.struct("symbol", "decided_at").is_duplicated()),
        len(audited.rows),
        "rows share symbol and instant with another",
        warn_over=_TIED,
        remedy="their order is that of their ids; find out what truncates the time",
    )


@rule
def coverage(audited: Audited) -> Finding:
    """Rows of each symbol."""
    found = audited.rows.group_by("symbol", maintain_order=True).len().sort("len", descending=True, maintain_order=True)
    words = [f"{safe_name(symbol)} {rows:,}" for symbol, rows in found.iter_rows()]
    thin = int((found["len"] < _THIN_SYMBOL * found["len"][0]).sum())
    shown = ", ".join(words[:_MAX_SYMBOLS_SHOWN]) + (f" ... {words[-1]}" if len(words) > _MAX_SYMBOLS_SHOWN else "")
    return finding(
        "symbols.coverage",
        warning_if(thin > 0),
        f"{len(words)} symbols: {shown}; {thin} have less than {_THIN_SYMBOL:.0%} of the rows of the first",
        measured=len(words),
        counts={"symbols": len(words), "thin": thin},
        examples=tuple(words[len(words) - thin :][:EXAMPLES]),
    )


@rule
def ended(audited: Audited) -> Finding:
    """Symbols that are no longer written, or no longer traded; MAX_GAP_HOURS is the limit."""
    limit = audited.policy.max_gap_hours
    lasts = audited.rows.group_by("symbol", maintain_order=True).agg(_DECIDED.max())
    silent = lasts.filter((_DECIDED.max() - _DECIDED) / _HOUR > limit) if limit > 0 else lasts.clear()
    return counted(
        "symbols.ended",
        len(silent),
        f"symbols have no row in the last {limit:g} hours of the data",
        examples=tuple(f"{safe_name(name)} since {in_words(last)}" for name, last in silent.head(EXAMPLES).iter_rows()),
        remedy="check whether they are still traded and written",
    )


@rule
def look_alikes(audited: Audited) -> Finding:
    """Symbols that differ only in case, accents, width, invisible characters, or letters of another script."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for symbol in audited.snapshot.symbols:
        decomposed = unicodedata.normalize("NFKD", symbol.strip()).upper().translate(_CONFUSABLE)
        alike["".join(c for c in decomposed if unicodedata.category(c) not in ("Mn", "Cf"))].append(symbol)
    groups = [" / ".join(map(safe_name, group)) for group in alike.values() if len(group) > 1]
    remedy = "each stays a series of its own; find the service that spells them so"
    examples = tuple(groups[:EXAMPLES])
    return counted("symbols.look_alikes", len(groups), "groups of symbols look alike", examples=examples, remedy=remedy)


@rule
def unknown_actions(audited: Audited) -> Finding:
    """Actions that are none of the three words."""
    rows = audited.count(pl.col("action") == UNKNOWN_ACTION)
    return counted("actions.unknown", rows, "rows have a predicted_action other than BUY, SELL, HOLD")


@rule
def confidence_range(audited: Audited) -> Finding:
    """Confidences that are none."""
    rows = len(audited.rows) - audited.count(_CONFIDENCE.is_between(0.0, 1.0))
    remedy = "confidence is no training input, so the rows are used"
    return counted("confidence.range", rows, "rows record a confidence outside 0..1, or none", remedy=remedy)


@rule
def fallback_confidence(audited: Audited) -> Finding:
    """One value in many rows."""
    found = audited.rows.filter(_CONFIDENCE.is_finite()).group_by(_CONFIDENCE).len().sort("len", "confidence")
    if not len(found):
        return finding("confidence.fallback", Severity.WARNING, "no row records a confidence")
    value, rows = found.row(-1)
    return shared(
        "confidence.fallback",
        rows,
        len(audited.rows),
        f"rows record a confidence of {value:g}, the commonest",
        warn_over=_SAME_CONFIDENCE if rows >= _SAME_CONFIDENCE_ROWS else 1.0,
        details=f"; exactly {_FALLBACK_CONFIDENCE:g}: {audited.count(_CONFIDENCE == _FALLBACK_CONFIDENCE):,} rows",
        remedy="a fallback or a cap is no measurement",
    )
