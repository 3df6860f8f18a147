"""A problem is rendered in one place, the way an error is."""

import pytest

from retrain_worker.domain.problem import Problem, ProblemKind
from retrain_worker.errors import RetrainError


@pytest.mark.parametrize(
    ("subject", "action", "message"),
    [
        (
            "quantum:stream:model.retrain",
            "delete the key",
            "quantum:stream:model.retrain: not a stream; delete the key",
        ),
        ("quantum:stream:model.retrain", "", "quantum:stream:model.retrain: not a stream"),
        ("", "", "not a stream"),
    ],
)
def test_a_problem_reads_like_an_error(subject: str, action: str, message: str) -> None:
    problem = Problem(kind=ProblemKind.STREAM, subject=subject, cause="not a stream", action=action)

    assert problem.message == message
    assert str(RetrainError("not a stream", where=subject, remedy=action)) == message
