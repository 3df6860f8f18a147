"""How a shadow trial, a probation and a person's word stand in the life of a run: pairs of a name and one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retrain_worker.domain.lifecycle import Run, Stage


def trial_pairs(run: Run) -> tuple[tuple[str, str], ...]:
    """What is to be said besides the gates; empty for a run with none of it."""
    found = [
        ("on trial", _trial(run)),
        ("probation", _probation(run)),
        ("the engine", str(run.fact(Stage.PROBATION).get("engine") or "")),
        ("forced", _forced(run)),
    ]
    return tuple((name, text) for name, text in found if text)


def _trial(run: Run) -> str:
    fact = run.fact(Stage.SHADOW)
    if not fact:
        return ""
    verdict = f"; {fact['decision']}" if fact.get("decision") else ""
    return f"{_counts(fact)}{_against(fact, 'the incumbent')}{verdict}{_problem(fact)}"


def _probation(run: Run) -> str:
    fact = run.fact(Stage.PROBATION)
    if not fact:
        return "begins" if run.stage is Stage.PROBATION else ""
    decided = f"decided {fact['num_decided']} times" + ("" if run.is_finished else " so far")
    blocked = f"; taken back: {fact['reasons'][0]}" if fact.get("decision") else ""
    return f"{_counts(fact)}{_against(fact, 'the model it replaced')}; {decided}{blocked}{_problem(fact)}"


def _forced(run: Run) -> str:
    said = run.fact(Stage.GATE).get("forced")
    if not said:
        return ""
    instead = f", in the place of {', '.join(said['undecided'])}" if said["undecided"] else ""
    contract = f", to run {said['accepted_contract']}" if said["accepted_contract"] else ""
    return f"by {said['by']}, the candidate of run {said['of_run']}{instead}{contract}: {said['reason']}"


def _counts(fact: Mapping[str, Any]) -> str:
    return (
        f"{fact['observed']} rows recorded since {fact['since'][:16]} UTC, {fact['foreseen']} of them before their "
        f"outcome; {fact['known']} outcomes known"
    )


def _against(fact: Mapping[str, Any], whom: str) -> str:
    gain = fact.get("log_loss_gain")
    return "" if gain is None else f"; log loss gain {gain:+.4f} over {whom}"


def _problem(fact: Mapping[str, Any]) -> str:
    return f"; {fact['problem']}" if fact.get("problem") else ""
