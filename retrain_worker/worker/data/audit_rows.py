"""What the audit says of the rows: how many cannot be used, when they are from, which symbols they cover."""

from __future__ import annotations

import unicodedata
from collections import defaultdict

import numpy as np

from retrain_worker.domain.audit_findings import Finding, Severity
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.worker.data.audit_labels import EXAMPLES, safe_name, share_of
from retrain_worker.worker.data.instants import MICROSECONDS, in_words
from retrain_worker.worker.data.outcomes import LOSS, UNKNOWN_ACTION, WIN
from retrain_worker.worker.data.snapshot import Snapshot

_HOUR = 3600 * MICROSECONDS
#: reasons that leave out a row which is usable, only written twice
_COPIES = ("duplicate", "duplicate_conflict")
#: a symbol with a smaller share of the largest symbol's rows is named
_THIN_SYMBOL_SHARE = 0.05
#: rows whose order among their neighbours nobody knows; a few share a second by chance
_TIED_SHARE = 0.05
#: a recorded confidence that one value holds in more rows than this looks like a constant or a cap
_SAME_CONFIDENCE_SHARE = 0.05
_SAME_CONFIDENCE_ROWS = 30
_FALLBACK_CONFIDENCE = 0.5


def row_findings(snapshot: Snapshot, policy: DataPolicy, *, now: int) -> list[Finding]:
    """Findings rows.quarantined, time.*, symbols.*, actions.*, confidence.*. `now`: microseconds."""
    found = [_quarantined(snapshot, policy)]
    if len(snapshot):
        found += [
            _future(snapshot),
            _staleness(snapshot, policy, now),
            _range(snapshot),
            _gaps(snapshot, policy),
            _ties(snapshot),
            _coverage(snapshot),
            _ended(snapshot, policy),
            _look_alikes(snapshot),
            _actions(snapshot),
            _confidence_range(snapshot),
            _fallback(snapshot),
        ]
    return found


def _quarantined(snapshot: Snapshot, policy: DataPolicy) -> Finding:
    reasons = {reason: rows for reason, rows in snapshot.facts.quarantined.items() if rows and reason not in _COPIES}
    rows = sum(reasons.values())
    seen = len(snapshot) + sum(snapshot.facts.quarantined.values())
    share = share_of(rows, seen)
    listed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items(), key=lambda each: -each[1]))
    message = f"{rows:,} of {seen:,} rows cannot be used ({share:.1%}, at most {policy.max_quarantine_share:.1%})"
    message += f": {listed}" if listed else ""
    severity = Severity.WARNING if rows else Severity.OK
    if share > policy.max_quarantine_share:
        severity = Severity.REFUSAL
        names = ", ".join(map(safe_name, snapshot.feature_names)) or "none"
        message += f"; correct the service that writes them (features trained on: {names}; FEATURE_NAMES sets them)"
    return Finding(
        name="rows.quarantined",
        severity=severity,
        message=message,
        measured=share,
        limit=policy.max_quarantine_share,
        examples=snapshot.facts.quarantined_examples,
    )


def _future(snapshot: Snapshot) -> Finding:
    rows = snapshot.facts.quarantined.get("timestamp_future", 0)
    return Finding(
        name="time.future",
        severity=Severity.WARNING if rows else Severity.OK,
        measured=rows,
        limit=0,
        message=f"{rows:,} rows are dated more than a day ahead of this host's clock"
        + ("; they are set aside: look at the clocks, and at what writes these rows" if rows else ""),
    )


def _staleness(snapshot: Snapshot, policy: DataPolicy, now: int) -> Finding:
    labelled = (snapshot.outcome == WIN) | (snapshot.outcome == LOSS)
    if not labelled.any():
        return Finding(name="time.staleness", severity=Severity.WARNING, message="no row is labelled: none is recent")
    newest = int(snapshot.decided_at[labelled].max())
    hours = max(0.0, (now - newest) / _HOUR)
    limit = policy.warn_staleness_hours
    is_stale = limit > 0 and hours > limit
    return Finding(
        name="time.staleness",
        severity=Severity.WARNING if is_stale else Severity.OK,
        measured=hours,
        limit=limit,
        message=f"the newest labelled row is {hours:,.0f} hours old ({in_words(newest)}; a warning over {limit:g})"
        + (": look whether outcomes are still written" if is_stale else ""),
    )


def _range(snapshot: Snapshot) -> Finding:
    first, last = int(snapshot.decided_at.min()), int(snapshot.decided_at.max())
    days = (last - first) / (24 * _HOUR)
    before = f"; {snapshot.facts.before_window:,} rows before the window" if snapshot.facts.before_window else ""
    return Finding(
        name="time.range",
        severity=Severity.OK,
        measured=days,
        message=f"{len(snapshot):,} rows from {in_words(first)} to {in_words(last)}, {days:.1f} days{before}",
    )


def _gaps(snapshot: Snapshot, policy: DataPolicy) -> Finding:
    steps = np.diff(snapshot.decided_at)[np.diff(snapshot.symbol_codes) == 0] / _HOUR
    limit = policy.max_gap_hours
    longest = float(steps.max()) if len(steps) else 0.0
    gaps = int((steps > limit).sum()) if limit > 0 else 0
    return Finding(
        name="time.gaps",
        severity=Severity.WARNING if gaps else Severity.OK,
        measured=longest,
        limit=limit,
        message=f"{gaps:,} gaps of more than {limit:g} hours between two rows of a symbol, the longest {longest:.1f}"
        + ("; no window runs across them" if gaps else ""),
    )


def _ties(snapshot: Snapshot) -> Finding:
    """Rows of one symbol and one instant: a window may then hold what was decided after its last row."""
    follows = (np.diff(snapshot.symbol_codes) == 0) & (np.diff(snapshot.decided_at) == 0)
    tied = np.zeros(len(snapshot), dtype=bool)
    tied[1:] |= follows
    tied[:-1] |= follows
    rows, share = int(tied.sum()), share_of(int(tied.sum()), len(snapshot))
    is_coarse = share > _TIED_SHARE
    return Finding(
        name="time.ties",
        severity=Severity.WARNING if is_coarse else Severity.OK,
        measured=share,
        limit=_TIED_SHARE,
        message=f"{rows:,} rows share symbol and instant with another ({share:.1%}, a warning over {_TIED_SHARE:.0%})"
        + (": their order is that of their ids; look what cuts the time off" if is_coarse else ""),
    )


def _coverage(snapshot: Snapshot) -> Finding:
    rows = np.bincount(snapshot.symbol_codes, minlength=len(snapshot.symbols))
    order = np.argsort(-rows, kind="stable")
    words = [f"{safe_name(snapshot.symbols[code])} {rows[code]:,}" for code in order]
    thin = [words[place] for place, code in enumerate(order) if rows[code] < _THIN_SYMBOL_SHARE * rows.max()]
    shown = ", ".join(words[:8]) + (f" ... {words[-1]}" if len(words) > 8 else "")
    return Finding(
        name="symbols.coverage",
        severity=Severity.WARNING if thin else Severity.OK,
        measured=len(words),
        message=f"{len(words)} symbols: {shown}" + (f"; {len(thin)} have few rows" if thin else ""),
        examples=tuple(thin[:EXAMPLES]),
    )


def _ended(snapshot: Snapshot, policy: DataPolicy) -> Finding:
    """Symbols that a service has ceased to write, or to trade."""
    lasts = np.append(np.flatnonzero(np.diff(snapshot.symbol_codes) != 0), len(snapshot) - 1)
    silent = (snapshot.decided_at.max() - snapshot.decided_at[lasts]) / _HOUR
    limit = policy.max_gap_hours
    ended = [
        f"{safe_name(snapshot.symbols[snapshot.symbol_codes[last]])} since {in_words(int(snapshot.decided_at[last]))}"
        for last, hours in zip(lasts, silent, strict=True)
        if hours > limit > 0
    ]
    return Finding(
        name="symbols.ended",
        severity=Severity.WARNING if ended else Severity.OK,
        measured=len(ended),
        limit=0,
        message=f"{len(ended)} symbols have no row in the last {limit:g} hours of the data"
        + ("; look whether they are still traded and written" if ended else ""),
        examples=tuple(ended[:EXAMPLES]),
    )


def _look_alikes(snapshot: Snapshot) -> Finding:
    """Symbols that differ only in case, accents, width, invisible characters, or letters of another script."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for symbol in snapshot.symbols:
        alike[_skeleton(symbol)].append(symbol)
    groups = [" / ".join(map(safe_name, group)) for group in alike.values() if len(group) > 1]
    return Finding(
        name="symbols.look_alikes",
        severity=Severity.WARNING if groups else Severity.OK,
        measured=len(groups),
        limit=0,
        message=f"{len(groups)} groups of symbols look alike"
        + ("; each stays a series of its own: look which service spells them so" if groups else ""),
        examples=tuple(groups[:EXAMPLES]),
    )


#: Cyrillic and Greek capitals that are drawn like Latin ones (from Unicode's confusables.txt, UTS 39)
_CONFUSABLE = str.maketrans("АВЕЅІЈКМНОРСТХУΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABESIJKMHOPCTXYABEZHIKMNOPTYX")  # noqa: RUF001


def _skeleton(symbol: str) -> str:
    decomposed = unicodedata.normalize("NFKD", symbol.strip()).upper().translate(_CONFUSABLE)
    return "".join(each for each in decomposed if unicodedata.category(each) not in ("Mn", "Cf"))


def _actions(snapshot: Snapshot) -> Finding:
    rows = int((snapshot.action == UNKNOWN_ACTION).sum())
    return Finding(
        name="actions.unknown",
        severity=Severity.WARNING if rows else Severity.OK,
        measured=rows,
        limit=0,
        message=f"{rows:,} rows have a predicted_action other than BUY, SELL, HOLD",
    )


def _confidence_range(snapshot: Snapshot) -> Finding:
    within = (snapshot.confidence >= 0.0) & (snapshot.confidence <= 1.0)
    rows = int((~within).sum())
    return Finding(
        name="confidence.range",
        severity=Severity.WARNING if rows else Severity.OK,
        measured=rows,
        limit=0,
        message=f"{rows:,} rows record a confidence outside 0..1, or none"
        + ("; confidence is no training input, the rows stay" if rows else ""),
    )


def _fallback(snapshot: Snapshot) -> Finding:
    values, rows = np.unique(snapshot.confidence[np.isfinite(snapshot.confidence)], return_counts=True)
    if not len(values):
        return Finding(name="confidence.fallback", severity=Severity.WARNING, message="no row records a confidence")
    commonest = int(rows.argmax())
    share = rows[commonest] / len(snapshot)
    halves = int(rows[values == _FALLBACK_CONFIDENCE].sum())
    is_odd = share > _SAME_CONFIDENCE_SHARE and rows[commonest] >= _SAME_CONFIDENCE_ROWS
    return Finding(
        name="confidence.fallback",
        severity=Severity.WARNING if is_odd else Severity.OK,
        measured=float(share),
        limit=_SAME_CONFIDENCE_SHARE,
        message=f"{halves:,} rows record a confidence of exactly 0.5; the commonest value, {values[commonest]:g}, "
        f"stands in {share:.1%}" + (": a fallback or a cap, not a measurement" if is_odd else ""),
    )
