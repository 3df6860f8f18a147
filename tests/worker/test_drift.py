"""Drift since the last promoted run: a change of known size is found, luck and correlated rows are not called one."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from retrain_worker.demo.market import write_market
from retrain_worker.domain.audit_findings import Finding, Severity
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.worker_protocol import AuditRequest, AuditResult
from retrain_worker.worker.data import snapshot as snapshots
from retrain_worker.worker.data.audit import audit
from retrain_worker.worker.data.audit_rules.drift import design_effect, drift_findings, drift_of
from retrain_worker.worker.data.instants import to_microseconds
from retrain_worker.worker.data.intake import Intake
from retrain_worker.worker.data.outcomes import LOSS, WIN
from retrain_worker.worker.data.snapshot import ARRAYS
from retrain_worker.worker.data.source import read_pages
from tests.known import known
from tests.worker.trading_database import NOW, url_of

END = datetime.fromisoformat(NOW)
EARLIER, NEWER = 3_000, 600


def market_of(folder: Any, *, seed: int) -> tuple[Any, bool]:
    """(the snapshot of a market whose law does not change, bool[n]: the newest rows)."""
    path = folder / f"market_{seed}.db"
    write_market(path, seed=seed, end=END, rows=EARLIER + NEWER, open_rows=0, days=30.0, contradictions=0)
    intake = Intake(DataPolicy(), now=to_microseconds(END + timedelta(days=1)))
    for page in read_pages(url_of(path), busy_timeout_seconds=1.0):
        intake.add(page)
    snapshot = intake.snapshot()
    return snapshot, snapshot.decided_at > np.sort(snapshot.decided_at)[EARLIER - 1]


def chosen(snapshot: Any, rows: Any) -> Any:
    return replace(snapshot, **{name: getattr(snapshot, name)[rows] for name in ARRAYS})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """A run folder named like one, with the snapshot of the earlier rows; all rows, and which are new."""
    snapshot, is_new = market_of(tmp_path_factory.mktemp("world"), seed=3)
    reference_dir = tmp_path_factory.mktemp("runs") / "20260101_000000"
    reference_dir.mkdir()
    snapshots.save(chosen(snapshot, ~is_new), reference_dir)
    return snapshot, is_new, reference_dir


def drifted(found: Any) -> list[Any]:
    return [each.name for each in found if each.severity is not Severity.OK]


def found_in(world: tuple[Any, Any, Any], **changes: Any) -> list[Finding]:
    snapshot, _, reference_dir = world
    return drift_findings(replace(snapshot, **changes), reference_dir, DataPolicy())


@pytest.mark.parametrize("seed", range(8))
def test_worlds_that_do_not_change_raise_no_alarm(tmp_path: Path, seed: int) -> None:
    snapshot, is_new = market_of(tmp_path, seed=100 + seed)
    snapshots.save(chosen(snapshot, ~is_new), tmp_path)
    found = drift_findings(snapshot, tmp_path, DataPolicy(min_drift=0.0))

    assert drifted(found) == []
    assert [each.name for each in found] == [
        "drift.reference",
        *(f"drift.feature.{name}" for name in snapshot.feature_names),
        "drift.label",
    ]
    assert all(known(each.measured) <= known(each.limit) for each in found)


def test_a_shift_of_known_size_is_found_in_its_feature_alone_and_measured(world: tuple[Any, Any, Any]) -> None:
    snapshot, is_new, _ = world
    features = snapshot.features.copy()
    features[is_new, 2] += 0.8 * features[~is_new, 2].std()
    found = found_in(world, features=features)
    (shift,) = [each for each in found if each.severity is Severity.WARNING]

    assert shift.name == f"drift.feature.{snapshot.feature_names[2]}"
    assert shift.measured == pytest.approx(0.311, abs=0.08)  # 2 Phi(0.4) - 1, had the feature a normal distribution
    assert known(shift.measured) > known(shift.limit)
    assert f"{shift.measured:.3f}" in shift.message and f"{shift.limit:.3f}" in shift.message


def test_a_change_of_spread_is_found_too(world: tuple[Any, Any, Any]) -> None:
    snapshot, is_new, _ = world
    features = snapshot.features.copy()
    middle = features[:, 1].mean()
    features[is_new, 1] = (features[is_new, 1] - middle) * 4 + middle

    assert drifted(found_in(world, features=features)) == [f"drift.feature.{snapshot.feature_names[1]}"]


def test_a_feature_that_stands_still_since_is_found(world: tuple[Any, Any, Any]) -> None:
    snapshot, is_new, _ = world
    features = snapshot.features.copy()
    features[is_new, 0] = np.median(features[:, 0])

    assert drifted(found_in(world, features=features)) == [f"drift.feature.{snapshot.feature_names[0]}"]


def test_another_share_of_win_is_found_and_told_in_percent(world: tuple[Any, Any, Any]) -> None:
    snapshot, is_new, _ = world
    outcome = snapshot.outcome.copy()
    wins = np.flatnonzero(is_new & (outcome == WIN))
    outcome[wins[: len(wins) * 2 // 3]] = LOSS
    found = found_in(world, outcome=outcome)

    assert drifted(found) == ["drift.label"]
    before, since = (np.mean(outcome[rows] == WIN) for rows in (~is_new, is_new))
    assert f"({before:.1%} before, {since:.1%} since)" in found[-1].message
    assert found[-1].measured == pytest.approx(before - since, abs=1e-4)


def test_a_shift_too_small_to_matter_is_not_called_drift_however_many_rows_prove_it() -> None:
    draw = np.random.default_rng(5)
    earlier, newer = draw.normal(size=200_000).astype(np.float32), draw.normal(0.1, size=50_000).astype(np.float32)

    seen = drift_of(earlier, newer, alpha=0.01, min_distance=0.0)
    assert seen.distance > seen.limit
    assert drift_of(earlier, newer, alpha=0.01, min_distance=0.1).limit == 0.1


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_design_effect_of_an_autoregression_is_what_theory_says(correlation: float) -> None:
    """Whether a value is under the median follows from the one k before with a correlation of 2/pi arcsin(r^k)."""
    draw = np.random.default_rng(7)
    noise = draw.normal(size=60_000)
    for place in range(1, len(noise)):
        noise[place] += correlation * noise[place - 1]
    effect, blocks = design_effect(noise.astype(np.float32), rows=500)

    theory = 1 + 2 * np.sum(2 / np.pi * np.arcsin(correlation ** np.arange(1.0, 200.0)))
    assert blocks == 120
    assert effect == pytest.approx(theory, rel=0.3)


def test_the_limit_falls_with_the_number_of_rows_and_rises_with_their_likeness() -> None:
    draw = np.random.default_rng(9)
    values = draw.normal(size=20_000).astype(np.float32)
    slow = np.repeat(draw.normal(size=1_000), 20).astype(np.float32)
    limits = [drift_of(values, values[:rows], alpha=0.01, min_distance=0.0).limit for rows in (100, 1_000, 10_000)]

    assert limits == sorted(limits, reverse=True)
    assert drift_of(slow, values[:1_000], alpha=0.01, min_distance=0.0).limit > 3 * limits[1]


def test_features_of_one_value_and_far_out_values_are_compared_without_a_fault() -> None:
    one, other = np.full(500, 7.0, dtype=np.float32), np.full(100, 1e38, dtype=np.float32)

    assert drift_of(one, one[:100], alpha=0.01, min_distance=0.1).distance == 0.0
    seen = drift_of(one, other, alpha=0.01, min_distance=0.1)
    assert (seen.distance, seen.limit < 1.0) == (1.0, True)


def test_without_a_reference_or_with_a_lost_one_it_says_so(world: tuple[Any, Any, Any], tmp_path: Path) -> None:
    snapshot, is_new, reference_dir = world
    (none,) = drift_findings(snapshot, None, DataPolicy())
    (lost,) = drift_findings(snapshot, tmp_path / "20251201_000000", DataPolicy())
    (same,) = drift_findings(chosen(snapshot, ~is_new), reference_dir, DataPolicy())

    assert (none.severity, "no run was promoted yet" in none.message) == (Severity.OK, True)
    assert (lost.severity, "20251201_000000" in lost.message) == (Severity.WARNING, True)
    assert (same.severity, "0 rows are newer" in same.message) == (Severity.OK, True)


def test_a_reference_with_other_feature_names_says_which_and_compares_the_rest_by_name(
    world: tuple[Any, Any, Any],
) -> None:
    snapshot, _, reference_dir = world
    names = ("volatility", "rsi", "new\x1bone", "returns_1h")
    by_name = [snapshot.feature_names.index(name) if name in snapshot.feature_names else 1 for name in names]
    changed = replace(snapshot, feature_names=names, features=snapshot.features[:, by_name])
    first, *rest = drift_findings(changed, reference_dir, DataPolicy())

    assert first.severity is Severity.WARNING
    assert "without ma_cross, with 'new\\x1bone'" in first.message
    assert [each.name for each in rest] == [
        "drift.feature.volatility",
        "drift.feature.rsi",
        "drift.feature.returns_1h",
        "drift.label",
    ]
    assert drifted(rest) == []


def test_drift_alone_never_refuses_and_stands_among_the_findings_of_the_stage(
    world: tuple[Any, Any, Any],
    tmp_path: Path,
) -> None:
    snapshot, is_new, reference_dir = world
    features = snapshot.features.copy()
    features[is_new] += 3 * features.std(axis=0)
    snapshots.save(replace(snapshot, features=features), tmp_path)
    request = AuditRequest(
        run_id="r", run_dir=str(tmp_path), policy=DataPolicy(), now=NOW, reference_dir=str(reference_dir)
    )
    result = audit(request, lambda _: None)
    verdict = msgspec.json.decode(msgspec.json.encode(result), type=AuditResult).verdict  # as it crosses to the daemon

    assert verdict == result.verdict
    assert verdict.is_fit
    assert (
        len(
            [
                each
                for each in verdict.findings
                if each.name.startswith("drift.feature.") and each.severity is Severity.WARNING
            ]
        )
        == 4
    )
