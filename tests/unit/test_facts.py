"""The facts of a run: one place for each kind, and a stated reason where one cannot be read."""

from datetime import UTC, datetime
from typing import Any

import pytest

from retrain_worker.domain.facts import (
    AuditFacts,
    Fact,
    ProbationFacts,
    PullFacts,
    RunFacts,
    ShadowFacts,
    TrainFacts,
    TrialFacts,
    check_aware,
)
from retrain_worker.domain.gates import Comparison, Decision, GatePolicy, Verdict
from retrain_worker.errors import StoredValueError
from tests.run_facts import gate_facts, probation_facts, promote_facts, train_facts

AT = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)
TRIAL: dict[str, Any] = {"since": AT, "prediction_log": "p", "evaluation_at": AT}


@pytest.mark.parametrize(
    ("fact", "field"),
    [
        (PullFacts(), "pull"),
        (AuditFacts(), "audit"),
        (train_facts(), "train"),
        (gate_facts(), "gate"),
        (ShadowFacts(**TRIAL), "shadow"),
        (promote_facts(), "promote"),
        (probation_facts(), "probation"),
    ],
)
def test_a_fact_has_one_place_and_replaces_what_could_not_be_read_there(fact: Fact, field: str) -> None:
    facts = RunFacts(unreadable={field: "no number", "other": "no text"})
    places: dict[str, Any] = {field: fact}
    assert facts.with_fact(fact) == RunFacts(**places, unreadable={"other": "no text"})
    assert facts.with_fact(fact).require(type(fact)) is fact

    with pytest.raises(StoredValueError) as unreadable:
        facts.require(type(fact))
    assert str(unreadable.value) == (
        f"stage {field.upper()}: its stored facts cannot be read: no number; the next run starts from the beginning"
    )
    with pytest.raises(StoredValueError) as absent:
        RunFacts().require(type(fact))
    assert str(absent.value) == (
        f"stage {field.upper()}: it has no stored facts; the next run starts from the beginning"
    )


def test_an_instant_without_a_time_zone_is_rejected() -> None:
    check_aware(None, AT)
    naive = datetime(2026, 1, 10, 3, 30)
    for instants in ((naive,), (None, naive), (AT, naive)):
        with pytest.raises(ValueError, match=r"^2026-01-10T03:30:00 has no time zone$"):
            check_aware(*instants)
    for name in ("since", "evaluation_at"):
        with pytest.raises(ValueError, match="has no time zone"):
            TrialFacts(**{**TRIAL, name: naive})
    for first_at, last_at in ((naive, AT), (AT, naive)):
        with pytest.raises(ValueError, match="has no time zone"):
            PullFacts(first_at=first_at, last_at=last_at)


@pytest.mark.parametrize(
    ("parts", "prior"),
    [
        ({}, 0.5),
        ({"validation": {"win": 9, "loss": 1}}, 0.5),
        ({"train": {}}, 0.5),
        ({"train": {"win": 0, "loss": 0}}, 0.5),
        ({"train": {"win": 3, "loss": 1}}, 0.75),
        ({"train": {"win": 1}}, 1.0),
        ({"train": {"loss": 1}}, 0.0),
    ],
)
def test_the_prior_is_the_share_of_wins_in_the_training_part(parts: dict[str, dict[str, int]], prior: float) -> None:
    facts: TrainFacts = train_facts(parts=parts)

    assert facts.prior == prior


def test_a_trial_has_the_gain_of_its_comparison_and_passes_by_its_verdict() -> None:
    compared = Comparison(n=1, auc_difference=None, log_loss_gain=-0.2, log_loss_gain_low=None)
    assert ProbationFacts(**TRIAL).log_loss_gain is None
    assert ProbationFacts(**TRIAL, comparison=compared).log_loss_gain == -0.2

    verdicts = [Verdict(decision=decision, gates=(), policy=GatePolicy()) for decision in Decision]
    passed = [ShadowFacts(**TRIAL, verdict=verdict).has_passed for verdict in (None, *verdicts)]
    assert passed == [False] + [decision is Decision.PASS for decision in Decision]
