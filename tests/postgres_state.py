"""A state of one's own in a real PostgreSQL."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from retrain_worker.adapters.leader import Leader
from retrain_worker.adapters.postgres_state import PostgresState
from retrain_worker.domain.state_place import StatePlace
from tests.worker.postgres_server import PostgresServer

_NUMBERS = itertools.count()


def new_place(server: PostgresServer) -> StatePlace:
    """A state that nobody has used."""
    url = f"postgresql+psycopg://trader@/postgres?host={server.home}"
    return StatePlace(file=Path("/none/state.db"), url=url, instance=f"test-{next(_NUMBERS)}")


@contextmanager
def leading(place: StatePlace, on_lost: Callable[[str], None] = print) -> Iterator[Leader]:
    """A leader, elected."""
    with Leader(place, on_lost=on_lost) as leader:
        leader.last()
        assert leader.try_take()
        yield leader


@contextmanager
def opened_state(place: StatePlace) -> Iterator[PostgresState]:
    with leading(place) as leader, PostgresState(place, leader=leader) as state:
        yield state
