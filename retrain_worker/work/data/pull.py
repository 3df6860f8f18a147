"""PULL: read the table once, set aside what cannot be used, and freeze the training window as the run's snapshot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from heapq import nsmallest
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrain_worker.domain.audit import DataPolicy
from retrain_worker.domain.handoff import Progress, PullRequest, PullResult
from retrain_worker.work.data import fingerprints
from retrain_worker.work.data import snapshot as snapshots
from retrain_worker.work.data.copies import find_copies
from retrain_worker.work.data.feature_cells import Reason
from retrain_worker.work.data.features import FeatureReader, FeatureTable
from retrain_worker.work.data.instants import (
    MICROSECONDS,
    NEVER,
    UNREADABLE,
    parse_instants,
    to_datetime,
    to_microseconds,
)
from retrain_worker.work.data.outcomes import (
    LOSS,
    NEUTRAL,
    OPEN,
    UNKNOWN_CLASS,
    WIN,
    CodeBook,
    actions_and_sides,
    contradictions,
    numbers,
    recorded_outcomes,
    settled,
)
from retrain_worker.work.data.rows import RawRows, read_pages
from retrain_worker.work.data.snapshot import PullFacts, Snapshot

Report = Callable[[Progress], None]
Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]

_DAY = 86_400 * MICROSECONDS
#: how far ahead of our clock a row may be
_FUTURE_TOLERANCE = _DAY
#: the first Bitcoin block; no trade is older
_FIRST_POSSIBLE = to_microseconds(datetime(2009, 1, 3))  # noqa: DTZ001 (naive is UTC there)
_REPORT_EVERY_ROWS = 100_000
_MAX_UNKNOWN_CLASSES = 100
_MAX_CLASS_CHARACTERS = 40
_EXAMPLES = 5
#: a position held longer was not held
_MAX_HOLD_SECONDS = 10 * 366 * 86_400


def pull(request: PullRequest, database_url: str, report: Report) -> PullResult:
    """Write `run_dir/snapshot` and `run_dir/fingerprints.npy`, and say what they hold.

    Raises DatabaseUnreachableError, DatabaseBusyError, SourceUnfitError (see rows.py), DiskFullError.
    """
    run_dir = Path(request.run_dir)
    intake = Intake(request.policy, now=to_microseconds(datetime.fromisoformat(request.now)))
    told = 0
    for page in read_pages(database_url, busy_timeout_seconds=request.busy_timeout_seconds):
        intake.add(page)
        if intake.loaded >= told + _REPORT_EVERY_ROWS:
            told = intake.loaded
            report(Progress(sentence=f"reading rows: {told:,} so far", fields={"rows": told}))
    snapshot = intake.snapshot()
    report(Progress(sentence=f"freezing {len(snapshot):,} rows", fields={"rows": len(snapshot)}))
    snapshots.save(snapshot, run_dir)
    watermark_path = run_dir / fingerprints.FILE_NAME
    fingerprints.save(fingerprints.fingerprints_of(snapshot), watermark_path)
    seen = _seen(request.watermark_path, report)
    return _result(snapshot, new_labelled=fingerprints.count_new(snapshot, seen), watermark_path=watermark_path)


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
        usable = self._with_keys(page, codes, decided_at)
        labelled = decided_at[usable & (outcome >= 0)]
        if len(labelled):
            newest = int(labelled.max())
            self._newest_labelled = newest if self._newest_labelled is None else max(newest, self._newest_labelled)
        # rows that are surely before the window are not decoded: memory follows the window, not the table
        inside = usable & (decided_at >= self._window_start())
        self._before_window += int((usable & ~inside).sum())
        if not inside.all():
            page = RawRows(*(list(compress(column, inside)) for column in page))
            codes, decided_at, outcome = codes[inside], decided_at[inside], outcome[inside]
        if len(page.id):
            self._decode(page, codes, decided_at, outcome)

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
            loaded=self.loaded, before_window=self._before_window + int((~inside).sum()),
            window_start=None if start == UNREADABLE else start, quarantined=dict(quarantined),
            quarantined_examples=tuple(f"id {row_id} {reason}" for row_id, reason in self._examples), noted=noted,
            unknown_classes=dict(self._unknown_classes), features_left_out=dict(table.left_out),
        )
        digest = snapshots.content_hash(arrays, symbols=symbols, names=table.names)
        return Snapshot(symbols=symbols, feature_names=table.names, data_sha256=digest, facts=facts, **arrays)

    def _window_start(self) -> int:
        """The start of the window as far as the pages tell; it only moves forward."""
        days = self._policy.train_window_days
        return UNREADABLE if not days or self._newest_labelled is None else self._newest_labelled - days * _DAY

    def _symbol_codes(self, symbols: Sequence[Any]) -> npt.NDArray[np.int32]:
        """int32[n] into self._symbols; -1 for what is no name."""
        return np.fromiter(map(self._codes.__getitem__, symbols), dtype=np.int32, count=len(symbols))

    def _new_code(self, symbol: Any) -> int:  # noqa: ANN401 (a cell may hold anything)
        if not isinstance(symbol, str) or symbol.strip() == "":
            return -1
        self._symbols.append(symbol)
        return len(self._symbols) - 1

    def _with_keys(self, page: RawRows, codes: npt.NDArray[np.int32], decided_at: Int64s) -> Bools:
        """bool[n]: rows that have an id, a symbol, and a possible instant. The others are counted by reason."""
        usable = np.ones(len(codes), dtype=bool)
        faults = (
            ("id_missing", _is_no_id(page.id)),
            ("symbol_missing", codes < 0),
            ("timestamp_unreadable", decided_at == UNREADABLE),
            ("timestamp_absurd", decided_at < _FIRST_POSSIBLE),
            ("timestamp_future", decided_at > self._now + _FUTURE_TOLERANCE),
        )
        for reason, holds in faults:
            is_faulty = holds & usable
            if is_faulty.any():
                self._quarantined[reason] += int(is_faulty.sum())
                if reason != "id_missing":
                    self._remember(page.id, reason, is_faulty)
                usable &= ~is_faulty
        return usable

    def _remember(self, ids: Sequence[Any], reasons: npt.NDArray[np.int8] | str, chosen: Bools) -> None:
        """Keep the lowest ids of quarantined rows as examples."""
        found = []
        for row in np.flatnonzero(chosen).tolist():
            reason = reasons if isinstance(reasons, str) else Reason(reasons[row]).word
            found.append((int(ids[row]), reason))
        self._examples = nsmallest(_EXAMPLES, [*self._examples, *found])

    def _decode(
        self, page: RawRows, codes: npt.NDArray[np.int32], decided_at: Int64s, outcome: npt.NDArray[np.int8]
    ) -> None:
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
            "ids": np.array(page.id, dtype=np.int64), "symbol_codes": codes, "decided_at": decided_at,
            "known_at": _known_at(page, decided_at, outcome), "recorded_outcome": outcome, "side": side,
            "action": action, "pnl": numbers(page.realized_pnl),
        }
        for name, array in arrays.items():
            self._pieces.setdefault(name, []).append(array)
        self._features.add(page.features, page.feature_names)


def _nothing() -> tuple[npt.NDArray[np.int32], Int64s, npt.NDArray[np.int8]]:
    return np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int8)


def _is_no_id(ids: Sequence[Any]) -> Bools:
    if set(map(type, ids)) == {int}:
        return np.zeros(len(ids), dtype=bool)
    return np.array([type(each) is not int for each in ids], dtype=bool)


def _known_at(page: RawRows, decided_at: Int64s, outcome: npt.NDArray[np.int8]) -> Int64s:
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


def _counted(reasons: npt.NDArray[np.int8]) -> Counter[str]:
    counts = np.bincount(reasons, minlength=len(Reason))
    return Counter({reason.word: int(counts[reason]) for reason in Reason if reason is not Reason.FINE})


def _in_canonical_order(
    arrays: dict[str, npt.NDArray[Any]], rows: Int64s, symbols: Sequence[str]
) -> tuple[str, ...]:
    """Keep `rows` only, sorted by (symbol, decided_at, id), in place. Returns the symbols that are left, sorted."""
    present = np.unique(arrays["symbol_codes"][rows])
    ordered = sorted(present.tolist(), key=symbols.__getitem__)
    rank = np.full(len(symbols), -1, dtype=np.int32)
    rank[ordered] = np.arange(len(ordered), dtype=np.int32)
    arrays["symbol_codes"] = rank[arrays["symbol_codes"]]
    keys = (arrays["ids"][rows], arrays["decided_at"][rows], arrays["symbol_codes"][rows])
    rows = rows[np.lexsort(keys)]
    for name in arrays:
        arrays[name] = arrays[name][rows]
    return tuple(symbols[code] for code in ordered)


def _drop_copies(arrays: dict[str, npt.NDArray[Any]], quarantined: Counter[str]) -> Bools:
    """Drop copies in place and count them. Returns the mask of rows whose outcome their copies contradict."""
    copies = find_copies(
        arrays["symbol_codes"], arrays["decided_at"], arrays["features"], arrays["recorded_outcome"]
    )
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


def _seen(watermark_path: str | None, report: Report) -> fingerprints.Fingerprints | None:
    """The watermark, or None when there is none. One that cannot be read makes every labelled row new."""
    if watermark_path is None:
        return None
    try:
        return fingerprints.load(Path(watermark_path))
    except (OSError, ValueError) as error:
        report(Progress(sentence=f"the watermark cannot be read ({error}): every labelled row counts as new"))
        return None


def _result(snapshot: Snapshot, *, new_labelled: int, watermark_path: Path) -> PullResult:
    outcomes = {code: int((snapshot.outcome == code).sum()) for code in (WIN, LOSS, NEUTRAL, OPEN)}
    rows_of = np.bincount(snapshot.symbol_codes, minlength=len(snapshot.symbols))
    instants = snapshot.decided_at
    return PullResult(
        loaded=snapshot.facts.loaded, labelled=outcomes[WIN] + outcomes[LOSS], win=outcomes[WIN], loss=outcomes[LOSS],
        neutral=outcomes[NEUTRAL], open=outcomes[OPEN], new_labelled=new_labelled,
        quarantined={reason: count for reason, count in snapshot.facts.quarantined.items() if count},
        contradictions=int(contradictions(snapshot.recorded_outcome, snapshot.pnl).sum()),
        symbols=dict(zip(snapshot.symbols, rows_of.tolist(), strict=True)), feature_names=snapshot.feature_names,
        first_at=to_datetime(int(instants.min())).isoformat() if len(instants) else None,
        last_at=to_datetime(int(instants.max())).isoformat() if len(instants) else None,
        data_sha256=snapshot.data_sha256, watermark_path=str(watermark_path),
    )
