"""Roles of databases follow from their rows; reading them leaves no file behind and delays no writer."""

import shutil
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.demo.market import continue_market, write_market
from retrain_worker.demo.schema import SAMPLE_COLUMNS
from retrain_worker.discovery import services
from retrain_worker.discovery.configured_paths import PathSetting
from retrain_worker.discovery.databases import survey
from retrain_worker.discovery.discover import Discovery, discover
from retrain_worker.discovery.progress import Progress
from retrain_worker.discovery.proof_pack import Role
from retrain_worker.discovery.read_only_sqlite import opened, read, safe_to_open
from retrain_worker.discovery.training_table import EXPECTED
from retrain_worker.domain.masking import is_secret_name, masked
from tests.seed_tree import END, make, walk

NOW = datetime(2026, 1, 10, tzinfo=UTC)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("market") / "trader.db"
    write_market(path, seed=3, end=END, rows=300, open_rows=10, contradictions=1)
    return path


def found_in(root: Path, *configured: Path) -> Discovery:
    return discover(
        [root],
        cross_file_systems=False,
        configured=[PathSetting("here", "DB_PATH", path) for path in configured],
        redis_url="",
        now=NOW,
        progress=Progress(),
    )


def roles(root: Path, *configured: Path) -> dict[str, Role]:
    return {Path(each.file.path).name: each.role for each in found_in(root, *configured).pack.databases}


def change(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)
    return path


def test_the_schema_expected_is_the_one_the_stack_creates() -> None:
    assert tuple(EXPECTED) == SAMPLE_COLUMNS


def test_rows_decide_who_is_source_backup_and_other(tmp_path: Path, market: Path) -> None:
    shutil.copyfile(market, tmp_path / "copy.db")
    shutil.copyfile(market, tmp_path / "live.db")
    change(tmp_path / "live.db", "UPDATE ai_training_samples SET target_class = 'WIN' WHERE target_class IS NULL")
    shutil.copyfile(tmp_path / "live.db", tmp_path / "vacuumed.db")
    change(tmp_path / "vacuumed.db", "DROP TABLE settings")
    write_market(tmp_path / "other.db", seed=4, end=END, rows=200, open_rows=10)
    change(tmp_path / "trades.db", "CREATE TABLE trades (x)", "INSERT INTO trades VALUES (1)")
    make(tmp_path / "quantum.db")
    assert roles(tmp_path, tmp_path / "live.db") == {
        "live.db": Role.SOURCE,
        "copy.db": Role.BACKUP,
        "vacuumed.db": Role.BACKUP,
        "other.db": Role.OTHER_TRAINING,
        "trades.db": Role.UNRELATED,
        "quantum.db": Role.EMPTY,
    }


def test_a_corrected_label_makes_a_copy_an_earlier_state(tmp_path: Path, market: Path) -> None:
    for name in ("a.db", "b.db"):
        shutil.copyfile(market, tmp_path / name)
    change(
        tmp_path / "b.db",
        "UPDATE ai_training_samples SET target_class = "
        "CASE target_class WHEN 'WIN' THEN 'LOSS' ELSE 'WIN' END WHERE id = 7",
    )
    (copy,) = (each for each in found_in(tmp_path, tmp_path / "a.db").pack.databases if each.role is Role.BACKUP)
    assert "310 of its 310 training rows, 309 of them with the same label" in copy.why


def test_a_database_with_more_newest_labels_is_the_source_even_if_another_is_configured(tmp_path: Path) -> None:
    ours = write_market(tmp_path / "old.db", seed=3, end=END, rows=300, open_rows=10)
    shutil.copyfile(tmp_path / "old.db", tmp_path / "stale.db")
    continue_market(ours, rows=50)
    found = found_in(tmp_path, tmp_path / "stale.db")
    assert found.source_path == tmp_path / "old.db"
    (wrong,) = found.pack.configured
    assert wrong.is_wrong
    assert "backup of the training source" in wrong.finding


def test_rows_from_the_far_future_do_not_make_a_source(tmp_path: Path, market: Path) -> None:
    shutil.copyfile(market, tmp_path / "good.db")
    write_market(tmp_path / "future.db", seed=9, end=datetime(2926, 1, 1, tzinfo=UTC), rows=400, open_rows=1)
    assert roles(tmp_path)["good.db"] is Role.SOURCE


def test_the_configured_one_of_equals_is_the_source(tmp_path: Path, market: Path) -> None:
    for name in ("a.db", "b.db", "c.db"):
        shutil.copy2(market, tmp_path / name)
    assert found_in(tmp_path, tmp_path / "b.db").source_path == tmp_path / "b.db"


def test_a_training_table_without_a_needed_column_is_unrelated(tmp_path: Path, market: Path) -> None:
    shutil.copyfile(market, tmp_path / "x.db")
    change(tmp_path / "x.db", "ALTER TABLE ai_training_samples DROP COLUMN target_class")
    pack = found_in(tmp_path).pack
    assert [(each.role, each.why) for each in pack.databases] == [
        (Role.UNRELATED, "its ai_training_samples lacks required columns")
    ]
    assert pack.reasons == ("no database with rows in ai_training_samples was found",)


def test_a_damaged_database_is_a_finding(tmp_path: Path, market: Path) -> None:
    make(tmp_path / "cut.db", market.read_bytes()[:20_000])
    make(tmp_path / "header.db", b"SQLite format 3\0" + b"\xff" * 200)
    databases = found_in(tmp_path).pack.databases
    assert {each.role for each in databases} == {Role.UNREADABLE}
    assert all("damaged" in each.why for each in databases)


def wal_database(path: Path, *, rows: int) -> sqlite3.Connection:
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = wal")
    writer.execute("CREATE TABLE t (x)")
    writer.executemany("INSERT INTO t VALUES (?)", [(1,)] * rows)
    writer.commit()
    return writer


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.endswith("-shm")}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_live_wal_is_read_and_nothing_is_left_behind(tmp_path: Path) -> None:
    with closing(wal_database(tmp_path / "live.db", rows=7)):
        before, files = listing(tmp_path), names(tmp_path)
        assert rows_in(tmp_path) == 7
        assert (listing(tmp_path), names(tmp_path)) == (before, files)


def test_a_wal_that_no_process_has_open_is_read_without_creating_files(tmp_path: Path) -> None:
    (tmp_path / "left").mkdir()
    with closing(wal_database(tmp_path / "live.db", rows=7)):
        for suffix in ("", "-wal"):
            shutil.copyfile(tmp_path / f"live.db{suffix}", tmp_path / f"left/x.db{suffix}")
    before, files = listing(tmp_path / "left"), names(tmp_path / "left")
    assert rows_in(tmp_path / "left") == 7
    assert (listing(tmp_path / "left"), names(tmp_path / "left")) == (before, files)
    with safe_to_open(tmp_path / "left/x.db") as copy:
        assert copy.parent != tmp_path / "left"
        with closing(sqlite3.connect(f"file:{copy}?mode=ro", uri=True)) as database:
            assert database.execute("SELECT count(*) FROM t").fetchone() == (7,)
    assert not copy.exists()


def test_the_shared_memory_of_a_killed_writer_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "left").mkdir()
    with closing(wal_database(tmp_path / "live.db", rows=7)):
        for suffix in ("", "-wal", "-shm"):
            shutil.copyfile(tmp_path / f"live.db{suffix}", tmp_path / f"left/x.db{suffix}")
    before = (tmp_path / "left/x.db-shm").read_bytes()
    assert rows_in(tmp_path / "left") == 7
    assert (tmp_path / "left/x.db-shm").read_bytes() == before


def test_a_closed_wal_database_is_read_without_creating_files(tmp_path: Path) -> None:
    wal_database(tmp_path / "x.db", rows=7).close()
    assert names(tmp_path) == {"x.db"}
    assert rows_in(tmp_path) == 7
    assert names(tmp_path) == {"x.db"}


def rows_in(folder: Path) -> int:
    (found,), _ = walk(folder)
    seen = survey(found, Progress())
    assert seen.problem == ""
    return sum(table.rows or 0 for table in seen.tables)


def test_a_writer_that_has_begun_to_change_the_file_is_a_finding(tmp_path: Path) -> None:
    change(tmp_path / "x.db", "CREATE TABLE t (x)", "INSERT INTO t VALUES (1)")
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("BEGIN EXCLUSIVE")
        assert rows_in(tmp_path) == 1  # what was committed can be read past a lock
        writer.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 200)  # spills into the file
        (only,) = found_in(tmp_path).pack.databases
        writer.execute("ROLLBACK")
    assert (only.role, "locked by a writer" in only.why) == (Role.UNREADABLE, True)


def test_reading_never_delays_a_writer(tmp_path: Path, market: Path) -> None:
    path = tmp_path / "x.db"
    shutil.copyfile(market, path)
    with opened(path) as reader, closing(sqlite3.connect(path, timeout=0)) as writer:
        cursor = reader.execute("SELECT * FROM ai_training_samples")
        cursor.fetchone()  # half-way: an ordinary reader holds its lock now
        writer.execute("UPDATE ai_training_samples SET updated_at = '2026-01-01' WHERE id = 5")
        writer.commit()


def test_the_end_of_a_transaction_is_awaited(tmp_path: Path) -> None:
    change(tmp_path / "x.db", "CREATE TABLE t (x)")
    with closing(sqlite3.connect(tmp_path / "x.db", check_same_thread=False)) as writer:
        writer.executemany("INSERT INTO t VALUES (?)", [(1,)] * 7)
        timer = threading.Timer(0.2, writer.commit)
        timer.start()
        assert rows_in(tmp_path) in (0, 7)  # before or after, but not refused
        timer.join()
        assert rows_in(tmp_path) == 7


def test_a_failed_reading_is_repeated_with_the_lock(tmp_path: Path) -> None:
    change(tmp_path / "x.db", "CREATE TABLE t (x)")
    readings = []

    def look(connection: Any) -> Any:
        readings.append(connection)
        if len(readings) == 1:
            raise sqlite3.DatabaseError("torn")
        return connection.execute("SELECT count(*) FROM t").fetchone()

    assert read(look, tmp_path / "x.db") == (0,)
    with pytest.raises(sqlite3.DatabaseError, match="always"):
        read(raising, tmp_path / "x.db")


def raising(_connection: Any) -> None:
    raise sqlite3.DatabaseError("always")


def test_the_journal_of_a_killed_writer_is_a_finding_and_is_not_changed(tmp_path: Path) -> None:
    change(tmp_path / "x.db", "CREATE TABLE t (x)", "INSERT INTO t VALUES (1)")
    (tmp_path / "dead").mkdir()
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("BEGIN")
        writer.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 200)  # spills: the file is half-changed
        for suffix in ("", "-journal"):
            shutil.copyfile(tmp_path / f"x.db{suffix}", tmp_path / f"dead/y.db{suffix}")
        writer.execute("ROLLBACK")
    before = listing(tmp_path / "dead")
    (only,) = found_in(tmp_path / "dead").pack.databases
    assert (only.role, "writer was killed" in only.why) == (Role.UNREADABLE, True)
    assert listing(tmp_path / "dead") == before


def test_the_source_is_described_and_its_row_masked(tmp_path: Path, market: Path) -> None:
    source = found_in(market.parent).pack.source
    assert (source.rows, source.num_symbols, sum(source.classes.values())) == (310, 5, 310)
    assert source.features == {"array of 4": 310}
    sample = dict(source.sample)
    assert sample["features"].startswith("[JSON array, ")
    assert sample["feature_names"] == "(available)"
    assert "contradicts" in source.sample_note
    assert [column.finding for column in source.columns] == [""] * 24


def test_features_of_other_forms_are_counted(tmp_path: Path, market: Path) -> None:
    path = tmp_path / "x.db"
    shutil.copyfile(market, path)
    change(
        path,
        "UPDATE ai_training_samples SET features = '[1, NaN' WHERE id = 1",
        'UPDATE ai_training_samples SET features = \'{"a": 1, "b": 2}\' WHERE id = 2',
        "UPDATE ai_training_samples SET features = '' WHERE id = 3",
        "UPDATE ai_training_samples SET symbol = 'EVIL' || char(10) || '# x' WHERE id = 4",
        "ALTER TABLE ai_training_samples ADD COLUMN extra TEXT",
        "ALTER TABLE ai_training_samples DROP COLUMN executed",
    )
    pack = found_in(tmp_path).pack
    assert pack.source.features == {"array of 4": 307, "missing": 1, "not JSON": 1, "object of 2": 1}
    assert "EVIL\\n# x" in pack.source.symbols
    findings = {column.name: column.finding for column in pack.source.columns if column.finding}
    assert findings == {"extra": "not expected, not read", "executed": "missing"}


def test_equal_files_are_found_by_all_their_bytes(tmp_path: Path) -> None:
    lines = b"x,y\n" + b"1,2\n" * 100_000
    differs = bytearray(lines)
    differs[100_001] = ord("9")  # between the samples that are compared first
    for name, content in (("a.csv", lines), ("b.csv", lines), ("c.csv", differs), ("d.csv", b"x,y\n1,3\n")):
        make(tmp_path / name, bytes(content))
    files = {Path(each.file.path).name: each.file.same_as for each in found_in(tmp_path).pack.csv_files}
    assert files == {"a.csv": "", "b.csv": str(tmp_path / "a.csv"), "c.csv": "", "d.csv": ""}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("BINANCE_API_KEY", "abc", "***"),
        ("REDIS_URL", "redis://:hunter2@h/0", "redis://:***@h/0"),
        ("MODEL_PATH", "/data/models", "/data/models"),
        ("DATABASE_URL", "postgresql://u:p@h/d?password=x", "postgresql://u:***@h/d?password=***"),
    ],
)
def test_values_are_shown_without_secrets(name: str, value: str, expected: str) -> None:
    assert services.safe_value(name, value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("engine --api-secret hunter2 --port 1", "engine --api-secret *** --port 1"),
        ("engine --token --verbose", "engine --token --verbose"),
        ("SECRET_KEY=hunter2", "SECRET_KEY=***"),
        ("api_key: 'hunter2'", "api_key: '***'"),
    ],
)
def test_masking_knows_options_and_keys(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert is_secret_name("binance_api_secret")
    assert not is_secret_name("MODEL_PATH")


def test_an_export_in_an_env_file_is_read_and_an_invalid_file_is_a_finding(tmp_path: Path) -> None:
    make(tmp_path / "a.env", "export DB_PATH=/home/qt/quantum.db\n")
    make(tmp_path / "b.env", b'DB_PATH="/x.db"\nX=\xe9 \n')
    by_name = {Path(each.file.path).name: each for each in found_in(tmp_path).pack.env_files}
    assert by_name["a.env"].values == {"DB_PATH": "/home/qt/quantum.db"}
    assert "b.env" not in by_name or "UTF-8" in by_name["b.env"].finding


def test_no_source_means_no_description(tmp_path: Path) -> None:
    change(tmp_path / "x.db", "CREATE TABLE ai_training_samples (id, symbol, timestamp, features, target_class)")
    found = found_in(tmp_path)
    assert (found.source_path, found.pack.source) == (None, None)
