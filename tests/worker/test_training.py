"""Training learns what there is, gives the same bits each time, and says so when there is nothing."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from retrain_worker.domain import artifact
from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.labels import Label
from retrain_worker.domain.recipe import Balance, InputTransform, Preset, Recipe
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.worker_protocol import EmptySlot, Progress, TrainRequest, TrainResult
from retrain_worker.errors import ContractError, DataUnfitError, TrainingCollapsedError
from retrain_worker.model import bundle, presets
from retrain_worker.model.patchtst import PatchTST, sigmoid
from retrain_worker.worker import statistics
from retrain_worker.worker.data.outcomes import LOSS, WIN
from retrain_worker.worker.data.samples import select_samples, split_samples
from retrain_worker.worker.data.snapshot import load
from retrain_worker.worker.inference import logits_at
from retrain_worker.worker.stop_signal import StoppedError
from retrain_worker.worker.training import calibration, loop, variant_search
from retrain_worker.worker.training.checkpoint import Checkpoint
from retrain_worker.worker.training.loop import TrainingSet
from retrain_worker.worker.training.train import contracts_to_try, train
from retrain_worker.worker.training.variant_search import REVISION
from tests.known import known
from tests.worker.synthetic_market import NAMES, market, saved

RECIPE = Recipe(
    preset=Preset.PAPER,
    seq_len=32,
    max_epochs=4,
    patience=4,
    batch_size=32,
    learning_rate=2e-3,
    dropout=0.1,
    threads=1,
    device="cpu",
)


def request(folder: Path, **changes: Any) -> TrainRequest:
    values: dict[str, Any] = {
        "run_id": "20261123_031400",
        "run_dir": str(folder),
        "version": "patchtst_v20261123_031400",
        "data": DataPolicy(),
        "split": SplitPolicy(backtest_folds=0),
        "recipe": RECIPE,
        "checkpoint_dir": str(folder / "checkpoints"),
        "incumbent_path": None,
    }
    return TrainRequest(**(values | changes))


def never() -> bool:
    return False


def weights_of(result: TrainResult) -> str:
    """sha256 over the tensors of the file, not over what the file says about them."""
    state = torch.load(result.model_path, weights_only=True)["model_state_dict"]
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


class Journal(list[Progress]):
    """Collects progress; `stops_after` epochs it wants to stop."""

    def __init__(self, stops_after: int | None = None) -> None:
        super().__init__()
        self.stops_after = stops_after

    def __call__(self, progress: Progress) -> None:
        self.append(progress)

    def stopping(self) -> bool:
        return self.stops_after is not None and len(self) >= self.stops_after


# ---------------------------------------------------------------- learning


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainResult, Journal]:
    folder = tmp_path_factory.mktemp("trained")
    saved(folder)
    journal = Journal()
    return train(request(folder), journal, never), journal


def test_training_learns_what_there_is_to_learn(trained: tuple[TrainResult, Journal]) -> None:
    result, _ = trained
    assert result.history[result.best_epoch - 1][3] > 0.75
    assert result.validation_log_loss < 0.60


def test_the_kept_weights_are_those_of_the_best_epoch_and_not_of_the_last(tmp_path: Path) -> None:
    # hardly anything to learn, at a high rate: every epoch after the first makes it worse
    snapshot = saved(tmp_path, strength=0.2, per_symbol=400)
    samples = select_samples(snapshot, policy=DataPolicy(), seq_len=32)
    parts = split_samples(samples, SplitPolicy())
    training_set = TrainingSet(
        features=snapshot.features, fitting_rows=snapshot.features, train=parts.train, validation=parts.validation
    )
    config = presets.paper(num_features=4, context_length=32, input_transform=InputTransform.STANDARDISE, dropout=0.0)
    recipe = dataclasses.replace(RECIPE, max_epochs=6, patience=6, learning_rate=5e-3, balance=Balance.NONE)
    fitted = loop.fit(
        loop.FitAttempt(config=config, seed=1, learning_rate=5e-3),
        training_set,
        recipe,
        device=torch.device("cpu"),
        saved=None,
        after_epoch=lambda _epoch, _state: None,
        stopping=never,
    )
    assert fitted.best.number < len(fitted.history)
    model = PatchTST(config)
    model.load_state_dict(fitted.weights)
    logits = logits_at(model, snapshot.features, parts.validation.positions)
    answers = sigmoid(calibration.fit_on(logits, parts.validation, expected_bias=0.0).apply(logits))
    losses = statistics.log_losses(parts.validation.labels.astype(np.int64), answers)
    assert losses.mean() == pytest.approx(fitted.best.log_loss, abs=1e-12)


def test_the_kept_epoch_is_the_best_one(trained: tuple[TrainResult, Journal]) -> None:
    result, _ = trained
    losses = [epoch[2] for epoch in result.history]
    assert losses[result.best_epoch - 1] == min(losses)
    assert result.epochs == len(losses)


def test_the_file_gives_the_recorded_validation_log_loss(trained: tuple[TrainResult, Journal]) -> None:
    result, _ = trained
    found = bundle.read(Path(result.model_path))
    assert found.manifest == dataclasses.replace(result.manifest)
    assert found.manifest.scorecard["log_loss"] == pytest.approx(result.validation_log_loss)
    assert found.manifest.training["weights_sha256"] == bundle.weights_sha256(found.model)
    assert found.manifest.training["parts"] == result.parts
    assert result.parts["train_balanced"]["win"] == result.parts["train_balanced"]["loss"]
    assert result.parts["train_balanced"]["loss"] == min(result.parts["train"].values())


def test_every_labelled_row_is_in_a_part_or_counted_with_the_reason(trained: tuple[TrainResult, Journal]) -> None:
    result, _ = trained
    num_labelled = int(np.isin(load(Path(result.model_path).parents[1]).outcome, [WIN, LOSS]).sum())
    used = sum(sum(result.parts[name].values()) for name in ("train", "validation", "holdout"))

    assert result.left_out["no_full_window"] > 0
    assert used + sum(result.left_out.values()) == num_labelled


def test_progress_is_a_sentence_an_operator_can_read(trained: tuple[TrainResult, Journal]) -> None:
    _, journal = trained
    assert len(journal) == RECIPE.max_epochs
    assert journal[1].message.startswith("training 20261123_031400: epoch 2 of 4, validation log loss 0.")
    assert journal[1].seconds_left is not None


def test_no_checkpoint_is_left_behind(trained: tuple[TrainResult, Journal]) -> None:
    result, _ = trained
    folder = Path(result.model_path).parent
    assert sorted(p.name for p in folder.iterdir()) == [
        result.manifest.version + suffix for suffix in (".pth", ".pth.json", ".pth.sha256")
    ]
    assert list((folder.parent / "checkpoints").iterdir()) == []


def test_standardising_knows_only_rows_up_to_the_last_training_sample(tmp_path: Path) -> None:
    later = market()
    features = later.features.copy()
    # as wild as can be, but only where the holdout is
    is_late = later.decided_at >= np.quantile(later.decided_at, 0.9)
    features[is_late] *= 1000
    first, second = tmp_path / "first", tmp_path / "second"
    saved(first)
    saved(second, features=features)
    recipe = dataclasses.replace(RECIPE, max_epochs=1)
    results = [train(request(folder, recipe=recipe), Journal(), never) for folder in (first, second)]
    assert weights_of(results[0]) == weights_of(results[1])


@pytest.mark.parametrize("label", list(Label))
def test_both_meanings_of_the_label_are_learned_and_recorded(tmp_path: Path, label: Label) -> None:
    snapshot = market(strength=3.0)
    if label is Label.DIRECTION:  # the market knows where the price goes; WIN then depends on the side taken
        rose = snapshot.outcome
        outcome = np.where(snapshot.side == 1, rose, 1 - rose).astype(np.int8)
        saved(tmp_path, strength=3.0, outcome=outcome)
    else:
        saved(tmp_path, strength=3.0)
    result = train(request(tmp_path, data=DataPolicy(label=label)), Journal(), never)
    assert max(epoch[3] for epoch in result.history) > 0.75
    assert result.manifest.contract.label is label


def test_the_input_transform_can_be_chosen_on_validation(tmp_path: Path) -> None:
    saved(tmp_path, strength=2.0)
    recipe = dataclasses.replace(RECIPE, input_transform=InputTransform.AUTO, max_epochs=2)
    result = train(request(tmp_path, recipe=recipe), Journal(), never)
    attempts = result.manifest.training["attempts"]
    assert [attempt["input_transform"] for attempt in attempts] == ["standardise", "instance"]
    best = min(attempts, key=lambda attempt: attempt["validation_log_loss"])
    assert result.manifest.contract.input_transform == best["input_transform"]


def test_the_part_of_the_window_that_the_model_uses_is_recorded(tmp_path: Path) -> None:
    saved(tmp_path)
    training = train(
        request(tmp_path, recipe=dataclasses.replace(RECIPE, max_epochs=1)), Journal(), never
    ).manifest.training
    oldest, middle, newest = training["patch_weights"]  # 16 rows every 8, of a window of 32
    assert 0 < oldest < middle < newest
    assert oldest + middle + newest == pytest.approx(1.0)
    assert training["lookback"] == (24 if middle + newest >= 0.9 else 32)


def test_engine_preset_tries_both_of_its_tunings_and_keeps_the_better(tmp_path: Path) -> None:
    saved(tmp_path, per_symbol=600)
    recipe = dataclasses.replace(RECIPE, preset=Preset.ENGINE, max_epochs=1)
    journal = Journal()
    result = train(request(tmp_path, recipe=recipe), journal, never)
    assert result.manifest.contract.preset == Preset.ENGINE
    attempts = result.manifest.training["attempts"]
    assert [attempt["tuning"]["patch_smoothing"] for attempt in attempts] == [10.0, 0.0]
    best = min(attempts, key=lambda attempt: attempt["validation_log_loss"])
    assert result.manifest.training["tuning"] == best["tuning"]
    assert "(1 of 2: minmax, patch smoothing 10): epoch 1 of 1" in journal[0].message
    assert bundle.read(Path(result.model_path)).model.config.context_length == 128


# ---------------------------------------------------------------- the same bits, whatever happens


@pytest.mark.parametrize(
    ("transform", "threads"),
    [(InputTransform.STANDARDISE, 1), (InputTransform.STANDARDISE, 2), (InputTransform.AUTO, 1)],
)
def test_an_interrupted_and_resumed_training_gives_the_same_weights(
    tmp_path: Path, transform: InputTransform, threads: int
) -> None:
    recipe = dataclasses.replace(RECIPE, input_transform=transform, max_epochs=3, dropout=0.2, threads=threads)
    for name in ("whole", "again", "broken"):
        saved(tmp_path / name)
    whole = train(request(tmp_path / "whole", recipe=recipe), Journal(), never)
    again = train(request(tmp_path / "again", recipe=recipe), Journal(), never)

    epochs, interruptions = 0, 0
    while True:
        journal = Journal(stops_after=1)
        try:
            resumed = train(request(tmp_path / "broken", recipe=recipe), journal, journal.stopping)
        except StoppedError:
            interruptions += 1
            epochs += len(journal)
            torch.manual_seed(interruptions)  # the random state of another process
            continue
        epochs += len(journal)
        break

    assert interruptions >= 2
    assert epochs == recipe.max_epochs * (2 if transform is InputTransform.AUTO else 1)
    assert weights_of(whole) == weights_of(again) == weights_of(resumed)
    assert whole.history == resumed.history


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path)
    recipe = dataclasses.replace(RECIPE, max_epochs=2)
    without = weights_of(train(request(tmp_path, recipe=recipe), Journal(), never))

    journal = Journal(stops_after=1)
    with pytest.raises(StoppedError):
        train(request(tmp_path, recipe=dataclasses.replace(recipe, seed=5)), journal, journal.stopping)
    path = tmp_path / "checkpoints" / "20261123_031400.checkpoint"
    after_another = weights_of(train(request(tmp_path, recipe=recipe), Journal(), never))
    path.write_bytes(b"half a file")
    after_damage = weights_of(train(request(tmp_path, recipe=recipe), Journal(), never))

    assert without == after_another == after_damage
    reasons = [record.getMessage() for record in caplog.records if "afresh" in record.getMessage()]
    assert reasons == [
        f"training starts afresh: {path} cannot be resumed: recipe.seed was 5 and is {recipe.seed}",
        f"training starts afresh: {path} cannot be resumed: it cannot be read (KeyError)",
    ]


def test_a_training_of_another_revision_starts_afresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path)
    recipe = dataclasses.replace(RECIPE, max_epochs=2)
    journal = Journal(stops_after=1)
    with pytest.raises(StoppedError):
        train(request(tmp_path, recipe=recipe), journal, journal.stopping)
    monkeypatch.setattr(variant_search, "REVISION", 1_000)
    journal = Journal()
    train(request(tmp_path, recipe=recipe), journal, never)
    assert f"revision was {REVISION} and is 1000" in caplog.text
    assert "epoch 1 of 2" in journal[0].message


def test_a_checkpoint_loads_values_only_and_of_its_format_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = Checkpoint(tmp_path, "run", {"data": 1})
    checkpoint.save({"epoch": 3})
    assert checkpoint.load() == {"epoch": 3}
    content = torch.load(checkpoint.path, weights_only=True)
    for changed, reason in (
        (content | {"state": Path("/")}, "it cannot be read (UnpicklingError)"),
        (content | {"format": 2}, "its format is 2, and this version reads 1"),
        ({"digest": "as 157e5f3 wrote it", "state": {"epoch": 3}}, "its format is 0, and this version reads 1"),
        ([content], "its format is None, and this version reads 1"),
    ):
        torch.save(changed, checkpoint.path)
        assert checkpoint.load() == {}
        assert f"training starts afresh: {checkpoint.path} cannot be resumed: {reason}" in caplog.text


def test_other_seeds_give_other_weights(tmp_path: Path) -> None:
    saved(tmp_path)
    recipes = [dataclasses.replace(RECIPE, max_epochs=1, seed=seed) for seed in (1, 2)]
    assert len({weights_of(train(request(tmp_path, recipe=recipe), Journal(), never)) for recipe in recipes}) == 2


# ---------------------------------------------------------------- other ways to start, and to weigh


def test_class_weights_see_every_sample_and_answer_as_calibrated(tmp_path: Path) -> None:
    snapshot = market()
    # three of four WIN
    outcome = np.where((snapshot.outcome == 0) & (np.arange(len(snapshot)) % 2 == 0), 1, snapshot.outcome)
    saved(tmp_path, outcome=outcome.astype(np.int8))
    recipe = dataclasses.replace(RECIPE, balance=Balance.WEIGHTS, max_epochs=2)
    result = train(request(tmp_path, recipe=recipe), Journal(), never)
    assert result.parts["train_balanced"] == result.parts["train"]
    assert result.manifest.training["bias"] > 0.5  # the odds that the weights took away, put back
    unweighted = train(request(tmp_path, recipe=dataclasses.replace(recipe, balance=Balance.NONE)), Journal(), never)
    assert abs(unweighted.manifest.training["bias"]) < 0.5
    assert result.validation_log_loss == pytest.approx(unweighted.validation_log_loss, abs=0.03)


def test_label_smoothing_moves_what_training_aims_at_and_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path)
    aims: list[float] = []
    loss_of = functional.binary_cross_entropy_with_logits

    def overheard(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        aims.extend(target.tolist())
        loss: Tensor = loss_of(logits, target, weight=weight)
        return loss

    monkeypatch.setattr(functional, "binary_cross_entropy_with_logits", overheard)
    recipe = dataclasses.replace(RECIPE, label_smoothing=0.2, max_epochs=1)
    result = train(request(tmp_path, recipe=recipe), Journal(), never)

    assert sorted(set(aims)) == pytest.approx([0.1, 0.9])
    assert bundle.read(Path(result.model_path)).manifest.training["recipe"]["label_smoothing"] == 0.2


def test_class_weights_weigh_both_classes_the_same() -> None:
    snapshot = market(strength=0.0)
    samples = select_samples(snapshot, policy=DataPolicy(), seq_len=32)
    training_set = TrainingSet(
        features=snapshot.features, fitting_rows=snapshot.features, train=samples, validation=samples
    )
    zero, one = training_set.class_weights
    counts = samples.counts()
    assert zero * counts["loss"] == pytest.approx(one * counts["win"]) == pytest.approx(len(samples) / 2)


def test_a_warm_start_takes_the_incumbents_weights_and_records_them(tmp_path: Path) -> None:
    saved(tmp_path)
    first = train(request(tmp_path, recipe=dataclasses.replace(RECIPE, max_epochs=3)), Journal(), never)
    incumbent = bundle.read(Path(first.model_path))
    kept = tmp_path / "incumbent.pth"
    kept.write_bytes(Path(first.model_path).read_bytes())
    one_epoch = dataclasses.replace(RECIPE, max_epochs=1, learning_rate=1e-4)
    results = {
        warm: train(
            request(tmp_path, recipe=dataclasses.replace(one_epoch, warm_start=warm), incumbent_path=str(kept)),
            Journal(),
            never,
        )
        for warm in (True, False)
    }
    assert results[True].validation_log_loss < results[False].validation_log_loss - 0.03
    assert results[False].manifest.training["start"] == "scratch"
    assert results[True].manifest.training["start"] == (
        f"incumbent {incumbent.manifest.version}, sha256 {incumbent.manifest.sha256}"
    )


def test_a_warm_start_from_another_contract_is_recorded_and_trained_from_scratch(tmp_path: Path) -> None:
    saved(tmp_path)
    path = artifact.model_file(tmp_path, "patchtst_v20251201_000000")
    model = PatchTST(presets.config_for(INCUMBENT, dropout=0.1))
    windows = np.random.default_rng(1).normal(size=(4, 48, 2)).astype(np.float32)
    bundle.write(path, model=model, contract=INCUMBENT, canary_windows=windows, origin=bundle.Origin())
    recipe = dataclasses.replace(RECIPE, max_epochs=1, warm_start=True)
    plain = train(request(tmp_path, recipe=dataclasses.replace(recipe, warm_start=False)), Journal(), never)
    another = "another contract (paper, 48 rows of rsi, volatility"
    for incumbent, reason in ((str(path), another), (None, "no incumbent")):
        result = train(request(tmp_path, recipe=recipe, incumbent_path=incumbent), Journal(), never)
        assert result.manifest.training["start"].startswith("scratch: ")
        assert reason in result.manifest.training["start"]
        assert weights_of(result) == weights_of(plain)


# ---------------------------------------------------------------- nothing to learn


def test_a_collapse_is_tried_once_more_and_then_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    # every epoch counts as collapsed under so high a floor
    recipe = dataclasses.replace(RECIPE, collapse_std=0.9, collapse_epochs=2)
    journal = Journal()
    with pytest.raises(TrainingCollapsedError, match=r"below 0.9 in 2 epochs.*; then .*below 0.9"):
        train(request(tmp_path, recipe=recipe), journal, never)
    # the progress states why the epochs start again
    assert [progress.fields.get("number") for progress in journal] == [1, None, 1]
    assert "below 0.9 in 2 epochs" in journal[1].message
    assert journal[1].message.endswith("; retrying with another seed and a lower rate")


def test_a_loss_that_is_not_finite_ends_the_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path)
    rates = []
    schedule_rate = loop._Schedule.rate

    def explosive(self: Any, step: int) -> float:
        rates.append(self.attempt.learning_rate)
        return float("inf") if self.attempt.seed == RECIPE.seed else schedule_rate(self, step)

    monkeypatch.setattr(loop._Schedule, "rate", explosive)
    result = train(request(tmp_path, recipe=dataclasses.replace(RECIPE, max_epochs=1)), Journal(), never)
    assert "not finite" in result.manifest.training["attempts"][0]["collapses"][0]
    assert sorted(set(rates)) == [known(RECIPE.learning_rate) / 2, RECIPE.learning_rate]


def test_too_few_samples_are_refused_with_their_counts(tmp_path: Path) -> None:
    saved(tmp_path, per_symbol=140)
    with pytest.raises(DataUnfitError, match=r"samples, \d+ with label 1 and \d+ with label 0"):
        train(request(tmp_path), Journal(), never)


# ---------------------------------------------------------------- what to train


INCUMBENT = ModelContract(
    preset=Preset.PAPER, context_length=48, feature_names=("rsi", "volatility"), input_transform=InputTransform.INSTANCE
)


def choose(recipe: Recipe, incumbent: ModelContract | None = None) -> tuple[ModelContract, ...]:
    return contracts_to_try(recipe, incumbent, feature_names=NAMES, label=Label.OUTCOME)


def test_auto_takes_the_incumbents_contract_and_paper_without_one() -> None:
    assert choose(Recipe(), INCUMBENT) == (INCUMBENT,)
    (paper,) = choose(Recipe())
    assert (paper.preset, paper.input_transform) == (Preset.PAPER, InputTransform.STANDARDISE)
    assert paper.context_length == Recipe().seq_len


def test_a_named_preset_does_not_look_at_the_incumbent() -> None:
    (engine,) = choose(Recipe(preset=Preset.ENGINE), INCUMBENT)
    assert (engine.context_length, engine.input_transform) == (128, InputTransform.MINMAX)
    both = choose(Recipe(preset=Preset.PAPER, input_transform=InputTransform.AUTO), INCUMBENT)
    assert [contract.input_transform for contract in both] == [InputTransform.STANDARDISE, InputTransform.INSTANCE]


def test_the_incumbents_contract_is_read_from_its_file(tmp_path: Path) -> None:
    saved(tmp_path)
    path = artifact.model_file(tmp_path, "patchtst_v20251201_000000")
    model = PatchTST(presets.config_for(INCUMBENT, dropout=0.1))
    windows = np.random.default_rng(1).normal(size=(4, 48, 2)).astype(np.float32)
    bundle.write(path, model=model, contract=INCUMBENT, canary_windows=windows, origin=bundle.Origin())
    recipe = dataclasses.replace(RECIPE, preset=Preset.AUTO, max_epochs=1)

    result = train(request(tmp_path, recipe=recipe, incumbent_path=str(path)), Journal(), never)
    assert result.manifest.contract == INCUMBENT

    path.write_bytes(b"damaged")
    result = train(request(tmp_path, recipe=recipe, incumbent_path=str(path)), Journal(), never)
    assert result.manifest.contract.context_length == RECIPE.seq_len

    known = EmptySlot(contract=INCUMBENT)
    result = train(request(tmp_path, recipe=recipe, incumbent_path=None, empty_slot=known), Journal(), never)
    assert result.manifest.contract == INCUMBENT


def test_features_that_the_incumbent_needs_and_the_rows_lack_are_named(tmp_path: Path) -> None:
    saved(tmp_path, feature_names=("rsi", "ma_cross", "spread", "returns_1h"))
    path = artifact.model_file(tmp_path, "patchtst_v20251201_000000")
    model = PatchTST(presets.config_for(INCUMBENT, dropout=0.1))
    windows = np.random.default_rng(1).normal(size=(4, 48, 2)).astype(np.float32)
    bundle.write(path, model=model, contract=INCUMBENT, canary_windows=windows, origin=bundle.Origin())
    with pytest.raises(ContractError, match=r"no feature volatility.*FEATURE_NAMES"):
        train(request(tmp_path, recipe=Recipe(device="cpu"), incumbent_path=str(path)), Journal(), never)
