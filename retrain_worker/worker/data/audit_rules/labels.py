"""Labels: how many there are, of which class, whether the rows agree with themselves, and when outcomes were known."""

from __future__ import annotations

from collections.abc import Mapping

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
    appended_to,
    counted,
    finding,
    shared,
    warning_if,
)
from retrain_worker.worker.data.instants import CLOCK_TOLERANCE, NEVER
from retrain_worker.worker.data.outcomes import LOSS, NEUTRAL, OPEN, WIN, contradicts

RULES: list[Rule] = []
rule = appended_to(RULES)

#: an entry and an exit fee may turn a price move of this size in the right direction into a loss
_FEES = 0.001
#: share of rows that may disagree in a secondary field without a warning
_DISAGREEMENT = 0.01

_RECORDED, _OUTCOME, _PNL = pl.col("recorded_outcome"), pl.col("outcome"), pl.col("pnl")
_EFFECTS = {
    LabelConflict.DROP: "these rows are history, not samples (LABEL_CONFLICT=drop)",
    LabelConflict.RELABEL: "these rows take the class of their profit (LABEL_CONFLICT=relabel)",
    LabelConflict.KEEP: "these rows are trained on as they are (LABEL_CONFLICT=keep)",
}
#: why a row has no label, and what to do about it
_CAUSES = (
    (
        _RECORDED == outcomes.UNKNOWN_CLASS,
        "the class is none of WIN, LOSS, NEUTRAL, which count only as spelled here (found: {found}); correct the "
        "service that writes target_class, and these rows",
    ),
    (_RECORDED == OPEN, "no outcome is known yet; wait until positions close, or check why outcome_known is never set"),
    (
        _RECORDED == outcomes.CLASS_WITHOUT_OUTCOME,
        "a class is set, but outcome_known is not; correct the service that writes outcomes",
    ),
    (
        _RECORDED == outcomes.OUTCOME_WITHOUT_CLASS,
        "outcome_known is set, but there is no class; correct the service that writes outcomes",
    ),
    (
        (_RECORDED >= 0) & (_OUTCOME == OPEN),
        "the class contradicts realized_pnl; correct the service that writes outcomes",
    ),
    (_OUTCOME == NEUTRAL, "the outcome is NEUTRAL, which is no label"),
)


@rule
def labelled(audited: Audited) -> Finding:
    """Rows with a usable WIN or LOSS; MIN_SAMPLES is the limit."""
    rows, required = audited.count(LABELLED), audited.policy.min_samples
    causes = {text: audited.count(holds) for holds, text in _CAUSES}
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


@rule
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
        text = f"every labelled row is {'WIN' if wins else 'LOSS'} ({rows:,}): there is nothing to tell apart"
    return finding(
        "classes.balance",
        Severity.REFUSAL if is_short and rows else Severity.OK,  # without any label, rows.labelled refuses
        text,
        measured=share,
        limit=policy.min_class_share,
        counts={"win": wins, "loss": losses},
        remedy="check that outcomes are written for both classes, or wait for more",
    )


@rule
def contradictions(audited: Audited) -> Finding:
    """Classes against the sign of realized_pnl."""
    against = contradicts("recorded_outcome", _PNL)
    return shared(
        "labels.contradictions",
        audited.count(against),
        audited.count(CLASSED),
        "classes contradict realized_pnl",
        refuse_over=audited.policy.max_contradiction_share,
        examples=audited.examples(against, "realized_pnl", _PNL),
        remedy="correct the service that writes target_class, and these rows",
        effect=_EFFECTS[audited.policy.label_conflict],
    )


@rule
def unproven(audited: Audited) -> Finding:
    """Classes that no profit can contradict."""
    holds = CLASSED & (_PNL.is_null() | (_PNL == 0))
    return shared(
        "labels.unproven",
        audited.count(holds),
        audited.count(CLASSED),
        "classes cannot be checked, because realized_pnl is missing, no number, or 0",
        warn_over=_DISAGREEMENT,
        examples=audited.examples(holds, "realized_pnl", _PNL),
    )


@rule
def conflicting_copies(audited: Audited) -> Finding:
    """Copies of a row that give it another outcome."""
    rows = audited.facts.quarantined.get("duplicate_conflict", 0)
    return shared(
        "duplicates.conflicts",
        rows,
        len(audited.rows) + rows,
        "rows are copies that give a row another outcome",
        refuse_over=audited.policy.max_contradiction_share,
        remedy="find the service that writes rows twice",
        effect="one row of each is kept as history, none is trained on",
    )


@rule
def copies(audited: Audited) -> Finding:
    """Exact copies of a row."""
    rows, words = (
        audited.facts.quarantined.get("duplicate", 0),
        "rows repeat another (symbol, instant, features, outcome)",
    )
    return counted("duplicates.copies", rows, f"{words}, dropped", remedy="find the service that writes rows twice")


@rule
def target_label(audited: Audited) -> Finding:
    """Classes against target_label, which does not decide the label."""
    against = contradicts("recorded_outcome", pl.col("target_label"))
    return shared(
        "labels.target_label",
        audited.count(against),
        audited.count(CLASSED),
        "classes disagree with the sign of target_label",
        warn_over=_DISAGREEMENT,
        examples=audited.examples(against, "target_label", pl.col("target_label")),
    )


@rule
def price_move(audited: Audited) -> Finding:
    """Classes against the move of the price. LABEL=direction takes the side for true, so there it refuses."""
    sided = pl.col("side") * pl.col("price_move")
    against = contradicts("recorded_outcome", pl.when(sided.abs() > _FEES).then(sided).otherwise(0.0))
    is_direction = audited.policy.label is Label.DIRECTION
    return shared(
        "labels.price_move",
        audited.count(against),
        audited.count(CLASSED),
        f"classes disagree with side x (exit - entry), apart from moves under {_FEES:.1%}",
        warn_over=_DISAGREEMENT,
        refuse_over=audited.policy.max_contradiction_share if is_direction else None,
        examples=audited.examples(against, "return", sided),
        remedy="with LABEL=direction, correct the service that writes execution_side, or the prices" * is_direction,
    )


@rule
def unknown_classes(audited: Audited) -> Finding:
    """Classes that are none of the three words."""
    found = f" ({_listed(audited.facts.unknown_classes)})" if audited.facts.unknown_classes else ""
    rows = audited.count(_RECORDED == outcomes.UNKNOWN_CLASS)
    return counted("classes.unknown", rows, f"rows have a class other than WIN, LOSS, NEUTRAL and no label{found}")


@rule
def class_without_outcome(audited: Audited) -> Finding:
    """A class, but no outcome."""
    rows = audited.count(_RECORDED == outcomes.CLASS_WITHOUT_OUTCOME)
    return counted("outcomes.class_without_outcome", rows, "rows have a class, but outcome_known is not set")


@rule
def outcome_without_class(audited: Audited) -> Finding:
    """An outcome, but no class."""
    rows = audited.count(_RECORDED == outcomes.OUTCOME_WITHOUT_CLASS)
    return counted("outcomes.outcome_without_class", rows, "rows have outcome_known set, but no class")


@rule
def outcome_before_decision(audited: Audited) -> Finding:
    """An exit before the decision."""
    rows = audited.facts.noted.get("outcome_before_decision", 0)
    return counted("outcomes.before_decision", rows, "rows have an exit_time before their own timestamp")


@rule
def time_unknown(audited: Audited) -> Finding:
    """Outcomes without a time."""
    return _purged("outcomes.time_unknown", audited, pl.col("known_at") == NEVER, "rows have an outcome without a time")


@rule
def time_future(audited: Audited) -> Finding:
    """Outcomes of a time to come. An outcome in the table cannot be much newer than now, or than the last decision."""
    is_future = (pl.col("known_at") > _latest_outcome(audited)) & (pl.col("known_at") != NEVER)
    return _purged("outcomes.time_future", audited, is_future, "rows have an outcome whose time is in the future")


def _purged(name: str, audited: Audited, holds: pl.Expr, words: str) -> Finding:
    """A warning, but refused where too few others are left."""
    rows, required = audited.count(holds & (_RECORDED >= 0)), audited.policy.min_samples
    left = audited.count(LABELLED & (pl.col("known_at") <= _latest_outcome(audited)))
    is_short = rows > 0 and left < required <= audited.count(LABELLED)
    effect = f", which leaves {left:,} where at least {required:,} are required" if is_short else ""
    return finding(
        name,
        Severity.REFUSAL if is_short else warning_if(rows > 0),
        f"{rows:,} {words}; they are purged from training{effect}",
        measured=rows,
        limit=0,
        counts={"count": rows, "left": left},
        remedy="correct the service that writes exit_time",
    )


def _latest_outcome(audited: Audited) -> int:
    newest: int = audited.rows.select(pl.col("decided_at").max().fill_null(0)).item()
    return max(audited.now, newest) + CLOCK_TOLERANCE


@rule
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
    commonest = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:EXAMPLES]
    return ", ".join(f"{word} x {count}" for word, count in commonest)
