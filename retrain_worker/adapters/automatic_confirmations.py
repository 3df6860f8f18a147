"""ENGINE_CONFIRM=auto: what can confirm a model on this host. Implements stages.ports.Confirmations."""

from __future__ import annotations

from datetime import datetime

from retrain_worker.adapters.engine_unit import UnitConfirmations
from retrain_worker.adapters.event_confirmations import EventConfirmations
from retrain_worker.domain.confirmation import Confirm


class AutomaticConfirmations:
    """A follower where one has ever answered, else the unit where it exists, else nothing."""

    def __init__(self, events: EventConfirmations, unit: UnitConfirmations) -> None:
        self._events = events
        self._unit = unit

    def expected(self) -> Confirm:
        """What a confirmation is to be expected from. While Redis is unreachable a follower may exist."""
        has_answered = self._events.has_answered()
        if has_answered:
            return Confirm.EVENT
        if self._unit.is_loaded():
            return Confirm.UNIT
        return Confirm.EVENT if has_answered is None else Confirm.NONE

    def seen_serving(self, *, version: str, sha256: str, model_path: str, since: datetime) -> str | None:
        """As that of what is expected."""
        match self.expected():
            case Confirm.EVENT:
                return self._events.seen_serving(version=version, sha256=sha256, model_path=model_path, since=since)
            case Confirm.UNIT:
                return self._unit.seen_serving(version=version, sha256=sha256, model_path=model_path, since=since)
            case _:
                return None
