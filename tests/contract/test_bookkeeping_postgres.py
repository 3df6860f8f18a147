"""The stack's tables in a real PostgreSQL: types as its ORM has them, and rights that are missing."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from retrain_worker.adapters.stack_tables import StackTables
from retrain_worker.adapters.trading_database import check_source
from retrain_worker.domain.lifecycle import Outcome, Run
from retrain_worker.errors import DatabaseBusyError, DatabaseUnreachableError, RowRefusedError, SourceUnfitError
from tests.contract.test_run_store import DEPLOYMENT
from tests.worker.postgres_server import INITDB, PostgresServer, postgres_server

pytestmark = pytest.mark.skipif(INITDB is None, reason="no PostgreSQL server on this host (initdb, postgres)")

AT = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)
RUN = Run(
    run_id="20260110_033000",
    requested_by="schedule",
    request_reason="test",
    created_at=AT,
    updated_at=AT,
).ended(Outcome.FAILED, "no rows", at=AT)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def connection(server: PostgresServer) -> Iterator[Any]:
    with server.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS model_training_runs, ai_model_versions")
        connection.execute("ALTER ROLE trader SET timezone = 'Asia/Tokyo'")
        connection.execute(
            "CREATE TABLE model_training_runs (version text UNIQUE, started_at timestamptz, completed_at timestamp,"
            " metrics json, notes text CHECK (notes <> 'forbidden'))"
        )
        connection.execute(
            "CREATE TABLE ai_model_versions (version_id text UNIQUE, model_type text, file_path text,"
            " is_active boolean, replaced_at timestamptz)"
        )
        connection.execute("INSERT INTO ai_model_versions VALUES ('old', 'PatchTST', '/old', true, NULL)")
        yield connection


def url_of(server: PostgresServer, user: str = "trader") -> str:
    return f"postgresql+psycopg://{user}:x@/postgres?host={server.home}"


def test_instants_are_utc_in_either_type_and_json_is_an_object(server: PostgresServer, connection: Any) -> None:
    tables = StackTables(url_of(server))
    tables.record(RUN, serving=None)
    tables.record(RUN, serving=None)

    [row] = connection.execute("SELECT started_at, completed_at, metrics FROM model_training_runs").fetchall()
    assert row == (AT, AT.replace(tzinfo=None), None)


def test_the_model_in_service_is_the_only_active_one(server: PostgresServer, connection: Any) -> None:
    connection.execute("INSERT INTO ai_model_versions VALUES ('new', 'PatchTST', '/new', false, NULL)")
    StackTables(url_of(server)).record_serving(replace(DEPLOYMENT, version="new", model_path="/new"))

    active = connection.execute("SELECT version_id FROM ai_model_versions WHERE is_active").fetchall()
    assert active == [("new",)]


def test_a_row_that_the_table_rejects_and_a_right_that_is_missing_are_told_apart(
    server: PostgresServer, connection: Any
) -> None:
    connection.execute("DROP ROLE IF EXISTS reader")
    connection.execute("CREATE ROLE reader LOGIN")
    with pytest.raises(RowRefusedError, match="violates check constraint"):
        StackTables(url_of(server)).record(replace(RUN, reasons=("forbidden",)), serving=None)
    with pytest.raises(DatabaseBusyError, match=r"permission denied.*user reader.*grant write access"):
        StackTables(url_of(server, "reader")).record(RUN, serving=None)
    with pytest.raises(DatabaseBusyError, match="if this lasts") as gone:
        StackTables("postgresql+psycopg://trader:hunter2@127.0.0.1:1/d").record(RUN, serving=None)
    assert "hunter2" not in str(gone.value)


def test_the_check_before_the_start_tells_a_server_from_a_table(server: PostgresServer, connection: Any) -> None:
    with pytest.raises(SourceUnfitError, match="no table"):
        check_source(url_of(server), None)
    connection.execute("CREATE TABLE ai_training_samples (id int)")
    check_source(url_of(server), None)
    connection.execute("DROP TABLE ai_training_samples")


def test_a_driver_that_is_not_installed_is_named_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(DatabaseUnreachableError, match=r"retrain_worker\[postgres\]"):
        check_source("postgresql+psycopg://u@h/d", None)
    with pytest.raises(DatabaseUnreachableError, match=r"retrain_worker\[postgres\]"):
        StackTables("postgresql+psycopg://u@h/d").record(RUN, serving=None)
