"""What the relay asks of whoever keeps the events until they are sent (adapters.state_db does)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from retrain_worker.domain.events import Event

Remembered = TypeVar("Remembered")


class StoredEvent(Protocol):
    """An event in the outbox."""

    @property
    def event(self) -> Event:
        """What happened."""

    @property
    def stream_id(self) -> str | None:
        """The id chosen for its entry, once it is chosen."""

    @property
    def sent_at(self) -> datetime | None:
        """When its entry was seen in the stream."""


class Outbox(Protocol):
    """The events that were committed, and how far each has come. Every method is one transaction."""

    def pending_events(self, limit: int, *, besides: Collection[str] = ()) -> Sequence[StoredEvent]:
        """The oldest events that are not sent, in the order in which they were enqueued; none of these streams."""

    def assign_stream_ids(self, stream_ids: Mapping[str, str]) -> None:
        """Store the id (event id -> stream id) that the entry of each event will have."""

    def mark_sent(self, event_ids: Collection[str], *, at: datetime) -> None:
        """Their entries are in the stream."""

    def sent_event_ids(self, stream: str, *, since: datetime) -> Sequence[str]:
        """The ids of the events of `stream` that were marked sent at `since` or later, in order."""

    def highest_sent_milliseconds(self, stream: str, *, since: datetime) -> int:
        """The highest time part of their stream ids; 0 when there are none."""

    def requeue(self, event_ids: Collection[str]) -> None:
        """Make them pending again, each in its old place, without a stream id."""

    def place_of(self, event_id: str) -> int:
        """The place of an event in the order in which they were enqueued; 0 when it is not known."""

    def num_pending(self) -> int:
        """How many events are not sent."""

    def oldest_pending_at(self) -> datetime | None:
        """The timestamp of the first event that is not sent."""

    def remember(self, key: str, value: object) -> None:
        """Store a value of the relay."""

    def recall(self, key: str, kind: type[Remembered]) -> Remembered | None:
        """The value stored under `key`; None when there is none, or none that is a `kind`."""
