"""The Redis hash `quantum:model:patchtst:current`: the newest model that an event of this program put into service.

Its content is stored in the outbox and written again after Redis has lost it. The newest event is the one enqueued
last, not the one with the highest timestamp, so neither a republished event nor a clock that was set back changes the
order. The hash is written before the event's entry: a consumer that has read the event finds at least that model.

Where several hosts can publish, the field `leader_token` holds the token of the newest leader that did: Redis executes
no transaction of an earlier one (WATCH).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

import redis
from redis.client import Pipeline

from retrain_worker.adapters.outbox import Outbox
from retrain_worker.domain import signed_statement
from retrain_worker.domain.current_model import CHANGES, CurrentModel, from_fields, named_by, to_fields
from retrain_worker.domain.events import CURRENT_MODEL_KEY, Event, EventType
from retrain_worker.domain.rollout import Offer
from retrain_worker.errors import LeadershipLostError, MalformedError
from retrain_worker.redis_client import text_of
from retrain_worker.signing import Signer

_REMEMBERED = "relay/current_model"
_KIND = "kind"
_FENCE = "leader_token"
#: field of the hash
_ROLLOUT = "rollout"
#: unsent events among which the event of a promotion is looked for
_MAX_PENDING = 1_000
#: not a change by another process, which this program does not vouch for
_SIGNED = frozenset({str(EventType.PROMOTED), str(EventType.ROLLED_BACK)})


class CurrentModelHash:
    """The hash, and its stored content."""

    key = CURRENT_MODEL_KEY

    def __init__(
        self,
        client: redis.Redis,
        outbox: Outbox,
        origin: Mapping[str, str],
        signer: Signer | None = None,
        offer: Callable[[], Offer | None] = lambda: None,
    ) -> None:
        """`origin`: instance and host of the worker. `signer` signs what this program has put into service.

        `offer`: what some followers serve before the slot names it.
        """
        self._offer = offer
        self._signer = signer
        self._origin = origin
        self._client = client
        self._outbox = outbox
        remembered = outbox.recall(_REMEMBERED, dict[str, str])
        self._model = _model_of(remembered)
        #: of the event that put it into service
        self._kind = (remembered or {}).get(_KIND, "")

    def learn(self, events: Iterable[Event]) -> None:
        """Store and write the model in service after `events`, which are sent next, in this order."""
        model, kind = self._model, self._kind
        for event in events:
            before, model = model, self._after(event, model)
            if model is not before and event.event_type in CHANGES:
                kind = str(event.event_type)
        if model is None or model == self._model:
            return
        self._outbox.remember(_REMEMBERED, {**to_fields(model), _KIND: kind})
        self._model, self._kind = model, kind
        self._write(self._fields(model))

    def fenced(self) -> Pipeline | None:
        """A transaction that Redis executes only while no later leader has published; None where no other can lead.

        Raises LeadershipLostError.
        """
        token = self._outbox.fencing_token()
        if token is None:
            return None
        pipeline = self._client.pipeline(transaction=True)
        pipeline.watch(self.key)
        found = text_of(pipeline.hmget(self.key, [_FENCE])[0] or b"0")
        newest = int(found) if found.isdecimal() else 0
        if newest > token:
            pipeline.reset()
            raise LeadershipLostError(f"a later leader publishes (token {newest}, here {token})", where=self.key)
        pipeline.multi()
        if newest == token:
            return pipeline
        pipeline.hset(self.key, _FENCE, str(token))
        pipeline.execute()
        return self.fenced()

    def signature_of(self, event: Event) -> dict[str, str]:
        """The field `signature` of the entry of `event`, where it is one of this program's changes of the slot."""
        if self._signer is None or str(event.event_type) not in _SIGNED:
            return {}
        named = named_by(event.event_type, event.event_id, event.payload)
        return self._signature(named, str(event.event_type)) if named else {}

    def restore(self) -> bool:
        """Write the hash again if it differs from the stored content; whether Redis may have lost data."""
        if self._model is None:
            return False
        wanted = self._fields(self._model)
        names = [*wanted, _ROLLOUT]
        values = self._client.hmget(self.key, names)
        found = {name: None if value is None else text_of(value) for name, value in zip(names, values, strict=True)}
        offered = found.pop(_ROLLOUT)
        if found != wanted:
            self._write(wanted)
        self._restore_offer(offered or "")
        return found["event_id"] != wanted["event_id"]

    def _restore_offer(self, found: str) -> None:
        """Write the offer if it differs; it is not removed before the event of the promotion has replaced the model."""
        wanted = self._offer_text()
        if found == wanted:
            return
        pending = () if wanted else self._outbox.pending_events(_MAX_PENDING)
        if not any(each.event.event_type in CHANGES for each in pending):
            self._write({_ROLLOUT: wanted})

    def _offer_text(self) -> str:
        offer = self._offer()
        if offer is None:
            return ""
        statement = signed_statement.of_offer(offer.model, offer.consumers, instance=self._origin.get("instance", ""))
        signature = {"signature": self._signer.sign(statement)} if self._signer else {}
        return json.dumps({**to_fields(offer.model), "consumers": offer.consumers, **signature})

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

    def _fields(self, model: CurrentModel) -> dict[str, str]:
        return {**to_fields(model), **self._origin, **self._signature(model, self._kind)}

    def _signature(self, model: CurrentModel, kind: str) -> dict[str, str]:
        """Empty text where nothing vouches for the model: an earlier signature must not stay."""
        if self._signer is None:
            return {}
        if kind not in _SIGNED:
            return {"signature": ""}
        statement = signed_statement.of_slot(model, instance=self._origin.get("instance", ""))
        return {"signature": self._signer.sign(statement)}

    def _write(self, fields: Mapping[str, str]) -> None:
        transaction = self.fenced()
        (transaction or self._client).hset(self.key, mapping=dict(fields.items()))
        if transaction is not None:
            transaction.execute()


def _model_of(fields: Mapping[str, str] | None) -> CurrentModel | None:
    """The stored model; None when there is none that can be decoded, until the next event."""
    try:
        return from_fields(fields) if fields else None
    except MalformedError:
        return None
