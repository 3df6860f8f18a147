"""What the history of the slot shows: which model to return to, and where a version stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState


@dataclass(frozen=True, kw_only=True)
class Target:
    """A model that stood in the slot before."""

    version: str
    model_path: str
    #: as it was recorded when it stood there; None for what stood there before we kept records
    sha256: str | None
    #: whether there is nothing against it: it was confirmed, or nobody was to confirm it
    is_good: bool = True


def roll_back_target(
    deployments: Sequence[Deployment],
    current_path: str | None,
    *,
    is_blocked: Callable[[str], bool] = lambda _: False,
) -> Target | None:
    """The model that stood in the slot before the current one and was not taken back; None if there is none.

    `deployments`: those that reached the env line, oldest first. One that nobody confirmed though they were asked is
    passed over as long as there is another; one whose sha256 a probation has condemned is no target at all.
    """
    stood = _standing(deployments)
    while stood and stood[-1].model_path != current_path:
        stood.pop()
    earlier = [target for target in reversed(stood) if target.model_path != current_path] if stood else []
    earlier = [target for target in earlier if not (target.sha256 and is_blocked(target.sha256))]
    return next((target for target in earlier if target.is_good), earlier[0] if earlier else None)


def is_confirmed(one: Deployment) -> bool | None:
    """Whether the engine was seen serving it; None while that is not known, and when no confirmation is expected."""
    return {DeploymentState.CONFIRMED: True, DeploymentState.NOT_CONFIRMED: False}.get(one.state)


def known_version(deployments: Sequence[Deployment], version: str) -> Target | None:
    """The model of this version as it last stood in the slot; None when it never did."""
    stood = [target for one in deployments for target in (_before(one), _after(one)) if target is not None]
    found = [target for target in stood if version in (target.version, target.model_path)]
    return next((target for target in reversed(found) if target.sha256), found[-1] if found else None)


def known_versions(deployments: Sequence[Deployment]) -> tuple[str, ...]:
    """Every version that stood in the slot, the newest first."""
    stood = [target for one in deployments for target in (_before(one), _after(one)) if target is not None]
    return tuple(dict.fromkeys(target.version for target in reversed(stood)))


def _standing(deployments: Sequence[Deployment]) -> list[Target]:
    """What stood in the slot one upon the other, without what was taken back since."""
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
        else:
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
