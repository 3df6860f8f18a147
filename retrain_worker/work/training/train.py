"""The stage TRAIN in the child: snapshot in, a verified candidate out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from retrain_worker import __version__
from retrain_worker.domain import artifact
from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.handoff import Progress, TrainRequest, TrainResult
from retrain_worker.domain.labels import Label
from retrain_worker.domain.recipe import InputTransform, Preset, Recipe
from retrain_worker.errors import ArtifactError, DataUnfitError, TrainingCollapsedError
from retrain_worker.model import bundle, presets
from retrain_worker.model.patchtst import PatchTST, sigmoid
from retrain_worker.work import compute, scoring, statistics
from retrain_worker.work.data.samples import Parts, Samples, select_samples, split_samples, windows
from retrain_worker.work.data.snapshot import Snapshot, load
from retrain_worker.work.inference import features_of, logits_at
from retrain_worker.work.training import calibration, loop
from retrain_worker.work.training.checkpoint import Checkpoint
from retrain_worker.work.training.loop import Attempt, Epoch, Fitted, Lesson

Report = Callable[[Progress], None]

#: rows and rows of the rarer class without which a part cannot be learned from, or judged on
MIN_PART_ROWS = 50
MIN_PART_CLASS_ROWS = 10
#: after a collapse: one more attempt, with another seed and a slower rate
RETRY_SEED_STEP = 1
RETRY_RATE_SHARE = 0.5

#: training samples, newest first, that say where the bias of the calibration is expected
NEWEST_FOR_BIAS = 20_000

_log = logging.getLogger(__name__)


def train(request: TrainRequest, report: Report, stopping: Callable[[], bool]) -> TrainResult:
    """Train a candidate on the snapshot in `request.run_dir`, write it into `run_dir/candidate`, verify it.

    Raises DataUnfitError (too few rows of a class in a part), ContractError (the rows do not fit the network),
    TrainingCollapsedError, ArtifactError (the written file does not read back), StoppedError (resumable).
    """
    recipe = request.recipe
    device = compute.prepare(device=recipe.device, threads=recipe.threads)
    snapshot = load(Path(request.run_dir))
    contracts = contracts_to_try(
        recipe, _incumbent_contract(request, snapshot), feature_names=snapshot.feature_names, label=request.data.label
    )
    samples, _left_out = select_samples(snapshot, policy=request.data, seq_len=contracts[0].context_length)
    parts = split_samples(samples, request.split)
    _refuse_unfit(parts)
    lesson = _lesson(snapshot, parts, contracts[0])

    course = _Course(request, contracts, lesson, snapshot.data_sha256, device)
    contract, fitted = course.run(report, stopping)

    model = PatchTST(presets.config_for(contract, dropout=recipe.dropout))
    model.load_state_dict(fitted.weights, strict=True)
    logits = logits_at(model, lesson.features, parts.validation.positions)
    newest = parts.train.where(np.arange(max(0, len(parts.train) - NEWEST_FOR_BIAS), len(parts.train)))
    bias = calibration.fit_bias(logits_at(model, lesson.features, newest.positions), newest.labels)
    fix = _calibration(logits, parts.validation, expected_bias=bias)
    calibration.fold(model, fix)
    validation = scoring.scorecard(
        sigmoid(fix.apply(logits)), scoring.rows_of(snapshot, parts.validation), prior=float(parts.train.labels.mean()),
        policy=GatePolicy(),
    )  # fmt: skip

    path = artifact.model_file(Path(request.run_dir) / "candidate", request.version)
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest = bundle.write(
        path,
        model=model,
        contract=contract,
        canary_windows=_canary_windows(lesson, contract),
        origin=bundle.Origin(
            training=_origin(request, snapshot, parts=parts, lesson=lesson, model=model, fix=fix) | course.facts(),
            scorecard=asdict(validation),
        ),
    )
    bundle.read(path, expected_sha256=manifest.sha256)
    course.checkpoint.remove()
    return TrainResult(
        model_path=str(path),
        manifest=manifest,
        epochs=len(fitted.history),
        best_epoch=fitted.best.number,
        final_loss=fitted.best.train_loss,
        validation_log_loss=fitted.best.log_loss if validation.log_loss is None else validation.log_loss,
        parts=_counts(parts, recipe),
        left_out=parts.left_out,
        history=tuple((epoch.number, epoch.train_loss, epoch.log_loss, epoch.auc) for epoch in fitted.history),
    )


# ---------------------------------------------------------------- what to train


def contracts_to_try(
    recipe: Recipe, incumbent: ModelContract | None, *, feature_names: tuple[str, ...], label: Label
) -> tuple[ModelContract, ...]:
    """The contracts that the recipe allows, one for each input transform to try; all of one preset and window length.

    PRESET=auto takes the incumbent's contract whole, `paper` without an incumbent. The engine preset fixes its window
    length and its transform.
    """
    if recipe.preset == Preset.AUTO and incumbent is not None:
        return (replace(incumbent, label=label),)
    if recipe.preset == Preset.ENGINE:
        return (
            ModelContract(
                preset=Preset.ENGINE, context_length=presets.ENGINE_CONTEXT_LENGTH, feature_names=feature_names,
                input_transform=InputTransform.MINMAX, label=label,
            ),
        )  # fmt: skip
    transforms = (
        (InputTransform.STANDARDISE, InputTransform.INSTANCE)
        if recipe.input_transform == InputTransform.AUTO
        else (recipe.input_transform,)
    )
    return tuple(
        ModelContract(
            preset=Preset.PAPER, context_length=recipe.seq_len, feature_names=feature_names, input_transform=transform,
            label=label,
        )
        for transform in transforms
    )  # fmt: skip


def _incumbent_contract(request: TrainRequest, snapshot: Snapshot) -> ModelContract | None:
    if request.incumbent_path is None or request.recipe.preset != Preset.AUTO:
        return None
    try:
        return bundle.read(Path(request.incumbent_path), feature_names=snapshot.feature_names).contract
    except ArtifactError as error:
        _log.warning("the incumbent's contract is unknown, PRESET=auto means paper: %s", error)
        return None


def _refuse_unfit(parts: Parts) -> None:
    for name, part in (("train", parts.train), ("validation", parts.validation)):
        counts = part.counts()
        if len(part) < MIN_PART_ROWS or min(counts.values()) < MIN_PART_CLASS_ROWS:
            raise DataUnfitError(
                f"the {name} part has {len(part)} samples, {counts['win']} with label 1 and {counts['loss']} with "
                f"label 0; it needs {MIN_PART_ROWS}, {MIN_PART_CLASS_ROWS} of each",
                where="split",
                remedy="wait for more labelled rows, make TRAIN_WINDOW_DAYS larger or SEQ_LEN smaller",
            )


def _lesson(snapshot: Snapshot, parts: Parts, contract: ModelContract) -> Lesson:
    features = features_of(snapshot, contract.feature_names)
    is_seen = snapshot.decided_at <= parts.train.decided_at.max()
    return Lesson(
        features=features,
        fitting_rows=features[is_seen],
        train=parts.train,
        validation=parts.validation,
    )


def _calibration(logits: NDArray[np.float64], validation: Samples, *, expected_bias: float) -> calibration.Calibration:
    labels = validation.labels.astype(np.int64)
    blocks = statistics.blocks_in_time(validation.decided_at, validation.known_at)
    effect = statistics.design_effect(labels, sigmoid(logits + expected_bias), blocks)
    return calibration.fit(logits, validation.labels, expected_bias=expected_bias, effect=effect)


# ---------------------------------------------------------------- attempts


class _Course:
    """The attempts of one training: each input transform once, and once more after a collapse."""

    def __init__(
        self, request: TrainRequest, contracts: tuple[ModelContract, ...], lesson: Lesson, data_sha256: str,
        device: torch.device,
    ) -> None:  # fmt: skip
        self._request, self._contracts, self._lesson, self._device = request, contracts, lesson, device
        recipe = request.recipe
        self._precision = compute.precision_for(
            recipe.precision, presets.config_for(contracts[0], dropout=recipe.dropout), batch_size=recipe.batch_size,
            device=device,
        )  # fmt: skip
        identity = {
            "data_sha256": data_sha256, "recipe": request.recipe, "data": request.data, "split": request.split,
            "contracts": contracts, "program": __version__, "torch": str(torch.__version__), "device": device.type,
            "threads": torch.get_num_threads(), "precision": self._precision,
        }  # fmt: skip
        self.checkpoint = Checkpoint(Path(request.checkpoint_dir), request.run_id, identity)
        saved = self.checkpoint.load() or {}
        #: one result for each contract already tried: a Fitted as plain values, or why it collapsed
        self._finished: list[dict[str, Any]] = saved.get("finished", [])
        #: collapses of the contract that is being tried, and the state inside its attempt
        self._collapses: list[str] = saved.get("collapses", [])
        self._state: dict[str, Any] | None = saved.get("state")
        if self._state is not None:
            _log.info("resumed after epoch %d", len(self._state["history"]))

    def run(self, report: Report, stopping: Callable[[], bool]) -> tuple[ModelContract, Fitted]:
        """The contract of the lowest validation log loss, with its best epoch."""
        for contract in self._contracts[len(self._finished) :]:
            self._finished.append(self._try(contract, report, stopping))
            self._collapses, self._state = [], None
            self._save()
        results = [
            (contract, _fitted(result))
            for contract, result in zip(self._contracts, self._finished, strict=True)
            if "weights" in result
        ]
        if not results:
            raise TrainingCollapsedError(
                "; then ".join(reason for result in self._finished for reason in result["collapses"]),
                where="training",
                remedy="look at the features of the snapshot; a lower LEARNING_RATE may help",
            )
        return min(results, key=lambda pair: pair[1].best.log_loss)

    def facts(self) -> dict[str, Any]:
        """How the attempts went, for the manifest."""
        return {
            "threads": torch.get_num_threads(),
            "precision": str(self._precision),
            "attempts": [
                {
                    "input_transform": str(contract.input_transform),
                    "collapses": result["collapses"],
                    "validation_log_loss": _fitted(result).best.log_loss if "weights" in result else None,
                }
                for contract, result in zip(self._contracts, self._finished, strict=True)
            ]
        }

    def _try(self, contract: ModelContract, report: Report, stopping: Callable[[], bool]) -> dict[str, Any]:
        recipe = self._request.recipe
        while len(self._collapses) < 2:
            is_retry = bool(self._collapses)
            attempt = Attempt(
                config=presets.config_for(contract, dropout=recipe.dropout),
                seed=recipe.seed + (RETRY_SEED_STEP if is_retry else 0),
                learning_rate=recipe.learning_rate
                * presets.RATE_SHARE[Preset(contract.preset)]
                * (RETRY_RATE_SHARE if is_retry else 1.0),
                precision=self._precision,
            )
            try:
                fitted = loop.fit(
                    attempt, self._lesson, recipe, device=self._device, saved=self._state,
                    after_epoch=_AfterEpoch(self._request, report, self._keep), stopping=stopping,
                )  # fmt: skip
            except TrainingCollapsedError as collapse:
                _log.warning("attempt %d with %s: %s", len(self._collapses) + 1, contract.input_transform, collapse)
                self._collapses, self._state = [*self._collapses, collapse.what], None
                self._save()
            else:
                history = [loop.packed(epoch) for epoch in fitted.history]
                return {"weights": fitted.weights, "history": history, "collapses": self._collapses}
        return {"collapses": self._collapses}

    def _keep(self, state: dict[str, Any]) -> None:
        self._state = state
        self._save()

    def _save(self) -> None:
        self.checkpoint.save({"finished": self._finished, "collapses": self._collapses, "state": self._state})


def _fitted(result: Mapping[str, Any]) -> Fitted:
    history = tuple(loop.unpacked(values) for values in result["history"])
    return Fitted(weights=result["weights"], best=min(history, key=lambda epoch: epoch.log_loss), history=history)


@dataclass
class _AfterEpoch:
    """Keep the state, then say how far the training is."""

    request: TrainRequest
    report: Report
    keep: Callable[[dict[str, Any]], None]

    def __post_init__(self) -> None:
        self._started, self._epochs = time.monotonic(), 0

    def __call__(self, epoch: Epoch, state: dict[str, Any]) -> None:
        self.keep(state)
        self._epochs += 1
        last = self.request.recipe.max_epochs
        left_seconds = (time.monotonic() - self._started) / self._epochs * (last - epoch.number)
        self.report(
            Progress(
                sentence=f"training {self.request.run_id}: epoch {epoch.number} of {last}, {epoch.sentence}, "
                f"about {left_seconds:.0f} s left",
                fields=asdict(epoch),
            )
        )


# ---------------------------------------------------------------- what is recorded


def _canary_windows(lesson: Lesson, contract: ModelContract) -> NDArray[np.float32]:
    """Raw windows spread over the validation part."""
    picked = np.linspace(0, len(lesson.validation.positions) - 1, bundle.CANARY_WINDOWS).astype(np.int64)
    return windows(lesson.features, lesson.validation.positions[picked], contract.context_length)


def _origin(
    request: TrainRequest, snapshot: Snapshot, *, parts: Parts, lesson: Lesson, model: PatchTST,
    fix: calibration.Calibration,
) -> dict[str, Any]:  # fmt: skip
    return {
        "run_id": request.run_id,
        "data_sha256": snapshot.data_sha256,
        "windows": asdict(parts.split),
        "parts": _counts(parts, request.recipe),
        "recipe": asdict(request.recipe),
        "seed": request.recipe.seed,
        "weights_sha256": bundle.weights_sha256(model),
        "temperature": fix.temperature,
        "bias": fix.bias,
        "train_prior": float(parts.train.labels.mean()),
        "versions": {"retrain_worker": __version__, "torch": str(torch.__version__), "numpy": np.__version__},
    }


def _counts(parts: Parts, recipe: Recipe) -> dict[str, dict[str, int]]:
    """Samples of each part; `train_balanced` is what an epoch sees."""
    train = parts.train.counts()
    rarer = min(train.values())
    return {
        "train": train,
        "train_balanced": {"win": rarer, "loss": rarer} if recipe.balance else train,
        "validation": parts.validation.counts(),
        "holdout": parts.holdout.counts(),
    }
