"""Ended runs reach a real MLflow store through a worker process; a server that fails delays nothing and is given up."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from retrain_worker.daemon import monitoring
from retrain_worker.daemon.jobs.new_outcomes import PassedOn
from retrain_worker.daemon.monitoring import monitoring_jobs
from retrain_worker.domain.facts import PullFacts, RowCounts
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.errors import SettingsError
from tests.daemon_home import opened_components
from tests.run_facts import gate_facts, promote_facts, train_facts
from tests.unit.test_gates import GOOD_CARD

NOW = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)
needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="the extra mlflow is not installed")
#: what MLflow itself reads from the store
READ = """
import json, os, sys
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1], sys.argv[1])
experiment = client.get_experiment_by_name("retrain_worker")
print(json.dumps({
    "runs": [
        {"status": run.info.status, "tags": dict(run.data.tags), "metrics": dict(run.data.metrics),
         "params": dict(run.data.params), "files": [file.path for file in client.list_artifacts(run.info.run_id)],
         "auc": [each.value for each in client.get_metric_history(run.info.run_id, "validation_auc")]}
        for run in client.search_runs([experiment.experiment_id])
    ],
    "versions": [{"version": each.tags["version"], "source": each.source}
                 for each in client.search_model_versions("name = 'patchtst'")],
}))
"""


def end_run(components: Any, outcome: Outcome, *, hours: int, facts: Callable[[Run], Run] = lambda run: run) -> Run:
    at = NOW + timedelta(hours=hours)
    run, _ = components.store.open_run(requested_by="schedule", reason="test", at=at)
    ended = facts(run).ended(outcome, "for a test", at=at + timedelta(minutes=9))
    components.store.record(ended)
    return ended


def stored(store: str) -> dict[str, Any]:
    folder = Path(store.removeprefix("file:")).parent  # list_artifacts makes an mlflow.db in the working directory
    done = subprocess.run([sys.executable, "-c", READ, store], cwd=folder, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@needs_mlflow
@pytest.mark.slow
def test_a_run_and_its_promoted_model_are_logged_once_also_after_a_rollback(tmp_path: Path) -> None:
    store = f"file:{tmp_path}/mlruns"
    model = tmp_path / "patchtst_v20260110_033000.pth"
    model.write_bytes(b"weights")

    def promoted(run: Run) -> Run:
        known = run.with_fact(PullFacts(rows=RowCounts(loaded=10, labelled=9)))
        known = known.with_fact(train_facts(history=((1, 0.7, 0.69, 0.6), (2, 0.6, 0.61, 0.7)), epochs=2))
        known = known.with_fact(gate_facts(candidate=GOOD_CARD))
        return replace(known.with_fact(promote_facts(model_path=str(model))), stage=Stage.PROMOTE)

    with (
        opened_components(tmp_path / "home", MLFLOW_TRACKING_URI=store) as components,
        monitoring_jobs(components) as (job,),
        capture_logs() as logged,
    ):
        job.action()
        run = end_run(components, Outcome.PROMOTED, hours=0, facts=promoted)
        components.run_folders.run_dir(run.run_id)
        components.run_folders.report_of(run.run_id).write_text("<html>")
        job.action()
        first = stored(store)
        components.store.record(replace(run, outcome=Outcome.ROLLED_BACK))
        job.action()
        job.action()

        assert components.store.recall("mlflow_logged", PassedOn) == PassedOn(outcomes=(f"{run.run_id} ROLLED_BACK",))

    assert [each for each in logged if each["log_level"] != "info"] == []
    [before], [after] = first["runs"], stored(store)["runs"]
    assert (before["status"], before["files"]) == ("FINISHED", ["model", "report.html"])
    assert before["params"]["preset"] == "paper"
    assert before["metrics"]["auc"] == GOOD_CARD.auc
    assert (before["metrics"]["rows"], before["auc"]) == (10, [0.6, 0.7])
    assert (before["tags"]["retrain_worker.run_id"], before["tags"]["outcome"]) == (run.run_id, "PROMOTED")
    assert after["tags"]["outcome"] == "ROLLED_BACK"
    [version] = first["versions"]
    assert version["version"] == "patchtst_v20260110_033000"
    assert Path(version["source"].removeprefix("file://").removeprefix("file:"), model.name).read_bytes() == b"weights"


@needs_mlflow
@pytest.mark.slow
def test_a_server_that_fails_changes_no_run_and_its_password_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrain_worker.daemon.jobs.mlflow_log._MAX_ATTEMPTS", 2)
    with (
        opened_components(tmp_path / "home", MLFLOW_TRACKING_URI="http://anna:s3cret@127.0.0.1:9") as components,
        monitoring_jobs(components) as (job,),
        capture_logs() as logged,
    ):
        job.action()
        run = end_run(components, Outcome.REFUSED, hours=0)
        for _ in range(3):
            job.action()
        assert components.store.run(run.run_id) == run

    found = [each["message"] for each in logged if each["event"] == "mlflow_not_logged"]
    assert ["; retrying" in message for message in found] == [True, False]
    assert found[1].endswith("no further attempt for this outcome")
    assert "http://anna:***@127.0.0.1:9" in found[0]
    assert "s3cret" not in str(logged)


def test_without_the_extra_the_setting_ends_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "find_spec", lambda _name: None)
    with (
        opened_components(tmp_path / "home", MLFLOW_TRACKING_URI="http://127.0.0.1:9") as components,
        pytest.raises(SettingsError, match=r"needs the extra mlflow \(pip install"),
        monitoring_jobs(components),
    ):
        pass
