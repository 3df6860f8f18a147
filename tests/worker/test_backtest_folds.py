"""A backtest fold knows nothing of the holdout and nothing of the future of another fold."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.recipe import InputTransform, Preset, Recipe
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.worker_protocol import GateRequest, Progress, TrainRequest
from retrain_worker.errors import TrainingCollapsedError
from retrain_worker.worker.data import snapshot as snapshots
from retrain_worker.worker.data.instants import to_microseconds
from retrain_worker.worker.data.samples import Parts, select_samples, split_samples
from retrain_worker.worker.data.snapshot import PullFacts, Snapshot
from retrain_worker.worker.gate_measurement import measure
from retrain_worker.worker.training import fold_store, loop
from retrain_worker.worker.training.backtest_folds import Fold, FoldAnswers, past_folds, read_folds
from retrain_worker.worker.training.loop import Fitted
from retrain_worker.worker.training.train import train
from tests.worker.synthetic_market import HOUR, market, saved

POLICY = SplitPolicy()
#: the identity of a training
ONE: dict[str, object] = {"seed": 1}
RECIPE = Recipe(preset=Preset.PAPER, seq_len=16, max_epochs=4, batch_size=64, threads=1, device="cpu")


def train_request(
    folder: Path, *, recipe: Recipe = RECIPE, split: SplitPolicy = POLICY, folds_dir: str = ""
) -> TrainRequest:
    return TrainRequest(
        run_id="20261123_000001",
        run_dir=str(folder),
        version="patchtst_v20261123_000001",
        data=DataPolicy(),
        split=split,
        recipe=recipe,
        checkpoint_dir=str(folder / "checkpoints"),
        incumbent_path=None,
        folds_dir=folds_dir,
    )


def divided(
    per_symbol: int = 1500, policy: SplitPolicy = POLICY, *, is_variant_chosen: bool = False
) -> tuple[Snapshot, Parts, list[Fold]]:
    return divided_of(market(per_symbol=per_symbol), policy, is_variant_chosen=is_variant_chosen)


def divided_of(
    snapshot: Snapshot, policy: SplitPolicy = POLICY, *, is_variant_chosen: bool = False
) -> tuple[Snapshot, Parts, list[Fold]]:
    samples = select_samples(snapshot, policy=DataPolicy(), seq_len=16)
    parts = split_samples(samples, policy)
    found = past_folds(snapshot, samples, parts, policy, seq_len=16, is_variant_chosen=is_variant_chosen)
    return snapshot, parts, list(found)


def cut(snapshot: Snapshot, is_kept: np.ndarray, *, window_start: int | None = None) -> Snapshot:
    """The rows of the snapshot that `is_kept`."""
    kept: dict[str, Any] = {name: getattr(snapshot, name)[is_kept] for name in snapshots.ARRAYS}
    return replace(snapshot, **kept, facts=PullFacts(window_start=window_start))


@pytest.mark.parametrize("is_variant_chosen", [False, True])
def test_folds_lie_before_the_holdout_and_apart_newest_first(is_variant_chosen: bool) -> None:
    _, parts, folds = divided(is_variant_chosen=is_variant_chosen)

    assert len(folds) == POLICY.backtest_folds
    seam = parts.split.train.end if is_variant_chosen else parts.split.validation.end
    assert folds[0].parts.holdout.known_at.max() < to_microseconds(seam)
    assert 0.6 * len(parts.validation) < len(folds[0].parts.holdout) < 1.1 * len(parts.validation)
    later = parts.holdout
    for fold in folds:
        assert fold.parts.holdout.decided_at.max() < later.decided_at.min()
        assert fold.parts.holdout.known_at.max() <= later.decided_at.min(), "no outcome of a fold is known only later"
        later = fold.parts.holdout


def test_a_fold_is_trained_on_nothing_that_was_not_known_before_it() -> None:
    for fold in (each.parts for each in divided()[2]):
        first = fold.holdout.decided_at.min()
        assert fold.train.known_at.max() < fold.validation.decided_at.min()
        assert fold.validation.known_at.max() < first


def test_folds_have_no_row_on_which_the_variant_was_chosen(tmp_path: Path) -> None:
    snapshot = saved(tmp_path, per_symbol=1000)
    split, recipe = replace(POLICY, backtest_folds=1), replace(RECIPE, max_epochs=1)
    samples = select_samples(snapshot, policy=DataPolicy(), seq_len=16)
    validation = split_samples(samples, split).validation.positions
    shared = {}
    for transform in (InputTransform.STANDARDISE, InputTransform.AUTO):
        asked = train_request(tmp_path, recipe=replace(recipe, input_transform=transform), split=split)
        result = train(asked, lambda _: None, lambda: False)
        (fold,) = read_folds(tmp_path)
        shared[len(result.manifest.training["attempts"])] = int(np.isin(fold.positions, validation).sum())

    assert shared[1] > 50, "without a choice these rows are as good as any"
    assert shared[2] == 0


def test_few_rows_make_fewer_folds() -> None:
    assert len(divided(per_symbol=420)[2]) < POLICY.backtest_folds
    assert divided(policy=replace(POLICY, backtest_folds=0))[2] == []


def test_a_period_without_rows_is_no_fold() -> None:
    snapshot, _, before = divided(per_symbol=5500)
    begins = before[1].parts.holdout.decided_at.min()
    _, _, folds = divided_of(cut(snapshot, (snapshot.decided_at < begins) | (snapshot.decided_at >= before[1].until)))

    assert len(folds) == POLICY.backtest_folds
    assert before[1].until not in {fold.until for fold in folds}


def later_by_a_day(snapshot: Snapshot, *, is_moving: bool = False) -> tuple[Snapshot, Snapshot]:
    """The market as a run sees it, and as one of the next day does: with new rows, and without the oldest ones."""
    start, end, day = int(snapshot.decided_at.min()), int(snapshot.decided_at.max()), 24 * HOUR
    opened = start + 30 * HOUR if is_moving else start
    today = (snapshot.decided_at >= opened) & (snapshot.decided_at < end - day)
    if not is_moving:
        return cut(snapshot, today), snapshot
    tomorrow = snapshot.decided_at >= opened + day
    return cut(snapshot, today, window_start=opened), cut(snapshot, tomorrow, window_start=opened + day)


def keys_of(snapshot: Snapshot, identity: dict[str, object] = ONE) -> list[str]:
    return [fold.key(identity, snapshot, snapshot.features) for fold in divided_of(snapshot)[2]]


@pytest.mark.parametrize("is_moving", [False, True])
def test_the_folds_of_the_next_day_are_those_of_today(is_moving: bool) -> None:
    today, tomorrow = later_by_a_day(market(per_symbol=5500), is_moving=is_moving)

    assert len(set(keys_of(today)) & set(keys_of(tomorrow))) >= POLICY.backtest_folds - 1


@pytest.mark.parametrize("changed", ["features", "outcome", "known_at", "decided_at"])
def test_a_changed_row_changes_the_key_of_folds_that_read_it(changed: str) -> None:
    snapshot, _, (fold, *_) = divided()
    others = getattr(snapshot, changed).copy()
    row = fold.parts.train.positions[0]
    others[row] = {"outcome": 1 - others[row]}.get(changed, others[row] + 1)

    assert set(keys_of(snapshot)).isdisjoint(keys_of(replace(snapshot, **{changed: others})))
    assert keys_of(replace(snapshot, symbols=("A", "B"), data_sha256="x")) == keys_of(snapshot)
    assert set(keys_of(snapshot)).isdisjoint(keys_of(snapshot, {"seed": 2}))


def test_kept_predictions_are_those_of_a_new_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    today, tomorrow = later_by_a_day(market(per_symbol=1400))
    recipe = replace(RECIPE, max_epochs=1, threads=2)

    def answers(snapshot: Snapshot, name: str, folds_dir: Path) -> list[FoldAnswers]:
        run_dir = tmp_path / name
        run_dir.mkdir()
        snapshots.save(snapshot, run_dir)
        train(train_request(run_dir, recipe=recipe, folds_dir=str(folds_dir)), reported.append, lambda: False)
        return read_folds(run_dir)

    reported: list[Progress] = []
    kept = tmp_path / "kept"
    answers(today, "today", kept)
    num_before = len(list(kept.iterdir()))
    reported.clear()
    reused = answers(tomorrow, "reused", kept)
    assert len(list(kept.iterdir())) == num_before + 1 == 4, "two folds of three were found"
    assert len({each.message.split(",")[0] for each in reported if "backtest" in each.message}) == 1

    for path in kept.iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    trained = answers(tomorrow, "trained", kept)
    assert "the fold is trained again" in caplog.text
    for one, other in zip(reused, trained, strict=True):
        assert one.positions.tolist() == other.positions.tolist()
        assert one.answers.tobytes() == other.answers.tobytes()
        assert one.prior == other.prior


def test_the_store_keeps_what_was_used_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_store, "KEPT", 2)
    store = fold_store.FoldStore(tmp_path)
    for number, key in enumerate("abac"):
        store.save(key, np.full(3, float(number)))
        os.utime(tmp_path / f"{key}.npz", (number, number))
    store.load("a", rows=3)
    store.save("d", np.zeros(3))

    assert {path.stem for path in tmp_path.iterdir()} == {"a", "d"}
    assert store.load("b", rows=3) is None
    assert store.load("a", rows=4) is None


def test_the_predictions_of_a_fold_that_collapses_are_its_prior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, fits = loop.fit, []

    def collapsing(*arguments: Any, **named: Any) -> Fitted:
        fits.append(arguments)
        if len(fits) > 1:
            raise TrainingCollapsedError("nan")
        return fit(*arguments, **named)

    monkeypatch.setattr(loop, "fit", collapsing)
    saved(tmp_path, per_symbol=1000)
    train(train_request(tmp_path, split=replace(POLICY, backtest_folds=1)), lambda _: None, lambda: False)

    (found,) = read_folds(tmp_path)
    assert set(found.answers) == {found.prior}


def test_a_training_leaves_folds_that_the_gate_pools_with_the_holdout(tmp_path: Path) -> None:
    saved(tmp_path, per_symbol=1500)
    said: list[Progress] = []
    result = train(train_request(tmp_path), said.append, lambda: False)
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
