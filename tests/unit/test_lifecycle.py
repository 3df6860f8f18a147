"""A run moves only as the table allows."""

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
        moved = a_run(stage).moved_to(target, at=LATER)
        assert (moved.stage, moved.num_deaths, moved.num_retries, moved.updated_at) == (target, 0, 0, LATER)
    else:
        with pytest.raises(AssertionError):
            a_run(stage).moved_to(target, at=LATER)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("outcome", Outcome)
def test_only_outcomes_of_the_table_end_a_run(stage: Stage, outcome: Outcome) -> None:
    if outcome in MOVES[stage] | ALWAYS_ALLOWED:
        ended = a_run(stage).ended(outcome, "because", at=LATER)
        assert ended.reasons == ("because",)
        assert ended.is_finished == (outcome in FINAL)
        assert (ended.finished_at is not None) == (outcome in FINAL)
    else:
        with pytest.raises(AssertionError):
            a_run(stage).ended(outcome, "because", at=LATER)


def test_promoted_is_reached_from_promote_and_kept_or_lost_on_probation() -> None:
    assert [stage for stage in Stage if Outcome.PROMOTED in MOVES[stage]] == [Stage.PROMOTE, Stage.PROBATION]


def test_a_run_on_probation_is_concluded_and_not_finished() -> None:
    run = a_run(Stage.PROMOTE).on_probation("confirmed", at=LATER)

    assert (run.stage, run.outcome, run.reasons) == (Stage.PROBATION, Outcome.PROMOTED, ("confirmed",))
    assert (run.is_concluded, run.is_finished, run.is_waiting) == (True, False, True)


def test_an_interrupted_run_goes_on_at_its_stage() -> None:
    resumed = a_run(Stage.TRAIN).ended(Outcome.INTERRUPTED, "stop", at=NOW).resumed(at=LATER)

    assert (resumed.stage, resumed.outcome, resumed.reasons) == (Stage.TRAIN, None, ())


def test_a_finished_run_is_never_resumed() -> None:
    with pytest.raises(AssertionError):
        a_run().ended(Outcome.FAILED, "broke", at=NOW).resumed(at=LATER)
