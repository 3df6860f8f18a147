"""A simulated market in a database with the stack's schema, and the Bayes-optimal probability of each row.

A market is a pure function of its arguments: the same seed gives the same rows. Its newest trades are still open;
`continue_market` advances the time: open trades are completed and new rows arrive.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrain_worker.demo import schema
from retrain_worker.demo.regime import Floats, Regime, area_under_curve
from retrain_worker.demo.table import complete_rows, insert_rows
from retrain_worker.demo.trades import ROW, SYMBOLS, Rows, fill_trades, instants, names_of
from retrain_worker.errors import UsageError

#: default number of rows of a symbol in a window
WINDOW = 64
_SECOND = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Market:
    """A market at the time `end`."""

    path: Path
    seed: int
    regime: Regime
    #: the present: later outcomes are not in the database
    end: datetime
    #: number of the newest trades that are open
    open_rows: int
    #: features are JSON objects, not arrays
    as_objects: bool
    #: (N,) of dtype ROW, by symbol, then by time; includes the future of open trades
    rows: Rows
    #: standardised features (N, F)
    signals: Floats

    def probabilities(self, *, window: int = WINDOW) -> Floats:
        """Bayes-optimal P(WIN) (N,) given the features of the last `window` rows of the symbol."""
        series = (self.rows["evidence"][self.rows["symbol_code"] == code] for code in range(len(SYMBOLS)))
        return np.concatenate([self.regime.posterior(evidence, window=window) for evidence in series])

    def oracle(self, *, window: int = WINDOW) -> Rows:
        """`probabilities` as an array with the fields `id` and `probability`, by id."""
        found = np.zeros(len(self.rows), dtype=[("id", np.int64), ("probability", np.float64)])
        found["id"], found["probability"] = self.rows["id"], self.probabilities(window=window)
        return np.asarray(np.sort(found, order="id"))

    def bayes_auc(self, ids: NDArray[np.int64] | None = None, *, window: int = WINDOW) -> float:
        """AUC of the oracle on the rows `ids`, by default on all that can be evaluated: the Bayes-optimal AUC."""
        judged = self._judged(window) if ids is None else np.isin(self.rows["id"], ids)
        return area_under_curve(self.probabilities(window=window)[judged], self.rows["is_win"][judged])

    def newest(self, count: int, *, window: int = WINDOW) -> NDArray[np.int64]:
        """Ids of the `count` newest rows on which a model can be evaluated, in time order."""
        judged = self.rows[self._judged(window)]
        in_time = judged["id"][np.lexsort((judged["id"], judged["decided_at"]))]
        return np.asarray(in_time[max(len(in_time) - count, 0) :])

    def _judged(self, window: int) -> NDArray[np.bool_]:
        """Rows with a full window and a known outcome that agrees with its profit."""
        counts = np.bincount(self.rows["symbol_code"], minlength=len(SYMBOLS))
        depth = np.concatenate([np.arange(1, count + 1) for count in counts])
        return np.asarray(~self.rows["is_open"] & ~self.rows["is_contradiction"] & (depth >= window))


def write_market(
    path: Path,
    *,
    seed: int,
    end: datetime,
    rows: int = 6_000,
    open_rows: int = 60,
    days: float = 30.0,
    contradictions: int = 12,
    num_features: int = 4,
    as_objects: bool = False,
    regime: Regime | None = None,
) -> Market:
    """Create the database `path`: `rows` known outcomes and `open_rows` open trades in the `days` before `end`.

    Ids are not in time order; `contradictions` losses have the class WIN, id 1 among them. Raises UsageError when
    `path` exists or the parameters contradict each other.
    """
    names_of(num_features)
    if path.exists():
        raise UsageError(
            "a market is written into a new file, and this one exists",
            where=str(path),
            remedy="remove it, or name another",
        )
    nothing = Market(
        path=path,
        seed=seed,
        regime=regime or Regime(),
        end=end - timedelta(days=days),
        open_rows=open_rows,
        as_objects=as_objects,
        rows=np.zeros(0, ROW),
        signals=np.zeros((0, num_features)),
    )
    market = _later(nothing, count=rows + open_rows, until=end)
    _contradict(market.rows, contradictions, seed=seed)
    with closing(sqlite3.connect(path)) as database, database:
        for statement in schema.TABLES:
            database.execute(statement)
        insert_rows(database, market.rows, market.signals, as_objects=as_objects)
        for statement in schema.INDEXES:
            database.execute(statement)
    return market


def continue_market(market: Market, *, rows: int = 200, days: float = 1.0, turn_degrees: float | None = None) -> Market:
    """Advance by `days`: open trades are completed, `rows` new decisions arrive, the newest of them stay open.

    `turn_degrees` rotates the signal of the regime in the features from now on. Written as live services write: one
    short transaction.
    """
    turned = market.regime if turn_degrees is None else replace(market.regime, turn_degrees=turn_degrees)
    later = _later(replace(market, regime=turned), count=rows, until=market.end + timedelta(days=days))
    was_open = np.isin(later.rows["id"], market.rows["id"][market.rows["is_open"]])
    is_new = ~np.isin(later.rows["id"], market.rows["id"])
    with closing(sqlite3.connect(market.path, timeout=30.0)) as database, database:
        complete_rows(database, later.rows[was_open & ~later.rows["is_open"]])
        insert_rows(database, later.rows[is_new], later.signals[is_new], as_objects=market.as_objects)
    return later


def _later(market: Market, *, count: int, until: datetime) -> Market:
    """The market at `until`, with `count` more rows."""
    random = np.random.default_rng([market.seed, len(market.rows)])
    ids = random.permutation(count) + 1 + int(market.rows["id"].max(initial=0))
    counts = random.multinomial(count, np.full(len(SYMBOLS), 1 / len(SYMBOLS)))
    start, stop = round(market.end.timestamp()), round(until.timestamp())
    rows, signals, first = [], [], 0
    for code, number in enumerate(int(number) for number in counts):
        old = market.rows["symbol_code"] == code
        new, seen = _new_rows(
            random, market, market.rows["is_good"][old], code=code, at=instants(random, number, start=start, stop=stop)
        )
        new["id"] = ids[first : first + number]
        first += number
        rows += [market.rows[old], new]
        signals += [market.signals[old], seen]
    later = replace(market, end=until, rows=np.concatenate(rows), signals=np.concatenate(signals))
    _close(random, later, is_new=~np.isin(later.rows["id"], market.rows["id"]), start=start)
    return later


def _new_rows(
    random: np.random.Generator, market: Market, before: NDArray[np.bool_], *, code: int, at: NDArray[np.int64]
) -> tuple[Rows, Floats]:
    """Rows of one symbol at the times `at`, after rows whose regime was `before`, and their signals."""
    regime, count = market.regime, len(at)
    if not len(before):  # the first trades depend on earlier rows, too
        before = regime.states(random, regime.lag)
    is_good = regime.states(random, count, after=bool(before[-1]) if len(before) else None)
    deciding = np.concatenate([before, is_good])[len(before) - regime.lag + np.arange(count)]
    signals = regime.signals(random, is_good, market.signals.shape[1])
    rows = np.zeros(count, ROW)
    rows["symbol_code"], rows["decided_at"], rows["is_good"] = code, at, is_good
    rows["evidence"] = regime.evidence(signals)
    rows["is_win"] = random.random(count) < regime.win_probability(deciding.astype(np.float64))
    fill_trades(random, rows, seed=market.seed)
    return rows, signals


def _close(random: np.random.Generator, market: Market, *, is_new: NDArray[np.bool_], start: int) -> None:
    """Keep the newest new trades open beyond `end`; close the other new ones before it, and those that are due."""
    rows, end = market.rows, round(market.end.timestamp()) * _SECOND
    new = np.flatnonzero(is_new)
    newest = new[np.argsort(rows["decided_at"][new], kind="stable")][max(len(new) - market.open_rows, 0) :]
    rows["is_open"][newest] = True
    beyond = end + random.integers(60, 7_200, len(newest)) * _SECOND
    rows["exit_at"][newest] = np.maximum(rows["exit_at"][newest], beyond)
    closed = is_new & ~rows["is_open"]
    latest = np.maximum(end - 15 * _SECOND, rows["entry_at"] + _SECOND)
    rows["exit_at"][closed] = np.minimum(rows["exit_at"], latest)[closed]
    rows["updated_at"][new] = rows["exit_at"][new] + random.integers(1_000_000, 14_000_000, len(new))
    rows["is_open"] &= rows["exit_at"] > end
    # the ensemble was replaced half-way through the first period
    is_first = bool(is_new.all())
    renewed_at = (start * _SECOND + end) // 2 if is_first else 0
    rows["model_version"][new] = rows["decided_at"][new] >= renewed_at


def _contradict(rows: Rows, count: int, *, seed: int) -> None:
    """Give `count` losses the class WIN, and the first of them the id 1."""
    losses = np.flatnonzero(~rows["is_win"] & ~rows["is_open"])
    chosen = np.random.default_rng([seed, 1]).permutation(losses)[:count]
    rows["is_contradiction"][chosen] = True
    if len(chosen):
        first = np.flatnonzero(rows["id"] == 1)
        rows["id"][first], rows["id"][chosen[0]] = rows["id"][chosen[0]], 1
