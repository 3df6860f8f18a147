"""Labels: how many there are, of which class, whether the rows agree with themselves, and when outcomes were known."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import polars as pl

from retrain_worker.domain.audit_findings import Finding, Severity
from retrain_worker.domain.labels import Label, LabelConflict
from retrain_worker.worker.data import outcomes
from retrain_worker.worker.data.audit_rules.rule import (
    CLASSED,
    EXAMPLES,
    LABELLED,
    Audited,
    Rule,
    commonest,
    counting,
    finding,
    shared,
    warning_if,
)
from retrain_worker.worker.data.instants import NEVER
from retrain_worker.worker.data.outcomes import LOSS, NEUTRAL, OPEN, WIN, contradicts

#: an entry and an exit fee may turn a price move of this size in the right direction into a loss
_FEES = 0.001
#: share of rows that may disagree in a secondary field without a warning
_DISAGREEMENT = 0.01
#: share of distinct pairs of profit and price move, from which on equal trades are taken for copies
_TELLING = 0.2

_RECORDED, _OUTCOME, _PNL = pl.col("recorded_outcome"), pl.col("outcome"), pl.col("pnl")
_CORRECT = "correct the service that writes outcomes"
_EFFECTS = {
    LabelConflict.DROP: "these rows are history, not samples (LABEL_CONFLICT=drop)",
    LabelConflict.RELABEL: "these rows take the class of their profit (LABEL_CONFLICT=relabel)",
    LabelConflict.KEEP: "these rows are trained on as they are (LABEL_CONFLICT=keep)",
}
#: why a row has no label, and what to do about it
_CAUSES = {
    "the class is none of WIN, LOSS, NEUTRAL, which count only as spelled here (found: {found}); correct the service "
    "that writes target_class, and these rows": _RECORDED == outcomes.UNKNOWN_CLASS,
    "no outcome is known yet; wait until positions close, or check why outcome_known is never set": _RECORDED == OPEN,
    f"a class is set, but outcome_known is not; {_CORRECT}": _RECORDED == outcomes.CLASS_WITHOUT_OUTCOME,
    f"outcome_known is set, but there is no class; {_CORRECT}": _RECORDED == outcomes.OUTCOME_WITHOUT_CLASS,
    f"the class contradicts realized_pnl; {_CORRECT}": contradicts("recorded_outcome", _PNL) & (_OUTCOME == OPEN),
    f"the outcome has no time, one in the future, or a copy of the row with another outcome; {_CORRECT}": (
        (_RECORDED >= 0) & (_OUTCOME == OPEN) & ~contradicts("recorded_outcome", _PNL)
    ),
    "the outcome is NEUTRAL, which is no label": _OUTCOME == NEUTRAL,
}


def labelled(audited: Audited) -> Finding:
    """Rows with a usable WIN or LOSS; MIN_SAMPLES is the limit."""
    rows, required = audited.count(LABELLED), audited.policy.min_samples
    causes = {text: audited.count(holds) for text, holds in _CAUSES.items()}
    causes["the row cannot be used; see rows.quarantined"] = sum(audited.facts.quarantined.values())
    cause, count = max(causes.items(), key=lambda each: each[1])
    found = _listed(audited.facts.unknown_classes)
    return finding(
        "rows.labelled",
        Severity.REFUSAL if rows < required else Severity.OK,
        f"{rows:,} of {len(audited.rows):,} usable rows are labelled WIN or LOSS; at least {required:,} are required",
        measured=rows,
        limit=required,
        counts={"labelled": rows, "rows": len(audited.rows)},
        remedy=f"in {count:,} rows {cause.format(found=found)}"
        if count > rows
        else "wait for more outcomes, raise TRAIN_WINDOW_DAYS, or lower MIN_SAMPLES",
    )


def balance(audited: Audited) -> Finding:
    """Rows and share of the rarer class."""
    wins, losses, policy = audited.count(_OUTCOME == WIN), audited.count(_OUTCOME == LOSS), audited.policy
    rarer, rows = min(wins, losses), wins + losses
    share = rarer / rows if rows else 0.0
    is_short = rarer < policy.min_class_samples or share < policy.min_class_share
    text = (
        f"{wins:,} WIN and {losses:,} LOSS; the rarer class has {rarer:,} rows and {share:.1%}, required are "
        f"{policy.min_class_samples:,} and {policy.min_class_share:.0%}"
    )
    if rarer == 0 < rows:
        text = f"every labelled row is {'WIN' if wins else 'LOSS'} ({rows:,}): there are no two classes to separate"
    return finding(
        "classes.balance",
        Severity.REFUSAL if is_short and rows else Severity.OK,  # without any label, rows.labelled refuses
        text,
        measured=share,
        limit=policy.min_class_share,
        counts={"win": wins, "loss": losses},
        remedy="check that outcomes are written for both classes, or wait for more",
    )


def contradictions(audited: Audited) -> Finding:
    """Classes against the sign of realized_pnl."""
    return shared(
        audited,
        "labels.contradictions",
        rows=contradicts("recorded_outcome", _PNL),
        of=CLASSED,
        words="classes contradict realized_pnl",
        refuse_over=audited.policy.max_contradiction_share,
        shown=("realized_pnl", _PNL),
        remedy="correct the service that writes target_class, and these rows",
        effect=_EFFECTS[audited.policy.label_conflict],
    )


def conflicting_copies(audited: Audited) -> Finding:
    """Copies of a row that give it another outcome."""
    return shared(
        audited,
        "duplicates.conflicts",
        rows="duplicate_conflict",
        of=len(audited.rows) + audited.count("duplicate_conflict"),
        words="rows are copies that give a row another outcome",
        refuse_over=audited.policy.max_contradiction_share,
        remedy="find the service that writes rows twice",
        effect="one row of each is kept as history, none is trained on",
    )


def repeated(audited: Audited) -> Finding:
    """Closed trades that equal another one at another time or of another symbol, singly."""
    is_measured = CLASSED & pl.col("pnl").is_finite() & pl.col("price_move").is_finite() & (pl.col("price_move") != 0.0)
    values = pl.struct(*audited.names, "recorded_outcome", "pnl", "price_move")
    trades = audited.rows.filter(is_measured).select("pnl", "price_move")
    # profits and moves of a few fixed steps repeat by chance
    is_telling = trades.n_unique() >= _TELLING * len(trades)
    return shared(
        audited,
        "duplicates.repeated",
        # the earliest of each group is the original
        is_measured & ~values.is_first_distinct() if audited.names and is_telling else 0,
        is_measured,
        "trades have the features, outcome, profit and price move of another trade and are used",
        warn_over=_DISAGREEMENT,
        shown=("realized_pnl", pl.col("pnl")),
        remedy="find the service or the import that writes a trade under a second symbol or time, and delete its rows",
    )


def price_move(audited: Audited) -> Finding:
    """Classes against the move of the price. LABEL=direction takes the side for true, so there it refuses."""
    sided = pl.col("side") * pl.col("price_move")
    is_direction = audited.policy.label is Label.DIRECTION
    return shared(
        audited,
        "labels.price_move",
        rows=contradicts("recorded_outcome", pl.when(sided.abs() > _FEES).then(sided).otherwise(0.0)),
        of=CLASSED,
        words=f"classes disagree with side x (exit - entry), apart from moves under {_FEES:.1%}",
        warn_over=_DISAGREEMENT,
        refuse_over=audited.policy.max_contradiction_share if is_direction else None,
        shown=("return", sided),
        remedy="with LABEL=direction, correct the service that writes execution_side, or the prices" * is_direction,
    )


def unknown_classes(audited: Audited) -> Finding:
    """Classes that are none of the three words: they take rows out of one class rather than the other."""
    is_unknown = _RECORDED == outcomes.UNKNOWN_CLASS
    return shared(
        audited,
        "classes.unknown",
        rows=is_unknown,
        of=CLASSED | is_unknown,
        words="known outcomes have a class other than WIN, LOSS, NEUTRAL and no label",
        refuse_over=audited.policy.max_contradiction_share,
        details=f": {_listed(audited.facts.unknown_classes)}" if audited.facts.unknown_classes else "",
        remedy="correct the service that writes target_class, and these rows: a class counts only as spelled here",
        effect="these rows are history, not samples",
    )


def time_future(audited: Audited) -> Finding:
    """Outcomes of a time to come: an outcome in the table cannot be much newer than now."""
    is_future = (pl.col("known_at") > outcomes.latest_outcome(audited.now)) & (pl.col("known_at") != NEVER)
    return _untimed(audited, "outcomes.time_future", is_future, "rows have an outcome whose time is in the future")


def _untimed(audited: Audited, name: str, holds: pl.Expr, words: str) -> Finding:
    """A warning, but refused where too few others are left."""
    holds &= _RECORDED >= 0
    rows, left, required = audited.count(holds), audited.count(LABELLED), audited.policy.min_samples
    is_short = left < required <= left + rows
    effect = f", which leaves {left:,} where at least {required:,} are required" if is_short else ""
    return finding(
        name,
        Severity.REFUSAL if is_short else warning_if(rows > 0),
        f"{rows:,} {words}; they are history, not samples{effect}",
        measured=rows,
        limit=0,
        counts={"count": rows, "left": left},
        examples=audited.examples(holds, "realized_pnl", _PNL),
        remedy="correct the service that writes exit_time",
    )


def neutral(audited: Audited) -> Finding:
    """NEUTRAL rows, and those among them that made or lost money."""
    paid = (_RECORDED == NEUTRAL) & (_PNL.abs() > 0)
    rows, with_profit = audited.count(_RECORDED == NEUTRAL), audited.count(paid)
    return finding(
        "classes.neutral",
        warning_if(with_profit > 0),
        f"{rows:,} rows are NEUTRAL (history, not samples), {with_profit:,} of them with a realized_pnl other than 0",
        measured=rows,
        counts={"count": rows, "with_profit": with_profit},
        examples=audited.examples(paid, "realized_pnl", _PNL),
        remedy="check what the service calls NEUTRAL",
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{word} x {count}" for word, count in commonest(counts)[:EXAMPLES])


RULES: tuple[Rule, ...] = (
    labelled,
    balance,
    contradictions,
    partial(
        shared,
        name="labels.unproven",
        rows=CLASSED & (_PNL.is_null() | (_PNL == 0)),
        of=CLASSED,
        words="classes cannot be checked, because realized_pnl is missing, no number, or 0",
        warn_over=_DISAGREEMENT,
        shown=("realized_pnl", _PNL),
    ),
    conflicting_copies,
    counting(
        "duplicates.copies",
        "duplicate",
        "rows repeat another (symbol, instant, features, outcome), dropped",
        "find the service that writes rows twice",
    ),
    counting(
        "duplicates.near",
        "near_copy",
        "rows repeat the features, outcome and profit of a row less than a minute before, dropped",
        "find the service that writes rows twice",
    ),
    counting(
        "duplicates.replayed",
        "replayed",
        "rows repeat an earlier stretch of their symbol (features, outcomes, profits) under new timestamps, dropped",
        "find the import or the service that writes them again, and delete them",
    ),
    repeated,
    partial(
        shared,
        name="labels.target_label",
        rows=contradicts("recorded_outcome", pl.col("target_label")),
        of=CLASSED,
        words="classes disagree with the sign of target_label",
        warn_over=_DISAGREEMENT,
        shown=("target_label", pl.col("target_label")),
    ),
    price_move,
    unknown_classes,
    counting(
        "outcomes.class_without_outcome",
        _RECORDED == outcomes.CLASS_WITHOUT_OUTCOME,
        "rows have a class, but outcome_known is not set",
    ),
    counting(
        "outcomes.outcome_without_class",
        _RECORDED == outcomes.OUTCOME_WITHOUT_CLASS,
        "rows have outcome_known set, but no class",
    ),
    counting(
        "outcomes.before_decision", "outcome_before_decision", "rows have an exit_time before their own timestamp"
    ),
    counting(
        "outcomes.exit_time",
        "exit_time_replaced",
        "rows have an exit_time that is empty, not after the decision, in the future, or before what "
        "hold_duration_seconds says; the later plausible one of updated_at and hold_duration_seconds counts",
        "correct the service that writes exit_time",
    ),
    partial(
        _untimed,
        name="outcomes.time_unknown",
        holds=pl.col("known_at") == NEVER,
        words="rows have an outcome without a time",
    ),
    time_future,
    neutral,
)
