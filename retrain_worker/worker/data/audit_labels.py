"""What the audit says of labels: how many there are, of which class, and whether the rows agree with themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from retrain_worker.domain.audit_findings import Finding, Severity
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.labels import Label, LabelConflict
from retrain_worker.worker.data.instants import CLOCK_TOLERANCE, NEVER, in_words
from retrain_worker.worker.data.outcomes import (
    CLASS_WITHOUT_OUTCOME,
    LOSS,
    NEUTRAL,
    OPEN,
    OUTCOME_WITHOUT_CLASS,
    UNKNOWN_CLASS,
    WIN,
    contradictions,
)
from retrain_worker.worker.data.snapshot import Snapshot

EXAMPLES = 5
_PLAIN_NAME = re.compile(r"\w[\w.]*", re.ASCII)
_NAME_CHARACTERS = 40
#: an entry and an exit fee may turn a price move of this size the right way into a loss
_FEES = 0.001
#: share of rows that may disagree in a secondary field before it is worth a warning
_DISAGREEMENT_SHARE = 0.01

_PNL = "realized_pnl"

_WHAT_CONFLICT_DOES = {
    LabelConflict.DROP: "these rows are history, not samples (LABEL_CONFLICT=drop)",
    LabelConflict.RELABEL: "these rows take the class of their profit (LABEL_CONFLICT=relabel)",
    LabelConflict.KEEP: "these rows are trained on as they are (LABEL_CONFLICT=keep)",
}


def label_findings(snapshot: Snapshot, policy: DataPolicy, *, now: int) -> list[Finding]:
    """Findings rows.labelled, classes.*, labels.*, outcomes.*, duplicates.*. `now`: microseconds."""
    counted = {code: int((snapshot.outcome == code).sum()) for code in (WIN, LOSS, NEUTRAL, OPEN)}
    found = [_labelled(snapshot, policy, counted)]
    if counted[WIN] + counted[LOSS]:
        found.append(_balance(policy, counted))
    found += [
        _contradictions(snapshot, policy),
        _unproven(snapshot),
        _conflicting_copies(snapshot, policy),
        _copies(snapshot),
        *_disagreements(snapshot, policy),
        *_half_told(snapshot),
        *_times_of_outcomes(snapshot, policy, now),
        _neutral(snapshot),
    ]
    return found


def share_of(part: float, whole: float) -> float:
    """Part / whole; nothing of nothing is 0."""
    return part / whole if whole else 0.0


def _labelled(snapshot: Snapshot, policy: DataPolicy, counted: Mapping[int, int]) -> Finding:
    labelled = counted[WIN] + counted[LOSS]
    short = labelled < policy.min_samples
    message = (
        f"{labelled:,} of {len(snapshot):,} usable rows are labelled WIN or LOSS; at least {policy.min_samples:,} "
        "are needed"
    )
    if short:
        message += f": {_why_so_few(snapshot, counted)}"
    return Finding(
        name="rows.labelled",
        severity=Severity.REFUSAL if short else Severity.OK,
        message=message,
        measured=labelled,
        limit=policy.min_samples,
    )


def _why_so_few(snapshot: Snapshot, counted: Mapping[int, int]) -> str:
    """The commonest cause, and what to do about it."""
    recorded = snapshot.recorded_outcome
    causes = {
        "the class is none of WIN, LOSS, NEUTRAL, which count only as spelled here (found: "
        f"{_listed(snapshot.facts.unknown_classes)}); correct the service that writes target_class, "
        "and these rows": int((recorded == UNKNOWN_CLASS).sum()),
        "no outcome is known yet; wait until positions close, or look why outcome_known is never set": int(
            (recorded == OPEN).sum()
        ),
        "a class is set, but outcome_known is not; correct the service that writes outcomes": int(
            (recorded == CLASS_WITHOUT_OUTCOME).sum()
        ),
        "outcome_known is set, but there is no class; correct the service that writes outcomes": int(
            (recorded == OUTCOME_WITHOUT_CLASS).sum()
        ),
        "the class contradicts realized_pnl; correct the service that writes outcomes": int(
            ((recorded >= 0) & (snapshot.outcome == OPEN)).sum()
        ),
        "the outcome is NEUTRAL, which is no label": counted[NEUTRAL],
        "most rows read could not be used; see rows.quarantined": sum(snapshot.facts.quarantined.values()),
    }
    cause, rows = max(causes.items(), key=lambda each: each[1])
    if rows > counted[WIN] + counted[LOSS]:
        return f"in {rows:,} rows {cause}"
    return "wait for more outcomes, raise TRAIN_WINDOW_DAYS, or lower MIN_SAMPLES"


def _listed(counts: Mapping[str, int]) -> str:
    commonest = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:EXAMPLES]
    return ", ".join(f"{word} x {count}" for word, count in commonest)


def _balance(policy: DataPolicy, counted: Mapping[int, int]) -> Finding:
    wins, losses = counted[WIN], counted[LOSS]
    rarer, share = min(wins, losses), share_of(min(wins, losses), wins + losses)
    message = (
        f"{wins:,} WIN and {losses:,} LOSS; the rarer class needs {policy.min_class_samples:,} rows and "
        f"{policy.min_class_share:.0%} of all, it has {rarer:,} and {share:.1%}"
    )
    short = rarer < policy.min_class_samples or share < policy.min_class_share
    if rarer == 0:
        only = "WIN" if wins else "LOSS"
        message = f"every labelled row is {only} ({wins + losses:,}): there is nothing to tell apart"
    if short:
        message += "; look whether outcomes are written for both, or wait for more"
    return Finding(
        name="classes.balance",
        severity=Severity.REFUSAL if short else Severity.OK,
        message=message,
        measured=share,
        limit=policy.min_class_share,
    )


def _contradictions(snapshot: Snapshot, policy: DataPolicy) -> Finding:
    contradicted = contradictions(snapshot.recorded_outcome, snapshot.pnl)
    rows = int(contradicted.sum())
    recorded = int(((snapshot.recorded_outcome == WIN) | (snapshot.recorded_outcome == LOSS)).sum())
    share = share_of(rows, recorded)
    message = (
        f"{rows:,} of {recorded:,} classes contradict realized_pnl ({share:.1%}, at most "
        f"{policy.max_contradiction_share:.1%})"
    )
    severity = Severity.OK
    if share > policy.max_contradiction_share:
        severity = Severity.REFUSAL
        message += ": labels are not to be trusted; correct the service that writes target_class, and these rows"
    elif rows:
        severity = Severity.WARNING
        message += f"; {_WHAT_CONFLICT_DOES[policy.label_conflict]}"
    return Finding(
        name="labels.contradictions",
        severity=severity,
        message=message,
        measured=share,
        limit=policy.max_contradiction_share,
        examples=_rows_in_words(snapshot, contradicted, _PNL, snapshot.pnl),
    )


def _unproven(snapshot: Snapshot) -> Finding:
    """No contradiction was found is not the same as none was looked for."""
    classed = (snapshot.recorded_outcome == WIN) | (snapshot.recorded_outcome == LOSS)
    unproven = classed & (np.isnan(snapshot.pnl) | (snapshot.pnl == 0))
    rows = int(unproven.sum())
    share = share_of(rows, int(classed.sum()))
    return Finding(
        name="labels.unproven",
        severity=Severity.WARNING if share > _DISAGREEMENT_SHARE else Severity.OK,
        measured=share,
        limit=_DISAGREEMENT_SHARE,
        examples=_rows_in_words(snapshot, unproven, _PNL, snapshot.pnl),
        message=f"{rows:,} of {int(classed.sum()):,} classes have no {_PNL} to check them by: none, no number, or 0 "
        f"({share:.1%}, a warning over {_DISAGREEMENT_SHARE:.0%})",
    )


def _rows_in_words(
    snapshot: Snapshot, chosen: npt.NDArray[np.bool_], column: str, values: npt.NDArray[Any]
) -> tuple[str, ...]:
    """The first few rows by id: `id 1 ADAUSDT 2025-12-09 03:14:40 UTC WIN realized_pnl -1.3`."""
    places = np.flatnonzero(chosen)
    places = places[np.argsort(snapshot.ids[places], kind="stable")][:EXAMPLES]
    words = {WIN: "WIN", LOSS: "LOSS", NEUTRAL: "NEUTRAL"}
    return tuple(
        f"id {snapshot.ids[place]} {safe_name(snapshot.symbols[snapshot.symbol_codes[place]])} "
        f"{in_words(snapshot.decided_at[place])} {words.get(int(snapshot.recorded_outcome[place]), '-')} "
        f"{column} {values[place]:.6g}"
        for place in places
    )


def safe_name(name: str) -> str:
    """A name out of the data as a log may show it: plain ones as they are, others escaped, long ones cut."""
    shown = name if _PLAIN_NAME.fullmatch(name) else ascii(name)
    return shown if len(shown) <= _NAME_CHARACTERS else f"{shown[: _NAME_CHARACTERS - 3]}..."


def _conflicting_copies(snapshot: Snapshot, policy: DataPolicy) -> Finding:
    rows = snapshot.facts.quarantined.get("duplicate_conflict", 0)
    share = share_of(rows, len(snapshot) + rows)
    limit = policy.max_contradiction_share
    message = f"{rows:,} copies of a row give it another outcome ({share:.1%}, at most {limit:.1%})"
    severity = Severity.OK
    if share > limit:
        severity = Severity.REFUSAL
        message += ": labels are not to be trusted; look which service writes rows twice"
    elif rows:
        severity = Severity.WARNING
        message += "; one row of each is kept as history, none is trained on"
    return Finding(name="duplicates.conflicts", severity=severity, message=message, measured=share, limit=limit)


def _copies(snapshot: Snapshot) -> Finding:
    rows = snapshot.facts.quarantined.get("duplicate", 0)
    return Finding(
        name="duplicates.copies",
        severity=Severity.WARNING if rows else Severity.OK,
        measured=rows,
        limit=0,
        message=f"{rows:,} rows are exact copies of another (symbol, instant, features, outcome)"
        + (" and were dropped; look which service writes rows twice" if rows else ""),
    )


def _disagreements(snapshot: Snapshot, policy: DataPolicy) -> list[Finding]:
    """The class against target_label and against the price's move, counted only: neither decides the label.

    Where the label is the price's direction, the side does: then it must go with the prices as the class with profit.
    """
    sided = snapshot.side * snapshot.price_move
    moved = np.where(np.abs(sided) > _FEES, sided, np.float32(0.0))
    checks = (
        ("labels.target_label", "the sign of target_label", "target_label", snapshot.target_label),
        ("labels.price_move", f"side x (exit - entry), moves under {_FEES:.1%} apart", "return", moved),
    )
    classed = int(((snapshot.recorded_outcome == WIN) | (snapshot.recorded_outcome == LOSS)).sum())
    found = []
    for name, words, column, values in checks:
        against = contradictions(snapshot.recorded_outcome, values)
        rows, share = int(against.sum()), share_of(int(against.sum()), classed)
        severity, limit = Severity.WARNING if share > _DISAGREEMENT_SHARE else Severity.OK, _DISAGREEMENT_SHARE
        message = f"{rows:,} of {classed:,} classes disagree with {words} ({share:.1%}); counted only"
        if column == "return" and policy.label is Label.DIRECTION and share > policy.max_contradiction_share:
            severity, limit = Severity.REFUSAL, policy.max_contradiction_share
            message = (
                f"{rows:,} of {classed:,} classes disagree with {words} ({share:.1%}, at most {limit:.1%}): "
                "LABEL=direction takes the side for true; correct what writes execution_side, or the prices"
            )
        found.append(
            Finding(
                name=name,
                severity=severity,
                measured=share,
                limit=limit,
                message=message,
                examples=_rows_in_words(snapshot, against, column, values),
            )
        )
    return found


def _half_told(snapshot: Snapshot) -> list[Finding]:
    """Rows whose class and outcome_known do not go together, or whose class is a word of its own."""
    recorded = snapshot.recorded_outcome
    checks = (
        (
            "classes.unknown",
            recorded == UNKNOWN_CLASS,
            "have a class other than WIN, LOSS, NEUTRAL and no label"
            + (f" ({_listed(snapshot.facts.unknown_classes)})" if snapshot.facts.unknown_classes else ""),
        ),
        (
            "outcomes.class_without_outcome",
            recorded == CLASS_WITHOUT_OUTCOME,
            "have a class, but outcome_known is not set",
        ),
        ("outcomes.outcome_without_class", recorded == OUTCOME_WITHOUT_CLASS, "have outcome_known set, but no class"),
    )
    found = [_counted(name, int(rows.sum()), words) for name, rows, words in checks]
    early = snapshot.facts.noted.get("outcome_before_decision", 0)
    found.append(_counted("outcomes.before_decision", early, "have an exit_time before their own timestamp"))
    return found


def _times_of_outcomes(snapshot: Snapshot, policy: DataPolicy, now: int) -> list[Finding]:
    """Rows that are purged because their outcome was known too late, or nobody knows when; refused when few are left.

    What the table tells has happened: no outcome in it can be much younger than now, or than the newest decision.
    """
    usable = (snapshot.outcome == WIN) | (snapshot.outcome == LOSS)
    in_time = snapshot.known_at <= max(now, int(snapshot.decided_at.max(initial=now))) + CLOCK_TOLERANCE
    left = int((usable & in_time).sum())
    is_short = left < policy.min_samples <= int(usable.sum())
    checks = (
        ("outcomes.time_unknown", snapshot.known_at == NEVER, "nothing says since when"),
        ("outcomes.time_future", ~in_time & (snapshot.known_at != NEVER), "only since a time that is yet to come"),
    )
    found = []
    for name, holds, words in checks:
        rows = int((holds & (snapshot.recorded_outcome >= 0)).sum())
        message = f"{rows:,} rows have an outcome, but {words}; they are purged from training"
        if rows and is_short:
            message += (
                f", which leaves {left:,} where at least {policy.min_samples:,} are needed: correct the service that "
                "writes exit_time"
            )
        severity = Severity.REFUSAL if is_short else Severity.WARNING
        found.append(
            Finding(name=name, severity=severity if rows else Severity.OK, message=message, measured=rows, limit=0)
        )
    return found


def _counted(name: str, rows: int, words: str) -> Finding:
    return Finding(
        name=name,
        severity=Severity.WARNING if rows else Severity.OK,
        message=f"{rows:,} rows {words}",
        measured=rows,
        limit=0,
    )


def _neutral(snapshot: Snapshot) -> Finding:
    neutral = snapshot.recorded_outcome == NEUTRAL
    paid = neutral & (np.abs(snapshot.pnl) > 0)
    rows = int(paid.sum())
    return Finding(
        name="classes.neutral",
        severity=Severity.WARNING if rows else Severity.OK,
        measured=int(neutral.sum()),
        message=f"{int(neutral.sum()):,} rows are NEUTRAL: history, not samples"
        + (f"; {rows:,} of them have a {_PNL} other than 0: look what the service calls NEUTRAL" if rows else ""),
        examples=_rows_in_words(snapshot, paid, _PNL, snapshot.pnl),
    )
