"""The stage TRAIN in the child: snapshot in, a verified candidate out."""

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
from retrain_worker.domain.audit import DataPolicy
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.handoff import UNNAMED, Progress, TrainRequest, TrainResult
from retrain_worker.domain.labels import Label
from retrain_worker.domain.recipe import Balance, InputTransform, Preset, Recipe
from retrain_worker.errors import DataUnfitError
from retrain_worker.model import bundle, presets
from retrain_worker.model.patchtst import PatchTST, sigmoid
from retrain_worker.work import compute, scoring
from retrain_worker.work.data.instants import to_microseconds
from retrain_worker.work.data.samples import Parts, Samples, select_samples, split_samples, window_ends, windows
from retrain_worker.work.data.snapshot import Snapshot, load
from retrain_worker.work.incumbent import incumbent_of
from retrain_worker.work.inference import features_of, logits_at
from retrain_worker.work.training import calibration, loop
from retrain_worker.work.training.course import Course, Variant, variants_of
from retrain_worker.work.training.folds import past_parts, train_folds
from retrain_worker.work.training.loop import Fitted, Lesson
from retrain_worker.work.training.pretraining import Reading
from retrain_worker.work.training.warm_start import warm_start_of

Report = Callable[[Progress], None]

#: rows and rows of the rarer class without which a part cannot be learned from, or judged on
MIN_PART_ROWS = 50
MIN_PART_CLASS_ROWS = 10
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
    reading = _reading(snapshot, parts, request.data, lesson=lesson, seq_len=contracts[0].context_length)
    warm = warm_start_of(request, contracts, snapshot.feature_names)

    course = Course(
        request,
        variants_of(contracts, recipe),
        lesson,
        reading=reading,
        warm=warm,
        data_sha256=snapshot.data_sha256,
        device=device,
    )
    variant, fitted = course.run(report, stopping)

    contract = variant.contract
    model, logits, fix = _calibrated(fitted, lesson, variant)
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
        canary_windows=_canary_windows(lesson, contract),
        origin=bundle.Origin(
            training=_origin(request, snapshot, parts=parts, model=model, fix=fix)
            | course.facts()
            | {"tuning": asdict(variant.tuning)},
            scorecard=asdict(validation),
        ),
    )
    bundle.read(path, expected_sha256=manifest.sha256)
    past = [fold for fold in past_parts(samples, parts, request.split) if not _is_unfit(fold.train, fold.validation)]
    _train_folds(course, snapshot, variant, past, report=report, stopping=stopping)
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
    """What PRESET=auto takes over; None where nothing is known of it, and the gate will ask a person."""
    if request.recipe.preset != Preset.AUTO:
        return None
    found = incumbent_of(request.incumbent_path, snapshot, label=request.data.label)
    if found.contract is None and found.unknown:
        _log.warning("the incumbent's contract is unknown, PRESET=auto means paper: %s", found.unknown)
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


def _reading(snapshot: Snapshot, parts: Parts, data: DataPolicy, *, lesson: Lesson, seq_len: int) -> Reading:
    """Every window of the training part's time, labelled or not: none that ends in the validation part or later."""
    ends = window_ends(snapshot, policy=data, seq_len=seq_len, before=to_microseconds(parts.split.train.end))
    return Reading(features=lesson.features, ends=ends)


def _calibrated(
    fitted: Fitted, lesson: Lesson, variant: Variant
) -> tuple[PatchTST, NDArray[np.float64], calibration.Calibration]:
    """The network that answers calibrated logits, its raw logits on the validation part, and what was folded in."""
    model = PatchTST(variant.network)
    model.load_state_dict(fitted.weights, strict=True)
    logits = logits_at(model, lesson.features, lesson.validation.positions)
    newest = lesson.train.where(np.arange(max(0, len(lesson.train) - NEWEST_FOR_BIAS), len(lesson.train)))
    bias = calibration.fit_bias(logits_at(model, lesson.features, newest.positions), newest.labels)
    fix = calibration.fit_on(logits, lesson.validation, expected_bias=bias)
    calibration.fold(model, fix)
    return model, logits, fix


# ---------------------------------------------------------------- the same recipe on the past


def _train_folds(
    course: Course,
    snapshot: Snapshot,
    variant: Variant,
    past: list[Parts],
    *,
    report: Report,
    stopping: Callable[[], bool],
) -> None:
    """Half the epochs for each fold: three of them, with less to learn from, cost about as much as the candidate.

    Each starts from fresh weights, even where the candidate did not: the incumbent's have seen these rows.
    """
    request = course.request
    recipe = replace(request.recipe, max_epochs=max(1, math.ceil(request.recipe.max_epochs / 2)))

    def teach(number: int, fold: Parts) -> NDArray[np.float64]:
        report(Progress(sentence=f"training {request.run_id}: the same recipe on past fold {number} of {len(past)}"))
        lesson = _lesson(snapshot, fold, variant.contract)
        fitted = loop.fit(
            course.fresh_attempt(variant),
            lesson,
            recipe,
            device=course.device,
            saved=None,
            after_epoch=lambda *_: None,
            stopping=stopping,
        )
        model, _, _ = _calibrated(fitted, lesson, variant)
        return sigmoid(logits_at(model, lesson.features, fold.holdout.positions))

    train_folds(past, Path(request.run_dir), identity=course.checkpoint.digest, teach=teach)


# ---------------------------------------------------------------- what is recorded


def _canary_windows(lesson: Lesson, contract: ModelContract) -> NDArray[np.float32]:
    """Raw windows spread over the validation part."""
    picked = np.linspace(0, len(lesson.validation.positions) - 1, bundle.CANARY_WINDOWS).astype(np.int64)
    return windows(lesson.features, lesson.validation.positions[picked], contract.context_length)


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
    """Samples of each part; `train_balanced` is what an epoch sees."""
    train = parts.train.counts()
    rarer = min(train.values())
    return {
        "train": train,
        "train_balanced": {"win": rarer, "loss": rarer} if recipe.balance is Balance.UNDERSAMPLE else train,
        "validation": parts.validation.counts(),
        "holdout": parts.holdout.counts(),
    }
