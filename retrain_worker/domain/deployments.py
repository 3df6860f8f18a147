"""Decisions from the history of the slot: the target of a rollback, and the model of a version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState


@dataclass(frozen=True, kw_only=True)
class Target:
    """A model that was in the slot."""

    version: str
    model_path: str
    #: as recorded then; None for a model from before the first record
    sha256: str | None
    #: whether it was confirmed, or no confirmation was expected
    is_good: bool = True


def roll_back_target(
    deployments: Sequence[Deployment],
    current_path: str | None,
    *,
    is_blocked: Callable[[str], bool] = lambda _: False,
) -> Target | None:
    """The previous model in the slot that was not rolled back; None if there is none.

    `deployments`: those that reached the env line, oldest first. An unconfirmed one is
    skipped if there is another; a blocked one is never a target.
    """
    stood = _standing(deployments)
    while stood and stood[-1].model_path != current_path:
        stood.pop()
    earlier = [target for target in reversed(stood) if target.model_path != current_path]
    earlier = [target for target in earlier if not (target.sha256 and is_blocked(target.sha256))]
    return next((target for target in earlier if target.is_good), earlier[0] if earlier else None)


def is_confirmed(one: Deployment) -> bool | None:
    """Whether the engine was seen serving it; None while that is not known, and when no confirmation is expected."""
    return {DeploymentState.CONFIRMED: True, DeploymentState.NOT_CONFIRMED: False}.get(one.state)


def promotion_of(deployments: Sequence[Deployment], model_path: str | None) -> Deployment | None:
    """The newest promotion of a run that put this model into the slot; None for a model of another origin."""
    promotions = (one for one in reversed(deployments) if one.kind is DeploymentKind.PROMOTE)
    return next((one for one in promotions if one.model_path == model_path), None)


def known_version(deployments: Sequence[Deployment], version: str) -> Target | None:
    """The newest deployment of this version as a target; None when it was never in the slot."""
    stood = [target for one in deployments for target in (_before(one), _after(one)) if target is not None]
    found = [target for target in stood if version in (target.version, target.model_path)]
    return next((target for target in reversed(found) if target.sha256), found[-1] if found else None)


def known_versions(deployments: Sequence[Deployment]) -> tuple[str, ...]:
    """Every version that was in the slot, newest first."""
    stood = [target for one in deployments for target in (_before(one), _after(one)) if target is not None]
    return tuple(dict.fromkeys(target.version for target in reversed(stood)))


def _standing(deployments: Sequence[Deployment]) -> list[Target]:
    """The models in the slot in order, without those that were rolled back."""
    stood: list[Target] = []
    for one in deployments:
        before, after = _before(one), _after(one)
        if before is not None and (not stood or stood[-1].model_path != before.model_path):
            stood.append(before)
        if after is None:
            if one.kind is DeploymentKind.ROLLBACK and stood:
                stood.pop()
            continue
        if one.kind is DeploymentKind.ROLLBACK and any(target.model_path == after.model_path for target in stood):
            while stood[-1].model_path != after.model_path:
                stood.pop()
            continue
        if one.kind is DeploymentKind.ROLLBACK and before is not None:
            stood.pop()
        stood.append(after)
    return stood


def _before(one: Deployment) -> Target | None:
    if not one.previous_model_path:
        return None
    return Target(version=one.previous_version or "", model_path=one.previous_model_path, sha256=one.previous_sha256)


def _after(one: Deployment) -> Target | None:
    if not one.model_path:
        return None
    return Target(
        version=one.version,
        model_path=one.model_path,
        sha256=one.sha256 or None,
        is_good=is_confirmed(one) is not False,
    )
