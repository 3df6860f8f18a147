"""Homes of commit 157e5f3 go on: its runs are resumed, evaluated, ended and rolled back by the command of today."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from tests.upgrades import stored_home

pytestmark = pytest.mark.slow

TRIAL, FIRST = "20260107_164818", "20260105_120000"
#: no engine confirms, and nothing is written into the trading database
QUIET = "ENGINE_CONFIRM=none\nBOOKKEEPING=false\n"


class Home:
    """A home of that commit, with its settings and its trading database."""

    def __init__(self, name: str, folder: Path, **settings: object) -> None:
        self.path, self.env = folder / "home", folder / "home/settings.env"
        self.database = stored_home.load(name, self.path)
        lines = "".join(f"{key}={value}\n" for key, value in settings.items())
        self.env.write_text(self.env.read_text() + QUIET + lines)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        kept = {
            name: value for name, value in os.environ.items() if name.startswith(("PATH", "PYTHONPATH", "COV", "HOME"))
        }
        return subprocess.run(
            [sys.executable, "-m", "retrain_worker", *arguments, "--home", str(self.path), "--env-file", str(self.env)],
            env=kept,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def once(self) -> dict[str, object]:
        done = self.call("once", "--db", str(self.database), "--json")
        assert done.stdout.startswith("{"), done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found

    def run(self, run_id: str) -> Run:
        with StateDb(self.path / "state/state.db", read_only=True) as state:
            found = state.run(run_id)
        assert found is not None
        return found

    def named(self) -> str:
        lines = (self.path / "engine/ai-engine.env").read_text().splitlines()
        return Path(next(line for line in lines if line.startswith("PATCHTST_MODEL_PATH="))).stem


def test_a_run_in_training_is_resumed_or_says_why_it_begins_again_and_comes_to_its_end(tmp_path: Path) -> None:
    home = Home("train", tmp_path)
    found = home.once()
    log = (home.path / "models/runs" / TRIAL / "train.log").read_text()
    ours = log[log.index("it goes on after epoch 3") :]

    assert found["run_id"] == TRIAL
    assert found["outcome"] in (Outcome.PROMOTED, Outcome.REFUSED)
    assert "resumed after epoch 3" in ours or "training starts afresh" in ours


def test_a_run_on_trial_goes_on_with_its_predictions_and_is_promoted(tmp_path: Path) -> None:
    home = Home("shadow", tmp_path, SHADOW_MAX_HOURS=100_000)
    before = (home.path / "models/runs" / TRIAL).glob("book_shadow_*.npy")
    (log,) = [path.name for path in before]
    home.once()
    run = home.run(TRIAL)

    assert (run.stage, run.outcome) == (Stage.PROBATION, Outcome.PROMOTED)
    assert run.facts.shadow is not None
    assert f"{run.facts.shadow.prediction_log}.npy" == log
    assert run.facts.shadow.num_predictions > 80
    assert home.named() == f"patchtst_v{TRIAL}"


def test_a_run_on_trial_without_new_rows_ends_in_time(tmp_path: Path) -> None:
    home = Home("shadow", tmp_path, SHADOW_MIN_OUTCOMES=100_000)
    home.call("once", "--db", str(home.database))
    run = home.run(TRIAL)

    assert run.outcome is Outcome.REFUSED
    assert run.reasons[0].startswith("no verdict within")
    assert home.named() == f"patchtst_v{FIRST}"


def test_a_probation_ends_in_time(tmp_path: Path) -> None:
    home = Home("probation", tmp_path)
    home.once()
    run = home.run(TRIAL)

    assert (run.is_finished, run.outcome) == (True, Outcome.PROMOTED)
    assert "probation over" in run.reasons[-1]
    assert run.facts.probation is not None
    assert run.facts.probation.num_analyses == 2


def test_a_rollback_during_a_probation_returns_to_the_older_model(tmp_path: Path) -> None:
    home = Home("probation", tmp_path)
    done = home.call("rollback", "--reason", "loses money")
    assert (done.returncode, home.named()) == (0, f"patchtst_v{FIRST}"), done.stderr
    home.once()

    assert home.run(TRIAL).outcome is Outcome.ROLLED_BACK


def test_every_verb_shows_a_migrated_history_and_the_waiting_rollback_is_carried_out(tmp_path: Path) -> None:
    home = Home("history", tmp_path)
    refused = home.call("status")
    assert refused.returncode == 1
    assert "written by an older version of this program" in refused.stderr
    assert "Traceback" not in refused.stderr
    home.once()
    assert home.named() == f"patchtst_v{FIRST}"
    with StateDb(home.path / "state/state.db", read_only=True) as state:
        runs = [run.run_id for run in state.history(100)]
        judged = [run.run_id for run in state.history(100) if run.facts.gate]

    verbs = [("status",), ("history",), ("history", "--json"), ("deployments",), ("deployments", "--json")]
    verbs += [("report", run_id) for run_id in runs] + [("gates", run_id) for run_id in judged]
    for verb in verbs:
        done = home.call(*verb)
        assert (done.returncode, done.stderr) == (3 if verb == ("status",) else 0, ""), verb


def test_a_damaged_older_model_is_not_returned_to(tmp_path: Path) -> None:
    home = Home("probation", tmp_path)
    model = home.path / f"engine/models/patchtst_v{FIRST}.pth"
    shutil.copyfile(home.path / f"engine/models/patchtst_v{TRIAL}.pth", model)
    done = home.call("rollback", "--reason", "loses money")

    assert done.returncode == 11, done.stderr
    assert home.named() == f"patchtst_v{TRIAL}"
