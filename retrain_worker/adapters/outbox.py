"""Interface of the store that keeps events until they are sent (implemented by adapters.state_db)."""

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
        """The event."""

    @property
    def stream_id(self) -> str | None:
        """The stream id assigned to its entry; None before that."""

    @property
    def sent_at(self) -> datetime | None:
        """When its entry was confirmed in the stream."""


class Outbox(Protocol):
    """Committed events and their delivery state. Every method is one transaction."""

    def pending_events(self, limit: int, *, besides: Collection[str] = ()) -> Sequence[StoredEvent]:
        """The oldest unsent events in the order in which they were enqueued, except those of the streams `besides`."""

    def assign_stream_ids(self, stream_ids: Mapping[str, str]) -> None:
        """Store the stream id of each event's entry (event id -> stream id)."""

    def mark_sent(self, event_ids: Collection[str], *, at: datetime) -> None:
        """Mark events whose entries are in the stream."""

    def sent_event_ids(self, stream: str, *, since: datetime) -> Sequence[str]:
        """Ids of the events of `stream` that were marked sent at `since` or later, in order."""

    def highest_sent_milliseconds(self, stream: str, *, since: datetime) -> int:
        """The highest time part of the stream ids of these events; 0 without any."""

    def requeue(self, event_ids: Collection[str]) -> None:
        """Make events pending again, in their place and without a stream id."""

    def place_of(self, event_id: str) -> int:
        """The place of an event in the order in which events were enqueued; 0 when it is unknown."""

    def fencing_token(self) -> int | None:
        """The number that grows with each writer; None where there is one writer only. Raises LeadershipLostError."""

    def num_pending(self) -> int:
        """Number of unsent events."""

    def oldest_pending_at(self) -> datetime | None:
        """Timestamp of the first unsent event."""

    def remember(self, key: str, value: object) -> None:
        """Store a value of the relay."""

    def recall(self, key: str, kind: type[Remembered]) -> Remembered | None:
        """The value stored under `key`; None when there is none, or none that is a `kind`."""
