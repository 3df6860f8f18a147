"""Before anything else with STATE_URL: this process waits until it leads, or is refused while another one does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import gethostname
from typing import TYPE_CHECKING

import structlog

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.daemon.configuration import slot_of
from retrain_worker.errors import AlreadyRunningError, LeadershipLostError, RetryLaterError, SlotError
from retrain_worker.settings import Settings

if TYPE_CHECKING:
    from retrain_worker.adapters.leader import Leader

log = structlog.get_logger()


def end_process(message: str, *, flush: Callable[[], object] = lambda: None) -> None:
    """What a process does that has lost the lead: its threads may wait for a server that does not answer.

    Its worker ends with it.
    """
    log.error("leadership_lost", message=message)
    flush()
    os._exit(LeadershipLostError.EXIT_STATUS)


@contextmanager
def opened_state(
    settings: Settings, *, wait: Callable[[str], None] | None, on_lost: Callable[[str], None]
) -> Iterator[tuple[StateDb, Leader | None]]:
    """The state, opened by the one process that acts on it.

    With STATE_URL that is the leader: `wait` gets a message each time that the lead cannot be taken, and returns when
    it is time to try again. Without it AlreadyRunningError is raised. `on_lost`: see Leader.
    """
    place = settings.state_place
    if not place.url:
        with StateDb(place.file) as store:
            _log_quarantined(store)
            yield store, None
        return
    from retrain_worker.adapters import postgres_state
    from retrain_worker.adapters.leader import Leader

    with Leader(place, on_lost=on_lost) as leader:
        while why := _why_not(settings, leader):
            if wait is None:
                raise AlreadyRunningError(why, where=str(place), remedy="stop that process, or wait until it has ended")
            wait(why)
        log.info("leading", message=f"this process leads ({place})")
        with postgres_state.PostgresState(place, leader=leader) as store:
            _log_quarantined(store)
            yield store, leader


def _log_quarantined(store: StateDb) -> None:
    for row in store.quarantined:
        log.warning("state_quarantined", message=f"moved to the table unreadable_rows of the state: {row}")


def _why_not(settings: Settings, leader: Leader) -> str:
    """Why this process does not lead; empty: from now on it does. Raises StateError, SettingsError."""
    try:
        if problem := _slot_problem(settings, leader):
            return problem
        if leader.try_take():
            return ""
        last = leader.last()
    except RetryLaterError as error:
        return f"waiting for the state: {error}"
    return last.message if last else "another process is about to lead"


def _slot_problem(settings: Settings, leader: Leader) -> str:
    """Why this host must not follow another one: its env line is not the one that the leader changes.

    It would be taken for an external change, and every follower would load what this host's line names.
    """
    last = leader.last()
    if last is None or last.host == gethostname():
        return ""
    try:
        current = slot_of(settings).current_path()
    except SlotError as error:
        return str(error)
    named, expected = str(current) if current else "", leader.slot_models()
    if not expected or named in expected:
        return ""
    return (
        f"this host cannot follow {last.host}: {settings.engine_env_file} names {named or 'no model'}, and the state "
        f"{' or '.join(path or 'no model' for path in expected)}; share ENGINE_ENV_FILE, or write the line that the "
        "state names"
    )
