"""The stack's own tables: a row that they refuse for good does not hold up the next one."""

import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from retrain_worker.adapters.stack_tables import StackTables
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.daemon.bookkeeping import MAX_TRIES, Bookkeeping
from retrain_worker.domain.lifecycle import Outcome

AT = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)


@pytest.fixture
def trading(tmp_path):
    path = tmp_path / "trading.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE model_training_runs (version TEXT UNIQUE, status TEXT, notes TEXT"
                           " CHECK (notes <> 'forbidden'))")
    connection.close()
    return path


@pytest.fixture
def store(tmp_path):
    with StateDb(tmp_path / "state.db") as store:
        for day, reason in enumerate(["first", "forbidden", "third"]):
            run, _ = store.open_run(requested_by="schedule", reason="test", at=AT + timedelta(days=day))
            store.record(run.ended(Outcome.FAILED, reason, at=AT))
        yield store


def booked(trading):
    connection = sqlite3.connect(trading)
    try:
        return [row[0] for row in connection.execute("SELECT notes FROM model_training_runs ORDER BY version")]
    finally:
        connection.close()


def tables(path):
    return StackTables(f"sqlite:///{path}", busy_timeout_seconds=0.05)


def test_a_row_that_is_refused_for_good_is_set_aside_with_its_name_and_the_next_ones_follow(store, trading):
    books = Bookkeeping(store)
    with capture_logs() as said:
        for _ in range(MAX_TRIES - 1):
            books.keep(tables(trading))
        assert booked(trading) == ["first"]
        for _ in range(3):
            books.keep(tables(trading))

    assert booked(trading) == ["first", "third"]
    assert [line["event"] for line in said] == ["bookkeeping_failed", "bookkeeping_set_aside"]
    assert said[1]["run_id"] == "20260111_033000"
    assert "20260111_033000" in said[1]["message"]
    assert "CHECK constraint" in said[1]["message"]


def test_a_database_that_is_busy_or_away_is_waited_for_however_long(store, trading):
    books = Bookkeeping(store)
    writer = sqlite3.connect(trading)
    writer.execute("BEGIN EXCLUSIVE")
    with capture_logs() as said:
        for _ in range(MAX_TRIES + 2):
            books.keep(tables(trading))
        writer.close()
        for _ in range(MAX_TRIES + 2):
            books.keep(tables(trading.with_name("gone.db")))

    assert {line["event"] for line in said} == {"bookkeeping_failed"}
    assert len(said) == 2, "each problem once"
    books.keep(tables(trading))
    assert booked(trading) == ["first"]
