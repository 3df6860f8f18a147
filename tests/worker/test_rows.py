"""Reading the table from SQLite: what is refused, what is retried, and that nobody is disturbed by it."""

import itertools
import os
import shutil
import sqlite3
import threading
from collections.abc import Generator
from contextlib import closing
from itertools import chain
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from retrain_worker.errors import DatabaseBusyError, DatabaseUnreachableError, SourceUnfitError
from retrain_worker.worker.data import source, sqlite_source
from retrain_worker.worker.data.page import ChangedWhileReadError
from retrain_worker.worker.data.source import hard_links, parse_url, read_pages
from tests.worker.other_process import OtherProcess
from tests.worker.trading_database import COLUMNS, insert, make_database, make_row, make_rows, url_of


def ids_in(path: Path, *, timeout: float = 1.0) -> list[Any]:
    return list(chain.from_iterable(page["id"] for page in read_pages(url_of(path), busy_timeout_seconds=timeout)))


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return make_database(tmp_path / "trading.db", make_rows(3000))


@pytest.mark.parametrize("odd", ["ETHUSDT", 7], ids=["by columns", "by cells"])
def test_a_cell_of_many_megabytes_is_not_read(tmp_path: Path, odd: Any) -> None:
    longest = f"[{'1' * (sqlite_source._MAX_CELL_BYTES - 2)}]"
    rows = [make_row(1, features=longest + " "), make_row(2, feature_names=longest.encode() + b" "), make_row(3)]
    rows += [make_row(4, features=longest), make_row(5, predicted_action=odd)]
    pages = pl.concat(read_pages(url_of(make_database(tmp_path / "t.db", rows)), busy_timeout_seconds=1)).sort("id")
    assert pages["features"].to_list() == ["(too long)", *(row["features"] for row in rows[1:])]
    names = pages["feature_names"].to_list()
    assert names == [rows[0]["feature_names"], "(too long)", *(row["feature_names"] for row in rows[2:])]


@pytest.mark.parametrize("is_missing", [True, False])
def test_another_table_with_the_rows_is_named(tmp_path: Path, is_missing: bool) -> None:
    path = make_database(tmp_path / "t.db", make_rows(1200))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE ai_training_samples RENAME TO ai_training_samples_v2")
        connection.execute("CREATE TABLE unrelated (id)")
        connection.execute('CREATE TABLE "it\'s a ""copy""" AS SELECT * FROM ai_training_samples_v2 LIMIT 7')
        if not is_missing:
            connection.execute("CREATE TABLE ai_training_samples AS SELECT * FROM ai_training_samples_v2 LIMIT 0")
    start = "there is no table ai_training_samples" if is_missing else "table ai_training_samples is empty"
    with pytest.raises(SourceUnfitError) as refused:
        ids_in(path)
    assert refused.value.what.startswith(f"{start}, but table ")
    assert 'table "ai_training_samples_v2" has its columns and 1,200 rows' in refused.value.what
    assert 'copy""" has its columns and 7 rows' in refused.value.what
    assert 'write to "ai_training_samples_v2" now, rename it' in refused.value.remedy


def test_a_missing_file_is_retried_later_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnreachableError, match=r"gone\.db.*no such file.*DB_PATH"):
        ids_in(tmp_path / "gone.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "0 bytes"), (b"SQLite form", "not a SQLite"), (b"PK\x03\x04" * 5000, "not a SQLite"), (None, "regular")],
)
def test_what_is_not_a_database_is_refused_by_name(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "strange.db"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(SourceUnfitError, match=said) as caught:
        ids_in(path)
    assert caught.value.where == str(path)
    assert caught.value.remedy


def test_a_missing_table_is_refused_and_not_created(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE settings (key TEXT)")
    before = path.read_bytes()
    with pytest.raises(SourceUnfitError, match="no table ai_training_samples"):
        ids_in(path)
    assert path.read_bytes() == before


def test_every_missing_column_is_named_and_unused_ones_may_miss(tmp_path: Path) -> None:
    def without(*names: Any) -> dict[Any, Any]:
        return {name: kind for name, kind in COLUMNS.items() if name not in names}

    with pytest.raises(SourceUnfitError, match="lacks the columns features, target_class"):
        ids_in(make_database(tmp_path / "a.db", columns=without("target_class", "features")))
    assert ids_in(make_database(tmp_path / "b.db", columns=without("run_id", "model_version"))) == []


@pytest.mark.parametrize("name", ["with space.db", "what?.db", "a#b.db", "100%20.db", "ünï文.db", "q'\".db"])
def test_odd_file_names_are_opened_as_they_are(tmp_path: Path, name: str) -> None:
    assert len(ids_in(make_database(tmp_path / name, make_rows(3)))) == 3
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_every_row_comes_once_whatever_the_gaps_between_ids(tmp_path: Path) -> None:
    ids = [*Random(1).sample(range(-(10**6), 10**6), 4000), 2**62, -(2**62)]
    path = make_database(tmp_path / "t.db", (make_row(1, id=each) for each in ids))
    assert sorted(ids_in(path)) == sorted(ids)


def test_views_and_tables_without_rowid_are_read_too(tmp_path: Path) -> None:
    rows = make_rows(30)
    plain = make_database(tmp_path / "w.db", rows, tail="WITHOUT ROWID")
    assert sorted(ids_in(plain)) == list(range(1, 31))
    with closing(sqlite3.connect(plain)) as connection, connection:
        connection.execute("ALTER TABLE ai_training_samples RENAME TO t")
        connection.execute("CREATE VIEW ai_training_samples AS SELECT * FROM t")
    assert sorted(ids_in(plain)) == list(range(1, 31))


def test_a_truncated_file_is_refused(database: Path) -> None:
    whole = database.read_bytes()
    database.write_bytes(whole[: int(len(whole) * 0.6) + 123])
    with pytest.raises(SourceUnfitError, match=r"damaged.*backup"):
        ids_in(database)


def test_no_page_of_garbage_is_read_silently(database: Path) -> None:
    whole = database.read_bytes()
    pages = len(whole) // 4096
    random = Random(7)
    for page in random.sample(range(1, pages), 25):
        database.write_bytes(whole[: page * 4096] + random.randbytes(4096) + whole[(page + 1) * 4096 :])
        with pytest.raises(SourceUnfitError, match="damaged"):
            ids_in(database)


def first_leaf(whole: Any) -> Any:
    """Where some leaf page of the table begins."""
    return next(at for at in range(4096 * 40, len(whole), 4096) if whole[at] == 13)


def test_a_row_that_stands_where_another_should_is_noticed_as_it_is_read(database: Path) -> None:
    whole = bytearray(database.read_bytes())
    page = first_leaf(whole)
    # two cell pointers name the same row: readable, but a row is gone
    whole[page + 8 : page + 10] = whole[page + 10 : page + 12]
    database.write_bytes(whole)
    with pytest.raises(SourceUnfitError, match=r"damaged.*out of order"):
        ids_in(database)


def test_damage_that_reading_does_not_notice_is_found_by_the_check(database: Path) -> None:
    whole = bytearray(database.read_bytes())
    whole[first_leaf(whole) + 7] += 1  # how many bytes between the cells are lost
    database.write_bytes(whole)
    with pytest.raises(SourceUnfitError, match="quick_check"):
        ids_in(database)


@pytest.mark.parametrize(("is_written", "said"), [(True, ""), (False, "torn")])
def test_what_looks_damaged_while_a_writer_is_at_work_is_no_damage_and_the_writer_never_waits_for_the_check(
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_written: bool,
    said: str,
) -> None:
    ways = []

    def torn(path: Any, options: Any, _busy_timeout_seconds: Any) -> str:
        ways.append(options)
        if is_written:
            with closing(sqlite3.connect(path)) as writer, writer:
                writer.execute("UPDATE ai_training_samples SET updated_at = ? WHERE id = 1", (str(len(ways)),))
            os.utime(path, ns=(len(ways), len(ways)))  # a file system's clock is coarse
        return "torn"

    monkeypatch.setattr(sqlite_source, "_quick_check", torn)
    monkeypatch.setattr(sqlite_source, "_PAUSE_SECONDS", 0.0)

    assert sqlite_source._check_pages(database, False, 1.0) == said
    assert set(ways) == {"mode=ro&immutable=1"}


def test_values_that_break_a_constraint_are_no_damage(tmp_path: Path) -> None:
    strict = COLUMNS | {"features": "TEXT NOT NULL"}
    path = make_database(tmp_path / "t.db", make_rows(5), columns=strict)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'TEXT NOT NULL', 'TEXT')")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE ai_training_samples SET features = NULL WHERE id = 2")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'features TEXT', 'features TEXT NOT NULL')")
    assert len(ids_in(path)) == 5


def test_rows_that_are_only_in_the_wal_are_read(tmp_path: Path) -> None:
    path = make_database(tmp_path / "live.db", make_rows(50), journal="wal")
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        with writer:
            insert(writer, [make_row(number) for number in range(51, 61)])
        copy = tmp_path / "copy.db"
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
        assert len(ids_in(path)) == 60
        assert len(ids_in(copy)) == 60


@pytest.mark.parametrize("links", [1, 2])
def test_a_symlink_to_a_database_is_read_with_the_wal_of_its_target(tmp_path: Path, links: int) -> None:
    (tmp_path / "data").mkdir()
    path = make_database(tmp_path / "data" / "live.db", make_rows(50), journal="wal")
    link = path
    for number in range(links):
        (tmp_path / f"{number}").mkdir()
        link = tmp_path / f"{number}" / "trader.db"
        link.symlink_to(path if not number else tmp_path / f"{number - 1}" / "trader.db")
    with OtherProcess(path) as writer:
        writer.insert(make_row(51))
        assert sorted(ids_in(link)) == list(range(1, 52))
    assert not list(tmp_path.glob("[0-9]/*-wal"))


@pytest.mark.parametrize(("journal", "others"), [("wal", 1), ("delete", 0)])
def test_another_hard_link_of_a_wal_database_is_counted(tmp_path: Path, journal: str, others: int) -> None:
    path = make_database(tmp_path / "live.db", make_rows(5), journal=journal)
    assert hard_links(url_of(path)) == 0
    (tmp_path / "backup.db").hardlink_to(path)
    assert hard_links(url_of(path)) == others


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_writer_commits_at_once_between_two_pages(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    journal: str,
) -> None:
    monkeypatch.setattr(sqlite_source, "_CONVERTED_ROWS", 1)
    path = make_database(tmp_path / "live.db", make_rows(6000), journal=journal)
    with OtherProcess(path) as writer:
        writer.do("SELECT count(*) FROM ai_training_samples")  # it has the database open
        pages = sqlite_source.read_sqlite(parse_url(url_of(path)), busy_timeout_seconds=1)
        seen = list(next(pages)["id"])
        for page in pages:
            writer.insert(make_row(10_000 + len(seen)))  # an error where a lock of ours is left
            seen.extend(page["id"])
    assert set(range(1, 6001)) <= set(seen)
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("is_interrupted", [True, False])
def test_pages_begin_with_a_pause_where_one_was_interrupted(
    database: Path, monkeypatch: pytest.MonkeyPatch, is_interrupted: bool
) -> None:
    ticks, calls = itertools.count(), []
    reader = sqlite_source._Connection(database, 1.0, options="mode=ro")
    real_query = reader.query

    def query(statement: str, **options: Any) -> pl.DataFrame:
        if "FROM ai_training_samples" in statement:
            calls.append("page")
        return real_query(statement, **options)

    clock = SimpleNamespace(
        perf_counter=lambda: 0.01 * next(ticks),
        thread_time=lambda: 0.0 if is_interrupted else 0.01 * next(ticks),
        sleep=lambda _seconds: calls.append("sleep"),
    )
    monkeypatch.setattr(reader, "query", query)
    monkeypatch.setattr(sqlite_source, "time", clock)
    with reader:
        assert sum(map(len, sqlite_source._pages(reader, "rowid", "UTF-8"))) == 3000
    pages = calls.count("page")
    assert pages > 5
    assert calls == (["page", *(["sleep", "page"] * (pages - 1))] if is_interrupted else ["page"] * pages)


def test_a_writer_that_comes_while_a_wal_database_at_rest_is_read_is_noticed(tmp_path: Path) -> None:
    path = make_database(tmp_path / "rest.db", make_rows(3000), journal="wal")
    pages = sqlite_source.read_sqlite(parse_url(url_of(path)), busy_timeout_seconds=1)
    next(pages)
    with closing(sqlite3.connect(path)) as writer, writer:
        insert(writer, [make_row(10_000)])

    with pytest.raises(ChangedWhileReadError):
        list(pages)
    assert 10_000 in ids_in(path)


def test_an_uncommitted_write_is_not_seen_and_a_long_lock_is_retried_later(database: Path) -> None:
    with OtherProcess(database) as writer:
        writer.do("BEGIN IMMEDIATE", "DELETE FROM ai_training_samples")
        assert len(ids_in(database)) == 3000
        writer.do("ROLLBACK", "BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseBusyError, match="a writer holds"):
            ids_in(database, timeout=0.05)


def test_the_end_of_the_check_leaves_the_lock_of_a_page_in_place(tmp_path: Path) -> None:
    """The check closes the file while a page is read; with a SQLite of its own it would drop the reader's lock."""
    path = make_database(tmp_path / "live.db", make_rows(3000))
    reader = sqlite_source._Connection(path, 1.0, options="mode=ro")
    with OtherProcess(path) as writer, reader, reader._connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": "100"})
        cursor.execute("SELECT * FROM ai_training_samples")  # the statement is not at its end: its lock is held
        assert sqlite_source._check_pages(path, False, 1.0) == ""
        with pytest.raises(AssertionError, match="locked"):
            writer.insert(make_row(9_999))


def test_a_journal_left_by_a_crash_is_never_read_past(tmp_path: Path) -> None:
    path = make_database(tmp_path / "t.db", make_rows(500))
    crashed = tmp_path / "crashed.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size = 5")
        writer.execute("PRAGMA cache_spill = 5")
        writer.execute("BEGIN")
        writer.execute("UPDATE ai_training_samples SET target_class = 'WIN', features = features || ' '")
        for suffix in ("", "-journal"):
            shutil.copy(f"{path}{suffix}", f"{crashed}{suffix}")
        writer.execute("ROLLBACK")
    assert crashed.read_bytes() != path.read_bytes()
    with pytest.raises(DatabaseUnreachableError, match=r"journal left by a crash"):
        ids_in(crashed)


def test_text_that_is_not_utf8_stops_nothing_and_stays_distinct(tmp_path: Path) -> None:
    path = make_database(tmp_path / "t.db", make_rows(3))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE ai_training_samples SET symbol = CAST(x'42ff' AS TEXT) WHERE id = 1")
        connection.execute("UPDATE ai_training_samples SET symbol = CAST(x'42fe' AS TEXT) WHERE id = 2")
    symbols = [name for page in read_pages(url_of(path), busy_timeout_seconds=1) for name in page["symbol"]]
    assert len(set(symbols)) == 3


@pytest.mark.parametrize(
    "url",
    [
        "mysql://trader:hunter2@localhost/x",
        "postgresql://trader:hunter2@localhost:notaport/x",
        "postgresql://trader:hunter2@127.0.0.1:9/x",
        "hunter2",
        "",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_no_error_shows_the_password(url: str) -> None:
    with pytest.raises((SourceUnfitError, DatabaseUnreachableError)) as caught:
        list(read_pages(url, busy_timeout_seconds=2))
    assert "hunter2" not in str(caught.value)
    assert caught.value.remedy


def test_the_next_page_is_read_while_the_caller_works_on_one() -> None:
    is_second_begun, is_closed = threading.Event(), threading.Event()

    def pages() -> Generator[pl.DataFrame]:
        try:
            yield pl.DataFrame({"id": [1]})
            is_second_begun.set()
            yield pl.DataFrame({"id": [2]})
            raise DatabaseBusyError("locked")
        finally:
            is_closed.set()

    read = source._read_ahead(pages())
    assert next(read)["id"].to_list() == [1]
    assert is_second_begun.wait(timeout=30)
    assert next(read)["id"].to_list() == [2]
    with pytest.raises(DatabaseBusyError):
        next(read)
    is_closed.clear()
    read = source._read_ahead(pages())
    next(read)
    read.close()
    assert is_closed.is_set()
