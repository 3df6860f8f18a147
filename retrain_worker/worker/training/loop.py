"""One attempt at training: batches, one schedule, the best epoch kept, a state to resume after every epoch.

The same data, recipe, seed, thread count and machine give the same bits, also across an interruption: the choice and
order of the samples are a function of (seed, epoch), the rate is one of the step, and all else is in the state.
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

from retrain_worker.domain.recipe import Balance, InputTransform, Precision, Recipe
from retrain_worker.errors import TrainingCollapsedError
from retrain_worker.model.patchtst import PatchTST, PatchTSTConfig, sigmoid
from retrain_worker.worker import compute, statistics
from retrain_worker.worker.data.samples import Samples, balanced, windows
from retrain_worker.worker.inference import logits_at
from retrain_worker.worker.stop_signal import StoppedError
from retrain_worker.worker.training import calibration
from retrain_worker.worker.training.fast_path import FastPath, PlainPath, path_for
from retrain_worker.worker.training.smoothing import PatchSmoothing

State = dict[str, Any]

#: windows that show a fresh network what its input looks like
SETTLING_WINDOWS = 512


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """What there is to learn from."""

    #: (N, F) of the whole snapshot
    features: NDArray[np.float32]
    #: rows that the standardising transform takes its mean and std from
    fitting_rows: NDArray[np.float32]
    train: Samples
    validation: Samples

    @property
    def prior_offset(self) -> float:
        """The logit that balancing takes away."""
        prior = float(self.train.labels.mean())
        return math.log(prior / (1.0 - prior))

    @property
    def class_weights(self) -> tuple[float, float]:
        """What a sample of label 0 and one of label 1 weigh, so that both classes weigh the same; 1 on average."""
        prior = float(self.train.labels.mean())
        return 0.5 / (1.0 - prior), 0.5 / prior

    @property
    def num_balanced(self) -> int:
        """Samples of a balanced epoch: all of the rarer class, as many of the other."""
        return 2 * min(self.train.counts().values())


@dataclass(frozen=True, kw_only=True)
class FitAttempt:
    """What distinguishes one attempt from another."""

    config: PatchTSTConfig
    seed: int
    learning_rate: float
    #: of the matrix products of training; fp32 | bf16
    precision: Precision = Precision.FP32
    #: decay of fast wiggles in the patch embedding
    patch_smoothing: float = 0.0
    #: weights to start from; None: fresh ones, drawn with the seed
    start: dict[str, Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of the history."""

    number: int
    train_loss: float
    #: on the validation part, calibrated on it: the model that is kept will be, so a scale or a bias that is still off
    #: must not choose the epoch
    log_loss: float
    auc: float
    #: std of the validation probabilities
    spread: float

    @property
    def message(self) -> str:
        """What is said of it while training."""
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
) -> Fitted:
    """Train until `recipe.patience` epochs brought nothing better, or `recipe.max_epochs` are done.

    `saved` is a state that `after_epoch` was given before. Raises TrainingCollapsedError on a non-finite loss and on
    `recipe.collapse_epochs` epochs of one and the same probability; StoppedError when `stopping()` says so.
    """
    # ---- set out
    torch.manual_seed(attempt.seed)
    model = PatchTST(attempt.config)
    settle(model, attempt.start, training_set)
    model.to(device)
    path = path_for(model, threads=torch.get_num_threads(), product=compute.product_for(attempt.precision))
    optimiser = torch.optim.AdamW(
        path.parameters, lr=attempt.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    schedule = _Schedule(attempt, recipe, num_samples=_epoch_samples(training_set, recipe))
    smoothing = PatchSmoothing(model, attempt.patch_smoothing)
    history: list[Epoch] = []
    best_weights: dict[str, Tensor] = {}
    if saved is not None:
        history, best_weights = _restore(saved, model, optimiser)

    # ---- learn
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
            )
        epoch = _validate(number, train_loss, model, training_set, offset=_offset(training_set, recipe))
        history.append(epoch)
        _refuse_collapse(history, recipe)
        if _best(history) is epoch:
            best_weights = _copied(model.state_dict())
        after_epoch(epoch, _state(model, optimiser, history, best_weights))
    return Fitted(weights=best_weights, best=_best(history), history=tuple(history))


def settle(model: PatchTST, start: dict[str, Tensor] | None, training_set: TrainingSet) -> None:
    """The weights before the first step: those of `start`, or the fresh ones, fitted to what the input looks like."""
    if start is not None:
        model.load_state_dict(start, strict=True)
    elif model.config.input_transform == InputTransform.STANDARDISE:
        model.standardise_on(training_set.fitting_rows)
    elif model.config.input_transform == InputTransform.MINMAX:
        some = np.linspace(0, len(training_set.train) - 1, SETTLING_WINDOWS).astype(np.int64)
        raw_BTF = windows(training_set.features, training_set.train.positions[some], model.config.context_length)
        model.eval()
        model.centre_on(torch.from_numpy(raw_BTF))


def _epoch_samples(training_set: TrainingSet, recipe: Recipe) -> int:
    return training_set.num_balanced if recipe.balance is Balance.UNDERSAMPLE else len(training_set.train)


def _offset(training_set: TrainingSet, recipe: Recipe) -> float:
    """Both ways of balancing take the odds of the classes away."""
    return 0.0 if recipe.balance is Balance.NONE else training_set.prior_offset


def _one_epoch(
    number: int,
    path: PlainPath | FastPath,
    optimiser: torch.optim.Optimizer,
    *,
    schedule: _Schedule,
    smoothing: PatchSmoothing,
    seed: int,
    training_set: TrainingSet,
    recipe: Recipe,
    stopping: Callable[[], bool],
) -> float:
    """Every sample once, in an order of its own; the mean loss.

    Balancing draws anew for each epoch, so that in the end every sample of the commoner class was seen, too.
    """
    model = path.model
    model.train()
    device = model.pos_encoding.device
    draws = recipe.balance is Balance.UNDERSAMPLE
    train = balanced(training_set.train, seed=_seed(seed, number)) if draws else training_set.train
    weights = torch.tensor(training_set.class_weights, device=device) if recipe.balance is Balance.WEIGHTS else None
    length = model.config.context_length
    order = np.random.default_rng(_seed(seed, number)).permutation(len(train))
    total = torch.zeros((), device=device)
    for index in range(schedule.steps_per_epoch):
        if stopping():
            raise StoppedError(f"training was stopped in epoch {number}; it goes on after epoch {number - 1}")
        rate = schedule.rate((number - 1) * schedule.steps_per_epoch + index)
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = order[index * schedule.batch_size : (index + 1) * schedule.batch_size]
        raw = torch.from_numpy(windows(training_set.features, train.positions[batch], length)).to(device)
        labels = torch.from_numpy(train.labels[batch]).to(device, torch.float32)
        aims = labels * (1.0 - recipe.label_smoothing) + 0.5 * recipe.label_smoothing

        weight = None if weights is None else weights[labels.long()]
        loss = functional.binary_cross_entropy_with_logits(path(raw), aims, weight=weight)
        loss.backward()  # type: ignore[no-untyped-call]
        path.clip_gradients(recipe.max_grad_norm)
        optimiser.step()
        smoothing.step(rate)
        total += loss.detach()  # no .item(): the GPU need not wait
    return float(total) / schedule.steps_per_epoch


def _seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


@dataclass(frozen=True)
class _Schedule:
    """The rate of every step: a linear warm-up, then half a cosine down to zero at `max_epochs`."""

    attempt: FitAttempt
    recipe: Recipe
    num_samples: int

    @property
    def batch_size(self) -> int:
        return min(self.recipe.batch_size, self.num_samples)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches: a last batch of a few samples would only add noise."""
        return max(1, self.num_samples // self.batch_size)

    def rate(self, step: int) -> float:
        total = self.steps_per_epoch * self.recipe.max_epochs
        warmup = max(1, round(total * self.recipe.warmup_share))
        if step < warmup:
            return self.attempt.learning_rate * (step + 1) / warmup
        return self.attempt.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _validate(number: int, train_loss: float, model: PatchTST, training_set: TrainingSet, *, offset: float) -> Epoch:
    """Judge the weights on the validation part; `offset` is where the bias of the logits is expected.

    The spread is that of the answers before calibration, which would blow up what has collapsed.
    """
    samples = training_set.validation
    logits = logits_at(model, training_set.features, samples.positions)
    answers = sigmoid(logits + offset)
    labels = samples.labels.astype(np.int64)
    area = statistics.auc(labels, answers, np.zeros(len(labels), dtype=np.int64))
    return Epoch(
        number=number,
        train_loss=train_loss,
        log_loss=_calibrated_loss(logits, samples, offset=offset),
        auc=area.value if area else 0.5,
        spread=float(answers.std()),
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
    """The first epoch of the lowest validation log loss."""
    return min(history, key=lambda epoch: epoch.log_loss)


def _refuse_collapse(history: list[Epoch], recipe: Recipe) -> None:
    newest = history[-1]
    if not (math.isfinite(newest.train_loss) and math.isfinite(newest.log_loss)):
        raise TrainingCollapsedError(f"the loss of epoch {newest.number} is not finite")
    recent = history[-recipe.collapse_epochs :]
    if len(recent) == recipe.collapse_epochs and all(epoch.spread < recipe.collapse_std for epoch in recent):
        raise TrainingCollapsedError(
            f"the std of the validation probabilities was under {recipe.collapse_std:g} for {len(recent)} epochs "
            f"(last {newest.spread:.2g})"
        )


# ---------------------------------------------------------------- the state to resume


def _state(
    model: PatchTST, optimiser: torch.optim.Optimizer, history: list[Epoch], best_weights: dict[str, Tensor]
) -> State:
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


def _restore(saved: State, model: PatchTST, optimiser: torch.optim.Optimizer) -> tuple[list[Epoch], dict[str, Tensor]]:
    model.load_state_dict(saved["model"], strict=True)
    optimiser.load_state_dict(saved["optimiser"])
    torch.set_rng_state(saved["rng"])
    if "cuda_rng" in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(saved["cuda_rng"])
    return [unpacked(values) for values in saved["history"]], saved["best_weights"]


def _copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy that further steps cannot change: state_dict() and .copy() share the tensors."""
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}


def packed(epoch: Epoch) -> list[float]:
    """Plain numbers for the state."""
    return [epoch.number, epoch.train_loss, epoch.log_loss, epoch.auc, epoch.spread]


def unpacked(values: list[float]) -> Epoch:
    """The inverse of `packed`."""
    number, train_loss, log_loss, auc, spread = values
    return Epoch(number=int(number), train_loss=train_loss, log_loss=log_loss, auc=auc, spread=spread)
