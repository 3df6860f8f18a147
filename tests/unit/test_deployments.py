"""Which model a roll-back returns to."""

from datetime import UTC, datetime

from retrain_worker.domain.deployments import roll_back_target
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState

AT = datetime(2026, 1, 10, tzinfo=UTC)


def promoted(number: int) -> Deployment:
    return Deployment(
        deployment_id=f"run_{number}",
        run_id=None,
        kind=DeploymentKind.PROMOTE,
        version=f"v{number}",
        model_path=f"/m/v{number}.pth",
        sha256=str(number) * 64,
        size_bytes=1,
        previous_version=f"v{number - 1}" if number > 1 else None,
        previous_model_path=f"/m/v{number - 1}.pth" if number > 1 else None,
        previous_sha256=str(number - 1) * 64 if number > 1 else None,
        state=DeploymentState.CONFIRMED,
        created_at=AT,
        updated_at=AT,
        requested_by="schedule",
        reason="",
        confirmation="seen",
    )


def test_the_model_before_the_current_one_returns_but_never_a_condemned_one() -> None:
    history = [promoted(1), promoted(2), promoted(3)]

    found = [
        roll_back_target(history, "/m/v3.pth", is_blocked=blocked.__contains__)
        for blocked in (set(), {"2" * 64}, {"1" * 64, "2" * 64})
    ]
    assert [target and target.version for target in found] == ["v2", "v1", None]
