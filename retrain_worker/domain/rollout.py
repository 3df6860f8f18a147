"""A staged promotion (ROLLOUT): the model is offered to some followers before the slot names it.

The followers are those that have acknowledged the incumbent, in an order that depends on the version, so that another
one is the first each time. A stage offers it to more of them; it goes on when all of its followers serve the model
with a good canary, and the rollout stops at the first fault.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from retrain_worker.domain.acknowledgement import Acknowledgement, named
from retrain_worker.domain.confirmation import Quorum, quorum_of
from retrain_worker.domain.current_model import CurrentModel
from retrain_worker.domain.facts import RolloutFacts
from retrain_worker.domain.lifecycle import Deployment


@dataclass(frozen=True, kw_only=True)
class RolloutPolicy:
    """Stages before the promotion itself; none: no rollout."""

    stages: tuple[Quorum, ...] = ()
    #: that a stage lasts at least, so that faults show
    stage_seconds: float = 60.0
    #: of a stage that must have confirmed when its time is over; the default: all
    quorum: Quorum = field(default_factory=Quorum)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the acknowledgements show. Neither stopped nor passed: the stage waits."""

    message: str
    is_stopped: bool = False
    is_passed: bool = False


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A model, and the followers that serve it instead of the one in the slot."""

    model: CurrentModel
    consumers: tuple[str, ...]


def stages_of(text: str) -> tuple[Quorum, ...]:
    """`1,10%,100%`: the stages, without the last one, which is the promotion. Raises ValueError."""
    stages = tuple(quorum_of(each) for each in text.split(",")) if text.strip() else ()
    if any(stage.share >= 1.0 for stage in stages[:-1]):
        raise ValueError("100% is the last stage")
    return stages[:-1] if stages and stages[-1].share >= 1.0 else stages


def ordered(consumers: Iterable[str], version: str) -> tuple[str, ...]:
    """The order in which a version is offered: the same for each stage, another for each version."""
    return tuple(sorted(consumers, key=lambda name: hashlib.sha256(f"{version}/{name}".encode()).digest()))


def offered(facts: RolloutFacts, policy: RolloutPolicy) -> tuple[str, ...]:
    """The followers of the present stage, and of those before it."""
    required = max(stage.required(len(facts.consumers)) for stage in policy.stages[: facts.stage + 1])
    return facts.consumers[:required]


def serving(found: Mapping[str, Acknowledgement], sha256: str | None) -> list[str]:
    """The followers that serve these bytes and see offers: they follow the hash. Older ones do not name their host."""
    return [name for name, one in found.items() if one.host and one.event_id and sha256 and one.sha256 == sha256]


def judged(
    facts: RolloutFacts,
    policy: RolloutPolicy,
    newest_first: Sequence[Acknowledgement],
    deployment: Deployment,
    *,
    now: datetime,
    seconds: float,
) -> Finding:
    """What follows from the acknowledgements since the rollout began. `seconds`: for a stage to be confirmed."""
    consumers = offered(facts, policy)
    version, sha256 = deployment.version, deployment.sha256
    confirmed: set[str] = set()
    for one in newest_first:
        if one.consumer not in consumers:
            continue
        if one.is_fault and one.problem_version == version:
            return Finding(message=f"follower {one.consumer} reports: {one.problem}", is_stopped=True)
        if (one.version, one.sha256) == (version, sha256) and not one.is_canary_good:
            return Finding(message=f"follower {one.consumer}: its canary differs{one.canary}", is_stopped=True)
        if one.confirms(version=version, sha256=sha256, consumers=()):
            confirmed.add(one.consumer)
    waited = (now - facts.stage_began_at).total_seconds()
    missing = [name for name in consumers if name not in confirmed]
    progress = f"{len(confirmed)} of {len(consumers)} followers serve {version}"
    if not missing:
        left = policy.stage_seconds - waited
        return Finding(
            message=f"{progress}; " + (f"{left:.0f} s of the stage left" if left > 0 else "the stage is over"),
            is_passed=left <= 0,
        )
    if waited < max(seconds, policy.stage_seconds):
        return Finding(message=f"{progress}, waiting for {named(missing)}")
    required = len(consumers) if policy.quorum == Quorum() else policy.quorum.required(len(consumers))
    return Finding(
        message=f"{progress} within {waited:.0f} s; missing: {named(missing)}",
        is_stopped=len(confirmed) < min(required, len(consumers)),
        is_passed=len(confirmed) >= min(required, len(consumers)),
    )


def offer_of(facts: RolloutFacts, policy: RolloutPolicy, deployment: Deployment, *, model_url: str) -> Offer:
    """What the hash holds during the rollout."""
    return Offer(
        model=CurrentModel(
            version=deployment.version,
            model_path=deployment.model_path,
            sha256=deployment.sha256,
            size_bytes=deployment.size_bytes,
            run_id=deployment.run_id or "",
            promoted_at=facts.began_at,
            event_id="",
            shadow_only=True,
            confirmed=False,
            model_url=model_url,
        ),
        consumers=offered(facts, policy),
    )
