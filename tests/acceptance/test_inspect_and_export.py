"""`inspect` and `export` as their user types them; the command itself never imports torch."""

import json
import sqlite3
from pathlib import Path

import pytest
import torch

from retrain_worker.model.patchtst import PatchTST
from retrain_worker.model.presets import engine
from tests.acceptance.conftest import retrain_worker
from tests.worker.test_bundle import written


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return written(tmp_path)


def test_one_look_tells_several_files_apart(model: Path, tmp_path: Path) -> None:
    older, database = tmp_path / "older.pth", tmp_path / "trader.pth"
    torch.save(PatchTST(engine(num_features=4)).state_dict(), older)
    sqlite3.connect(database).close()

    done = retrain_worker("inspect", model, older, database)

    assert done.returncode == 11, done.stderr
    ours, older_said, database_said = done.stdout.split("\n\n")
    assert "preset paper: 32 rows of 4 features (rsi, ma_cross, volatility, returns_1h)" in ours
    assert "24 rows (weights of the patches, oldest first: 5, 15, 80 %)" in " ".join(ours.split())
    assert ours.splitlines()[-1].split() == ["verdict", "valid"]
    assert "bare state dict" in older_said and "612,481 parameters" in older_said
    assert "INVALID: it is not a PyTorch file of weights, but: empty file" in database_said


def test_a_sound_file_exits_with_zero_and_speaks_json(model: Path) -> None:
    done = retrain_worker("inspect", "--json", model)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["manifest"]["contract"]["preset"] == "paper"


def test_an_export_stands_beside_its_model_and_is_never_overwritten(model: Path) -> None:
    first = retrain_worker("export", model, "--format", "safetensors")
    again = retrain_worker("export", model, "--format", "safetensors")

    assert first.returncode == 0, first.stderr
    assert model.with_suffix(".safetensors").exists()
    assert "reproduces the 16 windows of the canary" in first.stdout
    assert again.returncode == 2
    assert "the file exists; name another with --out, or remove it" in again.stderr
