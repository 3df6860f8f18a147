"""The attempts of one training: their initial weights, their results, and the resumption of an interrupted one."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retrain_worker import __version__
from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.recipe import Recipe, Tuning
from retrain_worker.domain.worker_protocol import Progress, TrainRequest
from retrain_worker.errors import TrainingCollapsedError
from retrain_worker.model import presets
from retrain_worker.model.patchtst import PatchTSTConfig
from retrain_worker.worker import compute
from retrain_worker.worker.training import loop, tuning_search
from retrain_worker.worker.training.checkpoint import Checkpoint
from retrain_worker.worker.training.loop import Epoch, FitAttempt, Fitted, TrainingSet
from retrain_worker.worker.training.process_group import ALONE, ProcessGroup
from retrain_worker.worker.training.warm_start import WarmStart
from retrain_worker.worker.training.work_left import WorkLeft

Report = Callable[[Progress], None]

#: part of the identity of a training; raised by every change of this program that changes the weights it trains
REVISION = 2
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
    """The attempts of one training: each variant once, and once more after a collapse; then those of SEARCH_TRIALS."""

    def __init__(
        self,
        request: TrainRequest,
        variants: tuple[Variant, ...],
        training_set: TrainingSet,
        *,
        warm: WarmStart,
        data_sha256: str,
        device: torch.device,
        group: ProcessGroup = ALONE,
    ) -> None:
        self.request, self._variants, self._training_set, self.device = request, variants, training_set, device
        self._warm, self.group = warm, group
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
        if group.rank.is_distributed:
            identity["processes"] = group.rank.size
        self.checkpoint = Checkpoint(Path(request.checkpoint_dir), request.run_id, identity)
        saved = group.from_first(self.checkpoint.load)
        #: one result for each variant that has been tried: a Fitted as plain values, or why it collapsed
        self._finished: list[dict[str, Any]] = saved.get("finished", [])
        #: collapses of the current variant, and the state of its current attempt
        self._collapses: list[str] = saved.get("collapses", [])
        self._state: dict[str, Any] | None = saved.get("state")
        #: how many attempts there are if time suffices; those beyond the variants given are suggested one by one
        self._num_planned = len(variants) + request.recipe.search_trials
        self._variants += tuple(
            replace(self._variants[like], tuning=Tuning(**tuning)) for like, tuning in saved.get("suggested", ())
        )
        if self._state is not None:
            _log.info("training resumes after epoch %d", len(self._state["history"]))

    def identity_of_fold(self, variant: Variant) -> dict[str, Any]:
        """What decides the weights of a backtest fold, besides its rows and its recipe."""
        names = ("revision", "torch", "device", "threads", "processes", "precision", "constant_share")
        common = {name: value for name, value in self.checkpoint.identity.items() if name in names}
        return common | {
            "variant": variant,
            "network": variant.network,
            "version": __version__,
            "numpy": np.__version__,
        }

    @property
    def work(self) -> float:
        """Rows times epochs, at most, of all variants."""
        return self._num_planned * self._work_of_variant

    @property
    def _work_of_variant(self) -> float:
        return float(len(self._training_set.train) * self.request.recipe.max_epochs)

    def run(self, work_left: WorkLeft, stopping: Callable[[], bool]) -> tuple[Variant, Fitted]:
        """The variant with the lowest validation log loss, and its best epoch. Raises TrainingCollapsedError."""
        work_left.skip(len(self._finished) * self._work_of_variant)
        until = time.monotonic() + 60.0 * self.request.recipe.search_minutes
        while variant := self._next_variant(until):
            result = self._try(variant, work_left, stopping)
            self._finished.append(result)
            saved_epochs = self.request.recipe.max_epochs - len(result.get("history", ()))
            work_left.skip(len(self._training_set.train) * saved_epochs)
            self._collapses, self._state = [], None
            self._save()
        work_left.skip((self._num_planned - len(self._finished)) * self._work_of_variant)
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
            "processes": self.group.rank.size,
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
            patch_smoothing=variant.tuning.patch_smoothing,
        )

    def _next_variant(self, until: float) -> Variant | None:
        """The variant to train, maybe a suggested one; None after the last, or when there is no time for another."""
        tried = len(self._finished)
        if tried < len(self._variants):
            return self._variants[tried]
        if tried == self._num_planned or self.group.from_first(lambda: time.monotonic() >= until):
            return None
        losses = [_fitted(result).best.log_loss if "weights" in result else None for result in self._finished]
        results = list(zip(self._variants, losses, strict=True))
        best, _ = min(results, key=lambda result: math.inf if result[1] is None else result[1])
        comparable = [(variant.tuning, loss) for variant, loss in results if variant.contract == best.contract]
        tuning = tuning_search.suggest(comparable, self.request.recipe, best.contract.preset)
        self._variants += (replace(best, tuning=tuning),)
        return self._variants[-1]

    def _try(self, variant: Variant, work_left: WorkLeft, stopping: Callable[[], bool]) -> dict[str, Any]:
        recipe, tuning = self.request.recipe, variant.tuning
        if self._state is not None:
            work_left.skip(len(self._training_set.train) * len(self._state["history"]))
        while len(self._collapses) < 2:
            is_retry = bool(self._collapses)
            # a retry takes random weights, since the collapse may originate in the initial ones
            is_warm = self._warm.contract == variant.contract and not is_retry
            attempt = FitAttempt(
                config=variant.network,
                seed=recipe.seed + (RETRY_SEED_STEP if is_retry else 0),
                learning_rate=tuning.learning_rate * (RETRY_RATE_SHARE if is_retry else 1.0),
                precision=self._precision,
                patch_smoothing=tuning.patch_smoothing,
                start=self._warm.weights if is_warm else None,
            )
            try:
                fitted = loop.fit(
                    attempt,
                    self._training_set,
                    recipe,
                    device=self.device,
                    saved=self._state,
                    stopping=stopping,
                    group=self.group,
                    after_epoch=_AfterEpoch(
                        self.request, self._label_of(variant), len(self._training_set.train), work_left, self._keep
                    ),
                )
            except TrainingCollapsedError as collapse:
                _log.warning("attempt %d with %s: %s", len(self._collapses) + 1, variant, collapse)
                self._collapses, self._state = [*self._collapses, collapse.what], None
                self._save()
                if not is_retry:
                    work_left.report(
                        f"training {self.request.run_id}{self._label_of(variant)}: "
                        f"{collapse.what}; retrying with another seed and a lower rate"
                    )
            else:
                history = [loop.packed(epoch) for epoch in fitted.history]
                return {"weights": fitted.weights, "history": history, "collapses": self._collapses}
        return {"collapses": self._collapses}

    def _label_of(self, variant: Variant) -> str:
        """Which variant of how many, for progress; empty if there is only one."""
        if self._num_planned == 1:
            return ""
        return f" ({self._variants.index(variant) + 1} of {self._num_planned}: {variant})"

    def _keep(self, state: dict[str, Any]) -> None:
        self._state = state
        self._save()

    def _save(self) -> None:
        if not self.group.is_first:
            return
        self.checkpoint.save(
            {
                "finished": self._finished,
                "collapses": self._collapses,
                "state": self._state,
                # as plain values: which variant it is like, and in what it differs
                "suggested": [
                    ([other.contract for other in self._variants].index(variant.contract), asdict(variant.tuning))
                    for variant in self._variants[self._num_planned - self.request.recipe.search_trials :]
                ],
            }
        )


def _fitted(result: Mapping[str, Any]) -> Fitted:
    history = tuple(loop.unpacked(values) for values in result["history"])
    return Fitted(weights=result["weights"], best=min(history, key=lambda epoch: epoch.log_loss), history=history)


@dataclass(frozen=True)
class _AfterEpoch:
    """Saves the state and reports the progress of the training."""

    request: TrainRequest
    #: which variant, or empty
    variant: str
    #: rows of one epoch
    rows: int
    work_left: WorkLeft
    keep: Callable[[dict[str, Any]], None]

    def __call__(self, epoch: Epoch, state: dict[str, Any]) -> None:
        self.keep(state)
        self.work_left.advance(self.rows)
        last = self.request.recipe.max_epochs
        self.work_left.report(
            f"training {self.request.run_id}{self.variant}: epoch {epoch.number} of {last}, {epoch.message}",
            **asdict(epoch),
        )
