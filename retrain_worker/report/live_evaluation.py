"""Shadow trial, probation and forced promotion of a run, each as a name and a line of text."""

from __future__ import annotations

from retrain_worker.domain.facts import ForcedPromotion, ProbationFacts, ShadowFacts, TrialFacts
from retrain_worker.domain.lifecycle import Run, Stage


def trial_pairs(run: Run) -> tuple[tuple[str, str], ...]:
    """(name, text) of each that the run has."""
    shadow, probation = run.facts.shadow, run.facts.probation
    forced = run.facts.gate.forced if run.facts.gate else None
    found = [
        ("shadow", _trial(shadow) if shadow else ""),
        ("probation", _probation(probation) if probation else _probation_begins(run)),
        ("engine", probation.engine_finding if probation else ""),
        ("forced", _forced(forced) if forced else ""),
    ]
    return tuple((name, text) for name, text in found if text)


def _trial(facts: ShadowFacts) -> str:
    verdict = f"; {facts.verdict.decision}" if facts.verdict else ""
    return f"{_counts(facts)}{_against(facts, 'the incumbent')}{verdict}{_problem(facts)}"


def _probation_begins(run: Run) -> str:
    return "begins" if run.stage is Stage.PROBATION and not run.is_finished else ""


def _probation(facts: ProbationFacts) -> str:
    analyses = f", {facts.num_analyses} interim analyses"
    reason = f"; rolled back: {facts.rollback_reason}" if facts.rollback_reason else ""
    return f"{_counts(facts)}{analyses}{_against(facts, 'the model it replaced')}{reason}{_problem(facts)}"


def _forced(forced: ForcedPromotion) -> str:
    gates = f", instead of {', '.join(forced.undecided)}" if forced.undecided else ""
    contract = f", contract {forced.accepted_contract}" if forced.accepted_contract else ""
    return f"by {forced.by}, candidate of run {forced.of_run}{gates}{contract}: {forced.reason}"


def _counts(facts: TrialFacts) -> str:
    early = f" ({facts.num_early_predictions} before the outcome was known)" if facts.num_predictions else ""
    since = f"since {facts.since:%Y-%m-%d %H:%M} UTC"
    return f"{facts.num_predictions} predictions logged {since}{early}, {facts.num_outcomes} outcomes known"


def _against(facts: TrialFacts, reference: str) -> str:
    gain = facts.log_loss_gain
    return "" if gain is None else f"; log loss gain {gain:+.4f} over {reference}"


def _problem(facts: TrialFacts) -> str:
    return f"; {facts.problem}" if facts.problem else ""
