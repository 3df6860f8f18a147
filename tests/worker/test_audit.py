"""The audit: every family of bad data is measured, named beside its limit, and refused where it must be."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from retrain_worker.domain.audit_findings import Severity, judge
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.labels import Label
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.worker_protocol import AuditRequest
from retrain_worker.errors import DataUnfitError
from retrain_worker.worker.data.audit import audit, findings
from retrain_worker.worker.data.audit_rules.features import _largest_distance
from retrain_worker.worker.data.instants import to_microseconds
from retrain_worker.worker.data.pull import pull
from retrain_worker.worker.data.samples import training_parts
from retrain_worker.worker.data.snapshot import load
from retrain_worker.worker.statistics import distance
from tests.worker.trading_database import (
    NAMES,
    NOW,
    START,
    make_database,
    make_row,
    make_rows,
    open_row,
    pulled,
    request_for,
    text_of,
    url_of,
)

COUNT = 400
POLICY: dict[str, Any] = {"min_samples": 300, "min_class_samples": 50}


def audited(folder: Path, rows: Any, engine_features: tuple[str, ...] = (), **policy: Any) -> Any:
    policy = POLICY | policy
    pulled(folder, rows, **policy)
    request = AuditRequest(
        run_id="r",
        run_dir=str(folder / "run"),
        policy=DataPolicy(**policy),
        now=NOW,
        engine_features=engine_features,
    )
    return audit(request, lambda _: None).verdict


def the(verdict: Any, name: str) -> Any:
    (found,) = [each for each in verdict.findings if each.name == name]
    return found


def without_edge(count: int = COUNT) -> list[dict[str, Any]]:
    return make_rows(count)


def test_sound_rows_are_fit_and_every_finding_is_a_sentence(tmp_path: Path) -> None:
    verdict = audited(tmp_path, without_edge(), warn_staleness_hours=0)
    assert verdict.is_fit
    assert {found.severity for found in verdict.findings} == {Severity.OK}
    assert len({found.name for found in verdict.findings}) == len(verdict.findings) > 20
    assert all(len(found.message) > 15 and "\n" not in found.message for found in verdict.findings)


def every(nth: int, **changes: Any) -> Any:
    def spoil(row: Any) -> None:
        if row["id"] % nth == 0:
            row |= changes

    return spoil


def lower(row: Any) -> None:
    row["target_class"] = row["target_class"].lower()


def contradict(row: Any) -> None:
    if row["id"] % 5 == 0:
        row["realized_pnl"] *= -1


def respell(row: Any) -> None:
    """A fifth of the WIN rows, in two spellings."""
    if row["id"] % 5 == 0 and row["target_class"] == "WIN":
        row["target_class"] = "win " if row["id"] % 2 else "Won"


def leak(row: Any) -> None:
    row["features"] = json.dumps([row["realized_pnl"] * 7 + 3, 1.0 * row["id"], 0.5, 0.1])


def leak_upside_down(row: Any) -> None:
    row["features"] = json.dumps([-row["realized_pnl"], 1.0 * row["id"], 0.5, 0.1])


def leak_as_a_code(row: Any) -> None:
    """1 a stop, 2 a target, 3 another stop: the order of the codes tells nothing, each code everything."""
    code = 2 if row["target_class"] == "WIN" else 1 + 2 * (row["id"] % 2)
    row["features"] = json.dumps([code, 1.0 * row["id"], 0.5, 0.1])


def leak_of_the_next_price(row: Any) -> None:
    """A BUY wins and a SELL loses where the price rises after the decision."""
    row["features"] = json.dumps([row["exit_price"] / row["entry_price"], 1.0 * row["id"], 0.5, 0.1])


UNTIMED = {"exit_time": None, "updated_at": None, "hold_duration_seconds": None}
LATER = {"exit_time": "2099-01-01 00:00:00"}


@pytest.mark.parametrize(
    ("spoil", "name", "said"),
    [
        (lower, "rows.labelled", r"0 of 400 usable rows.*'win' x \d+, 'loss' x \d+.*target_class"),
        (every(1, outcome_known=0, target_class=None), "rows.labelled", "no outcome is known yet"),
        (every(1, outcome_known=0), "rows.labelled", "a class is set, but outcome_known is not"),
        (every(1, target_class=None), "rows.labelled", "outcome_known is set, but there is no class"),
        (every(1, target_class="NEUTRAL"), "rows.labelled", "NEUTRAL, which is no label"),
        (every(1, features="x"), "rows.labelled", "rows.quarantined"),
        (every(1, target_class="WIN", realized_pnl=1.0), "classes.balance", "every labelled row is WIN"),
        (every(8, features="x"), "rows.quarantined", r"12\.5%, at most 10\.0%.*features_not_json 50"),
        (every(5, timestamp="2999-01-01 00:00:00"), "rows.quarantined", "timestamp_future 80"),
        (contradict, "labels.contradictions", r"80 of 400 classes contradict realized_pnl \(20\.0%, at most 5\.0%\)"),
        (
            respell,
            "classes.unknown",
            r"(\d+) of 400 known outcomes .*\(12\.\d%, at most 5\.0%\): 'Won' x \d+, 'win ' x \d+; correct the service",
        ),
        (leak, "features.leak", "rsi predicts the outcome"),
        (leak_upside_down, "features.leak", "rsi predicts the outcome"),
        (leak_as_a_code, "features.leak", r"1\.000 by its values as codes.*; rsi predicts the outcome"),
        (leak_of_the_next_price, "features.leak", r"1\.000 among BUY, 0\.000 among SELL.*; rsi predicts the outcome"),
        (
            every(1, **UNTIMED),
            "outcomes.time_unknown",
            "leaves 0 where at least 300 are required",
        ),
        (every(2, **UNTIMED | LATER), "outcomes.time_future", "leaves 200 where at least 300"),
        (every(1, features="[1, 1, 1, 1]"), "features.constant", "every feature has one value"),
    ],
)
def test_what_must_not_be_trained_on_is_refused(tmp_path: Path, spoil: Any, name: str, said: str) -> None:
    rows = without_edge()
    for row in rows:
        spoil(row)
    verdict = audited(tmp_path, rows)
    assert not verdict.is_fit
    found = the(verdict, name)
    assert found.severity is Severity.REFUSAL
    assert found.message in verdict.reasons
    assert re.search(said, found.message), found.message


def as_text(row: Any) -> None:
    row["features"] = json.dumps([str(value) for value in json.loads(row["features"])])


def huge(row: Any) -> None:
    row["features"] = json.dumps([value * 1e30 for value in json.loads(row["features"])])


def constant(row: Any) -> None:
    row["features"] = json.dumps([*json.loads(row["features"])[:3], 0.25])


def extended(row: Any) -> None:
    if row["id"] % 2:
        row["features"] = json.dumps([*json.loads(row["features"]), 5.0])
        row["feature_names"] = json.dumps([*NAMES, "volume"])


def permuted(row: Any) -> None:
    if row["id"] % 2:
        row["features"] = json.dumps(json.loads(row["features"])[::-1])
        row["feature_names"] = json.dumps(NAMES[::-1])


def stalled(row: Any) -> None:
    if row["id"] % 2 and 101 <= row["id"] < 101 + 2 * 65:
        row["features"] = "[1, 2, 3, 4]"


def by_the_day(row: Any) -> None:
    row["timestamp"] = row["timestamp"][:10]


def before(row: Any) -> None:
    row["exit_time"] = "2025-11-01 00:00:00"


@pytest.mark.parametrize(
    ("spoil", "name", "measured", "said"),
    [
        (
            every(20, features='[1, NaN, "x", 3]'),
            "rows.quarantined",
            0.05,
            r"features_not_numeric 20 \(not a finite number: ma_cross 20, volatility 20\)",
        ),
        (every(50, realized_pnl=0.0, target_class="WON"), "classes.unknown", 0.02, "8 of 400 .*: 'WON' x 8"),
        (every(20, outcome_known=0), "outcomes.class_without_outcome", 20, "outcome_known is not set"),
        (every(20, target_class=None), "outcomes.outcome_without_class", 20, "but no class"),
        (every(20, **UNTIMED), "outcomes.time_unknown", 20, "history, not samples"),
        (before, "outcomes.before_decision", 400, "before their own timestamp"),
        (every(20, **UNTIMED | LATER), "outcomes.time_future", 20, "history, not samples"),
        (every(20, **LATER), "outcomes.exit_time", 20, "in the future"),
        (every(1, realized_pnl=None), "labels.unproven", 1.0, "400 of 400 classes cannot be checked"),
        (every(20, realized_pnl="much"), "labels.unproven", 0.05, "20 of 400"),
        (every(20, realized_pnl=0.0), "labels.unproven", 0.05, "20 of 400"),
        (every(20, target_class="NEUTRAL"), "classes.neutral", 20, "20 of them with a realized_pnl other than 0"),
        (by_the_day, "time.ties", 1.0, "400 rows share symbol and instant"),
        (every(1, target_label=0.0), "labels.target_label", 0.0, "0 of 400"),
        (every(20, prediction_confidence=1.05), "confidence.range", 20, "outside 0..1"),
        (every(20, prediction_confidence="high"), "confidence.range", 20, "outside 0..1"),
        (every(10, prediction_confidence=0.5), "confidence.fallback", 0.1, "exactly 0.5: 40 rows"),
        (every(20, predicted_action="???"), "actions.unknown", 20, "other than BUY"),
        (every(200, symbol="BTC\u200dUSDT"), "symbols.look_alikes", 1, "look alike"),
        (every(200, symbol="btcusdt"), "symbols.look_alikes", 1, "look alike"),
        (every(200, symbol="ВТCUSDT"), "symbols.look_alikes", 1, "look alike"),  # noqa: RUF001
        (every(200, symbol="../x"), "symbols.coverage", 3, r"'\.\./x' 2"),
        (as_text, "features.converted", 400, "converted"),
        (huge, "features.scale", None, "rsi"),
        (constant, "features.constant", 1, "one value in all rows: returns_1h"),
        (extended, "features.names", 4, r"volume \(200 rows\)"),
        (permuted, "features.names", 4, "200 rows name them in another order"),
        (every(1, feature_names=None), "features.names", 4, "400 rows do not name"),
        (every(1, features="[1, 2, 3, 4]"), "features.frozen", 1.0, "398 of 398 rows repeat"),
        (stalled, "features.frozen", 64 / 398, r"at most 64 in succession \(ETHUSDT after 2025-12-01 08:25:00 UTC"),
        (every(1), "features.frozen", 0.0, r"at most 0 in succession \(a warning over 50%"),
        (every(20, timestamp="2999-01-01 00:00:00"), "time.future", 20, "clock"),
    ],
)
def test_what_an_operator_should_look_at_is_counted(
    tmp_path: Path,
    spoil: Any,
    name: str,
    measured: float | int | None,
    said: str,
) -> None:
    rows = without_edge()
    for row in rows:
        spoil(row)
    found = the(audited(tmp_path, rows, max_quarantine_share=0.1, warn_staleness_hours=0), name)
    assert found.severity is (Severity.OK if measured == 0.0 else Severity.WARNING)
    assert measured is None or found.measured == pytest.approx(measured)
    assert re.search(said, found.message), found.message


def test_a_few_contradictions_are_listed_with_their_rows(tmp_path: Path) -> None:
    rows = without_edge()
    rows[6] |= {"target_class": "WIN", "realized_pnl": -1.3}
    found = the(audited(tmp_path, rows), "labels.contradictions")
    assert found.severity is Severity.WARNING
    assert found.examples == ("id 7 ETHUSDT 2025-12-01 00:35:00 UTC WIN realized_pnl -1.3",)
    assert "LABEL_CONFLICT=drop" in found.message


def test_another_class_of_open_positions_is_no_unknown_class(tmp_path: Path) -> None:
    rows = [*without_edge(), *(open_row(COUNT + number, target_class="OPEN") for number in range(1, 201))]
    verdict = audited(tmp_path, rows)
    assert the(verdict, "classes.unknown").measured == 0
    assert the(verdict, "outcomes.class_without_outcome").measured == 200
    assert verdict.is_fit


def test_copies_warn_and_conflicting_copies_over_the_limit_refuse(tmp_path: Path) -> None:
    rows = without_edge()
    copies = [make_row(number) | {"id": 1000 + number} for number in range(1, 11)]
    verdict = audited(tmp_path / "a", [*rows, *copies])
    assert the(verdict, "duplicates.copies").measured == 10
    assert verdict.is_fit
    for copy in copies * 3:
        copy["target_class"] = "NEUTRAL"
    liars = [make_row(number, target_class="NEUTRAL") | {"id": 2000 + number} for number in range(1, 41)]
    verdict = audited(tmp_path / "b", [*rows, *liars])
    assert the(verdict, "duplicates.conflicts").severity is Severity.REFUSAL


def test_gaps_staleness_and_range_are_told_in_hours(tmp_path: Path) -> None:
    rows = without_edge()
    for row in rows[200:]:
        row["timestamp"] = text_of(START + timedelta(days=5, minutes=5 * row["id"]))
    verdict = audited(tmp_path, rows)
    assert the(verdict, "time.gaps").measured == pytest.approx(120 + 10 / 60)
    assert the(verdict, "time.gaps").severity is Severity.WARNING
    newest = START + timedelta(days=5, minutes=2000)
    hours = (to_microseconds(START + timedelta(days=40)) - to_microseconds(newest)) / 3.6e9
    assert the(verdict, "time.staleness").measured == pytest.approx(hours)
    assert "check whether outcomes are still written" in the(verdict, "time.staleness").message


def test_a_symbol_that_is_no_longer_written_is_named(tmp_path: Path) -> None:
    rows = [row for row in make_rows(1_600) if row["symbol"] == "BTCUSDT" or row["id"] <= 400]
    found = the(audited(tmp_path, rows), "symbols.ended")
    assert (found.severity, found.measured) == (Severity.WARNING, 1)
    assert found.examples == ("ETHUSDT since 2025-12-02 09:15:00 UTC",)


def test_where_the_label_is_a_direction_sides_against_the_prices_refuse(tmp_path: Path) -> None:
    rows = without_edge()
    for row in rows:
        row["execution_side"] = {"BUY": "SELL", "SELL": "BUY"}[row["execution_side"]]
    found = the(audited(tmp_path / "a", rows, label=Label.OUTCOME), "labels.price_move")
    assert (found.severity, found.measured) == (Severity.WARNING, 1.0)
    found = the(audited(tmp_path / "b", rows, label=Label.DIRECTION), "labels.price_move")
    assert found.severity is Severity.REFUSAL
    assert "LABEL=direction" in found.message


def test_a_feature_without_a_leak_shows_none_in_any_reading(tmp_path: Path) -> None:
    found = the(audited(tmp_path, make_rows(3_000)), "features.leak")
    assert found.measured < 0.56


@pytest.mark.parametrize("digits", [0, 1, 15])
def test_the_distance_of_every_cut_is_that_of_the_statistics(digits: int) -> None:
    random = np.random.default_rng(digits)
    for number in range(20):
        values = random.standard_normal(200 + 37 * number).round(digits) + (np.arange(200 + 37 * number) > 150 + number)
        cuts = np.arange(10, len(values), 17)
        expected = max(distance(values[:at], values[at:])[0] for at in cuts)
        found, level = _largest_distance(values, cuts)
        assert math.isclose(found, expected, abs_tol=1e-12)
        assert math.isclose(
            found, max(abs((values[:at] <= level).mean() - (values[at:] <= level).mean()) for at in cuts), abs_tol=1e-12
        )


def test_a_value_that_is_never_a_number_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    cell = '{"rsi": %d, "ma_cross": %f, "regime": "bull"}'
    rows = [row | {"features": cell % (row["id"], row["realized_pnl"] % 0.1)} for row in make_rows(COUNT)]
    found = the(audited(tmp_path, rows), "rows.quarantined")
    assert found.severity is Severity.REFUSAL
    assert "(not a finite number: regime 400); " in found.message
    assert "FEATURE_NAMES" in found.message
    assert audited(tmp_path / "named", rows, feature_names=("rsi", "ma_cross")).is_fit


def test_no_message_grows_with_the_number_of_names(tmp_path: Path) -> None:
    def names(row: Any) -> list[str]:
        return [*(f"constant_{number}" for number in range(100)), *NAMES, f"own_{row['id']}"]

    rows = [
        row
        | {
            "features": json.dumps([*[1.0] * 100, *json.loads(row["features"]), 1.0]),
            "feature_names": json.dumps(names(row)),
        }
        for row in make_rows(COUNT)
    ]
    verdict = audited(tmp_path, rows)
    assert "own_116 (1 rows) and 380 more" in the(verdict, "features.names").message
    assert max(len(found.message) + len(found.subject) for found in verdict.findings) < 1200


def one_instant(row: Any) -> None:
    row["timestamp"] = row["created_at"] = text_of(START)


def few_dates(row: Any) -> None:
    date = text_of(START + timedelta(days=3 * row["id"] // (2 * COUNT)))[:10]
    row |= {"timestamp": date, "created_at": date, "exit_time": None, "updated_at": text_of(START + timedelta(days=9))}


def symbol_of_its_own(row: Any) -> None:
    row["symbol"] = f"S{row['id']}"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (one_instant, r"the 786 samples are at 1 instant, and.*; write timestamp as the time of each decision"),
        (few_dates, r"the 786 samples are at 4 instants, and.*; write timestamp as the time of each decision"),
        (
            symbol_of_its_own,
            r"no labelled row ends a full window of 8 rows: the longest series of one symbol has 1 rows.*"
            r"\(800 rows of 800 symbols\); check the column symbol",
        ),
    ],
)
def test_what_the_training_cannot_divide_is_refused_by_the_audit(tmp_path: Path, spoil: Any, said: str) -> None:
    rows = without_edge(2 * COUNT)
    for row in rows:
        spoil(row)
    pulled(tmp_path, rows, **POLICY)
    snapshot, policy = load(tmp_path / "run"), DataPolicy(**POLICY)
    with pytest.raises(DataUnfitError) as refused:
        training_parts(snapshot, policy=policy, split=SplitPolicy(), seq_len=8)
    request = AuditRequest(run_id="r", run_dir=str(tmp_path / "run"), policy=policy, now=NOW, seq_len=8)
    verdict = audit(request, lambda _: None).verdict
    assert verdict.reasons == (f"{refused.value.what}; {refused.value.remedy}",)
    assert re.search(said, verdict.reasons[0])


def test_the_parts_are_measured_where_nothing_else_refuses_and_the_window_is_known(tmp_path: Path) -> None:
    pulled(tmp_path, without_edge(2 * COUNT), **POLICY)
    request = AuditRequest(run_id="r", run_dir=str(tmp_path / "run"), policy=DataPolicy(**POLICY), now=NOW, seq_len=8)
    assert "786 samples of 8 rows: train 5" in the(audit(request, lambda _: None).verdict, "split.parts").message
    unknown = audit(replace(request, seq_len=None), lambda _: None).verdict
    assert "not known" in the(unknown, "split.parts").message
    assert unknown.is_fit
    unfit = audit(replace(request, policy=DataPolicy()), lambda _: None).verdict
    assert "split.parts" not in [each.name for each in unfit.findings]


def test_too_few_rows_name_the_settings_to_change(tmp_path: Path) -> None:
    verdict = audited(tmp_path, [*make_rows(10), *(open_row(number) for number in range(11, 15))])
    assert "lower MIN_SAMPLES" in the(verdict, "rows.labelled").message
    assert not verdict.is_fit


@pytest.mark.parametrize("rows", [[], [open_row(1)], [make_row(1)], [make_row(1, features=None)]])
def test_the_smallest_tables_are_refused_without_a_crash(tmp_path: Path, rows: Any) -> None:
    verdict = audited(tmp_path, rows)
    assert not verdict.is_fit
    assert verdict.findings[0].name == "rows.labelled"


def test_refusals_come_first_then_warnings(tmp_path: Path) -> None:
    rows = without_edge()
    for row in rows:
        contradict(row)
    order = [found.severity for found in audited(tmp_path, rows).findings]
    assert order == sorted(order, key=[Severity.REFUSAL, Severity.WARNING, Severity.OK].index)


def test_no_sentence_carries_control_characters_of_the_data(tmp_path: Path) -> None:
    rows = without_edge()
    random = Random(1)
    for row in rows:
        row["symbol"] = random.choice(["A\nB", "\x1b[31mRED", "C\u202eD", "x" * 500])
        row["target_class"] = random.choice(["WIN", "LOSS", "\x1b[2J", "wi\nn"])
        row["feature_names"] = json.dumps(["a\nb", "\x1b[31mred", "x" * 500, *(["c", "d"] if row["id"] % 2 else ["c"])])
        row["features"] = json.dumps([1e9 * row["id"], 0.0, 1.0, *([1.0, 2.0] if row["id"] % 2 else [1.0])])
    for found in audited(tmp_path, rows).findings:
        text = found.message + "".join(found.examples)
        assert text.isprintable()
        assert "x" * 50 not in text


def test_a_missing_snapshot_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataUnfitError, match="missing or damaged"):
        audit(AuditRequest(run_id="r", run_dir=str(tmp_path), policy=DataPolicy(), now=NOW), lambda _: None)


def test_limits_are_the_policys(tmp_path: Path) -> None:
    _, snapshot = pulled(tmp_path, without_edge(), **POLICY)
    now = to_microseconds(START)
    assert judge(findings(snapshot, DataPolicy(**POLICY), now=now)).is_fit
    changes: tuple[dict[str, Any], ...] = (
        {"min_samples": 401},
        {"min_class_samples": 300},
        {"min_class_share": 0.49},
        {"max_single_feature_auc": 0.5},
    )
    for stricter in changes:
        assert not judge(findings(snapshot, replace(DataPolicy(**POLICY), **stricter), now=now)).is_fit
    assert np.isfinite(snapshot.features).all()


# ---------------------------------------------------------------- names and keys, jumps, outliers, hard links


def three_of_four(row: Any) -> None:
    """The object lacks a feature that feature_names declares."""
    row["features"] = json.dumps(dict(zip(NAMES[:3], json.loads(row["features"])[:3], strict=True)))


@pytest.mark.parametrize(
    ("engine", "severity"),
    [
        ((), Severity.WARNING),
        (tuple(NAMES[:3]), Severity.WARNING),
        (tuple(NAMES), Severity.REFUSAL),
        (("?",) * 4, Severity.REFUSAL),
        (("?",) * 6, Severity.WARNING),
    ],
)
def test_objects_with_other_keys_than_the_names_are_a_finding_and_refused_where_the_engine_takes_more(
    tmp_path: Path, engine: tuple[str, ...], severity: Severity
) -> None:
    rows = without_edge()
    for row in rows:
        three_of_four(row)
    verdict = audited(tmp_path, rows, engine_features=engine)
    found = the(verdict, "features.contradicted")
    assert (found.severity, found.measured, found.subject) == (severity, COUNT, NAMES[3])
    assert verdict.is_fit is (severity is Severity.WARNING)


@pytest.mark.parametrize("as_object", [False, True])
def test_arrays_and_objects_that_agree_with_their_names_are_no_finding(tmp_path: Path, as_object: bool) -> None:
    rows = without_edge()
    for row in rows if as_object else ():
        row["features"] = json.dumps(dict(zip(NAMES[::-1], json.loads(row["features"])[::-1], strict=True)))
    found = the(audited(tmp_path, rows, engine_features=tuple(NAMES)), "features.contradicted")
    assert (found.severity, found.measured) == (Severity.OK, 0)


def swapped(values: list[float]) -> list[float]:
    return [values[2], values[1], values[0], values[3]]


def in_percent(values: list[float]) -> list[float]:
    return [*values[:3], values[3] * 100]


@pytest.mark.parametrize(("change", "names"), [(swapped, ["rsi", "volatility"]), (in_percent, ["returns_1h"])])
def test_features_that_change_places_or_their_unit_are_named_with_the_instant(
    tmp_path: Path, change: Any, names: list[str]
) -> None:
    rows = make_rows(1000)
    for row in rows[600:]:
        row["features"] = json.dumps(change(json.loads(row["features"])))
    verdict = audited(tmp_path, rows)
    found = the(verdict, "features.jump")
    assert (found.severity, sorted(found.subject.split(", "))) == (Severity.WARNING, sorted(names))
    at = re.findall(r"at (\S+ \S+) UTC", found.message)
    expected = START + timedelta(minutes=5 * 601)
    assert len(at) == len(names)
    assert all(abs(datetime.fromisoformat(f"{each}+00:00") - expected) < timedelta(hours=2) for each in at)
    assert verdict.is_fit


@pytest.mark.parametrize("shape", ["steady", "trend", "random walk", "waves"])
def test_a_market_that_moves_gradually_is_no_jump(tmp_path: Path, shape: str) -> None:
    rows, coin, walk = make_rows(1000), Random(7), 0.0
    for place, row in enumerate(rows):
        walk += coin.gauss(0, 5)
        moved = {"steady": 0.0, "trend": place / 10, "random walk": walk, "waves": 60 * math.sin(place / 100)}[shape]
        values = json.loads(row["features"])
        row["features"] = json.dumps([values[0] + moved, *values[1:]])
    assert the(audited(tmp_path, rows), "features.jump").severity is Severity.OK


@pytest.mark.parametrize("factor", [1e30, 1e6, -1e9])
def test_a_few_rows_in_another_unit_are_quarantined_as_outliers(tmp_path: Path, factor: float) -> None:
    rows = without_edge()
    for row in rows[::20]:
        row["features"] = json.dumps([value * factor for value in json.loads(row["features"])])
    verdict = audited(tmp_path, rows)
    found = the(verdict, "features.outliers")
    assert (found.severity, found.measured) == (Severity.WARNING, 20)
    assert "features_outlier 20" in the(verdict, "rows.quarantined").message
    assert the(verdict, "features.scale").severity is Severity.OK


@pytest.mark.parametrize(
    "draw", [lambda coin: coin.expovariate(1.0), lambda coin: coin.lognormvariate(0.0, 2.0)], ids=["exponential", "log"]
)
def test_the_tail_of_a_skewed_feature_is_no_outlier(tmp_path: Path, draw: Callable[[Random], float]) -> None:
    rows, coin = without_edge(), Random(3)
    for row in rows:
        row["features"] = json.dumps([*json.loads(row["features"])[:3], draw(coin)])
    assert the(audited(tmp_path, rows), "features.outliers").measured == 0


def test_another_hard_link_of_the_database_is_a_warning(tmp_path: Path) -> None:
    path = make_database(tmp_path / "trading.db", without_edge(), journal="wal")
    (tmp_path / "link.db").hardlink_to(path)
    pull(request_for(tmp_path / "run"), url_of(path), lambda _: None)
    request = AuditRequest(run_id="r", run_dir=str(tmp_path / "run"), policy=DataPolicy(**POLICY), now=NOW)
    found = the(audit(request, lambda _: None).verdict, "source.hard_links")
    assert (found.severity, found.measured) == (Severity.WARNING, 1)


def test_a_feature_with_braces_in_its_name_is_listed_as_it_is(tmp_path: Path) -> None:
    rows = without_edge()
    for row in rows[:5]:
        row["features"] = json.dumps(dict(zip([*NAMES, "a{b}"], range(5), strict=True)))
    assert "'a{b}' (5 rows)" in the(audited(tmp_path, rows), "features.names").message
