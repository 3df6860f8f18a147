"""One evaluation of a shadow trial or a probation: logs predictions for new rows, and joins the outcomes known so far.

The prediction log of a trial has one line per row: the predictions of both models when the row was first read. Lines
are never changed, so measurements use the predictions as they were made, whatever happens to the row. Predictions are
made on a snapshot without outcomes; logged predictions are joined with outcomes afterwards. The log is replaced
atomically and durably, so an evaluation that is killed has either happened or not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrain_worker import durable_file
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.gates import Evidence
from retrain_worker.domain.labels import Thresholds
from retrain_worker.domain.trial_evaluation import Answer, AnswerDistribution, TrialEvaluation
from retrain_worker.domain.worker_protocol import Progress, TrialEvaluationRequest, TrialEvaluationResult
from retrain_worker.model import bundle
from retrain_worker.model.bundle import Bundle
from retrain_worker.worker import compute, gate_measurement, inference, scoring
from retrain_worker.worker.data import outcomes
from retrain_worker.worker.data import snapshot as snapshots
from retrain_worker.worker.data.instants import to_microseconds
from retrain_worker.worker.data.pull import read_window
from retrain_worker.worker.data.samples import Samples, select_samples
from retrain_worker.worker.data.snapshot import Snapshot
from retrain_worker.worker.incumbent import Incumbent, incumbent_of
from retrain_worker.worker.seen_rows import seen_by

Report = Callable[[Progress], None]

#: one line of the log; `reference` is valid only where `has_reference`
DTYPE = np.dtype(
    [
        ("id", "<i8"),
        ("decided_at", "<i8"),
        ("model", "<f8"),
        ("reference", "<f8"),
        ("has_reference", "?"),
        ("foreseen", "?"),
    ]
)
#: newest predictions that are returned to the daemon
NUM_ANSWERS = 200

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The model on trial and the one that it is compared with."""

    model: Bundle
    reference: Incumbent


def evaluate(request: TrialEvaluationRequest, database_url: str, report: Report) -> TrialEvaluationResult:
    """Read the table, log predictions, join outcomes, measure. Raises ArtifactError, and what read_window raises."""
    compute.prepare(device="cpu", threads=request.threads)
    now = to_microseconds(datetime.fromisoformat(request.now))
    snapshot = read_window(
        request.data, database_url, now=now, busy_timeout_seconds=request.busy_timeout_seconds, report=report
    )
    model = bundle.read(Path(request.model_path))
    reference = incumbent_of(
        request.reference_path, snapshot, label=model.contract.label, if_none="there was no model before it"
    )
    pair = Pair(model=model, reference=reference)
    prediction_log = recorded(request, pair, snapshot, prediction_log_file(request))
    report(
        Progress(
            message=f"evaluation {request.number} of run {request.run_id}: {len(prediction_log)} predictions logged"
        )
    )
    return TrialEvaluationResult(evaluation=measured(request, pair, snapshot, prediction_log))


def prediction_log_file(request: TrialEvaluationRequest) -> Path:
    """The file of the predictions of this trial."""
    return Path(request.run_dir) / f"{request.prediction_log}.npy"


def recorded(request: TrialEvaluationRequest, pair: Pair, snapshot: Snapshot, path: Path) -> NDArray[np.void]:
    """The log (N,) of DTYPE with the rows that were added since the last evaluation, as stored in `path`."""
    prediction_log = _read(path)
    samples = _answerable(snapshot, request.data, pair.model)
    is_new = samples.decided_at > to_microseconds(datetime.fromisoformat(request.since))
    # stamps may be ahead of the clock, so that `since` alone does not exclude every row of the candidate's snapshot
    is_new &= ~np.isin(
        snapshot.ids[samples.positions], np.concatenate([prediction_log["id"], _used_ids(request.snapshot_dir)])
    )
    fresh = samples.where(is_new)
    if not len(fresh):
        return prediction_log
    lines = np.zeros(len(fresh), dtype=DTYPE)
    lines["id"], lines["decided_at"] = snapshot.ids[fresh.positions], fresh.decided_at
    lines["model"] = inference.answers_of(pair.model, _blinded(snapshot), fresh)
    lines["foreseen"] = snapshot.recorded_outcome[fresh.positions] < 0
    if (reference := pair.reference.model) is not None:
        theirs = _answerable(snapshot, request.data, reference)
        is_unseen = fresh.decided_at >= to_microseconds(seen_by(reference.manifest).until)
        has = np.isin(fresh.positions, theirs.positions) & is_unseen
        lines["has_reference"] = has
        lines["reference"][has] = inference.answers_of(reference, _blinded(snapshot), fresh.where(has))
    prediction_log = np.concatenate([prediction_log, lines])
    with durable_file.replacing(path) as file:
        np.save(file, prediction_log, allow_pickle=False)
    return prediction_log


def _used_ids(snapshot_dir: str | None) -> NDArray[np.int64]:
    """The ids of the rows in that folder's snapshot; none where it has been removed."""
    file = Path(snapshot_dir) / snapshots.FILE_NAME if snapshot_dir else None
    return snapshots.load(file.parent).ids if file and file.exists() else np.zeros(0, dtype=np.int64)


def measured(
    request: TrialEvaluationRequest, pair: Pair, snapshot: Snapshot, prediction_log: NDArray[np.void]
) -> TrialEvaluation:
    """Scorecards of the logged predictions on the rows whose outcome is known."""
    seq_len = pair.model.contract.context_length
    samples = select_samples(snapshot, policy=request.data, seq_len=seq_len)
    ids = snapshot.ids[samples.positions]
    samples = samples.where(np.isin(ids, prediction_log["id"]))
    by_id = np.argsort(prediction_log["id"])
    lines = prediction_log[by_id[np.searchsorted(prediction_log["id"], snapshot.ids[samples.positions], sorter=by_id)]]
    thresholds = pair.model.manifest.thresholds
    # the log has predictions of the reference even if its file has been removed since
    is_logged = bool(prediction_log["has_reference"].any())
    reference = pair.reference.model
    theirs = reference.manifest.thresholds if reference is not None else thresholds
    has = lines["has_reference"]
    worse = None
    if is_logged:
        stricter = replace(request.policy, incumbent_alpha=request.worse_alpha)
        shared = scoring.rows_of(snapshot, samples.where(has))
        worse = scoring.comparison(lines["reference"][has], lines["model"][has], shared, policy=stricter)
    return TrialEvaluation(
        num_predictions=len(prediction_log),
        num_early_predictions=int(prediction_log["foreseen"].sum()),
        num_outcomes=len(samples),
        evidence=_evidence(pair, snapshot, samples, lines, request),
        worse=worse,
        model=_spread(prediction_log["model"], thresholds),
        reference=_spread(prediction_log["reference"][prediction_log["has_reference"]], theirs) if is_logged else None,
        absence=pair.reference.absence,
        answers=_answers(snapshot, prediction_log),
    )


def _evidence(
    pair: Pair, snapshot: Snapshot, samples: Samples, lines: NDArray[np.void], request: TrialEvaluationRequest
) -> Evidence:
    """As gate_measurement.evidence, but from logged predictions."""
    rows, policy = scoring.rows_of(snapshot, samples), request.policy
    card = scoring.scorecard(
        lines["model"], rows, prior=request.prior, policy=policy, thresholds=pair.model.manifest.thresholds
    )
    contract = gate_measurement.contract_check(pair.model, pair.reference, snapshot, samples)
    if (reference := pair.reference.model) is None:
        return Evidence(candidate=card, contract=contract, incumbent_absence=pair.reference.absence)
    has = lines["has_reference"]
    shared = rows.where(has)
    return Evidence(
        candidate=card,
        contract=contract,
        incumbent=scoring.scorecard(
            lines["reference"][has],
            shared,
            prior=request.prior,
            policy=policy,
            thresholds=reference.manifest.thresholds,
        ),
        comparison=scoring.comparison(lines["model"][has], lines["reference"][has], shared, policy=policy),
    )


def _blinded(snapshot: Snapshot) -> Snapshot:
    """The same rows with every outcome unknown, as predictions must be made."""
    nothing = np.full(len(snapshot), np.nan)
    return replace(
        snapshot,
        outcome=np.full(len(snapshot), outcomes.LOSS, dtype=np.int8),
        recorded_outcome=np.full(len(snapshot), outcomes.OPEN, dtype=np.int8),
        pnl=nothing,
        target_label=nothing.astype(np.float32),
        price_move=nothing.astype(np.float32),
    )


def _answerable(snapshot: Snapshot, policy: DataPolicy, model: Bundle) -> Samples:
    """Every row with a complete window, whatever its outcome."""
    return select_samples(_blinded(snapshot), policy=policy, seq_len=model.contract.context_length)


def _spread(answers: NDArray[np.float64], thresholds: Thresholds) -> AnswerDistribution:
    finite = answers[np.isfinite(answers)]
    return AnswerDistribution(
        n=len(answers),
        not_finite=len(answers) - len(finite),
        p_std=float(finite.std()) if len(finite) else None,
        actions=scoring.action_shares(finite, thresholds) if len(finite) else dict.fromkeys(scoring.ACTIONS, 0.0),
    )


def _answers(snapshot: Snapshot, prediction_log: NDArray[np.void]) -> tuple[Answer, ...]:
    """The newest predictions, oldest first, with the symbols of their rows; rows that left the table are omitted."""
    newest = prediction_log[np.argsort(prediction_log["decided_at"], kind="stable")][-NUM_ANSWERS:]
    by_id = np.argsort(snapshot.ids)
    found = []
    for line in newest:
        index = int(np.searchsorted(snapshot.ids, line["id"], sorter=by_id))
        if index < len(by_id) and snapshot.ids[by_id[index]] == line["id"] and np.isfinite(line["model"]):
            symbol = snapshot.symbols[snapshot.symbol_codes[by_id[index]]]
            found.append(Answer(symbol=symbol, decided_at=int(line["decided_at"]), probability=float(line["model"])))
    return tuple(found)


def _read(path: Path) -> NDArray[np.void]:
    """The log; empty if there is none, or none that can be read."""
    if path.exists():
        try:
            found: NDArray[np.void] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            _log.warning("%s: cannot be read (%s); the trial starts again with an empty log", path, error)
        else:
            if found.dtype == DTYPE:
                return found
            _log.warning("%s: not a prediction log; the trial starts again with an empty log", path)
    return np.zeros(0, dtype=DTYPE)
