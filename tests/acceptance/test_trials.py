"""A shadow trial that ends in a swap, one that ends in a refusal, a probation that takes a model back; each killed."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.domain.gates import Decision
from retrain_worker.domain.lifecycle import Outcome, Stage
from retrain_worker.stages.trial_evaluation import facts_of
from tests.acceptance.conftest import Daemon, StartsDaemon, retrain_worker, wait_for
from tests.run_facts import probation_facts
from tests.trial_home import OTHER_LINES, TrialHome, TwoModels, trial_home, two_models

SETTINGS = {
    "SHADOW_MIN_OUTCOMES": 200,
    "TRIAL_INTERVAL_MIN": 0.01,
    "PROBATION_HOURS": 1000,
    "GATE_MAX_ACTION_SHARE": 0.9,
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> TwoModels:
    return two_models(tmp_path_factory.mktemp("two_models"))


def looking_worker_of(daemon: Daemon) -> int | None:
    """The pid of the worker that looks now."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                command = (folder / "cmdline").read_bytes()
                if parent == daemon.process.pid and b"retrain_worker.worker" in command:
                    return int(folder.name)
    return None


def start(daemon_of: StartsDaemon, made: TrialHome, **settings: object) -> Daemon:
    return daemon_of(made.home, made.home / "trader.db", **{**SETTINGS, **settings})


def killed_in_a_look(daemon_of: StartsDaemon, made: TrialHome) -> None:
    """SIGKILL while a worker looks, after at least one look has recorded something."""
    daemon = start(daemon_of, made)
    wait_for(lambda: (facts_of(made.run()) or probation_facts()).evaluation > 1, what="a first evaluation")
    wait_for(lambda: looking_worker_of(daemon), what="a worker that looks")
    daemon.stop(signal.SIGKILL)


def events_of(made: TrialHome) -> list[dict[str, Any]]:
    shown = retrain_worker("events", "tail", "--home", made.home, "--json", "--limit", "50").stdout
    found: list[dict[str, Any]] = json.loads(shown)
    return found


def test_a_trial_survives_a_kill_and_ends_in_a_swap(
    daemon_of: StartsDaemon,
    models: TwoModels,
    tmp_path: Path,
) -> None:
    made = trial_home(tmp_path / "home", models, stage=Stage.SHADOW, candidate=models.good, incumbent=models.stale)
    made.days_pass(rows=150, days=0.5)
    killed_in_a_look(daemon_of, made)
    before = made.run()
    assert before.facts.shadow is not None
    assert before.facts.shadow.num_predictions == 150
    assert made.named() == models.stale.stem
    made.days_pass(rows=450)

    ended = start(daemon_of, made, PROBATION_HOURS=0).wait_for_event("run_finished")

    assert ended["outcome"] == Outcome.PROMOTED, ended
    shadow = made.run().facts.shadow
    assert shadow is not None
    assert shadow.num_predictions == 600
    assert made.named() == models.good.stem
    assert "shadow " in retrain_worker("gates", made.run_id, "--home", made.home).stdout


def test_a_trial_survives_a_kill_and_ends_in_a_refusal(
    daemon_of: StartsDaemon,
    models: TwoModels,
    tmp_path: Path,
) -> None:
    made = trial_home(tmp_path / "home", models, stage=Stage.SHADOW, candidate=models.stale, incumbent=models.good)
    made.days_pass(rows=150, days=0.5)
    killed_in_a_look(daemon_of, made)
    made.days_pass(rows=450)

    ended = start(daemon_of, made).wait_for_event("run_finished")

    assert ended["outcome"] == Outcome.REFUSED
    assert made.named() == models.good.stem
    shadow = made.run().facts.shadow
    assert shadow is not None
    assert shadow.verdict is not None
    assert shadow.verdict.decision is Decision.REFUSE


def test_a_probation_takes_a_worse_model_back_whenever_it_is_killed(
    daemon_of: StartsDaemon,
    models: TwoModels,
    tmp_path: Path,
) -> None:
    made = trial_home(tmp_path / "home", models, stage=Stage.PROBATION, candidate=models.stale, incumbent=models.good)
    made.days_pass(rows=30, days=0.1)
    killed_in_a_look(daemon_of, made)
    assert made.named() == models.stale.stem
    made.days_pass(rows=450)
    second = start(daemon_of, made)
    wait_for(lambda: (facts := made.run().facts.probation) and facts.rollback_reason, what="the decision")
    second.stop(signal.SIGKILL)

    third = start(daemon_of, made)
    ended = wait_for(lambda: run if (run := made.run()).is_finished else None, what="the end")
    event = wait_for(
        lambda: next((one for one in events_of(made) if one["event_type"] == "model.rolled_back"), None),
        what="the event",
    )
    third.stop()

    assert ended.outcome is Outcome.ROLLED_BACK
    assert made.named() == models.good.stem
    assert made.env_file.read_text().startswith(OTHER_LINES)
    assert event["payload"]["rolled_back_by"] == "probation"
    assert event["payload"]["evidence"]["worse_by_low"] > 0.01


def test_a_model_that_is_better_than_the_one_before_it_is_not_taken_back(
    daemon_of: StartsDaemon,
    models: TwoModels,
    tmp_path: Path,
) -> None:
    made = trial_home(tmp_path / "home", models, stage=Stage.PROBATION, candidate=models.good, incumbent=models.stale)
    made.days_pass(rows=450)
    daemon = start(daemon_of, made, TRIAL_INTERVAL_MIN=60)  # the next evaluation is not what finds the change
    wait_for(lambda: (made.run().facts.probation or probation_facts()).num_analyses, what="an interim analysis")
    made.env_file.write_text(made.env_file.read_text().replace(models.good.stem, models.stale.stem))
    told = daemon.wait_for_event("run_rolled_back")

    assert "PATCHTST_MODEL_PATH was changed externally" in told["message"]
    assert made.run().outcome is Outcome.ROLLED_BACK
    assert made.named() == models.stale.stem, "a hand-edit is respected"


def test_once_looks_at_what_waits_and_promotes_what_has_passed(models: TwoModels, tmp_path: Path) -> None:
    made = trial_home(tmp_path / "home", models, stage=Stage.SHADOW, candidate=models.good, incumbent=models.stale)
    made.days_pass(rows=450)
    done = retrain_worker("once", "--db", made.home / "trader.db", "--home", made.home, "--json", **SETTINGS)

    assert done.returncode == os.EX_OK, done.stderr
    assert json.loads(done.stdout)["outcome"] == "PROMOTED"
    assert made.named() == models.good.stem
