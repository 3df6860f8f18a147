"""The rule of the probation: when a model that was just promoted is rolled back.

Evaluations repeat, so an error probability is spent over the interim analyses: the known outcomes must grow by half
from one analysis to the next, and the k-th analysis may err with alpha / (k (k + 1)), k = 1, 2, ...; together they err
with alpha at most, whatever the dependence between them (union bound; Lan and DeMets, Biometrika 70 (1983) 659, is the
general form).

A probation lasts until it can decide: after `hours` it ends once the upper confidence bound of the difference is at
most `resolution`, and after `max_hours` in any case.
"""

from __future__ import annotations

from dataclasses import dataclass

from retrain_worker.domain.gates import Comparison
from retrain_worker.domain.trial_evaluation import AnswerDistribution, TrialEvaluation

#: growth of the known outcomes from one interim analysis to the next
GROWTH = 1.5


@dataclass(frozen=True, kw_only=True)
class ProbationPolicy:
    """How a model that was just promoted is monitored. Off while `hours` is 0."""

    hours: float = 48.0
    #: hours after which it ends undecided; `hours` if that is more
    max_hours: float = 168.0
    #: log loss (nats per row) by which the new model may still be worse when it ends before `max_hours`
    resolution: float = 0.1
    #: known outcomes before the first interim analysis
    min_outcomes: int = 50
    #: log loss (nats per row) by which the new model may trail the one it replaced
    margin: float = 0.01
    #: probability that a model which is no worse than the margin is rolled back, all analyses together
    alpha: float = 0.05
    #: rows, with or without an outcome, before a model is called degenerate
    min_rows: int = 100
    #: std of P under which the answers have collapsed
    min_std: float = 0.02
    #: share of one action over which the model is degenerate
    max_action_share: float = 0.95

    @property
    def is_on(self) -> bool:
        """Whether promoted models are monitored at all."""
        return self.hours > 0

    @property
    def limit_hours(self) -> float:
        """The hours after which every probation ends."""
        return max(self.hours, self.max_hours)


def is_settled(worse: Comparison | None, policy: ProbationPolicy) -> bool:
    """Whether a model that is worse by more than `resolution` would have shown: its upper bound is lower."""
    if worse is None or worse.log_loss_gain is None or worse.log_loss_gain_low is None:
        return False
    return 2.0 * worse.log_loss_gain - worse.log_loss_gain_low <= policy.resolution


def alpha_of(num_analyses: int, policy: ProbationPolicy) -> float:
    """The error probability of the analysis after `num_analyses` of them."""
    return policy.alpha / ((num_analyses + 1) * (num_analyses + 2))


def outcomes_for(policy: ProbationPolicy, *, last_known: int) -> int:
    """How many outcomes must be known for the next analysis; `last_known` were at the last one, 0 before the first."""
    return max(policy.min_outcomes, int(last_known * GROWTH))


def is_decidable(evaluation: TrialEvaluation) -> bool:
    """Whether the evaluation bounds the difference at all: not with too few blocks in time, or without a reference."""
    return evaluation.worse is not None and evaluation.worse.log_loss_gain_low is not None


def worse_than_replaced(evaluation: TrialEvaluation, policy: ProbationPolicy) -> str:
    """Why the new model is worse than the one it replaced by more than the margin; empty when that is not shown."""
    worse = evaluation.worse
    if worse is None or worse.log_loss_gain is None or worse.log_loss_gain_low is None:
        return ""
    if worse.log_loss_gain_low <= policy.margin:
        return ""
    return (
        f"worse than the model it replaced: log loss higher by {worse.log_loss_gain:.4f} on {worse.n} new "
        f"outcomes, lower confidence bound {worse.log_loss_gain_low:.4f} (allowed {policy.margin:g})"
    )


def degenerate(evaluation: TrialEvaluation, policy: ProbationPolicy) -> str:
    """Why the new model's answers are unusable; empty when they are not.

    A fault that the reference shows on the same rows is a fault of the rows, not of the model.
    """
    if evaluation.model.not_finite and not (evaluation.reference and evaluation.reference.not_finite):
        return f"degenerate: {evaluation.model.not_finite} of {evaluation.model.n} answers are not finite numbers"
    if evaluation.model.n < policy.min_rows:
        return ""
    reference = evaluation.reference
    if is_collapsed(evaluation.model, policy) and not (reference and is_collapsed(reference, policy)):
        return f"degenerate: its {evaluation.model.n} answers have collapsed (std {evaluation.model.p_std or 0.0:.4f})"
    action, share = max(evaluation.model.actions.items(), key=lambda item: item[1])
    if share > policy.max_action_share and not (
        evaluation.reference and evaluation.reference.actions.get(action, 0.0) > policy.max_action_share
    ):
        return f"degenerate: {action} in {share:.0%} of {evaluation.model.n} rows"
    return ""


def is_collapsed(answers: AnswerDistribution, policy: ProbationPolicy) -> bool:
    """Whether the answers hardly differ from row to row."""
    return answers.p_std is None or answers.p_std < policy.min_std
