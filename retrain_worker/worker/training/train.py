"""The stage TRAIN in the worker: trains a candidate on the snapshot, writes it and verifies it."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from retrain_worker import __version__
from retrain_worker.domain import artifact
from retrain_worker.domain.artifact import Manifest, ModelContract
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.labels import Label
from retrain_worker.domain.recipe import Balance, InputTransform, Preset, Recipe
from retrain_worker.domain.split_policy import Window
from retrain_worker.domain.worker_protocol import UNNAMED, Progress, TrainRequest, TrainResult
from retrain_worker.errors import TrainingCollapsedError
from retrain_worker.model import bundle
from retrain_worker.model.patchtst import PatchTST, sigmoid
from retrain_worker.worker import compute, scoring
from retrain_worker.worker.data.samples import (
    Parts,
    count_without_window,
    is_unfit,
    training_parts,
    windows,
)
from retrain_worker.worker.data.snapshot import Snapshot, load, load_mapped, save_mapped
from retrain_worker.worker.incumbent import incumbent_of
from retrain_worker.worker.inference import features_of
from retrain_worker.worker.seen_rows import united
from retrain_worker.worker.training import calibration, loop
from retrain_worker.worker.training.backtest_folds import Fold, past_folds, write_folds
from retrain_worker.worker.training.fold_store import FoldStore
from retrain_worker.worker.training.loop import Epoch, Fitted, TrainingSet
from retrain_worker.worker.training.process_group import ALONE, ProcessGroup
from retrain_worker.worker.training.variant_search import Variant, VariantSearch, variants_of
from retrain_worker.worker.training.warm_start import WarmStart, warm_start_of
from retrain_worker.worker.training.work_left import WorkLeft

Report = Callable[[Progress], None]

#: raised by every change of this program that changes how a backtest fold is trained on its rows
FOLD_REVISION = 3
#: newest training samples from which the prior mean of the calibration's bias is computed
NEWEST_FOR_BIAS = 20_000
#: of the weight of all patches: that of the patches that make up the recorded lookback
LOOKBACK_SHARE = 0.9

_log = logging.getLogger(__name__)


def train(
    request: TrainRequest, report: Report, stopping: Callable[[], bool], group: ProcessGroup = ALONE
) -> TrainResult:
    """Train a candidate on the snapshot in `request.run_dir`, write it into `run_dir/candidate`, verify it.

    Each process of `group` calls it alike and returns the same; only the first writes.

    Raises DataUnfitError (too few rows of a class in a part), ContractError (the rows do not fit the network),
    TrainingCollapsedError, ArtifactError (verification of the written file failed), StoppedError (resumable),
    WorkerFailedError (another process has ended).
    """
    recipe, local_size = request.recipe, group.rank.local_size
    # the processes of a host divide its threads
    device = compute.prepare(device=recipe.device, threads=-(-recipe.threads // local_size))
    group.join(device)
    snapshot = _snapshot(Path(request.run_dir), group)
    contracts = contracts_to_try(
        recipe, _incumbent_contract(request, snapshot), feature_names=snapshot.feature_names, label=request.data.label
    )
    samples, parts = training_parts(
        snapshot, policy=request.data, split=request.split, seq_len=contracts[0].context_length
    )
    training_set = _training_set(snapshot, parts, contracts[0])
    warm = warm_start_of(request, contracts, snapshot.feature_names, holdout_start=parts.split.holdout.start)

    variants = variants_of(contracts, recipe)
    variant_search = VariantSearch(
        request,
        variants,
        training_set,
        warm=warm,
        data_sha256=snapshot.data_sha256,
        device=device,
        group=group,
    )
    folds = past_folds(
        snapshot,
        samples,
        parts,
        request.split,
        seq_len=contracts[0].context_length,
        is_variant_chosen=len(variants) > 1 or recipe.search_trials > 0,
    )
    past = [fold for fold in folds if not is_unfit(fold.parts.train, fold.parts.validation)]
    work_left = WorkLeft(report, variant_search.work + sum(_work_of_fold(fold, _fold_recipe(recipe)) for fold in past))
    variant, fitted = variant_search.run(work_left, stopping)

    contract = variant.contract
    model, logits, fix = _calibrated(fitted, training_set, variant, group)
    validation = scoring.scorecard(
        sigmoid(fix.apply(logits)),
        scoring.rows_of(snapshot, parts.validation),
        prior=float(parts.train.labels.mean()),
        policy=GatePolicy(),
    )

    path = artifact.model_file(Path(request.run_dir) / "candidate", request.version)

    def write() -> Manifest:
        path.parent.mkdir(parents=True, exist_ok=True)
        manifest = bundle.write(
            path,
            model=model,
            contract=contract,
            canary_windows=_canary_windows(training_set, contract),
            origin=bundle.Origin(
                training=_origin(request, snapshot, parts=parts, warm=warm, model=model, fix=fix)
                | variant_search.record()
                | {"tuning": asdict(variant.tuning), **_lookback(model)},
                scorecard=asdict(validation),
            ),
        )
        bundle.read(path, expected_sha256=manifest.sha256)
        return manifest

    manifest = group.from_first(write)
    _train_folds(variant_search, snapshot, variant, past, work_left=work_left, stopping=stopping)
    if group.is_first:
        variant_search.checkpoint.remove()
        shutil.rmtree(_mapped_folder(request.run_dir), ignore_errors=True)
    return TrainResult(
        model_path=str(path),
        manifest=manifest,
        epochs=len(fitted.history),
        best_epoch=fitted.best.number,
        final_loss=fitted.best.train_loss,
        validation_log_loss=fitted.best.log_loss if validation.log_loss is None else validation.log_loss,
        parts=_counts(parts, recipe),
        left_out=parts.left_out | {"no_full_window": count_without_window(snapshot, samples, label=request.data.label)},
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
                context_length=recipe.window_length(None),
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
            context_length=recipe.window_length(None),
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


def _snapshot(run_dir: Path, group: ProcessGroup) -> Snapshot:
    """The rows; of several processes, the first reads the Parquet file, and all map one copy of its arrays."""
    if not group.rank.is_distributed:
        return load(run_dir)
    folder = _mapped_folder(run_dir)
    group.from_first(lambda: save_mapped(load(run_dir), folder))
    return load_mapped(folder)


def _mapped_folder(run_dir: Path | str) -> Path:
    return Path(run_dir) / "snapshot.mapped"


def _training_set(
    snapshot: Snapshot, parts: Parts, contract: ModelContract, *, since: int | None = None
) -> TrainingSet:
    features = features_of(snapshot, contract.feature_names)
    is_seen = snapshot.decided_at <= parts.train.decided_at.max()
    if since is not None:
        is_seen &= snapshot.decided_at >= since
    return TrainingSet(
        features=features,
        fitting_rows=features[is_seen],
        train=parts.train,
        validation=parts.validation,
        preset=contract.preset,
    )


def _calibrated(
    fitted: Fitted, training_set: TrainingSet, variant: Variant, group: ProcessGroup
) -> tuple[PatchTST, NDArray[np.float64], calibration.Calibration]:
    """The network with calibrated logits, the raw logits on the validation part, and the calibration folded in."""
    model = PatchTST(variant.network)
    model.load_state_dict(fitted.weights, strict=True)
    logits = group.logits_at(model, training_set.features, training_set.validation.positions)
    newest = training_set.train.where(
        np.arange(max(0, len(training_set.train) - NEWEST_FOR_BIAS), len(training_set.train))
    )
    bias = calibration.fit_bias(group.logits_at(model, training_set.features, newest.positions), newest.labels)
    fix = calibration.fit_on(logits, training_set.validation, expected_bias=bias)
    calibration.fold(model, fix)
    return model, logits, fix


# ---------------------------------------------------------------- backtest folds


def _train_folds(
    variant_search: VariantSearch,
    snapshot: Snapshot,
    variant: Variant,
    past: list[Fold],
    *,
    work_left: WorkLeft,
    stopping: Callable[[], bool],
) -> None:
    """Predict each fold, with half the epochs: three folds cost about as much as the candidate.

    A fold of which an earlier run had the same rows and configuration is not trained again: its weights would be equal.
    Each starts from random weights, also after a warm start, because the incumbent's were trained on these rows.
    """
    request, group = variant_search.request, variant_search.group
    recipe = _fold_recipe(request.recipe)
    store = FoldStore(Path(request.folds_dir or Path(request.checkpoint_dir, "folds")))
    identity = {**variant_search.identity_of_fold(variant), "recipe": recipe, "fold_revision": FOLD_REVISION}
    features = features_of(snapshot, variant.contract.feature_names)

    def predict(number: int, fold: Fold) -> NDArray[np.float64]:
        key = fold.key(identity, snapshot, features)
        kept = group.from_first(lambda: store.load(key, rows=len(fold.parts.holdout)))
        if kept is not None:
            work_left.skip(_work_of_fold(fold, recipe))
            return kept
        try:
            answers = trained(number, fold)
        except TrainingCollapsedError as collapse:
            _log.warning("backtest fold %d: %s", number, collapse)
            answers = np.full(len(fold.parts.holdout), fold.prior)
        if group.is_first:
            store.save(key, answers)
        return answers

    def trained(number: int, fold: Fold) -> NDArray[np.float64]:
        parts = fold.parts
        title = f"training {request.run_id}: backtest fold {number} of {len(past)}"
        work_left.report(title)

        def after_epoch(epoch: Epoch, _state: object) -> None:
            work_left.advance(len(parts.train))
            work_left.report(f"{title}, epoch {epoch.number} of {recipe.max_epochs}")

        training_set = _training_set(snapshot, parts, variant.contract, since=fold.since)
        fitted = loop.fit(
            variant_search.fresh_fit_attempt(variant),
            training_set,
            recipe,
            device=variant_search.device,
            saved=None,
            after_epoch=after_epoch,
            stopping=stopping,
            group=group,
        )
        work_left.skip(len(parts.train) * (recipe.max_epochs - len(fitted.history)))
        model, _, _ = _calibrated(fitted, training_set, variant, group)
        return sigmoid(group.logits_at(model, training_set.features, parts.holdout.positions))

    write_folds(past, Path(request.run_dir), predict=predict, group=group)


def _fold_recipe(recipe: Recipe) -> Recipe:
    return replace(recipe, max_epochs=max(1, math.ceil(recipe.max_epochs / 2)))


def _work_of_fold(fold: Fold, recipe: Recipe) -> float:
    """Rows times the epochs of a fold's `recipe`, at most."""
    return float(len(fold.parts.train) * recipe.max_epochs)


# ---------------------------------------------------------------- the record in the model file


def _canary_windows(training_set: TrainingSet, contract: ModelContract) -> NDArray[np.float32]:
    """Raw windows at equal distances in the validation part."""
    picked = np.linspace(0, len(training_set.validation.positions) - 1, bundle.CANARY_WINDOWS).astype(np.int64)
    return windows(training_set.features, training_set.validation.positions[picked], contract.context_length)


def _lookback(model: PatchTST) -> dict[str, Any]:
    """Which part of a window the model uses; nothing if all patches have the same weight."""
    config = model.config
    if config.pooling != "weighted":
        return {}
    weights_N = model.patch_weights().detach()
    older = int((weights_N.flip(0).cumsum(0) < LOOKBACK_SHARE).sum())
    return {
        "patch_weights": weights_N.tolist(),
        "lookback": min(config.context_length, config.patch_length + config.patch_stride * older),
    }


def _origin(
    request: TrainRequest,
    snapshot: Snapshot,
    *,
    parts: Parts,
    warm: WarmStart,
    model: PatchTST,
    fix: calibration.Calibration,
) -> dict[str, Any]:
    own = Window(start=parts.split.train.start, end=parts.split.validation.end)
    return {
        "run_id": request.run_id,
        "data_sha256": snapshot.data_sha256,
        "windows": asdict(parts.split),
        "seen": [asdict(window) for window in united((own, *warm.seen))],
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
