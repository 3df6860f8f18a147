"""Pages in, the snapshot out: unusable rows are quarantined and counted, the others become sorted columns."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime
from heapq import nsmallest

import numpy as np
import polars as pl

from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.worker.data import copies, late_rows, outcomes, outliers, repetitions
from retrain_worker.worker.data.feature_cells import Reason
from retrain_worker.worker.data.features import FeatureDecoder, column_of
from retrain_worker.worker.data.instants import CLOCK_TOLERANCE, DAY, to_microseconds
from retrain_worker.worker.data.page import PAGE_SCHEMA
from retrain_worker.worker.data.snapshot import PullFacts, Snapshot, snapshot_of

#: the first Bitcoin block; no trade is older
_FIRST_POSSIBLE = to_microseconds(datetime(2009, 1, 3, tzinfo=UTC))
_MAX_UNKNOWN_CLASSES = 100
_MAX_CLASS_CHARACTERS = 40
_EXAMPLES = 5
#: columns that mark rows with a wrong exit_time
_ODD_EXITS = ("outcome_before_decision", "exit_time_replaced")


class Intake:
    """Takes pages in any order, gives the snapshot. Every page becomes short columns at once."""

    def __init__(self, policy: DataPolicy, *, now: int) -> None:
        self.loaded = 0
        self._policy = policy
        self._now = now
        self._newest_labelled: int | None = None
        self._before_window = 0
        self._decoder = FeatureDecoder()
        self._pages: list[pl.DataFrame] = []
        self._quarantined = Counter[str]()
        self._examples: dict[str, list[int]] = {}
        self._unknown_classes = Counter[str]()

    def add(self, page: pl.DataFrame) -> None:
        """Take one page of PAGE_SCHEMA."""
        self.loaded += len(page)
        rows = page.rename({"timestamp": "decided_at"}).with_columns(
            recorded_outcome=outcomes.recorded_outcome(), reason=_why_without_key(self._now)
        )
        rows = self._without_quarantined(rows)
        newest = rows.select(pl.col("decided_at").filter(pl.col("recorded_outcome") >= 0).max()).item()
        if newest is not None:
            self._newest_labelled = newest if self._newest_labelled is None else max(newest, self._newest_labelled)
        # rows that are certainly before the window are not decoded: memory follows the window, not the table
        rows = self._inside_window(rows)
        if len(rows) or not self._pages:
            self._count_unknown_classes(rows)
            self._pages.append(self._decoder.decode(_in_short_columns(rows, self._now)))

    def snapshot(self, *, hard_links: int = 0) -> Snapshot:
        """The training window of everything added, of a file with so many others. Afterwards the intake is empty."""
        if not self._pages:
            self.add(pl.DataFrame(schema=PAGE_SCHEMA))
        rows = self._inside_window(pl.concat(self._pages))
        self._pages.clear()
        tolerance = self._policy.max_quarantine_share
        rows, table = self._decoder.table(rows, self._policy.feature_names, tolerance=tolerance)
        features = [column_of(name) for name in table.names]
        rows = self._without_quarantined(rows.with_columns(reason=_word_of_reason()))
        rows = _in_canonical_order(rows)
        rows = self._without_quarantined(rows.with_columns(reason=outliers.reason(rows, features)))
        rows = self._without_quarantined(rows.with_columns(reason=late_rows.reason(self._policy.max_gap_hours)))
        rows = self._without_quarantined(copies.marked(rows, features))
        rows = self._without_quarantined(rows.with_columns(reason=repetitions.near(rows, features)))
        rows = self._without_quarantined(rows.with_columns(reason=repetitions.replayed(rows, features)))
        noted = {**table.noted, "hard_links": hard_links}
        for name in _ODD_EXITS:
            odd = rows.filter(name).select("id", reason=pl.lit(name))
            noted[name] = len(odd)
            self._keep_examples(odd)
        is_timed = pl.col("known_at") <= outcomes.latest_outcome(self._now)
        rows = rows.with_columns(
            outcome=pl.when(pl.col("is_disputed") | ~is_timed)
            .then(pl.lit(outcomes.OPEN, dtype=pl.Int8))
            .otherwise(outcomes.settled(self._policy.label_conflict)),
        )
        facts = PullFacts(
            loaded=self.loaded,
            before_window=self._before_window,
            window_start=self._window_start,
            quarantined=dict(self._quarantined),
            quarantined_examples=tuple(
                f"id {row_id} {reason}"
                for row_id, reason in sorted((row_id, name) for name, ids in self._examples.items() for row_id in ids)
            ),
            noted=noted,
            unknown_classes=dict(self._unknown_classes),
            features_left_out=dict(table.left_out),
            features_unusable=dict(table.unusable),
            features_undelivered=table.undelivered,
        )
        return snapshot_of(rows, names=table.names, facts=facts)

    @property
    def _window_start(self) -> int | None:
        """The start of the window as known from the pages so far; it only moves forward. None: every row is inside."""
        days = self._policy.train_window_days
        return None if not days or self._newest_labelled is None else self._newest_labelled - days * DAY

    def _inside_window(self, rows: pl.DataFrame) -> pl.DataFrame:
        if self._window_start is None:
            return rows
        is_inside = rows["decided_at"] >= self._window_start
        self._before_window += len(rows) - int(is_inside.sum())
        return rows if is_inside.all() else rows.filter(is_inside)

    def _without_quarantined(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows without a `reason`, and without that column; the others are counted, the lowest ids kept."""
        if rows["reason"].null_count() == len(rows):
            return rows.drop("reason")
        left_out = rows.filter(pl.col("reason").is_not_null()).select("id", "reason")
        self._quarantined.update(dict(left_out.group_by("reason").len().iter_rows()))
        self._keep_examples(left_out)
        return rows.filter(pl.col("reason").is_null()).drop("reason")

    def _keep_examples(self, found: pl.DataFrame) -> None:
        """The lowest ids with each `reason`."""
        for (name,), some in found.drop_nulls().group_by("reason"):
            ids = some["id"].bottom_k(_EXAMPLES).to_list()
            self._examples[str(name)] = nsmallest(_EXAMPLES, [*self._examples.get(str(name), ()), *ids])

    def _count_unknown_classes(self, rows: pl.DataFrame) -> None:
        is_unknown = pl.col("recorded_outcome") == outcomes.UNKNOWN_CLASS
        unknown = rows.select(pl.col("target_class").filter(is_unknown)).to_series()
        for value, count in unknown.value_counts(sort=True).iter_rows():
            word = ascii(value)[:_MAX_CLASS_CHARACTERS]
            if word in self._unknown_classes or len(self._unknown_classes) < _MAX_UNKNOWN_CLASSES:
                self._unknown_classes[word] += count


def _why_without_key(now: int) -> pl.Expr:
    """Why a row has no id, no symbol, or no possible instant; null where it has all three."""
    symbol, decided_at = pl.col("symbol"), pl.col("decided_at")
    checks = {
        "id_missing": pl.col("id").is_null(),
        "symbol_missing": symbol.is_null() | (symbol.str.strip_chars() == ""),
        "timestamp_unreadable": decided_at.is_null(),
        "timestamp_absurd": decided_at < _FIRST_POSSIBLE,
        "timestamp_future": decided_at > now + CLOCK_TOLERANCE,
    }
    return pl.coalesce(pl.when(holds).then(pl.lit(reason)) for reason, holds in checks.items())


def _in_short_columns(rows: pl.DataFrame, now: int) -> pl.DataFrame:
    """What is kept of a page, its cells of features still undecoded."""
    rows = rows.with_columns(action=outcomes.action("predicted_action"), executed=outcomes.action("execution_side"))
    return rows.select(
        pl.col("symbol").cast(pl.Categorical),
        # a column as it came, or its bits for nulls, would keep the driver's whole batch in memory, its texts as well:
        # adding nothing copies values, and a column without nulls needs no bits
        pl.col("id") + 0,
        pl.col("decided_at") + 0,
        (pl.col("realized_pnl").alias("pnl") + 0.0).fill_null(math.nan),
        "recorded_outcome",
        outcomes.known_at(now).alias("known_at"),
        outcomes.side(pl.col("executed"), pl.col("action")).alias("side"),
        "action",
        pl.col("prediction_confidence").cast(pl.Float32).fill_null(math.nan).alias("confidence"),
        pl.col("target_label").cast(pl.Float32).fill_null(math.nan),
        (pl.col("exit_price") / pl.col("entry_price") - 1.0).cast(pl.Float32).fill_null(math.nan).alias("price_move"),
        *map(pl.col, ("features", "feature_names")),
        outcome_before_decision=(pl.col("exit_time") < pl.col("decided_at")) & (pl.col("recorded_outcome") >= 0),
        exit_time_replaced=outcomes.is_exit_replaced(now),
        written_at=pl.max_horizontal("created_at", "decided_at"),
    )


def _word_of_reason() -> pl.Expr:
    words = {reason.value: None if reason is Reason.FINE else reason.word for reason in Reason}
    return pl.col("reason").replace_strict(words, return_dtype=pl.String)


def _in_canonical_order(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows sorted by (symbol, decided_at, id), the symbol as an Enum of those that are left."""
    symbols = pl.Enum(rows["symbol"].unique().cast(pl.String).sort())
    rows = rows.with_columns(pl.col("symbol").cast(symbols))
    # a third of the time of rows.sort() by three columns
    return rows[np.lexsort((rows["id"], rows["decided_at"], rows["symbol"].to_physical()))]
