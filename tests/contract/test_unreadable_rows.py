"""A row of state.db that cannot be read is moved aside at the start and affects no other row."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain import events
from retrain_worker.domain.lifecycle import Outcome
from retrain_worker.domain.slot_request import SlotRequestArguments, SlotRequestKind
from tests.contract.test_run_store import AT, DEPLOYMENT

#: table -> columns of which each, by itself, makes a row unreadable
COLUMNS = {
    "runs": ("created_at", "updated_at", "stage", "outcome", "finished_at", "not_before"),
    "deployments": ("kind", "state", "created_at", "updated_at"),
    "slot_requests": ("kind", "state", "created_at", "updated_at", "not_before"),
    "outbox": ("timestamp",),
}
KEYS = {"runs": "run_id", "deployments": "deployment_id", "slot_requests": "request_id", "outbox": "event_id"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A state database with two runs, a deployment of each, two slot requests, and two pending events."""
    path = tmp_path / "state.db"
    with StateDb(path) as state:
        for hours in (0, 1):
            at = AT + timedelta(hours=hours)
            run, _ = state.open_run(
                requested_by="schedule",
                reason="due",
                at=at,
                announce=lambda run: [events.started(run, at=run.created_at)],
            )
            deployment = replace(DEPLOYMENT, deployment_id=run.run_id, run_id=run.run_id, created_at=at)
            state.record(run.ended(Outcome.FAILED, "a test", at=at), deployment=deployment)
            state.open_slot_request(
                SlotRequestKind.ROLLBACK, arguments=SlotRequestArguments(), requested_by="ada", reason="loss", at=at
            )
    return path


def rows(path: Path, query: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.parametrize(("table", "column"), [(table, name) for table, names in COLUMNS.items() for name in names])
def test_a_row_that_cannot_be_read_is_moved_aside_and_the_others_are_read(path: Path, table: str, column: str) -> None:
    key = KEYS[table]
    kept, damaged = (name for (name,) in rows(path, f"SELECT {key} FROM {table} ORDER BY {key}"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"UPDATE {table} SET {column} = 'nonsense' WHERE {key} = ?", (damaged,))

    with StateDb(path) as state:
        (quarantined,) = state.quarantined
        assert quarantined.startswith(f"{table} {damaged}: ")
        assert len(state.history(9)) == (1 if table == "runs" else 2)
        assert len(state.deployments(9)) == (1 if table == "deployments" else 2)
        assert len(state.pending_events(9)) == (1 if table == "outbox" else 2)
        assert state.unfinished_run() is None
        assert state.waiting_slot_request() is not None

    assert rows(path, f"SELECT {key} FROM {table}") == [(kept,)]
    ((source, content),) = rows(path, "SELECT source, content FROM unreadable_rows")
    assert source == table
    assert damaged in content
    assert "nonsense" in content
    with StateDb(path) as state:
        assert state.quarantined == ()
