"""Relatives of broken databases that are met in the field: each is read as what it is, or ends in one typed error."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.errors import DatabaseUnreachableError, SourceUnfitError
from retrain_worker.worker.data.instants import to_microseconds
from retrain_worker.worker.data.intake import Intake
from retrain_worker.worker.data.source import read_pages
from tests.worker.trading_database import COLUMNS, NAMES, NOW, insert, make_database, make_row, make_rows, url_of

COUNT = 400
CLOCK = to_microseconds(datetime.fromisoformat(NOW))


def snapshot_of(path: Any, **policy: Any) -> Any:
    intake = Intake(DataPolicy(**policy), now=CLOCK)
    for page in read_pages(url_of(path), busy_timeout_seconds=0.2):
        intake.add(page)
    return intake.snapshot()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = make_database(tmp_path_factory.mktemp("sound") / "trading.db", make_rows(COUNT))
    return path, snapshot_of(path)


def changed(sound: Any, tmp_path: Path, *statements: Any) -> Path:
    path = tmp_path / "relative.db"
    shutil.copy(sound[0], path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


SAME = {
    "a table in other case": (
        "ALTER TABLE ai_training_samples RENAME TO t",
        "ALTER TABLE t RENAME TO AI_Training_SAMPLES",
    ),
    "columns in other case": ("ALTER TABLE ai_training_samples RENAME COLUMN features TO Features",),
    "more columns": (
        "ALTER TABLE ai_training_samples ADD COLUMN note TEXT DEFAULT 'x'",
        "ALTER TABLE ai_training_samples ADD COLUMN made INTEGER GENERATED ALWAYS AS (id * 2)",
    ),
    "other tables and triggers": (
        "CREATE TABLE ai_training_samples_2 (id)",
        "CREATE VIEW v AS SELECT * FROM ai_training_samples",
        "CREATE TRIGGER tr AFTER INSERT ON ai_training_samples BEGIN DELETE FROM ai_training_samples; END",
    ),
    "a view of the table": (
        "ALTER TABLE ai_training_samples RENAME TO t",
        "CREATE VIEW ai_training_samples AS SELECT * FROM t",
    ),
    "bigger pages, vacuumed": ("PRAGMA page_size = 65536", "VACUUM"),
    "indexes on every column": tuple(
        f"CREATE INDEX ix_{name} ON ai_training_samples ({name})" for name in ("features", "target_class", "symbol")
    ),
    "zones on timestamps": (
        "UPDATE ai_training_samples SET timestamp = timestamp || '+00:00' WHERE id % 2",
        "UPDATE ai_training_samples SET timestamp = timestamp || 'Z' WHERE id % 2 = 0",
    ),
    "zones by name": (
        "UPDATE ai_training_samples SET timestamp = substr(timestamp, 1, 19) || ' UTC' WHERE id % 3 = 0",
        "UPDATE ai_training_samples SET timestamp = timestamp || ' GMT' WHERE id % 3 = 1",
        "UPDATE ai_training_samples SET timestamp = timestamp || '000 +0000 UTC' WHERE id % 3 = 2",  # as Go prints it
    ),
    "instants as seconds": (
        "UPDATE ai_training_samples SET timestamp = 1 * strftime('%s', timestamp) WHERE id % 3 = 0",
        "UPDATE ai_training_samples SET timestamp = 1000 * strftime('%s', timestamp) WHERE id % 3 = 1",
    ),
    "every instant as seconds": (
        "UPDATE ai_training_samples SET timestamp = 1 * strftime('%s', timestamp), "
        "exit_time = 1 * strftime('%s', exit_time), updated_at = 1 * strftime('%s', updated_at)",
    ),
    "every decision as milliseconds, real": (
        "UPDATE ai_training_samples SET timestamp = 1000.0 * strftime('%s', timestamp)",
    ),
    "features as bytes": ("UPDATE ai_training_samples SET features = CAST(features AS BLOB) WHERE id % 2",),
    "whitespace in features": (
        "UPDATE ai_training_samples SET features = replace(features, ',', ' ,' || char(10) || char(9))",
    ),
    "a column called rowid": ("ALTER TABLE ai_training_samples ADD COLUMN RowID INTEGER",),
    "columns with every name of the rowid": tuple(
        f"ALTER TABLE ai_training_samples ADD COLUMN {name} TEXT DEFAULT 'x'" for name in ("rowid", "_rowid_", "oid")
    ),
    "a truth written as text": ("UPDATE ai_training_samples SET outcome_known = 'true' WHERE outcome_known",),
}


@pytest.mark.parametrize("name", SAME)
def test_what_only_looks_different_gives_the_same_snapshot(sound: tuple[Path, Any], tmp_path: Path, name: Any) -> None:
    assert snapshot_of(changed(sound, tmp_path, *SAME[name])).data_sha256 == sound[1].data_sha256


def test_a_database_in_utf_16_with_columns_of_other_types_gives_the_same_snapshot(
    sound: tuple[Path, Any],
    tmp_path: Path,
) -> None:
    path = tmp_path / "wide.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA encoding = 'UTF-16le'")
        kinds = ", ".join(f"{name} {'BIGINT' if name == 'id' else 'NUMERIC'}" for name in COLUMNS)
        connection.execute(f"CREATE TABLE ai_training_samples ({kinds})")
        insert(connection, make_rows(COUNT))

    assert snapshot_of(path).data_sha256 == sound[1].data_sha256


@pytest.mark.parametrize("tail", ["", "WITHOUT ROWID", "STRICT, WITHOUT ROWID"])
@pytest.mark.parametrize("kind", ["INT", "TEXT", "REAL"])
def test_ids_that_their_column_makes_another_type_of_are_the_same_ids(
    sound: tuple[Path, Any], tmp_path: Path, kind: str, tail: str
) -> None:
    path = changed(sound, tmp_path, "ALTER TABLE ai_training_samples RENAME TO t")
    with closing(sqlite3.connect(path)) as connection, connection:
        others = ", ".join(f"{name} {'ANY' if 'STRICT' in tail else ''}" for name in COLUMNS if name != "id")
        connection.execute(f"CREATE TABLE ai_training_samples (id {kind} PRIMARY KEY, {others}) {tail}")
        connection.execute(f"INSERT INTO ai_training_samples SELECT {', '.join(COLUMNS)} FROM t")

    assert snapshot_of(path).data_sha256 == sound[1].data_sha256


@pytest.mark.parametrize("value", ["lower(hex(randomblob(16)))", "id + 0.5", "id || 'x'", "1e300"])
def test_what_is_no_integer_is_no_id(sound: tuple[Path, Any], tmp_path: Path, value: str) -> None:
    path = changed(
        sound,
        tmp_path,
        "ALTER TABLE ai_training_samples RENAME TO t",
        "CREATE TABLE ai_training_samples AS SELECT * FROM t",
        f"UPDATE ai_training_samples SET id = {value} WHERE id = 100",
    )
    assert snapshot_of(path).facts.quarantined == {"id_missing": 1}


REASONS = {
    "wide": ("1" + ", 1" * 99_999, "features_wrong_length"),
    "long": ("9" * 200_000 + ", 2, 3, 4", "features_not_finite"),
    "deep": ("[" * 500 + "]" * 500 + ", 2, 3, 4", "features_nested"),
    "true": ("true, 2, 3, 4", "features_not_numeric"),
    "nan": ("NaN, 2, 3, 4", "features_not_finite"),
    "huge": ("1e39, 2, 3, 4", "features_not_finite"),
    "text": ('"much", 2, 3, 4', "features_not_numeric"),
    "cut": ("1, 2, 3, 4]x[", "features_not_json"),
    "empty": ("", "features_wrong_length"),
}


@pytest.mark.parametrize("name", REASONS)
def test_one_odd_vector_among_joined_ones_is_set_aside_alone(
    sound: tuple[Path, Any],
    tmp_path: Path,
    name: Any,
) -> None:
    content, reason = REASONS[name]
    path = changed(sound, tmp_path, f"UPDATE ai_training_samples SET features = '[{content}]' WHERE id = 100")
    snapshot = snapshot_of(path)
    kept = sound[1].ids != 100

    assert {word: rows for word, rows in snapshot.facts.quarantined.items() if rows} == {reason: 1}
    assert snapshot.ids.tolist() == sound[1].ids[kept].tolist()
    assert (snapshot.features == sound[1].features[kept]).all()


@pytest.mark.parametrize(
    "cell", ['{"rsi":1,"ma_cross":2,"volatility":3,"rsi":9,"returns_1h":4}', '{"rsi":1}', '{"":1}']
)
def test_an_object_that_names_a_value_twice_or_too_few_gives_no_value_to_another(
    sound: tuple[Path, Any],
    tmp_path: Path,
    cell: str,
) -> None:
    path = changed(sound, tmp_path, f"UPDATE ai_training_samples SET features = '{cell}' WHERE id = 100")
    snapshot = snapshot_of(path)

    assert snapshot.feature_names == tuple(NAMES)
    assert (snapshot.features[snapshot.ids != 100] == sound[1].features[sound[1].ids != 100]).all()
    for value in snapshot.features[snapshot.ids == 100]:  # JSON's last value of a name counts, as everywhere
        assert value.tolist() == [json.loads(cell)[name] for name in NAMES]


def test_a_name_that_is_no_text_costs_its_row_alone(sound: tuple[Path, Any], tmp_path: Path) -> None:
    cell = '{"\\ud800": 1, "ma_cross": 2, "volatility": 3, "returns_1h": 4}'
    path = changed(sound, tmp_path, f"UPDATE ai_training_samples SET features = '{cell}' WHERE id = 100")
    assert snapshot_of(path).facts.quarantined == {"features_not_json": 1}

    path = changed(sound, tmp_path, f"UPDATE ai_training_samples SET features = '{cell}'")
    assert snapshot_of(path).facts.quarantined == {"features_not_json": COUNT}


def fifo(folder: Any, _sound: Any) -> Any:
    path = folder / "pipe.db"
    os.mkfifo(path)
    return path


def a_loop_of_links(folder: Any, _sound: Any) -> Any:
    path = folder / "loop.db"
    path.symlink_to(path)
    return path


def a_link_to_nothing(folder: Any, _sound: Any) -> Any:
    path = folder / "link.db"
    path.symlink_to(folder / "gone.db")
    return path


def a_header_alone(folder: Any, sound: Any) -> Any:
    path = folder / "header.db"
    path.write_bytes(sound[0].read_bytes()[:100])
    return path


def an_unknown_version(folder: Any, sound: Any) -> Any:
    path = folder / "new.db"
    content = bytearray(sound[0].read_bytes())
    content[18:20] = b"\x09\x09"
    path.write_bytes(content)
    return path


def a_damaged_schema(folder: Any, sound: Any) -> Any:
    path = folder / "schema.db"
    content = sound[0].read_bytes()
    path.write_bytes(content.replace(b"CREATE TABLE ai_training", b"CRATE  TABLE ai_training"))
    return path


def encrypted(folder: Any, _sound: Any) -> Any:
    path = folder / "secret.db"
    path.write_bytes(os.urandom(64 * 1024))
    return path


def a_table_for_search(folder: Any, _sound: Any) -> Any:
    path = folder / "search.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE VIRTUAL TABLE ai_training_samples USING fts5(body)")
    return path


def a_view_of_nothing(folder: Any, sound: Any) -> Path:
    return changed(
        sound,
        folder,
        "ALTER TABLE ai_training_samples RENAME TO t",
        "CREATE VIEW ai_training_samples AS SELECT * FROM t",
        "PRAGMA foreign_keys=OFF",
        "DROP TABLE t",
    )


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (fifo, SourceUnfitError, "not a regular file"),
        (a_loop_of_links, DatabaseUnreachableError, "cannot be read"),
        (a_link_to_nothing, DatabaseUnreachableError, "no such file"),
        (a_header_alone, SourceUnfitError, "damaged"),
        (an_unknown_version, SourceUnfitError, "damaged|cannot read"),
        (a_damaged_schema, SourceUnfitError, "malformed"),
        (encrypted, SourceUnfitError, "not a SQLite"),
        (a_table_for_search, SourceUnfitError, "lacks the columns"),
        (a_view_of_nothing, SourceUnfitError, "cannot read the table"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_read_ends_in_one_typed_error_with_a_remedy(
    make: Any,
    kind: Any,
    said: str,
    sound: tuple[Path, Any],
    tmp_path: Path,
) -> None:
    path = make(tmp_path, sound)
    with pytest.raises(kind, match=said) as caught:
        snapshot_of(path)
    assert caught.value.remedy
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("cut", [0, 20, 32, 5_000, -1, -3_000])
def test_of_a_wal_that_is_cut_what_was_committed_and_is_whole_is_read(tmp_path: Path, cut: int) -> None:
    path = make_database(tmp_path / "live.db", make_rows(300), journal="wal")
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        for number in range(301, 341):
            with writer:
                insert(writer, [make_row(number)])
        shutil.copy(path, copy)
        wal = (tmp_path / "live.db-wal").read_bytes()
        (tmp_path / "copy.db-wal").write_bytes(wal[:cut])
        found = snapshot_of(copy)
        assert len(snapshot_of(path)) == 340

    ids = sorted(found.ids.tolist())
    assert ids == list(range(1, len(ids) + 1))
    assert 300 <= len(ids) < 340
