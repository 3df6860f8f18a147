"""The look at the trading database before READY."""

import sqlite3
from pathlib import Path

import pytest

from retrain_worker.adapters.trading_database import TABLE, check_source
from retrain_worker.errors import DatabaseUnreachableError, SourceUnfitError


def test_a_database_with_the_table_is_looked_at_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a ?b#c.db"
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE {TABLE} (id)")
    connection.close()
    check_source("", path)

    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_what_is_not_a_training_database_is_unfit(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is not a database")
    with sqlite3.connect(tmp_path / "empty.db") as connection:
        connection.execute("CREATE TABLE other (id)")
    connection.close()
    for name, said in (("text", "not an SQLite database"), ("empty.db", "no table")):
        with pytest.raises(SourceUnfitError, match=said):
            check_source("", tmp_path / name)


def test_what_is_not_there_may_come_back(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnreachableError, match="No such file"):
        check_source("", tmp_path / "missing.db")
    with pytest.raises(DatabaseUnreachableError) as refused:
        check_source("postgresql+psycopg://u:hunter2@127.0.0.1:1/d", None)
    assert "hunter2" not in str(refused.value)
