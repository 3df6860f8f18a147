"""The measurements of GATE: candidate and incumbent on the holdout, the backtest folds, and the contract of both files.

The worker measures, domain/gates decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np

from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.gates import ContractCheck, Evidence, GatePolicy, Skill
from retrain_worker.domain.recipe import Preset
from retrain_worker.domain.worker_protocol import UNNAMED, GateMeasured, GateRequest, Progress
from retrain_worker.errors import ContractError
from retrain_worker.model import bundle
from retrain_worker.model.bundle import Bundle
from retrain_worker.worker import compute, inference, pooled_skill, scoring
from retrain_worker.worker.data.instants import to_microseconds
from retrain_worker.worker.data.samples import Parts, Samples, select_samples, split_samples
from retrain_worker.worker.data.snapshot import Snapshot, load
from retrain_worker.worker.incumbent import Incumbent, incumbent_of
from retrain_worker.worker.training.backtest_folds import read_folds

Report = Callable[[Progress], None]


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
    samples, _left_out = select_samples(snapshot, policy=request.data, seq_len=candidate.contract.context_length)
    parts, rows_note = _unseen(split_samples(samples, request.split), candidate)
    report(Progress(message=f"gate {request.run_id}: measuring on {len(parts.holdout)} holdout rows"))
    is_auto = request.recipe.preset is Preset.AUTO
    incumbent = incumbent_of(
        request.incumbent_path,
        snapshot,
        label=candidate.contract.label,
        empty_slot=request.empty_slot if is_auto else None,
    )
    measured = evidence(
        candidate,
        incumbent,
        snapshot,
        parts.holdout,
        data=request.data,
        policy=request.policy,
        prior=_prior(parts),
    )
    return GateMeasured(
        evidence=replace(
            measured,
            skill=_skill(request, candidate, snapshot, samples, parts),
            rows_note=rows_note,
        ),
        engine_contract=incumbent.contract,
    )


def _unseen(parts: Parts, candidate: Bundle) -> tuple[Parts, str]:
    """The parts with a holdout of rows that the model was not trained on, and a note on how that is known."""
    windows = candidate.manifest.training.get("windows")
    if not windows:
        return parts, "its training rows are unknown; results on rows that it was trained on are too good"
    seen_until = datetime.fromisoformat(windows["validation"]["end"])
    is_unseen = parts.holdout.decided_at >= to_microseconds(seen_until)
    note = f"trained on rows until {seen_until:%Y-%m-%d %H:%M} UTC"
    if not is_unseen.all():
        note += f"; the {int((~is_unseen).sum())} rows of the holdout before that are left out"
    return replace(parts, holdout=parts.holdout.where(is_unseen)), note


def _skill(request: GateRequest, candidate: Bundle, snapshot: Snapshot, samples: Samples, parts: Parts) -> Skill:
    holdout = pooled_skill.Answered(
        answers=inference.answers_of(candidate, snapshot, parts.holdout),
        rows=scoring.rows_of(snapshot, parts.holdout),
        prior=_prior(parts),
    )
    past = []
    for fold in read_folds(Path(request.run_dir)):
        judged = samples.where(np.isin(samples.positions, fold.positions))
        past.append(
            pooled_skill.Answered(answers=fold.answers, rows=scoring.rows_of(snapshot, judged), prior=fold.prior)
        )
    return pooled_skill.skill(holdout, past, wanted=request.split.backtest_folds, policy=request.policy)


def _prior(parts: Parts) -> float:
    return float(parts.train.labels.mean()) if len(parts.train) else 0.5


def evidence(
    candidate: Bundle,
    incumbent: Incumbent,
    snapshot: Snapshot,
    samples: Samples,
    *,
    prior: float,
    data: DataPolicy,
    policy: GatePolicy,
) -> Evidence:
    """Everything that a verdict on `candidate` is based on, measured on `samples`, which have its window length.

    The incumbent is measured on those of them for which it has a window as well. `prior` is P(label = 1) of the
    training part before balancing.
    """
    answers = inference.answers_of(candidate, snapshot, samples)
    rows = scoring.rows_of(snapshot, samples)
    thresholds = candidate.manifest.thresholds
    card = scoring.scorecard(answers, rows, prior=prior, policy=policy, thresholds=thresholds)
    contract = contract_check(candidate, incumbent, snapshot, samples)
    if (model := incumbent.model) is None:
        return Evidence(candidate=card, contract=contract, incumbent_absence=incumbent.absence)

    theirs, _left_out = select_samples(snapshot, policy=data, seq_len=model.contract.context_length)
    is_shared = np.isin(samples.positions, theirs.positions)
    if not is_shared.any():
        return Evidence(candidate=card, contract=contract, incumbent_absence="it has no window on these rows")
    their_answers = inference.answers_of(model, snapshot, samples.where(is_shared))
    shared = rows.where(is_shared)
    return Evidence(
        candidate=card,
        contract=contract,
        incumbent=scoring.scorecard(
            their_answers, shared, prior=prior, policy=policy, thresholds=model.manifest.thresholds
        ),
        comparison=scoring.comparison(answers[is_shared], their_answers, shared, policy=policy),
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
