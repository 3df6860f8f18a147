"""The input of an audit rule, and the forms of its findings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from retrain_worker.domain.audit_findings import Finding, Severity
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.worker.data.features import column_of
from retrain_worker.worker.data.instants import in_words
from retrain_worker.worker.data.outcomes import LOSS, NEUTRAL, WIN
from retrain_worker.worker.data.snapshot import PullFacts, Snapshot, frame_of

#: rows or names that a finding shows
EXAMPLES = 5
EVERY = pl.col("id").is_not_null()
CLASSED = pl.col("recorded_outcome").is_in([WIN, LOSS])
LABELLED = pl.col("outcome").is_in([WIN, LOSS])

#: names that a message lists
_LISTED = 20
_PLAIN_NAME = re.compile(r"\w[\w.]*", re.ASCII)
_NAME_CHARACTERS = 40
_WORDS = {WIN: "WIN", LOSS: "LOSS", NEUTRAL: "NEUTRAL"}


@dataclass(frozen=True)
class Audited:
    """The snapshot, its limits, now (microseconds), and the features that the engine is known to take."""

    snapshot: Snapshot
    policy: DataPolicy
    now: int
    engine_names: tuple[str, ...] = ()

    @cached_property
    def rows(self) -> pl.DataFrame:
        """The rows in canonical order, with the columns of snapshot.frame_of."""
        return frame_of(self.snapshot)

    @cached_property
    def in_time(self) -> pl.DataFrame:
        """Instants, outcomes, sides and features in the order of the decisions."""
        return self.rows.select("decided_at", "outcome", "side", *self.names).sort("decided_at", maintain_order=True)

    @property
    def facts(self) -> PullFacts:
        """What the pull counted."""
        return self.snapshot.facts

    @cached_property
    def names(self) -> dict[str, str]:
        """Column -> its feature's name, safe to print."""
        return {column_of(name): safe_name(name) for name in self.snapshot.feature_names}

    def count(self, rows: pl.Expr | str | int) -> int:
        """Rows of which an expression holds, or that the pull counted under a name; a number is itself."""
        if isinstance(rows, int):
            return rows
        if isinstance(rows, str):
            return {**self.facts.quarantined, **self.facts.noted}.get(rows, 0)
        return int(self.rows.select(rows.sum()).item())

    def examples_of(self, reason: str) -> tuple[str, ...]:
        """A few rows that were quarantined for this reason: `id 17 near_copy`."""
        return tuple(each for each in self.facts.quarantined_examples if each.endswith(f" {reason}"))

    def examples(self, holds: pl.Expr, column: str, value: pl.Expr) -> tuple[str, ...]:
        """The first few rows by id: `id 1 ADAUSDT 2025-12-09 03:14:40 UTC WIN realized_pnl -1.3`."""
        shown = self.rows.filter(holds).sort("id").head(EXAMPLES)
        return tuple(
            f"id {row_id} {safe_name(symbol)} {in_words(at)} {_WORDS.get(recorded, '-')} {column} "
            + ("none" if number is None else f"{number:.6g}")
            for row_id, symbol, at, recorded, number in shown.select(
                "id", "symbol", "decided_at", "recorded_outcome", value.alias("value")
            ).iter_rows()
        )


Rule = Callable[[Audited], Finding]


def finding(
    name: str,
    severity: Severity,
    text: str,
    *,
    measured: float | None = None,
    limit: float | None = None,
    subject: str = "",
    counts: Mapping[str, float] | None = None,
    examples: tuple[str, ...] = (),
    remedy: str = "",
) -> Finding:
    """The finding, its message rendered: `text`, and the remedy unless the severity is OK."""
    remedy = remedy if severity is not Severity.OK else ""
    return Finding(
        name=name,
        severity=severity,
        message=f"{text}; {remedy}" if remedy else text,
        measured=measured,
        limit=limit,
        subject=subject,
        counts=counts or {},
        examples=examples,
        remedy=remedy,
    )


def counted(
    audited: Audited,
    name: str,
    rows: pl.Expr | str | int,
    words: str,
    *,
    remedy: str = "",
    subject: str = "",
    examples: tuple[str, ...] = (),
) -> Finding:
    """A warning where there is any: `20 rows have outcome_known set, but no class`."""
    count = audited.count(rows)
    return finding(
        name,
        warning_if(count > 0),
        f"{count:,} {words}",
        measured=count,
        limit=0,
        subject=subject,
        counts={"count": count},
        examples=examples or (audited.examples_of(rows) if isinstance(rows, str) else ()),
        remedy=remedy,
    )


def counting(name: str, rows: pl.Expr | str, words: str, remedy: str = "") -> Rule:
    """The rule that is a count alone."""
    return lambda audited: counted(audited, name, rows, words, remedy=remedy)


def shared(
    audited: Audited,
    name: str,
    rows: pl.Expr | str | int,
    of: pl.Expr | int,
    words: str,
    *,
    warn_over: float = 0.0,
    refuse_over: float | None = None,
    details: str = "",
    shown: tuple[str, pl.Expr] | None = None,
    examples: tuple[str, ...] = (),
    remedy: str = "",
    effect: str = "",
) -> Finding:
    """A share beside its limit. `shown`: the name and the value of what examples show; `effect`: of a warning."""
    part, whole = audited.count(rows), audited.count(of)
    share = part / whole if whole else 0.0
    is_refused = refuse_over is not None and share > refuse_over
    limit = f"a warning over {warn_over:.0%}" if refuse_over is None else f"at most {refuse_over:.1%}"
    return finding(
        name,
        Severity.REFUSAL if is_refused else warning_if(share > warn_over),
        f"{part:,} of {whole:,} {words} ({share:.1%}, {limit}){details}",
        measured=share,
        limit=warn_over if refuse_over is None else refuse_over,
        counts={"part": part, "whole": whole},
        examples=audited.examples(rows, *shown) if shown and isinstance(rows, pl.Expr) else examples,
        remedy=remedy if is_refused or not effect else effect,
    )


def listed(words: Iterable[str]) -> str:
    """`rsi, ma_cross`; of a long list the first, and how many follow."""
    words = tuple(words)
    more = len(words) - _LISTED
    return ", ".join(words[:_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def commonest(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """What is counted, and how often: the most frequent first."""
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


def warning_if(holds: bool) -> Severity:
    """WARNING where something holds, else OK."""
    return Severity.WARNING if holds else Severity.OK


def safe_name(name: str) -> str:
    """A name out of the data as a log may show it: plain ones as they are, others escaped, long ones cut."""
    shown = name if _PLAIN_NAME.fullmatch(name) else ascii(name)
    return shown if len(shown) <= _NAME_CHARACTERS else f"{shown[: _NAME_CHARACTERS - 3]}..."
