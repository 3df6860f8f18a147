"""The same table in a real PostgreSQL gives the same snapshot, and its troubles the same errors."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from psycopg.pq import TransactionStatus

from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.errors import DatabaseBusyError, DatabaseUnreachableError, SourceUnfitError
from retrain_worker.worker.data import postgres_source
from retrain_worker.worker.data.instants import to_microseconds
from retrain_worker.worker.data.intake import Intake
from retrain_worker.worker.data.source import read_pages
from tests.worker.postgres_server import INITDB, PostgresServer, insert_rows, make_table, postgres_server
from tests.worker.table_life import STEPS, Life
from tests.worker.trading_database import NOW, make_row, make_rows, open_row, taken

pytestmark = pytest.mark.skipif(INITDB is None, reason="no PostgreSQL server on this host (initdb, postgres)")


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    with postgres_server() as server:
        yield server.home


@pytest.fixture
def connection(server: Path) -> Iterator[Any]:
    with PostgresServer(home=server, port=0, password="").connect() as connection:
        connection.execute("SET lock_timeout = '20s'")
        connection.execute("DROP TABLE IF EXISTS ai_training_samples")
        yield connection


@pytest.fixture
def url(server: Path) -> str:
    return f"postgresql://trader:hunter2@/postgres?host={server}"


def snapshot_of(url: str, **policy: Any) -> Any:
    intake = Intake(DataPolicy(**policy), now=to_microseconds(datetime.fromisoformat(NOW)))
    for page in read_pages(url, busy_timeout_seconds=1.0):
        intake.add(page)
    return intake.snapshot()


def rows_of_all_kinds() -> list[Any]:
    return [*make_rows(200), *(open_row(number) for number in range(201, 210))]


@pytest.mark.parametrize("features", ["TEXT", "JSON", "JSONB"])
def test_the_same_rows_give_the_same_snapshot_as_in_sqlite(
    connection: Any,
    url: str,
    tmp_path: Path,
    features: str,
) -> None:
    make_table(connection, rows_of_all_kinds(), features=features, feature_names=features)
    assert snapshot_of(url).data_sha256 == taken(tmp_path, rows_of_all_kinds()).data_sha256


def test_numeric_naive_and_infinite_values_stop_nothing(connection: Any, url: str, tmp_path: Path) -> None:
    rows = rows_of_all_kinds()
    for row in rows:
        row["realized_pnl"] = row["realized_pnl"] and round(row["realized_pnl"], 2)
    make_table(connection, rows, realized_pnl="NUMERIC(12, 2)", timestamp="TIMESTAMP")
    assert snapshot_of(url).data_sha256 == taken(tmp_path, rows).data_sha256
    connection.execute("UPDATE ai_training_samples SET timestamp = 'infinity' WHERE id = 3")
    connection.execute("UPDATE ai_training_samples SET timestamp = '-infinity' WHERE id = 4")
    connection.execute("UPDATE ai_training_samples SET realized_pnl = 'NaN' WHERE id = 5")
    assert snapshot_of(url).facts.quarantined["timestamp_unreadable"] == 2


def test_only_committed_rows_are_read_and_no_writer_waits(connection: Any, server: Path, url: str) -> None:
    make_table(connection, make_rows(50))
    with psycopg.connect(host=str(server), user="trader", dbname="postgres", autocommit=False) as writer:
        writer.execute("SET lock_timeout = 1")
        writer.execute("DELETE FROM ai_training_samples WHERE id <= 10")
        pages = read_pages(url, busy_timeout_seconds=1.0)
        first = next(pages)
        writer.execute("UPDATE ai_training_samples SET target_class = 'WIN'")
        writer.commit()
        assert sorted([*first["id"], *(row for page in pages for row in page["id"])]) == list(range(1, 51))
    assert len(snapshot_of(url)) == 40


@settings(max_examples=12)
@given(steps=STEPS)
def test_every_outcome_is_new_exactly_once_even_one_committed_late_under_a_smaller_id(
    connection: Any,
    server: Path,
    url: str,
    tmp_path_factory: pytest.TempPathFactory,
    steps: Any,
) -> None:
    connection.execute("DROP TABLE IF EXISTS ai_training_samples")
    make_table(connection, [])

    def upsert(row: Any) -> None:
        connection.execute("DELETE FROM ai_training_samples WHERE id = %s", (row["id"],))
        insert_rows(connection, [row])

    life = Life(tmp_path_factory.mktemp("life"), url, upsert)
    with psycopg.connect(host=str(server), user="trader", dbname="postgres", autocommit=False) as slow:
        for step, number in [*steps, ("commit", 0), ("pull", 0)]:
            if step != "late":
                life.do(step, number)
            elif slow.info.transaction_status is TransactionStatus.IDLE:  # written, and not to be seen yet
                late = 1 - min([0, *life.rows])
                row = make_row(1000 + late, id=-late)
                insert_rows(slow, [row])
            else:
                slow.commit()
                life.rows[row["id"]] = row


def test_a_missing_table_and_missing_columns_are_refused(connection: Any, url: str) -> None:
    with pytest.raises(SourceUnfitError, match="no table ai_training_samples"):
        snapshot_of(url)
    make_table(connection, [])
    connection.execute("ALTER TABLE ai_training_samples DROP COLUMN exit_time, DROP COLUMN run_id")
    with pytest.raises(SourceUnfitError, match=r"lacks the column exit_time") as caught:
        snapshot_of(url)
    assert "hunter2" not in str(caught.value)


def test_another_table_with_the_rows_is_named(connection: Any, url: str) -> None:
    make_table(connection, make_rows(20))
    connection.execute('ALTER TABLE ai_training_samples RENAME TO "Samples v2"')
    try:
        with pytest.raises(SourceUnfitError, match=r'no table .*, but table "Samples v2" has its columns and 20 rows'):
            snapshot_of(url)
        connection.execute('CREATE TABLE ai_training_samples AS SELECT * FROM "Samples v2" LIMIT 0')
        connection.execute("GRANT SELECT ON ai_training_samples TO trader")
        with pytest.raises(SourceUnfitError, match=r'is empty, but table "Samples v2" has its columns and 20 rows'):
            snapshot_of(url)
    finally:
        connection.execute('DROP TABLE "Samples v2"')


def test_columns_that_cannot_be_numbers_are_refused(connection: Any, url: str) -> None:
    rows = make_rows(3)
    rows[1]["realized_pnl"] = "much"
    make_table(connection, rows, realized_pnl="TEXT")
    with pytest.raises(SourceUnfitError, match="much"):
        snapshot_of(url)


def test_a_table_under_an_exclusive_lock_is_retried_later(connection: Any, server: Path, url: str) -> None:
    make_table(connection, make_rows(3))
    with psycopg.connect(host=str(server), user="trader", dbname="postgres") as locker:
        locker.execute("LOCK TABLE ai_training_samples IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseBusyError, match="pg_locks") as caught:
            list(read_pages(url, busy_timeout_seconds=0.05))
    assert "hunter2" not in str(caught.value)


def test_a_user_without_the_right_to_read_is_told_apart_from_bad_data(connection: Any, server: Path, url: str) -> None:
    make_table(connection, make_rows(3))
    connection.execute("DROP ROLE IF EXISTS guest")
    connection.execute("CREATE ROLE guest LOGIN")
    with pytest.raises(DatabaseUnreachableError, match="permission denied"):
        list(read_pages(url.replace("trader:hunter2", "guest:hunter2"), busy_timeout_seconds=1.0))
    with pytest.raises(DatabaseUnreachableError, match="nobody_knows") as caught:
        list(read_pages(url.replace("trader:", "nobody_knows:"), busy_timeout_seconds=1.0))
    assert "hunter2" not in str(caught.value)


def test_nothing_can_be_written_through_our_connection(connection: Any, url: str) -> None:
    make_table(connection, make_rows(3))
    connection.execute("ALTER TABLE ai_training_samples RENAME TO hidden")
    connection.execute(
        "CREATE FUNCTION bite() RETURNS bool LANGUAGE plpgsql AS 'BEGIN DELETE FROM hidden; RETURN true; END'"
    )
    connection.execute("CREATE VIEW ai_training_samples AS SELECT * FROM hidden WHERE bite()")
    try:
        with pytest.raises(SourceUnfitError, match="DELETE in a read-only transaction"):
            snapshot_of(url)
        assert connection.execute("SELECT count(*) FROM hidden").fetchone() == (3,)
    finally:
        connection.execute("DROP VIEW ai_training_samples")
        connection.execute("DROP FUNCTION bite")
        connection.execute("DROP TABLE hidden")


PASSING = ["08006", "25P03", "25P04", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "57P02", "57P03"]


@pytest.mark.parametrize("state", ["", *PASSING, "28P01", "3D000", "42501", "58030"])
def test_a_condition_that_passes_or_that_an_operator_ends_is_retried_and_is_no_matter_of_types(state: str) -> None:
    error = postgres_source._explained(state, "FATAL: said", "postgresql://u:***@h/d")
    assert isinstance(error, DatabaseBusyError | DatabaseUnreachableError)
    assert "types" not in str(error)


@pytest.mark.parametrize("state", ["22P02", "25006", "42703", "42883", "XX001"])
def test_a_condition_that_lies_in_the_table_is_refused(state: str) -> None:
    assert isinstance(postgres_source._explained(state, "ERROR: said", "postgresql://h/d"), SourceUnfitError)


def test_a_session_that_the_server_ends_while_pages_are_read_is_retried(
    connection: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_source, "_PAGE_ROWS", 10)
    make_table(connection, make_rows(50))
    pages = read_pages(url, busy_timeout_seconds=1.0)
    next(pages)
    connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'FETCH%'")
    with pytest.raises(DatabaseUnreachableError) as caught:
        list(pages)
    assert "types" not in str(caught.value)


@pytest.mark.parametrize(("encoding", "symbol"), [("SQL_ASCII", b"BTC\xff"), ("LATIN1", b"BTC\xe9")])
def test_databases_of_another_encoding_are_read(
    connection: Any, server: Path, url: str, encoding: str, symbol: bytes
) -> None:
    name = f"other_{encoding.lower()}"
    connection.execute(f"DROP DATABASE IF EXISTS {name}")
    connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    with psycopg.connect(
        host=str(server), user="trader", dbname=name, autocommit=True, client_encoding=encoding
    ) as other:
        make_table(other, make_rows(20))
        other.execute(b"UPDATE ai_training_samples SET symbol = '" + symbol + b"' WHERE id <= 3")
    snapshot = snapshot_of(url.replace("/postgres?", f"/{name}?"))
    expected = {"SQL_ASCII": "BTC\\xff", "LATIN1": "BTC\u00e9"}[encoding]
    assert len(snapshot) == 20
    assert expected in snapshot.symbols


def test_the_spelling_of_another_library_is_read(connection: Any, url: str) -> None:
    make_table(connection, make_rows(20))
    other = url.replace("postgresql://", "postgresql+asyncpg://") + "&ssl=disable&prepared_statement_cache_size=0"
    assert len(snapshot_of(other)) == len(snapshot_of(url.replace("postgresql://", "postgres://"))) == 20
