"""Bookkeeping in the stack's own tables: a row that they reject does not block the next one."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from retrain_worker.adapters.stack_tables import StackTables
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.daemon.jobs.bookkeeping import MAX_ATTEMPTS, Bookkeeping
from retrain_worker.domain.lifecycle import DeploymentKind, DeploymentState, Outcome, Stage
from tests.contract.test_run_store import DEPLOYMENT
from tests.run_facts import gate_facts, promote_facts, train_facts

AT = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)


@pytest.fixture
def trading(tmp_path: Path) -> Path:
    path = tmp_path / "trading.db"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE model_training_runs (version TEXT UNIQUE, status TEXT, notes TEXT"
            " CHECK (notes <> 'forbidden'))"
        )
    connection.close()
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateDb]:
    with StateDb(tmp_path / "state.db") as store:
        for day, reason in enumerate(["first", "forbidden", "third"]):
            run, _ = store.open_run(requested_by="schedule", reason="test", at=AT + timedelta(days=day))
            store.record(run.ended(Outcome.FAILED, reason, at=AT))
        yield store


def booked(trading: Path) -> list[Any]:
    connection = sqlite3.connect(trading)
    try:
        return [row[0] for row in connection.execute("SELECT notes FROM model_training_runs ORDER BY version")]
    finally:
        connection.close()


def tables(path: Path) -> StackTables:
    return StackTables(f"sqlite:///{path}", busy_timeout_seconds=0.05)


def test_a_row_that_is_rejected_again_and_again_is_skipped_and_the_next_ones_are_written(
    store: StateDb,
    trading: Path,
) -> None:
    books = Bookkeeping(store, lambda: None)
    with capture_logs() as said:
        for _ in range(MAX_ATTEMPTS - 1):
            books.write(tables(trading))
        assert booked(trading) == ["first"]
        for _ in range(3):
            books.write(tables(trading))

    assert booked(trading) == ["first", "third"]
    assert [line["event"] for line in said] == ["bookkeeping_failed", "bookkeeping_given_up"]
    assert said[1]["run_id"] == "20260111_033000"
    assert "20260111_033000" in said[1]["message"]
    assert "CHECK constraint" in said[1]["message"]


def test_a_busy_or_missing_database_is_tried_again_without_limit(store: StateDb, trading: Path) -> None:
    books = Bookkeeping(store, lambda: None)
    writer = sqlite3.connect(trading)
    writer.execute("BEGIN EXCLUSIVE")
    with capture_logs() as said:
        for _ in range(MAX_ATTEMPTS + 2):
            books.write(tables(trading))
        writer.close()
        for _ in range(MAX_ATTEMPTS + 2):
            books.write(tables(trading.with_name("gone.db")))

    assert {line["event"] for line in said} == {"bookkeeping_failed"}
    assert len(said) == 2, "each problem once"
    books.write(tables(trading))
    assert booked(trading) == ["first"]


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    path = tmp_path / "versions.db"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE ai_model_versions (version_id TEXT UNIQUE, model_type TEXT,"
            " trained_at TEXT, is_active BOOLEAN, replaced_at TEXT)"
        )
    connection.close()
    return path


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[StateDb]:
    with StateDb(tmp_path / "own.db") as store:
        yield store


def waiting(store: StateDb, day: Any, stage: Any) -> Any:
    """A run at `stage`, which waits for rows; one on probation stands in the slot."""
    at = AT + timedelta(days=day)
    run, _ = store.open_run(requested_by="schedule", reason="test", at=at)
    version = f"patchtst_v{run.run_id}"
    run = run.with_fact(train_facts(version=version)).with_fact(gate_facts()).with_fact(promote_facts(version))
    run = replace(run, stage=Stage.SHADOW)
    store.record(run)
    return run if stage is Stage.SHADOW else on_probation(store, run, at)


def on_probation(store: StateDb, run: Any, at: Any) -> Any:
    run = replace(run, stage=Stage.PROBATION, outcome=Outcome.PROMOTED)
    store.record(
        run,
        deployment=replace(
            DEPLOYMENT,
            deployment_id=run.run_id,
            run_id=run.run_id,
            version=run.facts.promote.version,
            state=DeploymentState.CONFIRMED,
            created_at=at,
        ),
    )
    return run


def ended(store: StateDb, run: Any, at: Any) -> None:
    run = replace(run, finished_at=at)
    store.record(run)


def rows(path: Path) -> dict[Any, Any]:
    connection = sqlite3.connect(path)
    try:
        return {
            row[0][len("patchtst_v") :]: row[1:]
            for row in connection.execute("SELECT version_id, is_active, trained_at FROM ai_model_versions")
        }
    finally:
        connection.close()


def test_the_active_version_is_the_one_that_serves_when_an_overtaken_probation_ends(
    empty: StateDb,
    versions: Path,
) -> None:
    books = Bookkeeping(empty, lambda: None)
    first = waiting(empty, 0, Stage.PROBATION)
    books.write(tables(versions))
    second = waiting(empty, 1, Stage.PROBATION)
    books.write(tables(versions))
    before = rows(versions)
    ended(empty, first, AT + timedelta(days=2))
    books.write(tables(versions))
    assert rows(versions) == before
    assert {run_id: row[0] for run_id, row in before.items()} == {first.run_id: 0, second.run_id: 1}


def test_a_promotion_after_a_trial_is_written_once_during_its_probation(
    empty: StateDb,
    versions: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    books = Bookkeeping(empty, lambda: None)
    run = waiting(empty, 0, Stage.SHADOW)
    books.write(tables(versions))
    assert rows(versions) == {}
    run = on_probation(empty, run, AT)
    books.write(tables(versions))
    assert list(rows(versions)) == [run.run_id]

    written: list[Any] = []
    record = StackTables.record
    monkeypatch.setattr(StackTables, "record", lambda *given, **named: written.append(record(*given, **named)))
    books.write(tables(versions))
    assert written == []
    ended(empty, run, AT + timedelta(days=1))
    for _ in range(2):
        books.write(tables(versions))
    assert len(written) == 1


def test_rollbacks_by_operators_and_external_changes_are_written_too(empty: StateDb, versions: Path) -> None:
    books = Bookkeeping(empty, lambda: None)
    first, second = (waiting(empty, day, Stage.PROBATION) for day in (0, 1))
    for run in (first, second):
        ended(empty, run, AT + timedelta(days=2))
    books.write(tables(versions))
    assert {run_id: row[0] for run_id, row in rows(versions).items()} == {first.run_id: 0, second.run_id: 1}

    back = replace(
        DEPLOYMENT,
        deployment_id="rollback_1",
        run_id=None,
        kind=DeploymentKind.ROLLBACK,
        version=first.facts.promote.version,
        state=DeploymentState.CONFIRMED,
    )
    empty.record_deployment(back)
    books.write(tables(versions))
    assert {run_id: row[0] for run_id, row in rows(versions).items()} == {first.run_id: 1, second.run_id: 0}
    empty.record_deployment(
        replace(
            back,
            deployment_id="external_1",
            kind=DeploymentKind.EXTERNAL,
            version="by_hand",
            previous_model_path="/m/before.pth",
        )
    )
    books.write(tables(versions))
    assert {row[0] for row in rows(versions).values()} == {0}


def test_a_run_that_is_rolled_back_long_after_its_promotion_is_written_again(empty: StateDb, trading: Path) -> None:
    run, _ = empty.open_run(requested_by="schedule", reason="test", at=AT)
    run = replace(run, stage=Stage.PROMOTE).ended(Outcome.PROMOTED, "confirmed", at=AT)
    promotion = replace(DEPLOYMENT, deployment_id=run.run_id, run_id=run.run_id, state=DeploymentState.CONFIRMED)
    empty.record(run, deployment=promotion)
    books = Bookkeeping(empty, lambda: None)
    books.write(tables(trading))
    rollback = replace(promotion, deployment_id="rollback_1", kind=DeploymentKind.ROLLBACK, version="good")
    empty.record(run.ended(Outcome.ROLLED_BACK, "loses money", at=AT + timedelta(days=3)), deployment=rollback)
    assert booked(trading) == ["confirmed"]
    books.write(tables(trading))

    assert booked(trading) == ["loses money"]


def test_the_first_model_stays_active_under_the_name_in_the_stack_s_row(
    empty: StateDb,
    versions: Path,
) -> None:
    connection = sqlite3.connect(versions)
    connection.execute("ALTER TABLE ai_model_versions ADD COLUMN file_path TEXT")
    connection.executemany(
        "INSERT INTO ai_model_versions VALUES (?, 'PatchTST', '', 1, NULL, ?)",
        [("patchtst_v_prod_3", "/m/best.pth"), ("patchtst_v_prod_2", "/m/older.pth")],
    )
    connection.commit()
    connection.close()
    first = replace(
        DEPLOYMENT,
        deployment_id="external_1",
        run_id=None,
        kind=DeploymentKind.EXTERNAL,
        version="best",
        previous_version=None,
        previous_model_path=None,
        state=DeploymentState.NOT_CONFIRMED,
    )
    for path, active in (("/m/unknown.pth", {1}), ("/m/best.pth", {0, 1})):
        empty.record_deployment(replace(first, deployment_id=f"external_{path}", model_path=path))
        Bookkeeping(empty, lambda: None).write(tables(versions))
        assert {row[0] for row in rows(versions).values()} == active
    assert rows(versions)["_prod_3"][0] == 1


def test_a_new_row_has_the_defaults_of_the_stack_s_orm_and_counters_are_left_alone(
    empty: StateDb, tmp_path: Path
) -> None:
    path = tmp_path / "orm.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE ai_model_versions (version_id TEXT UNIQUE, model_type TEXT, trained_at TEXT,"
            " is_active BOOLEAN, replaced_at TEXT, total_predictions INTEGER, correct_predictions INTEGER,"
            " total_pnl FLOAT, live_accuracy FLOAT)"
        )
        connection.execute(
            "CREATE TABLE model_training_runs (version TEXT UNIQUE, status TEXT, dataset_path TEXT, scaler_path TEXT,"
            " model_path TEXT, sample_count INTEGER)"
        )
    run = waiting(empty, 0, Stage.PROBATION)
    books = Bookkeeping(empty, lambda: None)
    books.write(tables(path))
    with closing(sqlite3.connect(path)) as connection, connection:
        counters = "SELECT total_predictions, correct_predictions, total_pnl, live_accuracy FROM ai_model_versions"
        assert connection.execute(counters).fetchall() == [(0, 0, 0.0, None)]
        connection.execute("UPDATE ai_model_versions SET total_predictions = 7")
    ended(empty, run, AT + timedelta(days=2))
    books.write(tables(path))

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(counters).fetchone()[0] == 7
        row = connection.execute("SELECT dataset_path, scaler_path, sample_count FROM model_training_runs").fetchone()
    assert row == (str(path), "", 0)
