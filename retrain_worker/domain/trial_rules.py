"""The shadow trial and the probation: what a look at a model on fresh rows found, and what follows. Pure functions.

A look scores the rows that have arrived since, by the model on trial and by the one it is compared with (the
reference: the incumbent, or the model that was replaced). Predictions are recorded when a row is first seen; its
outcome is joined when it is known.

Looks repeat, so an error probability is spent, not asked anew each time: the probation decides only when the outcomes
have grown by half since the last decision, and the k-th decision may err with alpha / (k (k + 1)), k = 1, 2, ...;
together they err with alpha at most, whatever the dependence between them (union bound; Lan and DeMets, Biometrika 70
(1983) 659, is the general form).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from retrain_worker.domain.gates import Comparison, Decision, Evidence, GatePolicy, GateResult, Verdict, decide

#: growth of the known outcomes from one decision of the probation to the next
GROWTH = 1.5
#: outcomes on which a candidate on trial may be said to trail the incumbent
MIN_TRAILING = 50
#: what a probation that takes its model back stores as its decision
ROLL_BACK = "ROLL_BACK"


@dataclass(frozen=True, kw_only=True)
class ShadowPolicy:
    """How long a candidate is on trial. Off while both `min_outcomes` and `hours` are 0."""

    #: outcomes that must be known before anything is decided
    min_outcomes: int = 0
    #: hours that must have passed before anything is decided
    hours: float = 0.0
    #: hours after which a trial without a verdict ends as a refusal
    max_hours: float = 336.0
    #: one-sided error probability of the skill bounds on the trial's rows: the gate has passed with its own before
    skill_alpha: float = 0.05

    @property
    def is_on(self) -> bool:
        """Whether candidates go on trial at all."""
        return self.min_outcomes > 0 or self.hours > 0


@dataclass(frozen=True, kw_only=True)
class ProbationPolicy:
    """How a model that was just promoted is watched. Off while `hours` is 0."""

    hours: float = 48.0
    #: known outcomes before the first decision
    min_outcomes: int = 50
    #: log loss (nats per row) by which the new model may trail the one it replaced
    margin: float = 0.01
    #: probability that a model which is no worse than the margin is taken back, all decisions together
    alpha: float = 0.05
    #: rows, with or without an outcome, before a model is called degenerate
    min_rows: int = 100
    #: std of P under which the answers have collapsed
    min_std: float = 0.02
    #: share of one action over which nothing else is said
    max_action_share: float = 0.95

    @property
    def is_on(self) -> bool:
        """Whether promoted models are watched at all."""
        return self.hours > 0


@dataclass(frozen=True, kw_only=True)
class AnswerDistribution:
    """One model's answers on all recorded rows, whether or not their outcome is known."""

    n: int
    #: answers that are no number
    not_finite: int
    p_std: float | None
    #: BUY, SELL, HOLD -> share
    actions: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model on trial says of one row."""

    symbol: str
    #: microseconds since the epoch, UTC
    decided_at: int
    probability: float


@dataclass(frozen=True, kw_only=True)
class TrialEvaluation:
    """What one look found. No judgement is made here."""

    #: rows with a recorded prediction
    observed: int
    #: of those, rows whose outcome was not known when the prediction was recorded
    foreseen: int
    #: of those observed, rows with a usable outcome by now
    known: int
    #: on the rows with an outcome; the candidate is the model on trial, the incumbent the reference
    evidence: Evidence
    #: the reference against the model on trial: a positive gain says that the model is worse. Bound at `worse_alpha`
    worse: Comparison | None
    model: AnswerDistribution
    reference: AnswerDistribution | None
    #: why there is no reference to compare with
    absence: str = ""
    #: the newest answers of the model on trial
    answers: tuple[Answer, ...] = ()


# ---------------------------------------------------------------- shadow trial


def trial_policy(gate: GatePolicy, shadow: ShadowPolicy, gated: Mapping[str, Any]) -> GatePolicy:
    """The gates' policy on the rows of a trial; `gated`: what the gate has stored.

    A candidate that passed there has paid for the days on which luck might have spoken. One that could not be judged
    has not: it keeps the error probability that the gate would have asked.
    """
    if gated["decision"] == Decision.PASS:
        return replace(gate, skill_alpha=shadow.skill_alpha)
    return replace(gate, skill_alpha=gated.get("policy", {}).get("skill_alpha", gate.skill_alpha))


def judge_shadow(evaluation: TrialEvaluation, *, policy: GatePolicy, shadow: ShadowPolicy, hours: float) -> Verdict:
    """The gates on the rows of the trial; UNDECIDED while too few outcomes are known or too few hours have passed."""
    verdict = decide(evaluation.evidence, policy)
    if evaluation.known < max(shadow.min_outcomes, policy.min_rows) or hours < shadow.hours:
        return replace(verdict, decision=Decision.UNDECIDED)
    return verdict


def may_go_on_trial(verdict: Verdict) -> bool:
    """Whether a candidate may get its missing rows from the trial: nothing failed, and the engine can run it."""
    sound = {gate.name: gate.result for gate in verdict.gates}.get("contract") is GateResult.PASS
    return sound and all(gate.result is not GateResult.FAIL for gate in verdict.gates if gate.counts)


def gives_way(trial: Mapping[str, Any]) -> bool:
    """Whether the candidate of this trial (its stored fact) leaves its place to a newer one that passed its gate.

    It does when it has recorded no row yet, or when it trails the incumbent on MIN_TRAILING outcomes. Else
    it keeps its place and the newer one is refused: were the newest always preferred, a trial that lasts longer than
    the interval between two runs would never end.
    """
    if not trial.get("observed"):
        return True
    gain = trial.get("log_loss_gain")
    return trial.get("known", 0) >= MIN_TRAILING and gain is not None and gain < 0


# ---------------------------------------------------------------- probation


def alpha_of(num_decided: int, policy: ProbationPolicy) -> float:
    """The error probability that the next decision may spend, after `num_decided` others."""
    return policy.alpha / ((num_decided + 1) * (num_decided + 2))


def outcomes_for(num_decided: int, policy: ProbationPolicy, *, last_known: int) -> int:
    """How many outcomes must be known for the next decision; `last_known` were at the last one."""
    return policy.min_outcomes if num_decided == 0 else max(policy.min_outcomes, int(last_known * GROWTH))


def is_decidable(evaluation: TrialEvaluation) -> bool:
    """Whether this look bounds the difference at all: it does not with too few blocks in time, or no reference."""
    return evaluation.worse is not None and evaluation.worse.log_loss_gain_low is not None


def worse_than_replaced(evaluation: TrialEvaluation, policy: ProbationPolicy) -> str:
    """Why the new model is surely worse than the one it replaced, beyond the margin; empty when it is not."""
    worse = evaluation.worse
    if worse is None or worse.log_loss_gain is None or worse.log_loss_gain_low is None:
        return ""
    if worse.log_loss_gain_low <= policy.margin:
        return ""
    return (
        f"worse than the model it replaced: log loss higher by {worse.log_loss_gain:.4f} on {worse.n} new "
        f"outcomes, surely by over {worse.log_loss_gain_low:.4f} (at most {policy.margin:g} may be)"
    )


def degenerate(evaluation: TrialEvaluation, policy: ProbationPolicy) -> str:
    """Why the new model's answers are worth nothing; empty when they are not.

    A fault that the reference shows on the same rows is the market's, or the rows', and not the model's.
    """
    if evaluation.model.not_finite and not (evaluation.reference and evaluation.reference.not_finite):
        return f"degenerate: {evaluation.model.not_finite} of {evaluation.model.n} answers are no number"
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


def is_collapsed(spread: AnswerDistribution, policy: ProbationPolicy) -> bool:
    """Whether the answers hardly differ from row to row."""
    return spread.p_std is None or spread.p_std < policy.min_std


def evidence_of(probation: Mapping[str, Any]) -> dict[str, Any]:
    """What the decision of a probation (its stored fact) rests on, for the event."""
    names = (
        "reasons",
        "since",
        "observed",
        "foreseen",
        "known",
        "auc",
        "log_loss",
        "worse_by",
        "worse_by_low",
        "num_decided",
        "model",
        "reference",
        "absence",
    )
    return {name: probation.get(name) for name in names}
