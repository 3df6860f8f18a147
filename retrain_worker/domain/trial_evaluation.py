"""What one evaluation of a model on rows that arrived after its training has measured. Nothing is judged here.

An evaluation scores the new rows with the model on trial and with its reference: the incumbent of a shadow trial, or
the model that a promotion replaced. A prediction is recorded when a row is first read; its outcome is joined once it is
known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from retrain_worker.domain.gates import Comparison, Evidence


@dataclass(frozen=True, kw_only=True)
class AnswerDistribution:
    """One model's answers on all recorded rows, whether or not their outcome is known."""

    n: int
    #: answers that are not a finite number
    not_finite: int
    p_std: float | None
    #: BUY, SELL, HOLD -> share
    actions: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer of the model on trial for one row."""

    symbol: str
    #: microseconds since the epoch, UTC
    decided_at: int
    probability: float


@dataclass(frozen=True, kw_only=True)
class TrialEvaluation:
    """The measurements of one evaluation."""

    #: rows with a recorded prediction
    num_predictions: int
    #: of those, rows whose outcome was not known when the prediction was recorded
    num_early_predictions: int
    #: of those predicted, rows with a usable outcome by now
    num_outcomes: int
    #: on the rows with an outcome; the candidate is the model on trial, the incumbent the reference
    evidence: Evidence
    #: the reference against the model on trial: a positive gain means that the model is worse. Bound at `worse_alpha`
    worse: Comparison | None
    model: AnswerDistribution
    reference: AnswerDistribution | None
    #: why there is no reference to compare with
    absence: str = ""
    #: the newest answers of the model on trial
    answers: tuple[Answer, ...] = ()
