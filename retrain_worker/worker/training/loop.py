"""One training attempt: batches, one schedule, the best epoch kept, a state to resume after every epoch.

The same data, configuration, seed, number of threads, of processes, and machine give the same bits, also after an
interruption: the choice and order of the samples are a function of (seed, epoch), the learning rate of the step, and
the rest is in the state. Several processes (process_group.py) take the steps of one, each with a share of every batch;
only their batch norms see their own share, and their dropout has another stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from retrain_worker.domain.recipe import Balance, InputTransform, Precision, Preset, Recipe
from retrain_worker.errors import SettingsError, TrainingCollapsedError
from retrain_worker.model.patchtst import PatchTST, PatchTSTConfig, sigmoid
from retrain_worker.worker import compute, statistics
from retrain_worker.worker.data.samples import Samples, balanced, windows
from retrain_worker.worker.statistics import LabelledPredictions
from retrain_worker.worker.stop_signal import StoppedError
from retrain_worker.worker.training import calibration
from retrain_worker.worker.training.adamw import AdamW
from retrain_worker.worker.training.fast_path import FastPath, PlainPath, path_for
from retrain_worker.worker.training.process_group import ALONE, ProcessGroup
from retrain_worker.worker.training.smoothing import PatchSmoothing

State = dict[str, Any]

#: windows without information that a batch gets, as a share of its samples. On 20,000 planted rows (prior 0.58) their
#: answer is 0.60 without them, 0.54 to 0.58 with 1/64, and 0.49 with 1/16; the AUC is 0.770, 0.771 and 0.773
CONSTANT_SHARE = 1 / 16
#: windows from which a new network estimates the scale of its input
INITIAL_WINDOWS = 512


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """The samples of a training."""

    #: (N, F) of the whole snapshot
    features: NDArray[np.float32]
    #: rows for mean and standard deviation of the standardising transform
    fitting_rows: NDArray[np.float32]
    train: Samples
    validation: Samples
    preset: Preset = Preset.PAPER

    @property
    def prior_offset(self) -> float:
        """The logit that balancing removes."""
        prior = float(self.train.labels.mean())
        return math.log(prior / (1.0 - prior))

    @property
    def class_weights(self) -> tuple[float, float]:
        """Weights of a sample of label 0 and of label 1 for which both classes have equal weight; 1 on average."""
        prior = float(self.train.labels.mean())
        return 0.5 / (1.0 - prior), 0.5 / prior

    @property
    def num_balanced(self) -> int:
        """Samples of a balanced epoch: all of the minority class and as many of the other."""
        return 2 * min(self.train.counts().values())


@dataclass(frozen=True, kw_only=True)
class FitAttempt:
    """The parameters of one attempt."""

    config: PatchTSTConfig
    seed: int
    learning_rate: float
    #: of the matrix products of training; fp32 | bf16
    precision: Precision = Precision.FP32
    #: weight decay on the high frequencies of the patch embedding
    patch_smoothing: float = 0.0
    #: initial weights; None: random ones from the seed
    start: dict[str, Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of the history."""

    number: int
    train_loss: float
    #: on the validation part, after calibration on it, as the kept model will be: scale and bias must not influence the
    #: choice of the epoch
    log_loss: float
    auc: float
    #: standard deviation of the validation probabilities
    p_std: float

    @property
    def message(self) -> str:
        """The progress message."""
        return f"validation log loss {self.log_loss:.3f}"


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The best epoch of an attempt."""

    weights: dict[str, Tensor]
    best: Epoch
    history: tuple[Epoch, ...]


def fit(
    attempt: FitAttempt,
    training_set: TrainingSet,
    recipe: Recipe,
    *,
    device: torch.device,
    saved: State | None,
    after_epoch: Callable[[Epoch, State], None],
    stopping: Callable[[], bool],
    group: ProcessGroup = ALONE,
) -> Fitted:
    """Train until `recipe.patience` epochs brought no improvement, or for `recipe.max_epochs`.

    `saved` is a state that an earlier `after_epoch` received. Raises TrainingCollapsedError on a non-finite loss and on
    `recipe.collapse_epochs` epochs with a constant probability; StoppedError when `stopping()` is true; SettingsError
    when a batch is too small for `group`, all of whose processes call this alike.
    """
    # ---- start
    torch.manual_seed(attempt.seed)
    model = PatchTST(attempt.config)
    initialise(model, attempt.start, training_set)
    model.to(device)
    path = path_for(model, threads=torch.get_num_threads())
    optimiser = AdamW(path.parameters, weight_decay=recipe.weight_decay)
    schedule = _Schedule(attempt, recipe, num_samples=_epoch_samples(training_set, recipe))
    _refuse_small_batch(schedule.batch_size, group)
    smoothing = PatchSmoothing(model, attempt.patch_smoothing)
    history: list[Epoch] = []
    best_weights: dict[str, Tensor] = {}
    if saved is not None:
        history, best_weights = _restore(saved, model, optimiser)

    # ---- epochs
    while not _is_over(history, recipe):
        number = len(history) + 1
        with path, compute.products_in(attempt.precision):
            train_loss = _one_epoch(
                number,
                path,
                optimiser,
                schedule=schedule,
                smoothing=smoothing,
                seed=attempt.seed,
                training_set=training_set,
                recipe=recipe,
                stopping=stopping,
                group=group,
            )
        epoch = _validate(number, train_loss, model, training_set, offset=_offset(training_set, recipe), group=group)
        history.append(epoch)
        _refuse_collapse(history, recipe)
        if _best(history) is epoch:
            best_weights = _copied(model.state_dict())
        after_epoch(epoch, _state(model, optimiser, history, best_weights))
    return Fitted(weights=best_weights, best=_best(history), history=tuple(history))


def initialise(model: PatchTST, start: dict[str, Tensor] | None, training_set: TrainingSet) -> None:
    """The weights before the first step: those of `start`, or random ones adapted to the scale of the input."""
    if start is not None:
        model.load_state_dict(start, strict=True)
    elif model.config.input_transform == InputTransform.STANDARDISE:
        model.standardise_on(training_set.fitting_rows)
    elif model.config.input_transform == InputTransform.MINMAX:
        rows = np.linspace(0, len(training_set.train) - 1, INITIAL_WINDOWS).astype(np.int64)
        raw_BTF = windows(training_set.features, training_set.train.positions[rows], model.config.context_length)
        model.eval()
        model.centre_on(torch.from_numpy(raw_BTF))


def _epoch_samples(training_set: TrainingSet, recipe: Recipe) -> int:
    return training_set.num_balanced if recipe.balance is Balance.UNDERSAMPLE else len(training_set.train)


def _offset(training_set: TrainingSet, recipe: Recipe) -> float:
    """The bias that both ways of balancing remove."""
    return 0.0 if recipe.balance is Balance.NONE else training_set.prior_offset


def _one_epoch(
    number: int,
    path: PlainPath | FastPath,
    optimiser: AdamW,
    *,
    schedule: _Schedule,
    smoothing: PatchSmoothing,
    seed: int,
    training_set: TrainingSet,
    recipe: Recipe,
    stopping: Callable[[], bool],
    group: ProcessGroup,
) -> float:
    """One epoch over all samples in random order; the mean loss.

    Undersampling draws again for each epoch, so that all samples of the majority class are used over time.
    """
    model = path.model
    model.train()
    device = model.pos_encoding.device
    draws = recipe.balance is Balance.UNDERSAMPLE
    train = balanced(training_set.train, seed=_seed(seed, number)) if draws else training_set.train
    weights = torch.tensor(training_set.class_weights, device=device) if recipe.balance is Balance.WEIGHTS else None
    length, num_constant = model.config.context_length, _num_constant_windows(training_set, schedule, recipe)
    order = np.random.default_rng(_seed(seed, number)).permutation(len(train))
    if group.rank.is_distributed:  # other dropout and noise in each process, and no state of it to resume
        torch.manual_seed(_seed(seed, number, group.rank.number))
    no_opinion = 1.0 / (1.0 + math.exp(_offset(training_set, recipe)))  # calibration makes it 0.5
    total = torch.zeros((), device=device)
    for index in range(schedule.steps_per_epoch):
        if stopping():
            raise StoppedError(f"training was stopped in epoch {number}; it can be resumed after epoch {number - 1}")
        rate = schedule.rate((number - 1) * schedule.steps_per_epoch + index)
        batch = order[index * schedule.batch_size : (index + 1) * schedule.batch_size]
        batch, constant = batch[group.share(len(batch))], range(num_constant)[group.share(num_constant)]
        raw = torch.from_numpy(windows(training_set.features, train.positions[batch], length)).to(device)
        labels = torch.from_numpy(train.labels[batch]).to(device, torch.float32)
        targets = labels * (1.0 - recipe.label_smoothing) + 0.5 * recipe.label_smoothing
        weight = None if weights is None else weights[labels.long()]
        if constant:
            raw = torch.cat([raw, raw.new_zeros(len(constant), *raw.shape[1:])])
            targets = torch.cat([targets, targets.new_full((len(constant),), no_opinion)])
            weight = None if weight is None else torch.cat([weight, weight.new_ones(len(constant))])

        loss = functional.binary_cross_entropy_with_logits(path(raw), targets, weight=weight)
        if group.rank.is_distributed:  # its part of the mean over the whole batch
            loss = loss * (len(raw) / (schedule.batch_size + num_constant))
        loss.backward()
        group.sum_gradients(path.parameters)
        path.clip_gradients(recipe.max_grad_norm)
        optimiser.step(rate)
        smoothing.step(rate)
        total += loss.detach()  # no .item(), which would synchronise with the GPU
    group.unite(model)
    return float(group.sum_of(total)) / schedule.steps_per_epoch


def _num_constant_windows(training_set: TrainingSet, schedule: _Schedule, recipe: Recipe) -> int:
    """How many windows without information a batch gets."""
    if not recipe.trains_on_constant_windows(training_set.preset):
        return 0
    return max(1, round(CONSTANT_SHARE * schedule.batch_size))


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _refuse_small_batch(batch_size: int, group: ProcessGroup) -> None:
    if batch_size < group.rank.size * torch.get_num_threads() and group.rank.is_distributed:
        raise SettingsError(
            (f"a batch of {batch_size} samples is too small for {group.rank.size} processes",),
            where="training",
            remedy="raise BATCH_SIZE, or start fewer processes in TRAIN_LAUNCHER",
        )


@dataclass(frozen=True)
class _Schedule:
    """Learning rate of every step: a linear warm-up, then half a cosine to zero at `max_epochs`."""

    attempt: FitAttempt
    recipe: Recipe
    num_samples: int

    @property
    def batch_size(self) -> int:
        return min(self.recipe.batch_size, self.num_samples)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches only: a small last batch would add noise."""
        return max(1, self.num_samples // self.batch_size)

    def rate(self, step: int) -> float:
        total = self.steps_per_epoch * self.recipe.max_epochs
        warmup = max(1, round(total * self.recipe.warmup_share))
        if step < warmup:
            return self.attempt.learning_rate * (step + 1) / warmup
        return self.attempt.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _validate(
    number: int,
    train_loss: float,
    model: PatchTST,
    training_set: TrainingSet,
    *,
    offset: float,
    group: ProcessGroup,
) -> Epoch:
    """Evaluate the weights on the validation part; `offset` is the expected bias of the logits.

    The standard deviation is that of the answers before calibration, which would enlarge collapsed answers.
    """
    samples = training_set.validation
    logits = group.logits_at(model, training_set.features, samples.positions)
    answers = sigmoid(logits + offset)
    labels = samples.labels.astype(np.int64)
    area = statistics.auc(LabelledPredictions(labels=labels, probabilities=answers))
    return Epoch(
        number=number,
        train_loss=train_loss,
        log_loss=_calibrated_loss(logits, samples, offset=offset),
        auc=area.value if area else 0.5,
        p_std=float(answers.std()),
    )


def _calibrated_loss(logits: NDArray[np.float64], samples: Samples, *, offset: float) -> float:
    if not np.isfinite(logits).all():
        return math.nan
    fix = calibration.fit_on(logits, samples, expected_bias=offset)
    losses = statistics.log_losses(samples.labels.astype(np.int64), sigmoid(fix.apply(logits)))
    return float(losses.mean())


def _is_over(history: list[Epoch], recipe: Recipe) -> bool:
    if not history:
        return False
    return len(history) >= recipe.max_epochs or len(history) - _best(history).number >= recipe.patience


def _best(history: list[Epoch]) -> Epoch:
    """The first epoch with the lowest validation log loss."""
    return min(history, key=lambda epoch: epoch.log_loss)


def _refuse_collapse(history: list[Epoch], recipe: Recipe) -> None:
    newest = history[-1]
    if not (math.isfinite(newest.train_loss) and math.isfinite(newest.log_loss)):
        raise TrainingCollapsedError(f"the loss of epoch {newest.number} is not finite")
    recent = history[-recipe.collapse_epochs :]
    if len(recent) == recipe.collapse_epochs and all(epoch.p_std < recipe.collapse_std for epoch in recent):
        raise TrainingCollapsedError(
            f"validation probabilities with a standard deviation below {recipe.collapse_std:g} in {len(recent)} epochs "
            f"(last {newest.p_std:.2g})"
        )


# ---------------------------------------------------------------- the state to resume


def _state(model: PatchTST, optimiser: AdamW, history: list[Epoch], best_weights: dict[str, Tensor]) -> State:
    state: State = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "rng": torch.get_rng_state(),
        "history": [packed(epoch) for epoch in history],
        "best_weights": best_weights,
    }
    if torch.cuda.is_available():
        state["cuda_rng"] = torch.cuda.get_rng_state_all()
    return state


def _restore(saved: State, model: PatchTST, optimiser: AdamW) -> tuple[list[Epoch], dict[str, Tensor]]:
    model.load_state_dict(saved["model"], strict=True)
    optimiser.load_state_dict(saved["optimiser"])
    torch.set_rng_state(saved["rng"])
    if "cuda_rng" in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(saved["cuda_rng"])
    return [unpacked(values) for values in saved["history"]], saved["best_weights"]


def _copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A deep copy: state_dict() and .copy() share the tensors with further steps."""
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}


def packed(epoch: Epoch) -> list[float]:
    """Plain numbers for the state."""
    return [epoch.number, epoch.train_loss, epoch.log_loss, epoch.auc, epoch.p_std]


def unpacked(values: list[float]) -> Epoch:
    """The inverse of `packed`."""
    number, train_loss, log_loss, auc, p_std = values
    return Epoch(number=int(number), train_loss=train_loss, log_loss=log_loss, auc=auc, p_std=p_std)
