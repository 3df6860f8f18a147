"""Rows: how many cannot be used, when they are from, which symbols they cover, what they record beside."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from functools import partial

import polars as pl

from retrain_worker.domain.audit_findings import Finding, Severity
from retrain_worker.worker.data import copies, repetitions
from retrain_worker.worker.data.audit_rules.rule import (
    EVERY,
    EXAMPLES,
    LABELLED,
    Audited,
    Rule,
    commonest,
    counted,
    counting,
    finding,
    listed,
    safe_name,
    shared,
    warning_if,
)
from retrain_worker.worker.data.instants import MICROSECONDS, in_words
from retrain_worker.worker.data.outcomes import UNKNOWN_ACTION

_COPIES = (*copies.REASONS, *repetitions.REASONS)
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


def quarantined(audited: Audited) -> Finding:
    """Rows that cannot be used, apart from copies; MAX_QUARANTINE_SHARE is the limit."""
    found, names = audited.facts.quarantined, listed(audited.names.values()) or "none"
    reasons = {reason: rows for reason, rows in found.items() if rows and reason not in _COPIES}
    words = ", ".join(f"{reason} {count:,}" for reason, count in commonest(reasons))
    unusable = commonest(audited.facts.features_unusable)[:EXAMPLES]
    values = ", ".join(f"{safe_name(name)} {count:,}" for name, count in unusable)
    return shared(
        audited,
        "rows.quarantined",
        sum(reasons.values()),
        len(audited.rows) + sum(found.values()),
        "rows cannot be used",
        refuse_over=audited.policy.max_quarantine_share,
        details=(f": {words}" if words else "") + (f" (not a finite number: {values})" if values else ""),
        examples=tuple(each for each in audited.facts.quarantined_examples if each.split()[-1] in reasons)[:EXAMPLES],
        remedy=f"correct the service that writes them (features trained on: {names}; FEATURE_NAMES sets them)",
        effect="the other rows are used",
    )


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


def time_range(audited: Audited) -> Finding:
    """First and last decision."""
    first, last = audited.rows.select(_DECIDED.min().alias("first"), _DECIDED.max().alias("last")).row(0)
    rows, before, days = len(audited.rows), audited.facts.before_window, (last - first) / (24 * _HOUR)
    text = (
        f"{rows:,} rows from {in_words(first)} to {in_words(last)}, {days:.1f} days; {before:,} rows before the window"
    )
    counts = {"rows": rows, "before_window": before}
    return finding("time.range", Severity.OK, text, measured=days, counts=counts)


def gaps(audited: Audited) -> Finding:
    """Steps between two rows of a symbol; MAX_GAP_H is the limit."""
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


def ended(audited: Audited) -> Finding:
    """Symbols that are no longer written, or no longer traded; MAX_GAP_H is the limit."""
    limit = audited.policy.max_gap_hours
    lasts = audited.rows.group_by("symbol", maintain_order=True).agg(_DECIDED.max())
    silent = lasts.filter((_DECIDED.max() - _DECIDED) / _HOUR > limit) if limit > 0 else lasts.clear()
    return counted(
        audited,
        "symbols.ended",
        len(silent),
        f"symbols have no row in the last {limit:g} hours of the data",
        examples=tuple(f"{safe_name(name)} since {in_words(last)}" for name, last in silent.head(EXAMPLES).iter_rows()),
        remedy="check whether they are still traded and written",
    )


def look_alikes(audited: Audited) -> Finding:
    """Symbols that differ only in case, accents, width, separators, or letters of another script."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for symbol in audited.snapshot.symbols:
        decomposed = unicodedata.normalize("NFKD", symbol.strip()).upper().translate(_CONFUSABLE)
        alike["".join(filter(str.isalnum, decomposed)) or decomposed].append(symbol)
    groups = [" / ".join(map(safe_name, group)) for group in alike.values() if len(group) > 1]
    return counted(
        audited,
        "symbols.look_alikes",
        len(groups),
        "groups of symbols look alike",
        examples=tuple(groups[:EXAMPLES]),
        remedy="each stays a series of its own; find the service that spells them so",
    )


def fallback_confidence(audited: Audited) -> Finding:
    """One value in many rows."""
    found = audited.rows.filter(_CONFIDENCE.is_finite()).group_by(_CONFIDENCE).len().sort("len", "confidence")
    if not len(found):
        return finding("confidence.fallback", Severity.WARNING, "no row records a confidence")
    value, rows = found.row(-1)
    return shared(
        audited,
        "confidence.fallback",
        rows,
        EVERY,
        f"rows record a confidence of {value:g}, the commonest",
        warn_over=_SAME_CONFIDENCE if rows >= _SAME_CONFIDENCE_ROWS else 1.0,
        details=f"; exactly {_FALLBACK_CONFIDENCE:g}: {audited.count(_CONFIDENCE == _FALLBACK_CONFIDENCE):,} rows",
        remedy="a fallback or a cap is no measurement",
    )


#: of any pull, one without a usable row too
RULES: tuple[Rule, ...] = (
    quarantined,
    counting(
        "source.hard_links",
        "hard_links",
        "other hard links of a database in WAL mode",
        # what is committed under one of the names is in a -wal file beside that name
        "rows committed under another name are missing here: make it a symbolic link, or set DB_PATH to the name that "
        "the trading services open",
    ),
)
RULES_OF_ROWS: tuple[Rule, ...] = (
    counting(
        "time.future",
        "timestamp_future",
        "rows are dated more than a day ahead of this host's clock, quarantined",
        "check the clocks, and the service that writes these rows",
    ),
    counting(
        "time.inserted_late",
        "inserted_late",
        "rows were inserted (created_at) after later decisions of their symbol, quarantined",
        "correct the service that inserts them, or their timestamp: a decision cannot have had them as history",
    ),
    staleness,
    time_range,
    gaps,
    partial(
        shared,
        name="time.ties",
        # a window may then hold what was decided after its last row
        rows=pl.struct("symbol", "decided_at").is_duplicated(),
        of=EVERY,
        words="rows share symbol and instant with another",
        warn_over=_TIED,
        remedy="their order is that of their ids; find out what truncates the time",
    ),
    coverage,
    ended,
    look_alikes,
    counting(
        "actions.unknown",
        pl.col("action") == UNKNOWN_ACTION,
        "rows have a predicted_action other than BUY, SELL, HOLD",
    ),
    counting(
        "confidence.range",
        ~_CONFIDENCE.is_between(0.0, 1.0).fill_null(False),
        "rows record a confidence outside 0..1, or none",
        "confidence is no training input, so the rows are used",
    ),
    fallback_confidence,
)
