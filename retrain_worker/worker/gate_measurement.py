"""The measurements of GATE: candidate and incumbent on the holdout, the backtest folds, and the contract of both files.

The worker measures, domain/gates decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.gates import ContractCheck, Evidence, GatePolicy
from retrain_worker.domain.recipe import Preset
from retrain_worker.domain.worker_protocol import UNNAMED, GateMeasured, GateRequest, Progress
from retrain_worker.errors import ContractError, RetrainError
from retrain_worker.model import bundle
from retrain_worker.model.bundle import Bundle
from retrain_worker.worker import compute, inference, pooled_skill, predictions_file, scoring
from retrain_worker.worker.data.instants import to_microseconds
from retrain_worker.worker.data.samples import Parts, Samples, select_samples, split_samples
from retrain_worker.worker.data.snapshot import Snapshot, load
from retrain_worker.worker.incumbent import Incumbent, incumbent_of
from retrain_worker.worker.predictions_file import HOLDOUT, Predictions
from retrain_worker.worker.scoring import Bools, Floats
from retrain_worker.worker.seen_rows import SeenRows, seen_by
from retrain_worker.worker.training.backtest_folds import FoldAnswers, read_folds

Report = Callable[[Progress], None]

_log = logging.getLogger(__name__)


def measure(request: GateRequest, report: Report) -> GateMeasured:
    """Candidate and incumbent on the holdout of the snapshot. Raises ArtifactError when the candidate is not sound."""
    compute.prepare(device="cpu", threads=request.recipe.threads)
    snapshot = load(Path(request.run_dir))
    candidate = bundle.read(Path(request.candidate_path), feature_names=snapshot.feature_names)
    if candidate.contract.label != request.data.label:
        raise ContractError(
            f"it predicts {candidate.contract.label}, the rows are labelled by {request.data.label}",
            where=request.candidate_path,
            remedy=f"set LABEL={candidate.contract.label}",
        )
    samples = select_samples(snapshot, policy=request.data, seq_len=candidate.contract.context_length)
    parts, rows_note = _unseen(split_samples(samples, request.split), candidate)
    report(Progress(message=f"gate {request.run_id}: measuring on {len(parts.holdout)} holdout rows"))
    is_auto = request.recipe.preset is Preset.AUTO
    incumbent = incumbent_of(
        request.incumbent_path,
        snapshot,
        label=candidate.contract.label,
        empty_slot=request.empty_slot if is_auto else None,
    )
    answers = inference.answers_of(candidate, snapshot, parts.holdout)
    theirs = _incumbent_answers(incumbent, snapshot, parts.holdout, data=request.data, min_rows=request.policy.min_rows)
    measured = evidence(
        candidate,
        incumbent,
        snapshot,
        parts.holdout,
        answers=answers,
        theirs=theirs,
        policy=request.policy,
        prior=_prior(parts),
    )
    folds = [
        (samples.where(np.isin(samples.positions, fold.positions)), fold) for fold in read_folds(Path(request.run_dir))
    ]
    holdout = pooled_skill.Answered(answers=answers, rows=scoring.rows_of(snapshot, parts.holdout), prior=_prior(parts))
    past = [
        pooled_skill.Answered(answers=fold.answers, rows=scoring.rows_of(snapshot, judged), prior=fold.prior)
        for judged, fold in folds
    ]
    skill = pooled_skill.skill(holdout, past, wanted=request.split.backtest_folds, policy=request.policy)
    rows = [
        predictions_file.rows_of_part(
            HOLDOUT, snapshot, parts.holdout, candidate=answers, incumbent=_on_every_row(theirs)
        ),
        *_rows_of_folds(snapshot, folds),
    ]
    _save_predictions(request, candidate, incumbent, snapshot, rows, prior=_prior(parts))
    return GateMeasured(
        evidence=replace(measured, skill=skill, rows_note=rows_note), engine_contract=incumbent.contract
    )


def _unseen(parts: Parts, candidate: Bundle) -> tuple[Parts, str]:
    """The parts with a holdout of rows that neither the model nor an ancestor was trained on, and a note on that."""
    seen = seen_by(candidate.manifest)
    if not seen.is_known:
        return parts, "its training rows are unknown; results on rows that it was trained on are too good"
    is_unseen = parts.holdout.decided_at >= to_microseconds(seen.until)
    note = f"trained on rows until {seen.until:%Y-%m-%d %H:%M} UTC"
    if not is_unseen.all():
        note += f"; the {int((~is_unseen).sum())} rows of the holdout before that are left out"
    return replace(parts, holdout=parts.holdout.where(is_unseen)), note


@dataclass(frozen=True, kw_only=True)
class IncumbentAnswers:
    """The incumbent's probabilities (M,) on those of N samples for which it has a window (N,)."""

    is_shared: Bools
    answers: Floats
    seen: SeenRows
    #: (M,) whether it was not trained on the row: what the comparison is made on
    is_unseen: Bools
    #: (M,) the rows of its scorecard: the unseen ones, or all while those are too few to decide
    is_scored: Bools


def _incumbent_answers(
    incumbent: Incumbent, snapshot: Snapshot, samples: Samples, *, data: DataPolicy, min_rows: int
) -> IncumbentAnswers | None:
    """None without an incumbent, and when it has no window on any of these rows."""
    if (model := incumbent.model) is None:
        return None
    theirs = select_samples(snapshot, policy=data, seq_len=model.contract.context_length)
    is_shared = np.isin(samples.positions, theirs.positions)
    if not is_shared.any():
        return None
    seen, shared = seen_by(model.manifest), samples.where(is_shared)
    is_unseen = shared.decided_at >= to_microseconds(seen.until)
    return IncumbentAnswers(
        is_shared=is_shared,
        answers=inference.answers_of(model, snapshot, shared),
        seen=seen,
        is_unseen=is_unseen,
        is_scored=is_unseen if is_unseen.sum() >= min_rows else np.ones_like(is_unseen),
    )


def _on_every_row(theirs: IncumbentAnswers | None) -> Floats | None:
    """(N,), NaN on rows that its scorecard is not of."""
    if theirs is None:
        return None
    found = np.full(len(theirs.is_shared), np.nan)
    found[theirs.is_shared] = np.where(theirs.is_scored, theirs.answers, np.nan)
    return found


def _rows_of_folds(snapshot: Snapshot, folds: Sequence[tuple[Samples, FoldAnswers]]) -> list[pl.DataFrame]:
    return [
        predictions_file.rows_of_part(f"fold {number}", snapshot, judged, candidate=fold.answers)
        for number, (judged, fold) in enumerate(folds, start=1)
    ]


def _save_predictions(
    request: GateRequest,
    candidate: Bundle,
    incumbent: Incumbent,
    snapshot: Snapshot,
    rows: Sequence[pl.DataFrame],
    *,
    prior: float,
) -> None:
    """Store what the verdict follows from. A failure is logged: only the report needs it."""
    info = predictions_file.distributions(snapshot, Path(request.reference_dir) if request.reference_dir else None)
    model = incumbent.model
    info = replace(
        info,
        label=candidate.contract.label,
        prior=prior,
        candidate_thresholds=candidate.manifest.thresholds,
        incumbent_thresholds=model.manifest.thresholds if model else info.incumbent_thresholds,
        versions=predictions_file.versions(),
    )
    try:
        predictions_file.save(Predictions(rows=pl.concat(rows), info=info), Path(request.run_dir))
    except RetrainError as error:
        _log.warning(
            "%s: the predictions are not stored, so its report has no charts of them: %s", request.run_id, error
        )


def _prior(parts: Parts) -> float:
    return float(parts.train.labels.mean()) if len(parts.train) else 0.5


def evidence(
    candidate: Bundle,
    incumbent: Incumbent,
    snapshot: Snapshot,
    samples: Samples,
    *,
    answers: Floats,
    theirs: IncumbentAnswers | None,
    prior: float,
    policy: GatePolicy,
) -> Evidence:
    """Everything that a verdict on `candidate` is based on, measured on `samples`, which have its window length.

    `answers` (N,) are its probabilities. The incumbent is compared on those of them for which it has a window as well,
    and which it was not trained on. `prior` is P(label = 1) of the training part before balancing.
    """
    rows = scoring.rows_of(snapshot, samples)
    thresholds = candidate.manifest.thresholds
    card = scoring.scorecard(answers, rows, prior=prior, policy=policy, thresholds=thresholds)
    contract = contract_check(candidate, incumbent, snapshot, samples)
    if (model := incumbent.model) is None:
        return Evidence(candidate=card, contract=contract, incumbent_absence=incumbent.absence)
    if theirs is None:
        return Evidence(candidate=card, contract=contract, incumbent_absence="it has no window on these rows")
    shared_rows, is_unseen = rows.where(theirs.is_shared), theirs.is_unseen
    return Evidence(
        candidate=card,
        contract=contract,
        incumbent=scoring.scorecard(
            theirs.answers[theirs.is_scored],
            shared_rows.where(theirs.is_scored),
            prior=prior,
            policy=policy,
            thresholds=model.manifest.thresholds,
        ),
        comparison=scoring.comparison(
            answers[theirs.is_shared][is_unseen],
            theirs.answers[is_unseen],
            shared_rows.where(is_unseen),
            policy=policy,
        ),
        comparison_note="" if is_unseen.all() else _seen_note(theirs.seen, num_seen=int((~is_unseen).sum())),
    )


def _seen_note(seen: SeenRows, *, num_seen: int) -> str:
    until = f"{seen.until:%Y-%m-%d %H:%M} UTC"
    if seen.is_known:
        return f"{num_seen} rows are left out, because the incumbent was trained on rows until {until}"
    return (
        f"{num_seen} rows are left out, because the incumbent's file does not state its training rows and was written "
        f"at {until}"
    )


def contract_check(candidate: Bundle, incumbent: Incumbent, snapshot: Snapshot, samples: Samples) -> ContractCheck:
    """Whether the candidate's file, as read from its bytes, fits what the engine runs now."""
    features = inference.features_of(snapshot, candidate.contract.feature_names)
    return ContractCheck(
        mismatches=() if incumbent.contract is None else _mismatches(candidate.contract, incumbent.contract),
        unknown=incumbent.unknown,
        canary_max_error=candidate.canary_error(),
        constant_window_probability=inference.constant_window_probability(candidate, features),
        is_engine_preset=candidate.contract.preset is Preset.ENGINE,
        constant_input_share=inference.constant_input_share(candidate.model, features, samples.positions),
    )


def _mismatches(ours: ModelContract, theirs: ModelContract) -> tuple[str, ...]:
    names = ["preset", "context_length", "feature_names", "input_transform", "label"]
    if UNNAMED in theirs.feature_names:
        names.remove("feature_names")
    return tuple(
        f"{name}: the engine runs {getattr(theirs, name)}, the candidate is {getattr(ours, name)}"
        for name in names
        if getattr(ours, name) != getattr(theirs, name)
    )
