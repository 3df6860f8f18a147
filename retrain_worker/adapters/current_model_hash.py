"""The Redis hash `quantum:model:patchtst:current`: the newest model that an event of this program put into service.

Its content is stored in the outbox and written again after Redis has lost it. The newest event is the one enqueued
last, not the one with the highest timestamp, so neither a republished event nor a clock that was set back changes the
order. The hash is written before the event's entry: a consumer that has read the event finds at least that model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import redis

from retrain_worker.adapters.outbox import Outbox
from retrain_worker.domain.current_model import CHANGES, CurrentModel, from_fields, named_by, to_fields
from retrain_worker.domain.events import CURRENT_MODEL_KEY, Event, EventType
from retrain_worker.redis_client import text_of

_REMEMBERED = "relay/current_model"


class CurrentModelHash:
    """The hash, and its stored content."""

    key = CURRENT_MODEL_KEY

    def __init__(self, client: redis.Redis, outbox: Outbox, origin: Mapping[str, str]) -> None:
        """`origin`: instance and host of the worker."""
        self._origin = origin
        self._client = client
        self._outbox = outbox
        self._model = _model_of(outbox.recall(_REMEMBERED, dict[str, str]))

    def learn(self, events: Iterable[Event]) -> None:
        """Store and write the model in service after `events`, which are sent next, in this order."""
        model = self._model
        for event in events:
            model = self._after(event, model)
        if model is None or model == self._model:
            return
        self._outbox.remember(_REMEMBERED, to_fields(model))
        self._model = model
        self._write({**to_fields(model), **self._origin})

    def restore(self) -> bool:
        """Write the hash again if it differs from the stored content; whether Redis may have lost data."""
        if self._model is None:
            return False
        wanted = {**to_fields(self._model), **self._origin}
        found = {text_of(name): text_of(value) for name, value in self._client.hgetall(self.key).items()}
        if any(found.get(name) != value for name, value in wanted.items()):
            self._write(wanted)
        return found.get("event_id") != wanted["event_id"]

    def _after(self, event: Event, model: CurrentModel | None) -> CurrentModel | None:
        """The model in service after `event`."""
        if event.event_type not in (*CHANGES, EventType.COMPLETED):
            return model
        if model and self._outbox.place_of(event.event_id) <= self._outbox.place_of(model.event_id):
            return model
        if event.event_type is EventType.COMPLETED:
            return model.confirmed_by(event.payload) if model else None
        named = named_by(event.event_type, event.event_id, event.payload)
        return named.after(model) if named else model

    def _write(self, fields: Mapping[str, str]) -> None:
        self._client.hset(self.key, mapping=dict(fields.items()))


def _model_of(fields: Mapping[str, str] | None) -> CurrentModel | None:
    """The stored model; None when there is none that can be decoded, until the next event."""
    try:
        return from_fields(fields) if fields else None
    except ValueError:
        return None
