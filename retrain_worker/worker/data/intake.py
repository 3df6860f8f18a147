"""Raw pages in, the snapshot out: what cannot be used is set aside and counted, the rest becomes sorted arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from heapq import nsmallest
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.worker.data.coded_cells import CodeBook, codes_of
from retrain_worker.worker.data.copies import find_copies
from retrain_worker.worker.data.feature_cells import Reason
from retrain_worker.worker.data.features import FeatureReader, FeatureTable
from retrain_worker.worker.data.instants import (
    CLOCK_TOLERANCE,
    MICROSECONDS,
    NEVER,
    UNREADABLE,
    parse_instants,
    to_microseconds,
)
from retrain_worker.worker.data.outcomes import (
    OPEN,
    UNKNOWN_CLASS,
    actions_and_sides,
    numbers,
    recorded_outcomes,
    settled,
)
from retrain_worker.worker.data.rows import RawRows
from retrain_worker.worker.data.snapshot import PullFacts, Snapshot, content_hash

Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Int8s = npt.NDArray[np.int8]

_DAY = 86_400 * MICROSECONDS
#: the first Bitcoin block; no trade is older
_FIRST_POSSIBLE = to_microseconds(datetime(2009, 1, 3))  # noqa: DTZ001 (naive is UTC there)
_MAX_UNKNOWN_CLASSES = 100
_MAX_CLASS_CHARACTERS = 40
_EXAMPLES = 5
#: a position held longer was not held
_MAX_HOLD_SECONDS = 10 * 366 * 86_400


class Intake:
    """Takes raw pages in any order, gives the snapshot. Every page becomes small arrays at once."""

    def __init__(self, policy: DataPolicy, *, now: int) -> None:
        self.loaded = 0
        self._policy = policy
        self._now = now
        self._newest_labelled: int | None = None
        self._before_window = 0
        self._codes = CodeBook(self._new_code)
        self._symbols: list[str] = []
        self._pieces: dict[str, list[npt.NDArray[Any]]] = {}
        self._features = FeatureReader()
        self._quarantined: Counter[str] = Counter()
        self._examples: list[tuple[int, str]] = []
        self._unknown_classes: Counter[str] = Counter()

    def add(self, page: RawRows) -> None:
        """Take one page."""
        self.loaded += len(page.id)
        decided_at = parse_instants(page.timestamp)
        codes = self._symbol_codes(page.symbol)
        outcome = recorded_outcomes(page.target_class, page.outcome_known)
        ids, is_no_id = _integers(page.id)
        usable = self._with_keys(page, is_no_id, codes, decided_at)
        labelled = decided_at[usable & (outcome >= 0)]
        if len(labelled):
            newest = int(labelled.max())
            self._newest_labelled = newest if self._newest_labelled is None else max(newest, self._newest_labelled)
        # rows that are surely before the window are not decoded: memory follows the window, not the table
        inside = usable & (decided_at >= self._window_start())
        self._before_window += int((usable & ~inside).sum())
        if not inside.all():
            page = RawRows(*(list(compress(column, inside)) for column in page))
            ids, codes, decided_at, outcome = ids[inside], codes[inside], decided_at[inside], outcome[inside]
        if len(page.id):
            self._decode(page, ids, codes, decided_at, outcome)

    def snapshot(self) -> Snapshot:
        """The training window of everything added. The intake is empty afterwards."""
        if not self._pieces:
            self._decode(RawRows(*([] for _ in RawRows._fields)), *_nothing())
        arrays = {name: np.concatenate(self._pieces.pop(name)) for name in list(self._pieces)}
        start = self._window_start()
        inside = arrays["decided_at"] >= start
        table = self._features.table(
            self._policy.feature_names, inside=inside, tolerance=self._policy.max_quarantine_share
        )
        quarantined = self._quarantined + _counted(table.reasons[inside])
        self._remember(arrays["ids"].tolist(), table.reasons, inside & (table.reasons != Reason.FINE))
        arrays["features"] = table.matrix
        symbols = _in_canonical_order(arrays, np.flatnonzero(inside & (table.reasons == Reason.FINE)), self._symbols)
        unusable = _drop_copies(arrays, quarantined)
        noted = _noted(arrays, table)
        arrays["outcome"] = settled(arrays["recorded_outcome"], arrays["pnl"], self._policy.label_conflict)
        arrays["outcome"][unusable] = OPEN
        np.maximum(arrays["known_at"], arrays["decided_at"], out=arrays["known_at"])
        facts = PullFacts(
            loaded=self.loaded,
            before_window=self._before_window + int((~inside).sum()),
            window_start=None if start == UNREADABLE else start,
            quarantined=dict(quarantined),
            quarantined_examples=tuple(f"id {row_id} {reason}" for row_id, reason in self._examples),
            noted=noted,
            unknown_classes=dict(self._unknown_classes),
            features_left_out=dict(table.left_out),
        )
        digest = content_hash(arrays, symbols=symbols, names=table.names)
        return Snapshot(symbols=symbols, feature_names=table.names, data_sha256=digest, facts=facts, **arrays)

    def _window_start(self) -> int:
        """The start of the window as far as the pages tell; it only moves forward."""
        days = self._policy.train_window_days
        return UNREADABLE if not days or self._newest_labelled is None else self._newest_labelled - days * _DAY

    def _symbol_codes(self, symbols: Sequence[Any]) -> Int32s:
        """int32[n] into self._symbols; -1 for what is no name."""
        return codes_of(symbols, self._codes.__getitem__)

    def _new_code(self, symbol: Any) -> int:
        if not isinstance(symbol, str) or symbol.strip() == "":
            return -1
        self._symbols.append(symbol)
        return len(self._symbols) - 1

    def _with_keys(self, page: RawRows, is_no_id: Bools, codes: Int32s, decided_at: Int64s) -> Bools:
        """bool[n]: rows that have an id, a symbol, and a possible instant. The others are counted by reason."""
        usable = np.ones(len(codes), dtype=bool)
        faults = (
            ("id_missing", is_no_id),
            ("symbol_missing", codes < 0),
            ("timestamp_unreadable", decided_at == UNREADABLE),
            ("timestamp_absurd", decided_at < _FIRST_POSSIBLE),
            ("timestamp_future", decided_at > self._now + CLOCK_TOLERANCE),
        )
        for reason, holds in faults:
            is_faulty = holds & usable
            if is_faulty.any():
                self._quarantined[reason] += int(is_faulty.sum())
                if reason != "id_missing":
                    self._remember(page.id, reason, is_faulty)
                usable &= ~is_faulty
        return usable

    def _remember(self, ids: Sequence[Any], reasons: Int8s | str, chosen: Bools) -> None:
        """Keep the lowest ids of quarantined rows as examples."""
        found = []
        for row in np.flatnonzero(chosen).tolist():
            reason = reasons if isinstance(reasons, str) else Reason(reasons[row]).word
            found.append((int(ids[row]), reason))
        self._examples = nsmallest(_EXAMPLES, [*self._examples, *found])

    def _decode(self, page: RawRows, ids: Int64s, codes: Int32s, decided_at: Int64s, outcome: Int8s) -> None:
        """Turn the rest of the columns into arrays."""
        for row in np.flatnonzero(outcome == UNKNOWN_CLASS).tolist():
            word = ascii(page.target_class[row])[:_MAX_CLASS_CHARACTERS]
            if word in self._unknown_classes or len(self._unknown_classes) < _MAX_UNKNOWN_CLASSES:
                self._unknown_classes[word] += 1
        action, side = actions_and_sides(page.predicted_action, page.execution_side)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            narrow = {
                "confidence": numbers(page.prediction_confidence),
                "target_label": numbers(page.target_label),
                "price_move": numbers(page.exit_price) / numbers(page.entry_price) - 1.0,
            }
            arrays: dict[str, npt.NDArray[Any]] = {name: each.astype(np.float32) for name, each in narrow.items()}
        arrays |= {
            "ids": ids,
            "symbol_codes": codes,
            "decided_at": decided_at,
            "known_at": _known_at(page, decided_at, outcome),
            "recorded_outcome": outcome,
            "side": side,
            "action": action,
            "pnl": numbers(page.realized_pnl),
        }
        for name, array in arrays.items():
            self._pieces.setdefault(name, []).append(array)
        self._features.add(page.features, page.feature_names)


def _nothing() -> tuple[Int64s, Int32s, Int64s, Int8s]:
    return np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int8)


def _integers(values: Sequence[Any]) -> tuple[Int64s, Bools]:
    """(int64[n], bool[n]: whether the value is none; such places hold 0)."""
    array = np.array(values)
    if array.dtype == np.int64 or not len(values):
        return array.astype(np.int64), np.zeros(len(values), dtype=bool)
    is_none = np.array([type(each) is not int for each in values], dtype=bool)
    return np.array([0 if bad else each for each, bad in zip(values, is_none, strict=True)], dtype=np.int64), is_none


def _known_at(page: RawRows, decided_at: Int64s, outcome: Int8s) -> Int64s:
    """When the outcome was known: exit_time, else updated_at, else decided_at + hold_duration_seconds, else NEVER."""
    known_at = parse_instants(page.outcome_time)
    unsaid = np.flatnonzero((known_at == UNREADABLE) & (outcome >= 0))
    if len(unsaid):
        held = numbers([page.hold_duration_seconds[row] for row in unsaid.tolist()])
        is_held = (held >= 0) & (held < _MAX_HOLD_SECONDS)
        by_hold = decided_at[unsaid] + (np.where(is_held, held, 0) * MICROSECONDS).astype(np.int64)
        known_at[unsaid] = np.where(is_held, by_hold, NEVER)
    known_at[outcome < 0] = NEVER
    return known_at


def _counted(reasons: Int8s) -> Counter[str]:
    counts = np.bincount(reasons, minlength=len(Reason))
    return Counter({reason.word: int(counts[reason]) for reason in Reason if reason is not Reason.FINE})


def _in_canonical_order(arrays: dict[str, npt.NDArray[Any]], rows: Int64s, symbols: Sequence[str]) -> tuple[str, ...]:
    """Keep `rows` only, sorted by (symbol, decided_at, id), in place. Returns the symbols that are left, sorted."""
    present = np.unique(arrays["symbol_codes"][rows])
    ordered = sorted(present.tolist(), key=symbols.__getitem__)
    rank = np.full(len(symbols), -1, dtype=np.int32)
    rank[ordered] = np.arange(len(ordered), dtype=np.int32)
    arrays["symbol_codes"] = rank[arrays["symbol_codes"]]
    rows = rows[_sorting(arrays["symbol_codes"][rows], arrays["decided_at"][rows], arrays["ids"][rows])]
    for name in arrays:
        arrays[name] = arrays[name][rows]
    return tuple(symbols[code] for code in ordered)


def _sorting(codes: Int32s, decided_at: Int64s, ids: Int64s) -> npt.NDArray[np.intp]:
    """The order by (code, decided_at, id). Where code and instant fit one integer without ties, that is sorted."""
    if not len(ids):
        return np.empty(0, dtype=np.intp)
    since_first = decided_at - decided_at.min()
    bits = int(since_first.max()).bit_length()
    if bits + int(codes.max()).bit_length() < 64:
        keys = (codes.astype(np.int64) << bits) | since_first
        order = np.argsort(keys)
        if (np.diff(keys[order]) > 0).all():
            return order
    return np.lexsort((ids, decided_at, codes))


def _drop_copies(arrays: dict[str, npt.NDArray[Any]], quarantined: Counter[str]) -> Bools:
    """Drop copies in place and count them. Returns the mask of rows whose outcome their copies contradict."""
    copies = find_copies(arrays["symbol_codes"], arrays["decided_at"], arrays["features"], arrays["recorded_outcome"])
    quarantined["duplicate"] = int(copies.agreeing.sum())
    quarantined["duplicate_conflict"] = int(copies.conflicting.sum())
    kept = ~(copies.agreeing | copies.conflicting)
    if not kept.all():
        for name in arrays:
            arrays[name] = arrays[name][kept]
    return copies.unusable[kept]


def _noted(arrays: dict[str, npt.NDArray[Any]], table: FeatureTable) -> dict[str, int]:
    """What the rows of the snapshot have that the audit should speak of and cannot see in the arrays."""
    has_outcome = arrays["recorded_outcome"] >= 0
    return {
        "features_assumed": table.assumed,
        "features_permuted": table.permuted,
        "features_converted": table.converted,
        "outcome_before_decision": int((has_outcome & (arrays["known_at"] < arrays["decided_at"])).sum()),
    }
