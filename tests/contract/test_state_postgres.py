"""The state database in PostgreSQL: every test of the one in SQLite that is not about its file, and what differs."""

import inspect
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import psycopg
import pytest

from retrain_worker.adapters import state_access, state_schema
from retrain_worker.adapters.postgres_state import PostgresState, connect
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain import events
from retrain_worker.domain.lifecycle import Outcome
from retrain_worker.domain.state_place import StatePlace
from retrain_worker.errors import LeadershipLostError, RetryLaterError, StateError
from tests.contract import test_run_store, test_state_db
from tests.contract.test_run_store import AT, DEPLOYMENT, RUN
from tests.postgres_state import leading, new_place, opened_state
from tests.worker.postgres_server import PostgresServer

_OF_SQLITE = {"test_a_commit_is_fsynced"}

globals().update(
    {
        name: test
        for module in (test_run_store, test_state_db)
        for name, test in vars(module).items()
        if name.startswith("test_")
        and name not in _OF_SQLITE
        and {"store", "state"} & {*inspect.signature(test).parameters}
        and "path" not in inspect.signature(test).parameters
    }
)


@pytest.fixture
def place(postgres: PostgresServer) -> StatePlace:
    return new_place(postgres)


@pytest.fixture
def state(place: StatePlace) -> Iterator[StateDb]:
    with opened_state(place) as state:
        yield state


@pytest.fixture
def store(place: StatePlace) -> Iterator[StateDb]:
    with opened_state(place) as store:
        yield store


def test_the_tables_are_those_of_sqlite(state: StateDb, place: StatePlace, tmp_path: object) -> None:
    with connect(place) as connection:
        found = connection.execute(
            "SELECT table_name, column_name, is_nullable FROM information_schema.columns WHERE table_schema = %s",
            (place.schema,),
        ).fetchall()
    columns = {(row[0], row[1]) for row in found}
    assert {("runs", "facts"), ("deployments", "reached"), ("slot_requests", "arguments"), ("outbox", "flat")} < columns
    assert {table for table, _ in columns} == {
        *("runs", "deployments", "slot_requests", "outbox", "memory"),
        *("leader", "schema_version"),
    }


def test_a_move_that_cannot_be_stored_stores_no_part(state: StateDb) -> None:
    run, _ = test_state_db.opened(state)
    with pytest.raises(StateError, match="exclude"):
        state.record(replace(RUN, run_id="20260111_000000"), watermark_path=state._path)
    assert (state.unfinished_run(), state.watermark_path()) == (run, None)


def test_the_first_start_takes_over_the_state_in_sqlite(place: StatePlace, tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    with StateDb(file) as before:
        for _ in range(2):
            run, _ = test_state_db.opened(before)
            before.record(run.ended(Outcome.FAILED, "broken", at=AT), deployment=replace(DEPLOYMENT, run_id=run.run_id))
        before.remember("a", "b")
        wanted = (before.history(9), before.deployments(9), before.pending_events(9))
    for _ in range(2):
        with opened_state(replace(place, file=file)) as state:
            assert (state.history(9), state.deployments(9), state.pending_events(9)) == wanted
            assert state.recall("a", str) == "b"
    with opened_state(replace(place, file=file)) as state:
        run, _ = test_state_db.opened(state)
        assert state.history(1) == [run]
        assert state.pending_events(9)[-1].event == events.started(run, at=AT)


def test_a_later_schema_is_migrated_by_the_leader_only(place: StatePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened_state(place) as state:
        run, _ = test_state_db.opened(state)
    new = ("CREATE TABLE another (a INTEGER, b TEXT) STRICT",)
    monkeypatch.setattr(state_schema, "MIGRATIONS", (*state_schema.MIGRATIONS, new))
    with pytest.raises(StateError, match="older version"):
        state_access.state_beside(place)
    with opened_state(place) as state:
        assert state.unfinished_run() == run
        assert state._rows("SELECT count(*) FROM another")[0][0] == 0
    monkeypatch.undo()
    with pytest.raises(StateError, match="newer version"):
        state_access.state_beside(place)


def test_a_row_that_cannot_be_read_is_moved_aside(place: StatePlace) -> None:
    with opened_state(place) as state:
        test_state_db.opened(state)
        state._rows("UPDATE runs SET stage = 'nonsense' RETURNING 1")
    with opened_state(place) as state:
        (quarantined,) = state.quarantined
        assert quarantined.startswith("runs 20260110_033000: ")
        assert state.unfinished_run() is None
        assert state.num_pending() == 1


def test_facts_that_are_no_json_hide_no_decision(state: StateDb) -> None:
    test_state_db.opened(state)
    spending = '{"gate": {"alpha_spending": %s}, "a": "\\u0000 \\\\u0000 \\\\\\u0000"}'
    for facts, is_decision in (("{", True), (spending % "null", False), (spending % "{}", True)):
        state._rows("UPDATE runs SET facts = ? RETURNING 1", facts)
        assert (state.alpha_spending_before(None) is not None) == is_decision, facts
        assert state.last_attempt_at() is not None


def test_beside_the_leader_rows_are_read_and_requests_written(state: StateDb, place: StatePlace) -> None:
    assert state_access.exists(place)
    woken = threading.Event()
    assert isinstance(state, PostgresState)
    assert state._leader is not None
    state._leader.on_change = woken.set
    with state_access.state_beside(place, read_only=False) as other, state_access.state_beside(place) as reader:
        other.remember("a", "b")
        assert reader.recall("a", str) == state.recall("a", str) == "b"
        with pytest.raises(RetryLaterError, match="read-only"):
            reader.remember("a", "c")
        assert other.fencing_token() is None
    assert woken.wait(5), "a change by another process wakes the leader"


def test_a_state_that_is_not_there_and_a_server_that_is_not_there(postgres: PostgresServer) -> None:
    place = new_place(postgres)
    assert not state_access.exists(place)
    with pytest.raises(StateError, match="start the daemon once"):
        state_access.state_beside(place)
    gone = replace(place, url="postgresql+psycopg://trader:hunter2@127.0.0.1:1/d")
    with pytest.raises(RetryLaterError) as error:
        state_access.exists(gone)
    assert "hunter2" not in f"{error.value}{gone!r}{gone}"


def test_check_says_whether_the_state_can_be_used(postgres: PostgresServer, state: StateDb, place: StatePlace) -> None:
    from retrain_worker import settings
    from retrain_worker.cli import checks

    def found(given: StatePlace) -> str:
        environment = {"STATE_URL": given.url, "INSTANCE": given.instance}
        return "".join(check.finding for check in checks._state(settings.load(environment)))

    assert found(place).endswith("is there")
    assert found(new_place(postgres)).endswith("is made at the first start")
    assert "Connection refused" in found(replace(place, url="postgresql://trader:hunter2@127.0.0.1:1/d"))
    assert found(replace(place, url="")) == ""


def test_a_role_that_may_not_make_the_schema_is_told_how(postgres: PostgresServer) -> None:
    with postgres.connect() as connection:
        connection.execute("CREATE ROLE modest LOGIN")
        connection.execute("REVOKE CREATE ON DATABASE postgres FROM PUBLIC")
    place = replace(new_place(postgres), url=f"postgresql+psycopg://modest@/postgres?host={postgres.home}")
    with pytest.raises(StateError, match=r"permission denied.*CREATE SCHEMA"), leading(place):
        pass
    with postgres.connect() as connection:
        connection.execute(f'CREATE SCHEMA "{place.schema}" AUTHORIZATION modest')
    with opened_state(place) as state:
        assert state.fencing_token() == 1


def test_a_connection_that_the_server_ends_is_replaced(state: StateDb, place: StatePlace) -> None:
    run, _ = test_state_db.opened(state)
    with connect(place) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'retrain-worker %'"
        )
    with pytest.raises(RetryLaterError):
        state.remember("a", "b")
    state.remember("a", "b")
    assert state.unfinished_run() == run


def test_only_the_newest_leader_stores(place: StatePlace) -> None:
    lost: SimpleQueue[str] = SimpleQueue()
    with leading(place, lost.put) as first, PostgresState(place, leader=first) as state:
        state.remember("a", "b")
        with connect(place) as connection:
            connection.execute("UPDATE leader SET token = token + 1")
        with pytest.raises(LeadershipLostError, match="another process leads"):
            state.remember("a", "c")
        with pytest.raises(LeadershipLostError):
            state.fencing_token()
        assert "another process leads" in lost.get(timeout=60)
    with state_access.state_beside(place) as reader:
        assert reader.recall("a", str) == "b"
    assert lost.empty()


def test_a_leader_that_cannot_renew_stops_before_another_one_may_begin(
    place: StatePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrain_worker.adapters import leader as module

    assert module._OWN_LEASE_SECONDS < module.LEASE_SECONDS
    lost = threading.Event()
    with (
        leading(place, lambda _why: lost.set()) as first,
        PostgresState(place, leader=first) as state,
        psycopg.connect(place.url.replace("+psycopg", "")) as other,
    ):
        other.execute(f'SELECT FROM "{place.schema}".leader FOR UPDATE')  # the renewal waits
        seconds = module._clock() + module._OWN_LEASE_SECONDS
        monkeypatch.setattr(module, "_clock", lambda: seconds)
        with pytest.raises(LeadershipLostError, match="renewed in time"):
            state.unfinished_run()
        with pytest.raises(LeadershipLostError, match="renewed in time"):
            state.remember("a", "b")
        assert lost.wait(5)


def test_a_second_process_waits_until_the_first_has_ended_or_its_lease_is_over(place: StatePlace) -> None:
    from retrain_worker.adapters.leader import Leader

    lost: list[str] = []
    with ExitStack() as resources:
        second = resources.enter_context(Leader(place, on_lost=lost.append))
        with leading(place, lost.append) as first, PostgresState(place, leader=first) as state:
            assert not second.try_take()
            last = second.last()
            assert last is not None
            assert last.is_live
            stopped = state._connection.raw  # type: ignore[attr-defined]
            stopped.execute("BEGIN")
            stopped.execute("SELECT FROM leader FOR UPDATE")
            assert not second.try_take()
            # the lease of a process that is stopped in its transaction
            stopped.execute("UPDATE leader SET renewed_at = '-infinity'")
            stopped.execute("COMMIT")
            stopped.execute("BEGIN")
            stopped.execute("SELECT FROM leader FOR UPDATE")
            for _ in range(100):
                if second.try_take():
                    break
                time.sleep(0.1)
            with PostgresState(place, leader=second) as other:
                other.remember("a", "b")
                with pytest.raises((LeadershipLostError, RetryLaterError)):
                    state.remember("a", "c")
                with pytest.raises(LeadershipLostError):
                    state.remember("a", "c")
                assert other.recall("a", str) == "b"
                assert other.fencing_token() == 2
