"""A follower's acknowledgement of what it serves (model.served), and whether it confirms a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase

from retrain_worker.domain import decoding
from retrain_worker.domain.artifact import CANARY_TOLERANCE
from retrain_worker.domain.envelope import ReceivedEvent
from retrain_worker.domain.events import SERVED_STREAM, STREAM_PREFIX
from retrain_worker.errors import MalformedError

_EVENT_TYPE = SERVED_STREAM.removeprefix(STREAM_PREFIX)
#: in a message
_SHOWN_NAMES = 5


@dataclass(frozen=True, kw_only=True)
class Acknowledgement:
    """What a follower states. Empty version and hash: it serves no model."""

    version: str
    sha256: str
    consumer: str
    host: str = ""
    #: since when it serves the model; of an older follower, when it wrote the entry
    since: datetime
    #: of the event that has put the model into the slot; empty: an offer, or named by the env file
    event_id: str = ""
    #: None: the model file has no canary
    canary_max_error: float | None
    #: why it does not serve `problem_version`; empty: nothing
    problem: str = ""
    problem_version: str = ""
    #: whether the model is at fault, and not this host
    is_fault: bool = False

    @property
    def is_canary_good(self) -> bool:
        """Whether the canary is within its tolerance, or the file has none."""
        return self.canary_max_error is None or 0.0 <= self.canary_max_error <= CANARY_TOLERANCE

    @property
    def message(self) -> str:
        """One line."""
        return f"follower {self.consumer} answers with {self.version}{self.canary}"

    @property
    def canary(self) -> str:
        """The canary, as the end of a message."""
        return "" if self.canary_max_error is None else f", canary within {self.canary_max_error:.1g}"

    def confirms(self, *, version: str, sha256: str, consumers: tuple[str, ...]) -> bool:
        """Whether it is of exactly these bytes, with their canary, and of one of `consumers` (patterns; none: any)."""
        return (
            (self.version, self.sha256) == (version, sha256)
            and self.is_canary_good
            and is_known(self.consumer, consumers)
        )


def confirmed_by(found: Iterable[Acknowledgement]) -> str:
    """The message of a model that these followers serve."""
    several = sorted(found, key=lambda one: one.consumer)
    if len(several) == 1:
        return several[0].message
    worst = max(several, key=lambda one: one.canary_max_error or 0.0)
    names = named(one.consumer for one in several)
    return f"{len(several)} followers answer with {worst.version}{worst.canary}: {names}"


def named(consumers: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(consumers)
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more


def newest_of_each(newest_first: Iterable[Acknowledgement]) -> dict[str, Acknowledgement]:
    """The newest acknowledgement of each consumer, by its name."""
    found: dict[str, Acknowledgement] = {}
    for one in newest_first:
        found.setdefault(one.consumer, one)
    return dict(sorted(found.items()))


def serving_most(found: Mapping[str, Acknowledgement]) -> frozenset[str]:
    """The followers of the model that most of them serve: one that has gone keeps its older model in the stream."""
    by_model: dict[str, set[str]] = {}
    for consumer, one in found.items():
        by_model.setdefault(one.sha256, set()).add(consumer)
    return frozenset(max(by_model.values(), key=len, default=()))


def is_known(consumer: str, consumers: tuple[str, ...]) -> bool:
    """Whether a consumer belongs to the group that `consumers` names (patterns; none: any)."""
    return not consumers or any(fnmatchcase(consumer, pattern) for pattern in consumers)


@decoding.raises_malformed_only
def acknowledgement_in(event: ReceivedEvent) -> Acknowledgement:
    """The acknowledgement in an entry of model.served. Raises MalformedError with the reason."""
    if event.event_type != _EVENT_TYPE:
        raise MalformedError(f"event_type is {event.event_type[:40]!r}, not {_EVENT_TYPE!r}")
    payload = event.payload
    error, sha256, since = payload.get("canary_max_error"), payload.get("sha256"), event.timestamp
    with suppress(MalformedError):
        since = decoding.instant(decoding.line(payload.get("served_at"), "served_at"), "served_at")
    problem = decoding.line(payload.get("problem"), "problem", longest=decoding.MAX_PATH)
    return Acknowledgement(
        version=decoding.line(payload.get("version"), "version"),
        sha256="" if sha256 == "" and problem else decoding.sha256(sha256, "sha256"),
        consumer=decoding.line(payload.get("consumer"), "consumer") or event.source or "without a name",
        host=decoding.line(payload.get("host"), "host") or event.host,
        since=since,
        event_id=decoding.line(payload.get("event_id"), "event_id"),
        canary_max_error=None if error is None else decoding.finite_number(error, "canary_max_error"),
        problem=problem,
        problem_version=decoding.line(payload.get("problem_version"), "problem_version"),
        is_fault=payload.get("is_fault") is True,
    )
