"""Bad input: one clear error naming path, finding and remedy; the engine's files untouched; looking makes no file."""

import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.conftest import copy_of, once, retrain_worker


def missing(folder: Path, _good: Path) -> Path:
    return folder / "missing.db"


def zero_byte(folder: Path, _good: Path) -> Path:
    path = folder / "quantum.db"
    path.touch()
    return path


def not_a_database(folder: Path, _good: Path) -> Path:
    path = folder / "notes.db"
    path.write_text("dear diary\n" * 1000)
    return path


def a_directory(folder: Path, _good: Path) -> Path:
    path = folder / "folder.db"
    path.mkdir()
    return path


def without_table(folder: Path, _good: Path) -> Path:
    path = folder / "trades.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE trade_logs (id INTEGER PRIMARY KEY)")
    return path


def without_column(folder: Path, good: Path) -> Path:
    path = copy_of(good, folder)
    with sqlite3.connect(path) as database:
        database.execute("ALTER TABLE ai_training_samples DROP COLUMN target_class")
    return path


def truncated(folder: Path, good: Path) -> Path:
    path = copy_of(good, folder)
    os.truncate(path, path.stat().st_size * 6 // 10)
    return path


def without_outcomes(folder: Path, good: Path) -> Path:
    path = copy_of(good, folder)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE ai_training_samples SET target_class = NULL, outcome_known = 0")
    return path


@pytest.mark.parametrize(
    ("make", "code", "finding"),
    [
        (missing, 1, "no such file"),
        (a_directory, 11, ""),
        (zero_byte, 11, "0 bytes"),
        (not_a_database, 11, "not a"),
        (without_table, 11, "ai_training_samples"),
        (without_column, 11, "target_class"),
        (truncated, 11, "damaged"),
        (without_outcomes, 11, ""),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_bad_source_ends_in_one_clear_error(
    make: Callable[[Path, Path], Path],
    code: int,
    finding: str,
    hopeless: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    source = make(folder, hopeless)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    exit_code, result, said = once(source, tmp_path / "home")

    assert exit_code == code, (result, said)
    assert len(result["reasons"]) >= 1
    assert finding.lower() in result["reasons"][0].lower()
    if make is not without_outcomes:
        assert str(source) in result["reasons"][0]
        assert "; " in result["reasons"][0], "the remedy is missing"
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert result["model_path"] is None
    assert (tmp_path / "home/engine/ai-engine.env").read_text().count("PATCHTST_MODEL_PATH") == 0


@pytest.mark.parametrize("make", [missing, zero_byte, without_table])
def test_check_and_audit_name_it_too_and_make_nothing(
    make: Callable[[Path, Path], Path], hopeless: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    source = make(folder, hopeless)
    listed = sorted(tmp_path.rglob("*"))
    checked = retrain_worker("check", "--db", source, "--home", tmp_path / "home")
    audited = retrain_worker("audit", "--db", source, "--home", tmp_path / "home")

    assert checked.returncode == 1
    assert str(source) in checked.stdout
    assert audited.returncode in (1, 11)
    assert str(source) in audited.stdout + audited.stderr
    assert sorted(tmp_path.rglob("*")) == listed


def test_check_is_content_with_a_sound_home(learnable: Path, tmp_path: Path) -> None:
    done = retrain_worker("check", "--db", learnable, "--home", tmp_path / "home")

    assert done.returncode == 0, done.stdout
    assert "ready to start" in done.stdout
    assert not (tmp_path / "home").exists()


def test_check_says_what_the_engine_lacks_and_how_to_mend_it(learnable: Path, tmp_path: Path) -> None:
    env = tmp_path / "ai-engine.env"
    env.write_text("PATCHTST_SHADOW_ONLY=false\n")
    done = retrain_worker("check", "--db", learnable, "--home", tmp_path / "home", ENGINE_ENV_FILE=env)

    assert done.returncode == 1
    assert "PATCHTST_SHADOW_ONLY" in done.stdout
    assert "->" in done.stdout


def test_a_missing_engine_env_file_is_never_invented(learnable: Path, tmp_path: Path) -> None:
    env = tmp_path / "nowhere/ai-engine.env"
    code, result, _ = once(learnable, tmp_path / "home", ENGINE_ENV_FILE=env, MAX_EPOCHS=1)

    assert (code, result["outcome"]) == (1, "FAILED")
    assert str(env) in result["reasons"][0]
    assert not env.exists()


@pytest.mark.skipif(os.geteuid() == 0 and sys.platform == "linux", reason="root may write everywhere")
def test_an_unwritable_home_is_one_clear_error(learnable: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = retrain_worker("once", "--db", learnable, "--home", tmp_path / "home")

    assert done.returncode == 1
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_looking_at_a_wal_database_at_rest_leaves_nothing_beside_it(hopeless: Path, tmp_path: Path) -> None:
    source = copy_of(hopeless, tmp_path)
    with closing(sqlite3.connect(source)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE more (x)")
        database.commit()
    done = retrain_worker("audit", "--db", source, "--home", tmp_path / "home")

    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == [source]
