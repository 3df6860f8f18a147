"""A model is judged, and compared, only on rows that neither it nor a model that it descends from was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain_worker.domain.artifact import Manifest
from retrain_worker.domain.gates import Evidence, GateOutcome
from retrain_worker.domain.gates.incumbent import INCUMBENT
from retrain_worker.domain.labels import Thresholds
from retrain_worker.domain.split_policy import SplitPolicy, Window
from retrain_worker.domain.worker_protocol import TrainResult
from retrain_worker.model import bundle
from retrain_worker.worker.data.samples import select_samples, split_samples
from retrain_worker.worker.gate_measurement import measure
from retrain_worker.worker.seen_rows import seen_by, united
from retrain_worker.worker.training.train import train
from tests.known import known
from tests.worker.synthetic_market import START, saved
from tests.worker.test_scoring import PAPER, POLICY, TRAINED_BEFORE, write_model
from tests.worker.test_scoring import request as gate_request
from tests.worker.test_training import RECIPE, Journal, never
from tests.worker.test_training import request as train_request

BEGIN = datetime.fromtimestamp(START / 1e6, tz=UTC)
ROWS_PER_SYMBOL = 2000


def window(first_day: float, last_day: float) -> Window:
    return Window(start=BEGIN + timedelta(days=first_day), end=BEGIN + timedelta(days=last_day))


def stated(*windows: Window) -> dict[str, Any]:
    return {"seen": [{"start": each.start.isoformat(), "end": each.end.isoformat()} for each in windows]}


def manifest(training: Mapping[str, Any]) -> Manifest:
    return Manifest(
        format="patchtst/1.1",
        version="v",
        created_at=BEGIN + timedelta(days=30),
        file="v.pth",
        sha256="",
        size_bytes=1,
        contract=PAPER,
        config={},
        thresholds=Thresholds(),
        training=training,
    )


days = st.floats(0, 20)


@given(st.lists(st.tuples(days, days).map(sorted).map(lambda ends: window(*ends)), min_size=1, max_size=6), days)
def test_the_union_of_windows_holds_their_instants_and_no_others(windows: list[Window], day: float) -> None:
    found, at = united(windows), BEGIN + timedelta(days=day)

    assert any(each.start <= at < each.end for each in found) == any(each.start <= at < each.end for each in windows)
    assert all(before.end < after.start for before, after in pairwise(found))
    assert found[-1].end == max(each.end for each in windows)


OWN = {
    "train": {"start": BEGIN.isoformat(), "end": window(0, 3).end.isoformat()},
    "validation": {"start": window(0, 3).end.isoformat(), "end": window(0, 5).end.isoformat()},
}


@pytest.mark.parametrize(
    ("training", "until_day", "is_known"),
    [
        (stated(window(0, 5), window(7, 9)), 9, True),
        ({"windows": OWN, "start": "scratch: no incumbent"}, 5, True),
        ({"windows": OWN}, 5, True),
        # written before `seen`: its ancestors cannot have seen what was decided after it was written
        ({"windows": OWN, "start": "incumbent patchtst_v20251101_000000, sha256 00"}, 30, False),
        ({}, 30, False),
        ({"windows": "all"}, 30, False),
        ({"seen": []}, 30, False),
        ({"seen": [{"start": 1}], "windows": OWN}, 30, False),
        ({"seen": [{"start": "2025-12-01T00:00:00", "end": "2025-12-02T00:00:00"}]}, 30, False),
    ],
)
def test_a_file_that_does_not_state_its_rows_counts_as_trained_on_all_before_it_was_written(
    training: dict[str, Any], until_day: int, is_known: bool
) -> None:
    found = seen_by(manifest(training))
    assert (found.until, found.is_known) == (BEGIN + timedelta(days=until_day), is_known)


def measured(folder: Path, *, candidate: Mapping[str, Any], incumbent: Mapping[str, Any]) -> tuple[Evidence, Any]:
    """The evidence on a candidate beside an incumbent of these origins, and the rows of the holdout."""
    snapshot = saved(folder, per_symbol=ROWS_PER_SYMBOL)
    paths = [
        write_model(folder / f"{number}.pth", PAPER, seed=number, training=training)
        for number, training in enumerate((candidate, incumbent))
    ]
    asked = gate_request(folder, *paths)
    samples = select_samples(snapshot, policy=asked.data, seq_len=PAPER.context_length)
    return measure(asked, lambda _: None).evidence, split_samples(samples, asked.split).holdout


@settings(max_examples=8, deadline=None)
@given(st.floats(11.0, 14.0), st.floats(11.0, 14.0))
def test_candidate_and_incumbent_are_measured_on_rows_that_neither_lineage_has_seen(
    tmp_path_factory: pytest.TempPathFactory, candidate_day: float, incumbent_day: float
) -> None:
    until = [BEGIN + timedelta(days=day) for day in (candidate_day, incumbent_day)]
    folder = tmp_path_factory.mktemp("run")
    found, holdout = measured(
        folder,
        candidate=stated(window(0, 5), window(6, candidate_day)),
        incumbent=stated(window(0, incumbent_day)),
    )
    is_later = [holdout.decided_at >= each.timestamp() * 1e6 for each in until]

    assert found.candidate.n == is_later[0].sum()
    assert known(found.comparison).n == (is_later[0] & is_later[1]).sum()
    left_out = int((is_later[0] & ~is_later[1]).sum())
    assert found.comparison_note.startswith(f"{left_out} rows are left out" if left_out else "")
    assert bool(found.comparison_note) == bool(left_out)


def test_an_incumbent_that_has_seen_most_of_the_holdout_leaves_the_gate_undecided(tmp_path: Path) -> None:
    found, _ = measured(tmp_path, candidate=TRAINED_BEFORE, incumbent=stated(window(0, 13.5)))
    sound = replace(known(found.incumbent), auc=0.6, log_loss_gain=0.1, ece=0.01, ece_limit=0.1)
    result = INCUMBENT.judge(replace(found, incumbent=with_sound_answers(sound)), POLICY)

    assert result.result is GateOutcome.UNDECIDED
    assert f"{known(found.comparison).n} rows could be measured, {POLICY.min_rows} are required" in result.message
    assert "rows are left out, because the incumbent was trained on rows until 2025-12-14 12:00 UTC" in result.message


def with_sound_answers(card: Any) -> Any:
    return replace(
        card,
        actions={"BUY": 0.4, "SELL": 0.3, "HOLD": 0.3},
        p_std=0.2,
        p10_p90=0.4,
        monotonicity_z=0.0,
        calibration_slope_high=1.1,
    )


def test_an_incumbent_from_elsewhere_is_compared_on_rows_after_its_file(tmp_path: Path) -> None:
    found, holdout = measured(tmp_path, candidate=TRAINED_BEFORE, incumbent={})

    assert known(found.comparison).n == 0  # the test writes the file years after the rows
    assert known(found.incumbent).n == len(holdout), "it still has a scorecard, which may exempt the candidate"
    assert "does not state its training rows" in found.comparison_note


# ---------------------------------------------------------------- warm start


def trained(folder: Path, incumbent: str | None, *, warm_start: bool, split: SplitPolicy) -> TrainResult:
    recipe = replace(RECIPE, max_epochs=1, warm_start=warm_start)
    return train(train_request(folder, recipe=recipe, incumbent_path=incumbent, split=split), Journal(), never)


def test_a_warm_start_records_what_its_ancestors_have_seen(tmp_path: Path) -> None:
    saved(tmp_path)
    ancestor = write_model(tmp_path / "old.pth", PAPER, seed=1, training=stated(window(-9, -5), window(-4, 1)))
    result = trained(tmp_path, ancestor, warm_start=True, split=SplitPolicy(backtest_folds=0))
    own = result.manifest.training["windows"]

    assert result.manifest.training["start"].startswith("incumbent old")
    assert seen_by(result.manifest).windows == (
        window(-9, -5),
        Window(start=window(-4, 1).start, end=datetime.fromisoformat(own["validation"]["end"])),
    )
    assert seen_by(bundle.read(Path(result.model_path)).manifest) == seen_by(result.manifest)


@pytest.mark.parametrize("origin", [stated(window(0, 5.5)), {}], ids=["rows of the holdout", "unknown rows"])
def test_a_warm_start_does_not_take_weights_that_have_seen_the_holdout(
    tmp_path: Path, origin: Mapping[str, Any]
) -> None:
    saved(tmp_path)
    incumbent = write_model(tmp_path / "old.pth", PAPER, seed=1, training=origin)
    split = SplitPolicy(backtest_folds=0)
    warm, cold = (trained(tmp_path, incumbent, warm_start=is_warm, split=split) for is_warm in (True, False))

    assert "trained on rows until" in warm.manifest.training["start"]
    assert warm.manifest.training["weights_sha256"] == cold.manifest.training["weights_sha256"]
