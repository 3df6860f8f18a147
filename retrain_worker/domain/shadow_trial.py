"""The rule of the shadow trial: how long a candidate is on trial, what decides it, which candidate gives way."""

from __future__ import annotations

from dataclasses import dataclass, replace

from retrain_worker.domain.facts import TrialFacts
from retrain_worker.domain.gates import Decision, GateOutcome, GatePolicy, Verdict, decide
from retrain_worker.domain.trial_evaluation import TrialEvaluation

#: outcomes from which a negative log loss gain means that a candidate trails the incumbent
MIN_TRAILING = 50


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


def trial_policy(gate: GatePolicy, shadow: ShadowPolicy, verdict: Verdict) -> GatePolicy:
    """The gates' policy on the rows of a trial; `verdict`: that of the gate.

    A candidate that passed the gate has paid for daily asking there. One that could not be judged has not: it keeps the
    error probabilities that the gate required.
    """
    if verdict.decision is Decision.PASS:
        return replace(gate, skill_alpha=shadow.skill_alpha, gain_alpha=shadow.skill_alpha)
    return replace(gate, skill_alpha=verdict.policy.skill_alpha, gain_alpha=verdict.policy.gain_alpha)


def judge_shadow(evaluation: TrialEvaluation, *, policy: GatePolicy, shadow: ShadowPolicy, hours: float) -> Verdict:
    """The gates on the rows of the trial; UNDECIDED while too few outcomes are known or too few hours have passed."""
    verdict = decide(evaluation.evidence, policy)
    if evaluation.num_outcomes < max(shadow.min_outcomes, policy.min_rows) or hours < shadow.hours:
        return replace(verdict, decision=Decision.UNDECIDED)
    return verdict


def may_go_on_trial(verdict: Verdict) -> bool:
    """Whether a trial may collect the rows that the gate lacked: no gate failed, and the engine can run the file."""
    sound = {gate.name: gate.result for gate in verdict.gates}.get("contract") is GateOutcome.PASS
    return sound and all(gate.result is not GateOutcome.FAIL for gate in verdict.gates if gate.counts)


def gives_way(trial: TrialFacts | None) -> bool:
    """Whether the candidate of this trial is replaced by a newer one that passed its gate.

    It is when no prediction is recorded yet, or when it trails the incumbent on MIN_TRAILING outcomes. Else it stays
    and the newer one is refused: if the newest always replaced it, a trial that lasts longer than the interval between
    two runs would never end.
    """
    if trial is None or not trial.num_predictions:
        return True
    gain = trial.log_loss_gain
    return trial.num_outcomes >= MIN_TRAILING and gain is not None and gain < 0
