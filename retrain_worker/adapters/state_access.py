"""The state of a process, in SQLite or in PostgreSQL."""

from __future__ import annotations

from retrain_worker.adapters import state_lock
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.state_place import StatePlace


def exists(place: StatePlace) -> bool:
    """Whether there is a state. Raises RetryLaterError where its server cannot be reached."""
    if not place.url:
        return place.file.exists()
    from retrain_worker.adapters import postgres_state

    return postgres_state.exists(place)


def is_in_use(place: StatePlace) -> bool:
    """Whether a process acts on the state, or waits here to do so. Raises RetryLaterError."""
    if not place.url or state_lock.is_held(place.file.parent):
        return state_lock.is_held(place.file.parent)
    from retrain_worker.adapters.leader import leadership_in

    leadership = leadership_in(place)
    return leadership is not None and leadership.is_live


def state_beside(place: StatePlace, *, read_only: bool = True) -> StateDb:
    """The state, opened beside the process that acts on it. Raises StateError, RetryLaterError."""
    if not place.url:
        return StateDb(place.file, read_only=read_only, is_owner=False)
    from retrain_worker.adapters.postgres_state import PostgresState

    return PostgresState(place, read_only=read_only)
