"""The stage TRAIN in the worker: trains a candidate on the snapshot, writes it and verifies it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from retrain_worker import __version__
from retrain_worker.domain import artifact
from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.labels import Label
from retrain_worker.domain.recipe import Balance, InputTransform, Preset, Recipe
from retrain_worker.domain.worker_protocol import UNNAMED, Progress, TrainRequest, TrainResult
from retrain_worker.errors import DataUnfitError
from retrain_worker.model import bundle, presets
from retrain_worker.model.patchtst import PatchTST, sigmoid
from retrain_worker.worker import compute, scoring
from retrain_worker.worker.data.instants import to_microseconds
from retrain_worker.worker.data.samples import Parts, Samples, select_samples, split_samples, window_ends, windows
from retrain_worker.worker.data.snapshot import Snapshot, load
from retrain_worker.worker.incumbent import incumbent_of
from retrain_worker.worker.inference import features_of, logits_at
from retrain_worker.worker.training import calibration, loop
from retrain_worker.worker.training.backtest_folds import past_parts, train_folds
from retrain_worker.worker.training.loop import Fitted, TrainingSet
from retrain_worker.worker.training.pretraining import UnlabelledWindows
from retrain_worker.worker.training.variant_search import Variant, VariantSearch, variants_of
from retrain_worker.worker.training.warm_start import warm_start_of

Report = Callable[[Progress], None]

#: fewest rows, and rows of the rarer class, of a part to train or to evaluate on
MIN_PART_ROWS = 50
MIN_PART_CLASS_ROWS = 10
#: newest training samples from which the prior mean of the calibration's bias is computed
NEWEST_FOR_BIAS = 20_000

_log = logging.getLogger(__name__)


def train(request: TrainRequest, report: Report, stopping: Callable[[], bool]) -> TrainResult:
    """Train a candidate on the snapshot in `request.run_dir`, write it into `run_dir/candidate`, verify it.

    Raises DataUnfitError (too few rows of a class in a part), ContractError (the rows do not fit the network),
    TrainingCollapsedError, ArtifactError (verification of the written file failed), StoppedError (resumable).
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
    training_set = _training_set(snapshot, parts, contracts[0])
    unlabelled = _unlabelled(
        snapshot, parts, request.data, training_set=training_set, seq_len=contracts[0].context_length
    )
    warm = warm_start_of(request, contracts, snapshot.feature_names)

    variant_search = VariantSearch(
        request,
        variants_of(contracts, recipe),
        training_set,
        unlabelled=unlabelled,
        warm=warm,
        data_sha256=snapshot.data_sha256,
        device=device,
    )
    variant, fitted = variant_search.run(report, stopping)

    contract = variant.contract
    model, logits, fix = _calibrated(fitted, training_set, variant)
    validation = scoring.scorecard(
        sigmoid(fix.apply(logits)),
        scoring.rows_of(snapshot, parts.validation),
        prior=float(parts.train.labels.mean()),
        policy=GatePolicy(),
    )

    path = artifact.model_file(Path(request.run_dir) / "candidate", request.version)
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest = bundle.write(
        path,
        model=model,
        contract=contract,
        canary_windows=_canary_windows(training_set, contract),
        origin=bundle.Origin(
            training=_origin(request, snapshot, parts=parts, model=model, fix=fix)
            | variant_search.record()
            | {"tuning": asdict(variant.tuning)},
            scorecard=asdict(validation),
        ),
    )
    bundle.read(path, expected_sha256=manifest.sha256)
    past = [fold for fold in past_parts(samples, parts, request.split) if not _is_unfit(fold.train, fold.validation)]
    _train_folds(variant_search, snapshot, variant, past, report=report, stopping=stopping)
    variant_search.checkpoint.remove()
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
    """The contracts that the recipe allows, one per input transform; all have the same preset and window length.

    PRESET=auto takes the complete contract that the engine is known to run, else `paper`. The engine preset fixes
    window length and transform.
    """
    if recipe.preset == Preset.AUTO and incumbent is not None:
        return (replace(incumbent, label=label),)
    if recipe.preset == Preset.ENGINE:
        return (
            ModelContract(
                preset=Preset.ENGINE,
                context_length=presets.ENGINE_CONTEXT_LENGTH,
                feature_names=feature_names,
                input_transform=InputTransform.MINMAX,
                label=label,
            ),
        )
    transforms = (
        (InputTransform.STANDARDISE, InputTransform.INSTANCE)
        if recipe.input_transform == InputTransform.AUTO
        else (recipe.input_transform,)
    )
    return tuple(
        ModelContract(
            preset=Preset.PAPER,
            context_length=recipe.seq_len,
            feature_names=feature_names,
            input_transform=transform,
            label=label,
        )
        for transform in transforms
    )


def _incumbent_contract(request: TrainRequest, snapshot: Snapshot) -> ModelContract | None:
    """The contract for PRESET=auto; None if it is unknown, in which case the contract gate is UNDECIDED."""
    if request.recipe.preset != Preset.AUTO:
        return None
    found = incumbent_of(request.incumbent_path, snapshot, label=request.data.label, empty_slot=request.empty_slot)
    if found.contract is None and found.unknown:
        _log.warning("incumbent: contract unknown (%s); PRESET=auto selects paper", found.unknown)
    if found.contract is not None and UNNAMED in found.contract.feature_names:
        return replace(found.contract, feature_names=snapshot.feature_names)
    return found.contract


def _is_unfit(*parts: Samples) -> bool:
    return any(len(part) < MIN_PART_ROWS or min(part.counts().values()) < MIN_PART_CLASS_ROWS for part in parts)


def _refuse_unfit(parts: Parts) -> None:
    for name, part in (("train", parts.train), ("validation", parts.validation)):
        counts = part.counts()
        if _is_unfit(part):
            raise DataUnfitError(
                f"the {name} part has {len(part)} samples, {counts['win']} with label 1 and {counts['loss']} with "
                f"label 0; it needs {MIN_PART_ROWS}, {MIN_PART_CLASS_ROWS} of each",
                where="split",
                remedy="wait for more labelled rows, raise TRAIN_WINDOW_DAYS or lower SEQ_LEN",
            )


def _training_set(snapshot: Snapshot, parts: Parts, contract: ModelContract) -> TrainingSet:
    features = features_of(snapshot, contract.feature_names)
    is_seen = snapshot.decided_at <= parts.train.decided_at.max()
    return TrainingSet(
        features=features,
        fitting_rows=features[is_seen],
        train=parts.train,
        validation=parts.validation,
        preset=contract.preset,
    )


def _unlabelled(
    snapshot: Snapshot, parts: Parts, data: DataPolicy, *, training_set: TrainingSet, seq_len: int
) -> UnlabelledWindows:
    """Every window that ends within the training part, labelled or not."""
    ends = window_ends(snapshot, policy=data, seq_len=seq_len, before=to_microseconds(parts.split.train.end))
    return UnlabelledWindows(features=training_set.features, ends=ends)


def _calibrated(
    fitted: Fitted, training_set: TrainingSet, variant: Variant
) -> tuple[PatchTST, NDArray[np.float64], calibration.Calibration]:
    """The network with calibrated logits, the raw logits on the validation part, and the calibration folded in."""
    model = PatchTST(variant.network)
    model.load_state_dict(fitted.weights, strict=True)
    logits = logits_at(model, training_set.features, training_set.validation.positions)
    newest = training_set.train.where(
        np.arange(max(0, len(training_set.train) - NEWEST_FOR_BIAS), len(training_set.train))
    )
    bias = calibration.fit_bias(logits_at(model, training_set.features, newest.positions), newest.labels)
    fix = calibration.fit_on(logits, training_set.validation, expected_bias=bias)
    calibration.fold(model, fix)
    return model, logits, fix


# ---------------------------------------------------------------- backtest folds


def _train_folds(
    variant_search: VariantSearch,
    snapshot: Snapshot,
    variant: Variant,
    past: list[Parts],
    *,
    report: Report,
    stopping: Callable[[], bool],
) -> None:
    """Train and predict each fold with half the epochs: three folds cost about as much as the candidate.

    Each starts from random weights, also after a warm start, because the incumbent's were trained on these rows.
    """
    request = variant_search.request
    recipe = replace(request.recipe, max_epochs=max(1, math.ceil(request.recipe.max_epochs / 2)))

    def predict(number: int, fold: Parts) -> NDArray[np.float64]:
        report(Progress(message=f"training {request.run_id}: backtest fold {number} of {len(past)}"))
        training_set = _training_set(snapshot, fold, variant.contract)
        fitted = loop.fit(
            variant_search.fresh_fit_attempt(variant),
            training_set,
            recipe,
            device=variant_search.device,
            saved=None,
            after_epoch=lambda *_: None,
            stopping=stopping,
        )
        model, _, _ = _calibrated(fitted, training_set, variant)
        return sigmoid(logits_at(model, training_set.features, fold.holdout.positions))

    train_folds(past, Path(request.run_dir), identity=variant_search.checkpoint.identity, predict=predict)


# ---------------------------------------------------------------- the record in the model file


def _canary_windows(training_set: TrainingSet, contract: ModelContract) -> NDArray[np.float32]:
    """Raw windows at equal distances in the validation part."""
    picked = np.linspace(0, len(training_set.validation.positions) - 1, bundle.CANARY_WINDOWS).astype(np.int64)
    return windows(training_set.features, training_set.validation.positions[picked], contract.context_length)


def _origin(
    request: TrainRequest,
    snapshot: Snapshot,
    *,
    parts: Parts,
    model: PatchTST,
    fix: calibration.Calibration,
) -> dict[str, Any]:
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
    """Samples of each part; `train_balanced` are those of one epoch."""
    train = parts.train.counts()
    rarer = min(train.values())
    return {
        "train": train,
        "train_balanced": {"win": rarer, "loss": rarer} if recipe.balance is Balance.UNDERSAMPLE else train,
        "validation": parts.validation.counts(),
        "holdout": parts.holdout.counts(),
    }
