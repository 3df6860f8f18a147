"""`evaluate` says what the gate would say of any model file, and leaves everything as it was."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.demo.market import write_market
from retrain_worker.demo.regime import Regime

END = datetime(2025, 12, 30, 21, tzinfo=UTC)


def called(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MAX_EPOCHS": "4", "GATE_BACKTEST_FOLDS": "1", "ENGINE_CONFIRM": "none"}
    return subprocess.run(
        [sys.executable, "-m", "retrain_worker", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A home in which one run has promoted its model."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_market(folder / "trader.db", seed=7, end=END, regime=Regime(strength=0.8))
    ended = called("once", "--db", folder / "trader.db", "--home", folder / "home", "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder, json.loads(ended.stdout)


def bytes_under(folder: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (".sock", ".log")
    }


def test_the_promoted_model_is_judged_beside_itself_and_nothing_changes(promoted: tuple[Path, dict[str, Any]]) -> None:
    folder, run = promoted
    before = bytes_under(folder / "home")
    ended = called("evaluate", run["candidate_path"], "--db", folder / "trader.db", "--home", folder / "home", "--json")
    found = json.loads(ended.stdout)

    assert bytes_under(folder / "home") == before
    assert found["incumbent_path"] == run["model_path"]
    assert found["candidate"]["auc"] == pytest.approx(run["candidate"]["auc"])
    assert found["alpha_spending"]["num_decisions"] == 2
    assert ended.returncode == (0 if found["decision"] == "PASS" else 11)


def test_the_screen_shows_each_gate_and_where_the_model_comes_from(promoted: tuple[Path, dict[str, Any]]) -> None:
    folder, run = promoted
    ended = called("evaluate", run["candidate_path"], "--db", folder / "trader.db", "--home", folder / "home")

    assert "trained on rows until 2025-12-26" in ended.stdout
    assert all(name in ended.stdout for name in ("contract", "calibration", "skill", "incumbent", "stability"))


def test_a_file_that_is_no_model_is_refused_with_its_reason(promoted: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = promoted
    ended = called("evaluate", folder / "trader.db", "--db", folder / "trader.db", "--home", folder / "home")

    assert ended.returncode == 11
    assert "REFUSED" in ended.stdout


def test_gates_shows_the_backtest_folds_and_the_alpha_spending(promoted: tuple[Path, dict[str, Any]]) -> None:
    folder, run = promoted
    shown = called("gates", run["run_id"], "--home", folder / "home").stdout

    assert "error probability 0.001 spent on decision 1" in shown
    assert "Backtest folds (same configuration, earlier cut-offs):" in shown
