"""A backtest fold knows nothing of the holdout and nothing of the future of another fold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.recipe import Preset, Recipe
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.worker_protocol import GateRequest, Progress, TrainRequest
from retrain_worker.errors import TrainingCollapsedError
from retrain_worker.worker.data.instants import to_microseconds
from retrain_worker.worker.data.samples import Parts, Samples, select_samples, split_samples
from retrain_worker.worker.gate_measurement import measure
from retrain_worker.worker.stop_signal import StoppedError
from retrain_worker.worker.training.backtest_folds import past_parts, read_folds, train_folds
from retrain_worker.worker.training.train import train
from tests.worker.synthetic_market import market, saved

POLICY = SplitPolicy()
#: the identity of a training
ONE = {"seed": 1}
RECIPE = Recipe(preset=Preset.PAPER, seq_len=16, max_epochs=4, batch_size=64, threads=1, device="cpu")


def divided(per_symbol: int = 1500, policy: SplitPolicy = POLICY) -> tuple[Samples, Parts, list[Parts]]:
    samples, _ = select_samples(market(per_symbol=per_symbol), policy=DataPolicy(), seq_len=16)
    parts = split_samples(samples, policy)
    return samples, parts, list(past_parts(samples, parts, policy))


def test_folds_lie_before_the_holdout_and_apart_newest_first() -> None:
    _, parts, folds = divided()

    assert len(folds) == POLICY.backtest_folds
    assert folds[0].holdout.known_at.max() < to_microseconds(parts.split.validation.end)
    later = parts.holdout
    for fold in folds:
        assert fold.holdout.decided_at.max() < later.decided_at.min()
        assert fold.holdout.known_at.max() <= later.decided_at.min(), "no outcome of a fold is known only later"
        later = fold.holdout


def test_a_fold_is_trained_on_nothing_that_was_not_known_before_it() -> None:
    for fold in divided()[2]:
        first = fold.holdout.decided_at.min()
        assert fold.train.known_at.max() < fold.validation.decided_at.min()
        assert fold.validation.known_at.max() < first


def test_few_rows_make_fewer_folds() -> None:
    assert len(divided(per_symbol=420)[2]) < POLICY.backtest_folds
    assert divided(policy=replace(POLICY, backtest_folds=0))[2] == []


def test_answers_are_kept_and_trained_once(tmp_path: Path) -> None:
    folds, trained = divided()[2], []

    def predict(number: int, fold: Parts) -> np.ndarray:
        trained.append(number)
        return np.linspace(0.1, 0.9, len(fold.holdout))

    def stopped(number: int, fold: Parts) -> np.ndarray:
        if number == 2:
            raise StoppedError("stop")
        return predict(number, fold)

    with pytest.raises(StoppedError):
        train_folds(folds, tmp_path, identity=ONE, predict=stopped)
    train_folds(folds, tmp_path, identity=ONE, predict=predict)
    train_folds(folds, tmp_path, identity=ONE, predict=predict)

    assert trained == [1, 2, 3]
    assert [found.positions.tolist() for found in read_folds(tmp_path)] == [
        fold.holdout.positions.tolist() for fold in folds
    ]


def test_predictions_of_another_training_and_damaged_ones_are_removed(tmp_path: Path) -> None:
    folds = divided()[2]
    train_folds(folds, tmp_path, identity=ONE, predict=lambda _, fold: np.full(len(fold.holdout), 0.1))
    (tmp_path / "folds/3.npz").write_bytes(b"torn")
    train_folds(folds[:2], tmp_path, identity={"seed": 2}, predict=lambda _, fold: np.full(len(fold.holdout), 0.9))

    assert [found.answers[0] for found in read_folds(tmp_path)] == [0.9, 0.9]


def test_the_predictions_of_a_fold_that_collapses_are_its_prior(tmp_path: Path) -> None:
    def predict(number: int, fold: Parts) -> np.ndarray:
        raise TrainingCollapsedError("nan")

    fold = divided()[2][0]
    train_folds([fold], tmp_path, identity=ONE, predict=predict)

    found = read_folds(tmp_path)[0]
    assert set(found.answers) == {found.prior} == {float(fold.train.labels.mean())}


def test_a_training_leaves_folds_that_the_gate_pools_with_the_holdout(tmp_path: Path) -> None:
    saved(tmp_path, per_symbol=1500)
    said: list[Progress] = []
    result = train(
        TrainRequest(
            run_id="20261123_000001",
            run_dir=str(tmp_path),
            version="patchtst_v20261123_000001",
            data=DataPolicy(),
            split=POLICY,
            recipe=RECIPE,
            checkpoint_dir=str(tmp_path / "checkpoints"),
            incumbent_path=None,
        ),
        said.append,
        lambda: False,
    )
    found = measure(
        GateRequest(
            run_id="20261123_000001",
            run_dir=str(tmp_path),
            candidate_path=result.model_path,
            incumbent_path=None,
            data=DataPolicy(),
            split=POLICY,
            recipe=RECIPE,
            policy=GatePolicy(),
        ),
        lambda _: None,
    ).evidence.skill

    assert "backtest fold 3 of 3" in said[-1].message
    assert found is not None
    assert [pool.num_folds for pool in found.pooled] == [0, 1, 2, 3]
    assert all(fold.auc is not None and fold.auc > 0.6 for fold in found.folds)
