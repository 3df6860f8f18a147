"""The events: every field of each payload, the flat fields of older consumers, and the id that a cause determines."""

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from retrain_worker.domain import events
from retrain_worker.domain.events import EventType
from retrain_worker.domain.facts import ForcedPromotion, ProbationFacts, PullFacts, RowCounts, ShadowFacts
from retrain_worker.domain.gates import Comparison, Decision, GateOutcome, GatePolicy, GateResult, Verdict
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Run, Stage
from retrain_worker.domain.trial_evaluation import AnswerDistribution
from tests.run_facts import CONTRACT, gate_facts, promote_facts, train_facts
from tests.unit.test_gates import GOOD_CARD

START = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)
AT = START + timedelta(minutes=20, milliseconds=250)
RUN = Run(
    run_id="20260110_033000",
    requested_by="schedule",
    request_reason="every 24 h",
    created_at=START,
    updated_at=START,
    seconds={"pull": 1.5},
)
GATES = (
    GateResult(
        name="skill", result=GateOutcome.FAIL, counts=True, message="AUC 0.49, required > 0.5", failure="chance"
    ),
    GateResult(name="incumbent", result=GateOutcome.UNDECIDED, counts=True, message="0 rows"),
)
VERDICT = Verdict(decision=Decision.REFUSE, gates=GATES, policy=GatePolicy())
FORCED = ForcedPromotion(by="anna", reason="fees", of_run="20260109_033000", undecided=("skill",))
COMPARISON = Comparison(n=120, auc_difference=0.01, log_loss_gain=0.04, log_loss_gain_low=0.02)
ANSWERS = AnswerDistribution(n=300, not_finite=1, p_std=0.2, actions={"BUY": 1.0})
TRIAL: dict[str, Any] = {
    "since": START,
    "prediction_log": "predictions_1",
    "evaluation_at": AT,
    "num_predictions": 300,
    "num_early_predictions": 250,
    "num_outcomes": 240,
    "auc": 0.7,
    "log_loss": 0.6,
    "comparison": COMPARISON,
}
TRIAL_PAYLOAD = {
    "since": "2026-01-10T03:30:00+00:00",
    "num_predictions": 300,
    "num_early_predictions": 250,
    "num_outcomes": 240,
    "auc": 0.7,
    "log_loss": 0.6,
    "log_loss_gain": 0.04,
}
DEPLOYMENT = Deployment(
    deployment_id="rollback_1",
    run_id=RUN.run_id,
    kind=DeploymentKind.ROLLBACK,
    version="patchtst_v20260109_033000",
    model_path="/engine/patchtst_v20260109_033000.pth",
    sha256="b" * 64,
    size_bytes=9,
    previous_version="patchtst_v20260110_033000",
    previous_model_path="/engine/patchtst_v20260110_033000.pth",
    state=DeploymentState.SWAPPED,
    created_at=START,
    updated_at=START,
    requested_by="anna",
    reason="it loses",
)
MODEL = {
    "model_name": "patchtst",
    "model_type": "patchtst",
    "old_version": "patchtst_v20260110_033000",
    "new_version": "patchtst_v20260109_033000",
    "version": "patchtst_v20260109_033000",
    "model_path": "/engine/patchtst_v20260109_033000.pth",
}
SLOT_CHANGE = {
    **MODEL,
    "sha256": "b" * 64,
    "size_bytes": 9,
    "run_id": "20260110_033000",
    "reason": "it loses",
    "shadow_only": True,
}


def judged(**gate: Any) -> Run:
    """A run with a candidate that was judged, on the rows of a pull."""
    pulled = PullFacts(rows=RowCounts(loaded=10, labelled=9, quarantined={"nan": 1}))
    known = RUN.with_fact(pulled).with_fact(train_facts(final_loss=0.1234567))
    return replace(known.with_fact(gate_facts(verdict=VERDICT, candidate=GOOD_CARD, **gate)), stage=Stage.GATE)


def test_a_start_names_the_run_and_its_requester() -> None:
    event = events.started(RUN, at=AT)

    assert event == events.Event(
        event_id=event.event_id,
        event_type=EventType.STARTED,
        payload={
            "run_id": "20260110_033000",
            "requested_by": "schedule",
            "request_reason": "every 24 h",
            "started_at": "2026-01-10T03:30:00+00:00",
        },
        correlation_id="20260110_033000",
        timestamp=AT,
        flat={"model": "patchtst", "status": "started"},
    )
    assert event.stream == "quantum:stream:learning.retraining.started"


def test_the_id_of_an_event_is_determined_by_its_cause_and_type() -> None:
    # a change of these ids lets a consumer handle an event twice across an upgrade
    assert events.event_id_of("20260110_033000", EventType.PROMOTED) == "5ad17c09-1e8b-56b9-8926-d9131d8e3693"
    ids = {events.event_id_of(cause, kind) for cause in ("20260110_033000", "rollback_1") for kind in EventType}
    assert len(ids) == 2 * len(EventType)


def test_the_end_of_a_run_before_its_gate_leaves_the_rest_empty() -> None:
    event = events.finished(RUN.ended(Outcome.FAILED, "no database", "tried 4 times", at=AT), at=AT)

    assert event == events.Event(
        event_id=events.event_id_of(RUN.run_id, EventType.FAILED),
        event_type=EventType.FAILED,
        payload={
            "run_id": "20260110_033000",
            "outcome": "FAILED",
            "reasons": ["no database", "tried 4 times"],
            "stage": "PULL",
            "rows": {},
            "candidate": None,
            "incumbent": None,
            "gates": [],
            "trial": None,
            "forced": None,
            "model_path": None,
            "sha256": None,
            "previous_model_path": None,
            "confirmed": None,
            "seconds": {"pull": 1.5},
            "finished_at": "2026-01-10T03:50:00.250000+00:00",
        },
        correlation_id="20260110_033000",
        timestamp=AT,
        flat={
            "model": "patchtst",
            "status": "failed",
            "duration_seconds": "1200.250",
            "error": "no database; tried 4 times",
        },
    )


def test_the_end_of_a_promotion_has_the_scorecards_the_gates_the_trial_and_the_model() -> None:
    trial = ShadowFacts(**TRIAL, verdict=VERDICT)
    run = judged(incumbent=replace(GOOD_CARD, auc=0.6), forced=FORCED).with_fact(trial)
    run = run.with_fact(promote_facts(previous_model_path="/m/old.pth", confirmed=True))
    run = replace(run, stage=Stage.PROMOTE).ended(Outcome.PROMOTED, "seen serving", at=AT)
    event = events.finished(run, at=AT)

    assert event.event_type is EventType.COMPLETED
    assert event.payload == {
        "run_id": "20260110_033000",
        "outcome": "PROMOTED",
        "reasons": ["seen serving"],
        "stage": "PROMOTE",
        "rows": asdict(RowCounts(loaded=10, labelled=9, quarantined={"nan": 1})),
        "candidate": asdict(GOOD_CARD),
        "incumbent": asdict(replace(GOOD_CARD, auc=0.6)),
        "gates": [asdict(gate) for gate in GATES],
        "trial": {**TRIAL_PAYLOAD, "decision": "REFUSE", "reasons": list(VERDICT.reasons)},
        "forced": asdict(FORCED),
        "model_path": "/m/patchtst_v20260110_033000.pth",
        "sha256": "a" * 64,
        "previous_model_path": "/m/old.pth",
        "confirmed": True,
        "seconds": {"pull": 1.5},
        "finished_at": "2026-01-10T03:50:00.250000+00:00",
    }
    assert event.flat == {
        "model": "patchtst",
        "status": "promoted",
        "model_path": "/m/patchtst_v20260110_033000.pth",
        "duration_seconds": "1200.250",
        "final_loss": "0.123457",
    }


def test_a_trial_without_a_verdict_has_no_decision() -> None:
    run = judged().with_fact(ShadowFacts(**{**TRIAL, "comparison": None}))
    payload = events.finished(run.ended(Outcome.REFUSED, "superseded", at=AT), at=AT).payload

    assert payload["trial"] == {**TRIAL_PAYLOAD, "log_loss_gain": None, "decision": None, "reasons": []}


@pytest.mark.parametrize(
    ("outcome", "before_the_gate", "after_it"),
    [
        (Outcome.SKIPPED, EventType.SKIPPED, EventType.SKIPPED),
        (Outcome.PROMOTED, EventType.FAILED, EventType.COMPLETED),
        (Outcome.REFUSED, EventType.FAILED, EventType.COMPLETED),
        (Outcome.ROLLED_BACK, EventType.FAILED, EventType.COMPLETED),
        (Outcome.FAILED, EventType.FAILED, EventType.FAILED),
        (Outcome.ABANDONED, EventType.FAILED, EventType.FAILED),
    ],
)
def test_a_run_is_completed_only_when_its_candidate_was_judged(
    outcome: Outcome, before_the_gate: EventType, after_it: EventType
) -> None:
    assert events.finished_type(replace(RUN, outcome=outcome)) is before_the_gate
    assert events.finished_type(replace(judged(), outcome=outcome)) is after_it


def test_only_a_failure_has_an_error_field() -> None:
    assert "error" not in events.finished(judged().ended(Outcome.REFUSED, "skill", at=AT), at=AT).flat


def test_a_run_without_an_outcome_has_no_closing_event() -> None:
    with pytest.raises(AssertionError, match=r"^only a run with an outcome has finished$"):
        events.finished(RUN, at=AT)


def test_a_promotion_has_the_metrics_of_the_candidate() -> None:
    run = judged(forced=FORCED).with_fact(ShadowFacts(**TRIAL, verdict=VERDICT))
    event = events.promoted(run, replace(DEPLOYMENT, requested_by="schedule"), shadow_only=True, at=AT)

    assert event == events.Event(
        event_id=events.event_id_of(RUN.run_id, EventType.PROMOTED),
        event_type=EventType.PROMOTED,
        payload={
            **{key: value for key, value in SLOT_CHANGE.items() if key not in ("reason", "run_id")},
            "accuracy": 0.72,
            "precision": 0.73,
            "recall": 0.75,
            "f1_score": 0.74,
            "auc": 0.78,
            "performance_metrics": {
                "log_loss": 0.55,
                "brier": 0.19,
                "ece": 0.03,
                "p_std": 0.22,
                "p10_p90": 0.6,
                "n": 900,
            },
            "gates": [asdict(gate) for gate in GATES],
            "trial": {**TRIAL_PAYLOAD, "decision": "REFUSE", "reasons": list(VERDICT.reasons)},
            "forced": asdict(FORCED),
            "contract": asdict(CONTRACT),
            "confirmed": False,
            "promoted_at": "2026-01-10T03:50:00.250000+00:00",
            "promoted_at_ts": AT.timestamp(),
            "type": "model.promoted",
            "promoted_by": "schedule",
        },
        correlation_id="20260110_033000",
        timestamp=AT,
        flat={
            **MODEL,
            "model": "patchtst",
            "status": "promoted",
            "type": "model.promoted",
            "final_loss": "0.123457",
            "promoted_at": "2026-01-10T03:50:00.250000+00:00",
            "promoted_at_ts": "1768017000.250000",
        },
    )


def test_a_promotion_whose_facts_are_lost_is_still_announced() -> None:
    event = events.promoted(RUN, DEPLOYMENT, shadow_only=False, at=AT)

    lost = ("accuracy", "precision", "recall", "f1_score", "auc", "trial", "forced", "contract")
    assert {name: event.payload[name] for name in lost} == dict.fromkeys(lost)
    assert event.payload["performance_metrics"] == dict.fromkeys(("log_loss", "brier", "ece", "p_std", "p10_p90", "n"))
    assert (event.payload["gates"], event.payload["shadow_only"]) == ([], False)
    assert "final_loss" not in event.flat
    no_card = events.promoted(RUN.with_fact(gate_facts()), DEPLOYMENT, shadow_only=False, at=AT)
    assert no_card.payload["auc"] is None


def test_a_rollback_has_the_evidence_of_the_probation() -> None:
    probation = ProbationFacts(
        **TRIAL,
        rollback_reason="worse",
        num_analyses=2,
        worse=Comparison(n=120, auc_difference=0.0, log_loss_gain=0.07, log_loss_gain_low=0.03),
        model=ANSWERS,
        reference_absence="it cannot be read",
    )
    event = events.rolled_back(DEPLOYMENT, shadow_only=True, at=AT, probation=probation)

    assert event == events.Event(
        event_id=events.event_id_of("rollback_1", EventType.ROLLED_BACK),
        event_type=EventType.ROLLED_BACK,
        payload={
            **SLOT_CHANGE,
            "type": "model.rolled_back",
            "rolled_back_at": "2026-01-10T03:50:00.250000+00:00",
            "rolled_back_by": "anna",
            "evidence": {
                "reason": "worse",
                "since": "2026-01-10T03:30:00+00:00",
                "num_predictions": 300,
                "num_early_predictions": 250,
                "num_outcomes": 240,
                "num_analyses": 2,
                "auc": 0.7,
                "log_loss": 0.6,
                "worse_by": 0.07,
                "worse_by_low": 0.03,
                "model": asdict(ANSWERS),
                "reference": None,
                "reference_absence": "it cannot be read",
            },
        },
        correlation_id="20260110_033000",
        timestamp=AT,
        flat={**MODEL, "model": "patchtst", "status": "rolled_back", "type": "model.rolled_back"},
    )


def test_a_rollback_by_an_operator_has_no_evidence_and_is_its_own_trace() -> None:
    emptied = replace(DEPLOYMENT, run_id=None, model_path="")
    event = events.rolled_back(emptied, shadow_only=False, at=AT)

    assert event.payload["evidence"] is None
    assert event.payload["shadow_only"] is False
    assert event.correlation_id == "rollback_1"
    assert event.flat["status"] == "rolled_back"
    assert "model_path" not in event.flat


def test_a_probation_without_a_comparison_has_no_difference() -> None:
    probation = ProbationFacts(**TRIAL, reference=ANSWERS)
    evidence = events.rolled_back(DEPLOYMENT, shadow_only=True, at=AT, probation=probation).payload["evidence"]

    assert (evidence["worse_by"], evidence["worse_by_low"]) == (None, None)
    assert (evidence["model"], evidence["reference"]) == (None, asdict(ANSWERS))


def test_an_external_change_names_what_the_line_names_now() -> None:
    event = events.changed_externally(DEPLOYMENT, shadow_only=True, at=AT)

    assert event == events.Event(
        event_id=events.event_id_of("rollback_1", EventType.CHANGED_EXTERNALLY),
        event_type=EventType.CHANGED_EXTERNALLY,
        payload={
            **SLOT_CHANGE,
            "type": "model.changed_externally",
            "changed_at": "2026-01-10T03:50:00.250000+00:00",
            "changed_by": "anna",
        },
        correlation_id="20260110_033000",
        timestamp=AT,
        flat={
            **MODEL,
            "model": "patchtst",
            "status": "changed_externally",
            "type": "model.changed_externally",
        },
    )


def test_the_first_model_replaces_an_empty_version_and_not_null() -> None:
    first = replace(DEPLOYMENT, previous_version=None, previous_model_path=None)
    for event in (
        events.promoted(RUN, first, shadow_only=True, at=AT),
        events.changed_externally(first, shadow_only=True, at=AT),
    ):
        assert (event.flat["old_version"], event.payload["old_version"]) == ("", "")


def test_an_alias_is_the_same_event_under_another_name_and_id() -> None:
    event = events.rolled_back(DEPLOYMENT, shadow_only=True, at=AT)
    same, alias = events.with_aliases(event)

    assert same is event
    assert (alias.event_type, alias.payload["type"], alias.flat["type"]) == ("model.rollback_initiated",) * 3
    assert alias.event_id == events.event_id_of(event.event_id, "model.rollback_initiated")
    assert {**alias.payload, "type": "model.rolled_back"} == event.payload
    assert EventType.ROLLBACK_INITIATED not in events.EVENT_TYPES
    promoted = events.promoted(RUN, DEPLOYMENT, shadow_only=True, at=AT)
    assert events.with_aliases(promoted) == (promoted,)
