"""The simulated market: shaped like the field's, deterministic, and its oracle is exact."""

import itertools
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrain_worker.demo import schema
from retrain_worker.demo.market import Market, continue_market, write_market
from retrain_worker.demo.regime import Regime, area_under_curve
from retrain_worker.demo.trades import NAMES, SYMBOLS, features_of
from retrain_worker.errors import UsageError

END = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return write_market(tmp_path_factory.mktemp("market") / "m.db", seed=7, end=END)


def rows_of(
    path: Any, query: str = "SELECT * FROM ai_training_samples ORDER BY id", *values: Any
) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(query, values)]


def write(folder: Path, **asked: Any) -> Market:
    folder.mkdir(exist_ok=True)
    defaults: dict[str, Any] = {"seed": 1, "end": END, "rows": 400, "open_rows": 10, "days": 3.0}
    return write_market(folder / "m.db", **defaults | asked)


# ---------------------------------------------------------------- the database


def test_the_same_seed_makes_the_same_market_and_another_seed_another(tmp_path: Path) -> None:
    first, again, other = (write(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))

    assert rows_of(first.path) == rows_of(again.path)
    assert (first.oracle() == again.oracle()).all()
    assert rows_of(first.path) != rows_of(other.path)


def test_the_database_has_the_eleven_tables_and_only_one_holds_rows(market: Market) -> None:
    tables = [row["name"] for row in rows_of(market.path, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    filled = [name for name in tables if rows_of(market.path, f"SELECT 1 FROM {name} LIMIT 1")]
    columns = [row["name"] for row in rows_of(market.path, "PRAGMA table_info(ai_training_samples)")]
    indexes = rows_of(market.path, "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")

    assert len(tables) == 11
    assert filled == ["ai_training_samples"]
    assert tuple(columns) == schema.SAMPLE_COLUMNS
    assert len(columns) == 24
    assert {"ix_ai_training_samples_timestamp", "ix_ai_training_samples_symbol"} <= {row["name"] for row in indexes}


def test_six_thousand_outcomes_are_known_and_the_newest_sixty_are_open(market: Market) -> None:
    rows = rows_of(market.path, "SELECT * FROM ai_training_samples ORDER BY timestamp")
    is_open = [row["outcome_known"] == 0 for row in rows]

    assert len(rows) == 6_060
    assert is_open == [False] * 6_000 + [True] * 60
    later = (
        "exit_price",
        "exit_time",
        "realized_pnl",
        "hold_duration_seconds",
        "target_label",
        "target_class",
        "updated_at",
    )
    assert {row[name] for row in rows[-60:] for name in later} == {None}
    assert max(row["exit_time"] for row in rows[:-60]) < "2026-01-10 03:30:00"


def test_decisions_are_irregular_whole_seconds_of_thirty_days_and_ids_say_nothing_about_time(market: Market) -> None:
    rows = rows_of(market.path)
    times = [datetime.fromisoformat(row["timestamp"]) for row in rows]

    assert all(row["timestamp"].endswith(".000000") for row in rows)
    assert END - timedelta(days=30) <= min(times).replace(tzinfo=UTC)
    assert max(times).replace(tzinfo=UTC) < END
    assert len({(row["symbol"], row["timestamp"]) for row in rows}) == len(rows)
    assert abs(np.corrcoef(np.arange(len(times)), [time.timestamp() for time in times])[0, 1]) < 0.1


def test_the_five_symbols_have_about_equal_shares(market: Market) -> None:
    counts = np.bincount(market.rows["symbol_code"])

    assert len(counts) == len(SYMBOLS) == 5
    assert counts.min() > 1_000
    assert counts.max() < 1_400


def test_a_class_contradicts_its_profit_in_twelve_rows_and_id_1_is_one_of_them(market: Market) -> None:
    known = [row for row in rows_of(market.path) if row["outcome_known"]]
    odd = [row["id"] for row in known if (row["target_class"] == "WIN") != (row["realized_pnl"] > 0)]

    assert len(odd) == 12
    assert odd[0] == 1
    assert all(row["target_class"] == "WIN" for row in known if row["id"] in odd)
    assert {row["target_class"] for row in known} == {"WIN", "LOSS"}
    assert 0.56 < np.mean([row["target_class"] == "WIN" for row in known]) < 0.63


def test_profit_follows_from_prices_side_quantity_and_fee(market: Market) -> None:
    for row in rows_of(market.path):
        if not row["outcome_known"]:
            continue
        side = {"BUY": 1, "SELL": -1, None: 1 if row["prediction_score"] >= 0 else -1}[row["execution_side"]]
        traded = row["entry_quantity"] * row["entry_price"]
        gain = side * (row["exit_price"] - row["entry_price"]) * row["entry_quantity"]
        fees = 0.0004 * row["entry_quantity"] * (row["exit_price"] + row["entry_price"])

        assert 200 < traded < 300
        assert row["realized_pnl"] == pytest.approx(gain - fees, abs=0.006)
        assert row["target_label"] == pytest.approx(100 * (gain - fees) / traded, abs=1e-5)
        opened, closed = (datetime.fromisoformat(row[name]) for name in ("entry_time", "exit_time"))
        assert (closed - opened).total_seconds() == row["hold_duration_seconds"] > 0
        assert row["timestamp"] < row["entry_time"] < row["exit_time"] < row["updated_at"]


def test_the_ensembles_action_is_sometimes_written_small_and_hold_is_not_executed(market: Market) -> None:
    rows = rows_of(market.path)
    actions = {row["predicted_action"] for row in rows}

    assert {"BUY", "SELL", "HOLD"} < actions <= {"BUY", "SELL", "HOLD", "buy", "sell", "hold"}
    assert 0 < sum(row["predicted_action"].islower() for row in rows) < 100
    assert all(row["executed"] == (row["predicted_action"].upper() != "HOLD") for row in rows)
    assert all((row["execution_side"] is None) == (row["executed"] == 0) for row in rows)
    assert all(0 < row["prediction_confidence"] < 1 for row in rows)


@pytest.mark.parametrize("num_features", [4, 8])
@pytest.mark.parametrize("as_objects", [False, True])
def test_features_are_named_numbers_in_plausible_ranges(tmp_path: Path, num_features: int, as_objects: bool) -> None:
    market = write(tmp_path / "m", num_features=num_features, as_objects=as_objects)
    by_id = np.argsort(market.rows["id"])
    expected = features_of(market.signals)[by_id]
    rows = rows_of(market.path)

    names = NAMES[:num_features]
    assert all(json.loads(row["feature_names"]) == list(names) for row in rows)
    found = [json.loads(row["features"]) for row in rows]
    values = np.array([[row[name] for name in names] for row in found] if as_objects else found)
    assert (values == expected).all()
    assert values[:, 0].min() > 0
    assert values[:, 0].max() < 100
    assert values[:, 2].min() > 0
    assert (np.abs(values[:, 3]) < 0.05).all()


def test_a_file_that_is_there_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    path.write_text("somebody's")

    with pytest.raises(UsageError, match="new file"):
        write_market(path, seed=1, end=END)
    assert path.read_text() == "somebody's"


def test_rows_that_do_not_fit_into_the_time_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="do not fit"):
        write(tmp_path / "m", rows=2_000, days=0.002)


# ---------------------------------------------------------------- time passes


def test_time_gives_open_rows_their_outcome_and_changes_no_other(tmp_path: Path) -> None:
    before = write(tmp_path / "m")
    old = {row["id"]: row for row in rows_of(before.path)}
    after = continue_market(before, rows=100, days=1.0)
    new = {row["id"]: row for row in rows_of(after.path)}

    assert len(new) == len(old) + 100
    assert min(new.keys() - old.keys()) > max(old)
    assert sum(row["outcome_known"] == 0 for row in new.values()) == 10
    for number, row in old.items():
        changed = {name for name in row if row[name] != new[number][name]}
        if row["outcome_known"]:
            assert changed == set()
        else:
            assert {"outcome_known", "target_class", "realized_pnl", "updated_at"} <= changed
            assert new[number]["updated_at"] > "2026-01-10 03:30"
    is_new = ~np.isin(after.rows["id"], before.rows["id"])
    assert after.rows["decided_at"][is_new].min() >= before.rows["decided_at"].max() - 10**12
    assert (after.oracle()[: len(old)] == before.oracle()).all()


def test_a_continued_market_is_deterministic_and_can_go_on(tmp_path: Path) -> None:
    markets = []
    for name in ("a", "b"):
        market = write(tmp_path / name)
        for _ in range(3):
            market = continue_market(market, rows=50, days=0.5)
        markets.append(market)

    assert rows_of(markets[0].path) == rows_of(markets[1].path)
    assert len(markets[0].rows) == 410 + 150
    assert markets[0].rows["is_open"].sum() == 10


def test_the_regime_goes_on_where_it_stood(tmp_path: Path) -> None:
    frozen = Regime(turns_good=1e-12, turns_bad=1e-12)
    before = write(tmp_path / "m", regime=frozen)
    after = continue_market(before, rows=100)

    assert all(len(set(after.rows["is_good"][after.rows["symbol_code"] == code])) == 1 for code in range(5))


# ---------------------------------------------------------------- the oracle


@pytest.mark.parametrize("window", [1, 2, 4, 7])
@pytest.mark.parametrize("nonlinear", [False, True])
def test_the_posterior_equals_the_sum_over_every_possible_past(window: int, nonlinear: bool) -> None:
    regime = Regime(lag=3, nonlinear=nonlinear, turns_good=0.2, turns_bad=0.1, edge=0.9)
    random = np.random.default_rng(5)
    signals = regime.signals(random, regime.states(random, 10), 4)
    evidence = regime.evidence(signals)

    found = regime.posterior(evidence, window=window)

    assert found == pytest.approx(
        [win_by_enumeration(regime, evidence[max(0, i + 1 - window) : i + 1]) for i in range(10)], abs=1e-12
    )


def win_by_enumeration(regime: Regime, evidence: Any) -> Any:
    """P(WIN) of the newest of these rows: all paths of the regime over them and `lag` rows back."""
    length = max(len(evidence), regime.lag + 1)
    seen = np.concatenate([np.zeros(length - len(evidence)), evidence])
    turn = {
        (True, True): 1 - regime.turns_bad,
        (True, False): regime.turns_bad,
        (False, True): regime.turns_good,
        (False, False): 1 - regime.turns_good,
    }
    total = {True: 0.0, False: 0.0}
    for path in itertools.product((True, False), repeat=length):
        weight = regime.good_share if path[0] else 1 - regime.good_share
        for step in itertools.pairwise(path):
            weight *= turn[step]
        weight *= np.exp(sum(value for value, is_good in zip(seen, path, strict=True) if is_good))
        total[path[length - 1 - regime.lag]] += weight
    good = total[True] / (total[True] + total[False])
    win = good * regime.win_good + (1 - good) * regime.win_bad
    return regime.win_share + regime.edge * (win - regime.win_share)


@pytest.mark.parametrize("nonlinear", [False, True])
def test_evidence_is_the_ratio_of_the_two_densities(nonlinear: bool) -> None:
    regime = Regime(nonlinear=nonlinear, turn_degrees=30.0)
    random = np.random.default_rng(1)
    good, bad = (regime.signals(random, np.full(200_000, state), 4) for state in (True, False))

    # E[exp(-evidence) | good] = 1 and E[exp(evidence) | bad] = 1 for the ratio of densities, and for nothing else
    assert np.exp(-regime.evidence(good)).mean() == pytest.approx(1.0, abs=0.02)
    assert np.exp(regime.evidence(bad)).mean() == pytest.approx(1.0, abs=0.02)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return write_market(tmp_path_factory.mktemp("large") / "m.db", seed=3, end=END, rows=30_000)


def test_many_rows_say_much_and_one_row_says_little(large: Market) -> None:
    assert 0.80 < large.bayes_auc() < 0.84
    assert 0.55 < large.bayes_auc(window=1) < 0.62
    assert large.bayes_auc(window=64) - large.bayes_auc(window=8) > 0.03


def test_the_oracle_is_calibrated(large: Market) -> None:
    probabilities, is_win = large.probabilities(), large.rows["is_win"]

    for low in np.arange(0.2, 0.85, 0.1):
        inside = (low <= probabilities) & (probabilities < low + 0.1)
        assert is_win[inside].mean() == pytest.approx(probabilities[inside].mean(), abs=0.05)


def test_without_an_edge_the_best_answer_is_always_the_same(tmp_path: Path) -> None:
    market = write(tmp_path / "m", regime=Regime(edge=0.0))

    assert market.probabilities() == pytest.approx(Regime().win_share)
    assert market.bayes_auc() == pytest.approx(0.5)


def test_the_oracle_reaches_the_auc_that_it_is_asked_for_on_chosen_rows(market: Market) -> None:
    newest = market.newest(900)
    chosen = np.isin(market.rows["id"], newest)

    assert len(newest) == chosen.sum() == 900
    assert not (market.rows["is_open"] | market.rows["is_contradiction"])[chosen].any()
    assert market.bayes_auc(newest) == area_under_curve(market.probabilities()[chosen], market.rows["is_win"][chosen])
    assert (np.diff(market.rows["decided_at"][np.argsort(market.rows["id"])][newest - 1]) >= 0).all()


def test_auc_counts_ties_half_and_knows_no_answer_for_one_class() -> None:
    assert area_under_curve(np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, False, True, True])) == 0.875
    assert np.isnan(area_under_curve(np.array([0.1, 0.2]), np.array([True, True])))


# ---------------------------------------------------------------- what a model can learn


def windows_of(market: Market | Market | None, length: int = 64) -> tuple[Any, np.ndarray, Any]:
    """Flat windows of features and outcomes of all rows that can be judged, in time order."""
    features = features_of(market.signals)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    found: dict[Any, Any] = {}
    for code in range(len(SYMBOLS)):
        at = np.flatnonzero(market.rows["symbol_code"] == code)
        views = np.lib.stride_tricks.sliding_window_view(features[at], length, axis=0)
        found |= dict(zip(market.rows["id"][at[length - 1 :]].tolist(), views, strict=True))
    ids = market.newest(len(market.rows), window=length)
    win = dict(zip(market.rows["id"].tolist(), market.rows["is_win"].tolist(), strict=True))
    return np.stack([found[i].ravel() for i in ids.tolist()]), np.array([win[i] for i in ids.tolist()]), ids


def linear_auc(market: Market, *, train_rows: int, train_on: Market | None = None) -> tuple[float, Any]:
    """AUC of a ridge regression on the last 15 % in time, trained on the first rows (of another market)."""
    flat, win, ids = windows_of(market)
    first_flat, first_win, _ids = windows_of(train_on) if train_on else (flat, win, ids)
    seen, said = first_flat[:train_rows], first_win[:train_rows] - first_win[:train_rows].mean()
    weights = np.linalg.solve(seen.T @ seen + 2_000.0 * np.eye(seen.shape[1]), seen.T @ said)
    newest = len(ids) * 85 // 100
    return area_under_curve(flat[newest:] @ weights, win[newest:]), market.bayes_auc(ids[newest:])


def test_a_linear_model_of_the_window_comes_near_the_best_with_3500_rows(market: Market) -> None:
    found, best = linear_auc(market, train_rows=3_500)

    assert best - 0.04 < found <= best + 0.02


def test_in_a_nonlinear_market_a_linear_model_learns_nothing(tmp_path: Path) -> None:
    market = write(tmp_path / "m", rows=20_000, days=90.0, regime=Regime(nonlinear=True))
    found, best = linear_auc(market, train_rows=15_000)

    assert best > 0.75
    assert abs(found - 0.5) < 0.05


def test_a_model_of_a_market_whose_relation_was_turned_is_clearly_worse(tmp_path: Path, market: Market) -> None:
    older = write(tmp_path / "old", seed=8, rows=6_000, days=30.0, regime=replace(market.regime, turn_degrees=60.0))
    fresh, _best = linear_auc(market, train_rows=3_500)
    stale, _best = linear_auc(market, train_rows=3_500, train_on=older)

    assert older.bayes_auc() > 0.78
    assert stale < fresh - 0.05
