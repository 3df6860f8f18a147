"""The attempts of one training: their initial weights, their results, and the resumption of an interrupted one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.recipe import Recipe, Tuning
from retrain_worker.domain.worker_protocol import Progress, TrainRequest
from retrain_worker.errors import TrainingCollapsedError
from retrain_worker.model import presets
from retrain_worker.model.patchtst import PatchTST, PatchTSTConfig
from retrain_worker.worker import compute
from retrain_worker.worker.training import loop
from retrain_worker.worker.training.checkpoint import Checkpoint
from retrain_worker.worker.training.loop import Epoch, FitAttempt, Fitted, TrainingSet
from retrain_worker.worker.training.pretraining import UnlabelledWindows, pretrain
from retrain_worker.worker.training.warm_start import WarmStart

Report = Callable[[Progress], None]

#: part of the identity of a training; raised by every change of this program that changes the weights it trains
REVISION = 1
#: after a collapse: one more attempt, with another seed and a lower rate
RETRY_SEED_STEP = 1
RETRY_RATE_SHARE = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train: the contract of the model and the tuning."""

    contract: ModelContract
    tuning: Tuning

    @property
    def network(self) -> PatchTSTConfig:
        """The network to train."""
        return presets.config_for(self.contract, dropout=self.tuning.dropout, input_noise=self.tuning.input_noise)

    def __str__(self) -> str:
        """Transform and smoothing, in which the variants of one training differ."""
        smoothing = f", patch smoothing {self.tuning.patch_smoothing:g}" if self.tuning.patch_smoothing else ""
        return f"{self.contract.input_transform}{smoothing}"


def variants_of(contracts: tuple[ModelContract, ...], recipe: Recipe) -> tuple[Variant, ...]:
    """Every contract with every tuning of its preset."""
    return tuple(
        Variant(contract=contract, tuning=tuning)
        for contract in contracts
        for tuning in recipe.tunings(contract.preset)
    )


class VariantSearch:
    """The attempts of one training: each variant once, and once more after a collapse."""

    def __init__(
        self,
        request: TrainRequest,
        variants: tuple[Variant, ...],
        training_set: TrainingSet,
        *,
        unlabelled: UnlabelledWindows,
        warm: WarmStart,
        data_sha256: str,
        device: torch.device,
    ) -> None:
        self.request, self._variants, self._training_set, self.device = request, variants, training_set, device
        self._unlabelled, self._warm = unlabelled, warm
        self._precision = compute.precision_for(
            request.recipe.precision,
            variants[0].network,
            batch_size=request.recipe.batch_size,
            device=device,
        )
        identity = {
            "data_sha256": data_sha256,
            "recipe": request.recipe,
            "data": request.data,
            "split": request.split,
            "variants": variants,
            "revision": REVISION,
            "torch": str(torch.__version__),
            "device": device.type,
            "threads": torch.get_num_threads(),
            "precision": self._precision,
            "incumbent_sha256": warm.sha256,
        }
        if request.recipe.trains_on_constant_windows(training_set.preset):
            identity["constant_share"] = loop.CONSTANT_SHARE
        self.checkpoint = Checkpoint(Path(request.checkpoint_dir), request.run_id, identity)
        saved = self.checkpoint.load()
        #: one result for each variant that has been tried: a Fitted as plain values, or why it collapsed
        self._finished: list[dict[str, Any]] = saved.get("finished", [])
        #: collapses of the current variant, and the state of its current attempt
        self._collapses: list[str] = saved.get("collapses", [])
        self._state: dict[str, Any] | None = saved.get("state")
        #: before the first epoch: {"pretraining": a state} during pre-training, then {"weights": ...}
        self._before: dict[str, Any] = saved.get("before", {})
        if self._state is not None:
            _log.info("training resumes after epoch %d", len(self._state["history"]))

    def run(self, report: Report, stopping: Callable[[], bool]) -> tuple[Variant, Fitted]:
        """The variant with the lowest validation log loss, and its best epoch. Raises TrainingCollapsedError."""
        for variant in self._variants[len(self._finished) :]:
            self._finished.append(self._try(variant, report, stopping))
            self._collapses, self._state, self._before = [], None, {}
            self._save()
        results = [
            (variant, _fitted(result))
            for variant, result in zip(self._variants, self._finished, strict=True)
            if "weights" in result
        ]
        if not results:
            raise TrainingCollapsedError(
                "; then ".join(reason for result in self._finished for reason in result["collapses"]),
                where="training",
                remedy="inspect the features of the snapshot, or lower LEARNING_RATE",
            )
        return min(results, key=lambda pair: pair[1].best.log_loss)

    def record(self) -> dict[str, Any]:
        """The attempts and their results, for the model file."""
        return {
            "threads": torch.get_num_threads(),
            "precision": str(self._precision),
            "start": self._warm.message,
            "attempts": [
                {
                    "input_transform": str(variant.contract.input_transform),
                    "tuning": asdict(variant.tuning),
                    "collapses": result["collapses"],
                    "validation_log_loss": _fitted(result).best.log_loss if "weights" in result else None,
                }
                for variant, result in zip(self._variants, self._finished, strict=True)
            ],
        }

    def fresh_fit_attempt(self, variant: Variant) -> FitAttempt:
        """The first attempt at `variant`, from random weights."""
        return FitAttempt(
            config=variant.network,
            seed=self.request.recipe.seed,
            learning_rate=variant.tuning.learning_rate,
            precision=self._precision,
        )

    def _try(self, variant: Variant, report: Report, stopping: Callable[[], bool]) -> dict[str, Any]:
        recipe, tuning = self.request.recipe, variant.tuning
        while len(self._collapses) < 2:
            is_retry = bool(self._collapses)
            # a retry takes random weights, since the collapse may originate in the initial ones
            is_fresh = is_retry or self._state is not None
            attempt = FitAttempt(
                config=variant.network,
                seed=recipe.seed + (RETRY_SEED_STEP if is_retry else 0),
                learning_rate=tuning.learning_rate * (RETRY_RATE_SHARE if is_retry else 1.0),
                precision=self._precision,
                patch_smoothing=tuning.patch_smoothing,
                start=None if is_fresh else self._weights_before(variant, report, stopping),
            )
            try:
                fitted = loop.fit(
                    attempt,
                    self._training_set,
                    recipe,
                    device=self.device,
                    saved=self._state,
                    stopping=stopping,
                    after_epoch=_AfterEpoch(self.request, self._label_of(variant), report, self._keep),
                )
            except TrainingCollapsedError as collapse:
                _log.warning("attempt %d with %s: %s", len(self._collapses) + 1, variant, collapse)
                self._collapses, self._state = [*self._collapses, collapse.what], None
                self._save()
                if not is_retry:
                    report(
                        Progress(
                            message=f"training {self.request.run_id}{self._label_of(variant)}: "
                            f"{collapse.what}; retrying with another seed and a lower rate"
                        )
                    )
            else:
                history = [loop.packed(epoch) for epoch in fitted.history]
                return {"weights": fitted.weights, "history": history, "collapses": self._collapses}
        return {"collapses": self._collapses}

    def _weights_before(
        self, variant: Variant, report: Report, stopping: Callable[[], bool]
    ) -> dict[str, torch.Tensor] | None:
        """The incumbent's weights or random ones, pre-trained if the recipe requires it; None: random ones."""
        recipe, warm = self.request.recipe, self._warm.weights if self._warm.contract == variant.contract else None
        if not recipe.pretrain_epochs or "weights" in self._before:
            return self._before.get("weights", warm)
        torch.manual_seed(recipe.seed)
        # without noise, which would have to be predicted, too
        model = PatchTST(replace(variant.network, input_noise=0.0))
        loop.initialise(model, warm, self._training_set)
        self._before = {
            "weights": pretrain(
                model.to(self.device),
                self._unlabelled,
                recipe,
                seed=recipe.seed,
                learning_rate=variant.tuning.learning_rate,
                saved=self._before.get("pretraining"),
                stopping=stopping,
                after_epoch=_AfterPretraining(self.request, report, self._keep_before),
            )
        }
        self._save()
        return self._before["weights"]  # type: ignore[no-any-return]

    def _label_of(self, variant: Variant) -> str:
        """Which variant of how many, for progress; empty if there is only one."""
        if len(self._variants) == 1:
            return ""
        return f" ({self._variants.index(variant) + 1} of {len(self._variants)}: {variant})"

    def _keep_before(self, state: dict[str, Any]) -> None:
        self._before = {"pretraining": state}
        self._save()

    def _keep(self, state: dict[str, Any]) -> None:
        self._state, self._before = state, {}
        self._save()

    def _save(self) -> None:
        self.checkpoint.save(
            {
                "finished": self._finished,
                "collapses": self._collapses,
                "state": self._state,
                "before": self._before,
            }
        )


def _fitted(result: Mapping[str, Any]) -> Fitted:
    history = tuple(loop.unpacked(values) for values in result["history"])
    return Fitted(weights=result["weights"], best=min(history, key=lambda epoch: epoch.log_loss), history=history)


@dataclass(frozen=True)
class _AfterPretraining:
    """Saves the state and reports the progress of the pre-training."""

    request: TrainRequest
    report: Report
    keep: Callable[[dict[str, Any]], None]

    def __call__(self, number: int, loss: float, state: dict[str, Any]) -> None:
        self.keep(state)
        last = self.request.recipe.pretrain_epochs
        self.report(
            Progress(
                message=f"training {self.request.run_id}: pre-training epoch {number} of {last}, "
                f"error on masked patches {loss:.3f} of their variance",
                fields={"pretrain_epoch": number, "masked_error": loss},
            )
        )


@dataclass
class _AfterEpoch:
    """Saves the state and reports the progress of the training."""

    request: TrainRequest
    #: which variant, or empty
    variant: str
    report: Report
    keep: Callable[[dict[str, Any]], None]

    def __post_init__(self) -> None:
        self._started, self._epochs = time.monotonic(), 0

    def __call__(self, epoch: Epoch, state: dict[str, Any]) -> None:
        self.keep(state)
        self._epochs += 1
        last = self.request.recipe.max_epochs
        remaining_seconds = (time.monotonic() - self._started) / self._epochs * (last - epoch.number)
        self.report(
            Progress(
                message=f"training {self.request.run_id}{self.variant}: epoch {epoch.number} of {last}, "
                f"{epoch.message}, about {remaining_seconds:.0f} s left",
                fields=asdict(epoch),
            )
        )
