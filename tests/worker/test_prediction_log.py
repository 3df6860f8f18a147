"""An evaluation logs each row once, without its outcome; later evaluations measure the logged predictions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.labels import Label
from retrain_worker.domain.worker_protocol import TrialEvaluationRequest
from retrain_worker.model import bundle
from retrain_worker.worker import prediction_log as trial_log
from retrain_worker.worker.data import snapshot as snapshots
from retrain_worker.worker.data.snapshot import Snapshot
from retrain_worker.worker.incumbent import Incumbent
from tests.known import known
from tests.worker.synthetic_market import HOUR, START, market
from tests.worker.test_scoring import PAPER, write_model

SNAPSHOT = market()
BEGUN = datetime.fromtimestamp(START / 1e6, tz=UTC) + timedelta(days=3)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> trial_log.Pair:
    folder = tmp_path_factory.mktemp("models")
    new, old = (bundle.read(Path(write_model(folder / f"{seed}.pth", PAPER, seed=seed))) for seed in (1, 2))
    return trial_log.Pair(model=new, reference=Incumbent(contract=old.contract, model=old))


def request(run_dir: Path, *, prediction_log: str = "shadow_1") -> TrialEvaluationRequest:
    return TrialEvaluationRequest(
        run_id="20260101_000000",
        run_dir=str(run_dir),
        number=1,
        model_path="",
        reference_path="",
        since=BEGUN.isoformat(),
        prediction_log=prediction_log,
        now=(BEGUN + timedelta(days=9)).isoformat(),
        data=DataPolicy(),
        policy=GatePolicy(),
        prior=0.5,
        worse_alpha=0.05,
    )


def recorded(asked: TrialEvaluationRequest, pair: trial_log.Pair, snapshot: Snapshot = SNAPSHOT) -> np.ndarray:
    return trial_log.recorded(asked, pair, snapshot, trial_log.prediction_log_file(asked))


def test_a_row_is_recorded_once_and_only_after_the_trial_began(tmp_path: Path, pair: trial_log.Pair) -> None:
    first = recorded(request(tmp_path), pair)
    again = recorded(request(tmp_path), trial_log.Pair(model=known(pair.reference.model), reference=Incumbent()))

    assert len(first) == np.sum(SNAPSHOT.decided_at > BEGUN.timestamp() * 1e6) > 500
    assert np.array_equal(first, again), "logged predictions are not made again"


@settings(max_examples=10, deadline=None)
@given(st.floats(-24, 24), st.integers(1, 1599))
def test_no_row_of_the_candidate_s_snapshot_counts_whatever_its_stamp(
    tmp_path_factory: pytest.TempPathFactory, pair: trial_log.Pair, hours_ahead: float, num_used: int
) -> None:
    run_dir = tmp_path_factory.mktemp("run")
    arrays: dict[str, Any] = {
        name: values[:num_used] for name, values in vars(SNAPSHOT).items() if isinstance(values, np.ndarray)
    }
    snapshots.save(replace(SNAPSHOT, **arrays), run_dir)
    ahead = replace(SNAPSHOT, decided_at=SNAPSHOT.decided_at + int(hours_ahead * HOUR))
    asked = replace(request(run_dir), snapshot_dir=str(run_dir))

    answerable = trial_log._answerable(ahead, DataPolicy(), pair.model)
    new = ahead.ids[answerable.positions][answerable.decided_at > BEGUN.timestamp() * 1e6]
    assert set(recorded(asked, pair, ahead)["id"]) == set(new[new >= num_used])


def test_the_reference_is_compared_on_rows_after_its_training(tmp_path: Path, pair: trial_log.Pair) -> None:
    reference = known(pair.reference.model)
    until = BEGUN + timedelta(days=1)
    seen = {"seen": [{"start": "2025-06-01T00:00:00Z", "end": until.isoformat()}]}
    newer = replace(reference, manifest=replace(reference.manifest, training=seen))
    found = recorded(request(tmp_path), replace(pair, reference=Incumbent(contract=newer.contract, model=newer)))

    assert np.array_equal(found["has_reference"], found["decided_at"] >= until.timestamp() * 1e6)
    assert 0 < found["has_reference"].sum() < len(found)


def test_predictions_do_not_depend_on_outcomes(tmp_path: Path, pair: trial_log.Pair) -> None:
    turned = replace(
        SNAPSHOT, outcome=1 - SNAPSHOT.outcome, recorded_outcome=1 - SNAPSHOT.recorded_outcome, pnl=-SNAPSHOT.pnl
    )

    said = recorded(request(tmp_path, prediction_log="a"), pair)
    assert np.array_equal(said, recorded(request(tmp_path, prediction_log="b"), pair, turned))


def test_another_log_starts_empty(tmp_path: Path, pair: trial_log.Pair) -> None:
    recorded(request(tmp_path), pair)
    later = replace(request(tmp_path, prediction_log="probation_2"), since=(BEGUN + timedelta(days=1)).isoformat())

    assert 0 < len(recorded(later, pair)) < len(recorded(request(tmp_path), pair))


def test_predictions_of_the_replaced_model_count_after_its_file_is_removed(
    tmp_path: Path, pair: trial_log.Pair
) -> None:
    asked = request(tmp_path)
    prediction_log = recorded(asked, pair)
    without = trial_log.Pair(model=pair.model, reference=Incumbent(absence="its file is gone"))
    there, gone = (trial_log.measured(asked, each, SNAPSHOT, prediction_log) for each in (pair, without))

    assert gone.worse is not None
    assert (gone.worse, gone.reference) == (there.worse, there.reference)


def test_the_contract_of_the_incumbent_is_checked_in_a_trial_too(tmp_path: Path, pair: trial_log.Pair) -> None:
    asked = request(tmp_path)
    prediction_log = recorded(asked, pair)
    gone = Incumbent(absence="its file is gone", unknown="its file is gone")
    another = Incumbent(contract=replace(PAPER, label=Label.DIRECTION), absence="it predicts direction")
    found = [
        trial_log.measured(
            asked, trial_log.Pair(model=pair.model, reference=each), SNAPSHOT, prediction_log
        ).evidence.contract
        for each in (pair.reference, gone, another)
    ]

    assert [each.unknown for each in found] == ["", "its file is gone", ""]
    assert [[one.partition(":")[0] for one in each.mismatches] for each in found] == [[], [], ["label"]]
