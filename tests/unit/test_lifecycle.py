"""A run moves only as the table allows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from retrain_worker.domain.lifecycle import ALWAYS_ALLOWED, FINAL, MOVES, Outcome, Run, Stage

NOW = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)


def a_run(stage: Stage = Stage.PULL) -> Run:
    return Run(
        run_id="20260110_033000",
        requested_by="once",
        request_reason="test",
        created_at=NOW,
        updated_at=NOW,
        stage=stage,
        num_deaths=2,
        num_retries=1,
    )


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("target", Stage)
def test_only_moves_of_the_table_are_made(stage: Stage, target: Stage) -> None:
    if target in MOVES[stage]:
        moved = replace(a_run(stage), outcome=Outcome.INTERRUPTED, not_before=NOW).moved_to(target, at=LATER)
        assert moved == replace(a_run(target), num_deaths=0, num_retries=0, updated_at=LATER)
    else:
        with pytest.raises(AssertionError, match=f"^{stage} may not be followed by {target}$"):
            a_run(stage).moved_to(target, at=LATER)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("outcome", Outcome)
def test_only_outcomes_of_the_table_end_a_run(stage: Stage, outcome: Outcome) -> None:
    if outcome in MOVES[stage] | ALWAYS_ALLOWED:
        ended = replace(a_run(stage), not_before=NOW).ended(outcome, "because", "and", at=LATER)
        assert ended == replace(
            a_run(stage),
            outcome=outcome,
            reasons=("because", "and"),
            updated_at=LATER,
            finished_at=LATER if outcome in FINAL else None,
        )
        assert ended.is_finished == ended.is_concluded == (outcome in FINAL)
    else:
        with pytest.raises(AssertionError, match=f"^a run at {stage} may not end as {outcome}$"):
            a_run(stage).ended(outcome, "because", at=LATER)


def test_promoted_is_reached_from_promote_and_kept_or_lost_on_probation() -> None:
    assert [stage for stage in Stage if Outcome.PROMOTED in MOVES[stage]] == [Stage.PROMOTE, Stage.PROBATION]


def test_a_run_on_probation_is_concluded_and_not_finished() -> None:
    run = a_run(Stage.PROMOTE).on_probation("confirmed", "by a follower", at=LATER)

    assert run == replace(
        a_run(Stage.PROBATION),
        outcome=Outcome.PROMOTED,
        reasons=("confirmed", "by a follower"),
        updated_at=LATER,
        num_deaths=0,
        num_retries=0,
    )
    assert (run.is_concluded, run.is_finished, run.is_waiting) == (True, False, True)


def test_an_interrupted_run_goes_on_at_its_stage() -> None:
    interrupted = replace(a_run(Stage.TRAIN), not_before=NOW).ended(Outcome.INTERRUPTED, "stop", at=NOW)

    assert replace(interrupted, not_before=LATER).resumed(at=LATER) == replace(a_run(Stage.TRAIN), updated_at=LATER)
    assert replace(a_run(Stage.TRAIN), not_before=LATER).resumed(at=LATER).not_before is None


@pytest.mark.parametrize("stage", Stage)
def test_a_run_waits_at_its_trial_and_probation_until_it_ends(stage: Stage) -> None:
    assert a_run(stage).is_waiting is (stage in (Stage.SHADOW, Stage.PROBATION))
    assert a_run(stage).ended(Outcome.FAILED, at=LATER).is_waiting is False
    assert a_run(stage).is_concluded is False


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("outcome", Outcome)
def test_only_a_refusal_before_the_training_is_one_of_the_data(stage: Stage, outcome: Outcome) -> None:
    refused = replace(a_run(stage), outcome=outcome)

    assert refused.is_data_refused is (outcome is Outcome.REFUSED and stage in (Stage.PULL, Stage.AUDIT))


def test_a_finished_run_is_never_resumed() -> None:
    with pytest.raises(AssertionError, match=r"^a run that ended as FAILED cannot be resumed$"):
        a_run().ended(Outcome.FAILED, "broke", at=NOW).resumed(at=LATER)
