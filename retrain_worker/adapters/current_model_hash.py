"""Keeps the hash `quantum:model:patchtst:current` true: the newest model that an event of ours put into service.

What it must say is remembered in the outbox, so it can be written again whenever Redis has forgotten it. Newest is what
was enqueued last, whatever the clock said: an older event that is published again cannot turn it back, and a clock that
goes back cannot hold it up. It is written before the event's entry: whoever reads the hash after hearing the event
finds at least that model.
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
    """The hash and our memory of it."""

    key = CURRENT_MODEL_KEY

    def __init__(self, client: redis.Redis, outbox: Outbox) -> None:
        self._client = client
        self._outbox = outbox
        self._model = _model_of(outbox.recall(_REMEMBERED, dict[str, str]))

    def learn(self, events: Iterable[Event]) -> None:
        """Note and write what `events`, which are about to be sent in this order, say of the model in service."""
        model = self._model
        for event in events:
            model = self._after(event, model)
        if model is None or model == self._model:
            return
        self._outbox.remember(_REMEMBERED, to_fields(model))
        self._model = model
        self._write(to_fields(model))

    def restore(self) -> bool:
        """Write it again if it is not as it must be; whether Redis seems to have forgotten it."""
        if self._model is None:
            return False
        wanted = to_fields(self._model)
        found = {text_of(name): text_of(value) for name, value in self._client.hgetall(self.key).items()}
        if any(found.get(name) != value for name, value in wanted.items()):
            self._write(wanted)
        return found.get("event_id") != wanted["event_id"]

    def _after(self, event: Event, model: CurrentModel | None) -> CurrentModel | None:
        """The model in service once `event` is known too."""
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
    """The model that was remembered; None when there is none that can be read: the next event says it."""
    try:
        return from_fields(fields) if fields else None
    except ValueError:
        return None
