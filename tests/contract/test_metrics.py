"""Metrics of a home: the file, the loopback server, and the names that docs/monitoring shows."""

import json
import re
import shutil
import socket
import subprocess
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from retrain_worker.daemon.metrics import METRICS, metrics_of
from retrain_worker.daemon.monitoring import monitoring_jobs
from retrain_worker.domain.facts import PullFacts, RowCounts, ShadowFacts
from retrain_worker.domain.gates import Decision, GateOutcome, GatePolicy, GateResult, Scorecard, Verdict
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.domain.pause import Pause
from tests.daemon_home import an_ended_run, opened_components
from tests.run_facts import gate_facts

DOCS = Path(__file__).parents[2] / "docs"
NOW = datetime.now(UTC).replace(microsecond=0)

Samples = dict[tuple[str, str], float]


def samples(text: str) -> Samples:
    """(name, value of its label or "") -> value, of the metrics of this program."""
    return {
        (sample.name.removeprefix("retrain_worker_"), next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def a_full_history(components: Any) -> None:
    """A run that ended, one that was judged and is on trial, a pause."""
    an_ended_run(components, NOW - timedelta(hours=3))
    run, _ = components.store.open_run(requested_by="schedule", reason="test", at=NOW - timedelta(hours=2))
    gates = (
        GateResult(name="skill", result=GateOutcome.PASS, counts=True),
        GateResult(name="calibration", result=GateOutcome.FAIL, counts=True),
        GateResult(name="agreement", result=GateOutcome.FAIL, counts=False),
    )
    verdict = Verdict(decision=Decision.REFUSE, gates=gates, policy=GatePolicy())
    for fact in (
        PullFacts(rows=RowCounts(loaded=6000, labelled=5900), last_at=NOW - timedelta(hours=5)),
        gate_facts(verdict=verdict, candidate=Scorecard(n=900, num_win=540, num_blocks=20, actions={}, auc=0.77)),
        ShadowFacts(since=NOW, prediction_log="predictions", evaluation_at=NOW, num_outcomes=17),
    ):
        run = run.with_fact(fact)
    for stage in (Stage.AUDIT, Stage.TRAIN, Stage.GATE, Stage.SHADOW):
        run = run.moved_to(stage, at=NOW)
    components.store.record(run)
    components.store.set_pause(Pause(by="anna", reason="test", since=NOW))


def exported(components: Any) -> Samples:
    """One pass of the job, and its file."""
    with monitoring_jobs(components) as (job,):
        job.action()
    return samples(components.configuration.settings.metrics_file.read_text())


def test_the_file_holds_what_the_state_holds(tmp_path: Path) -> None:
    with opened_components(tmp_path / "home", METRICS_FILE=str(tmp_path / "retrain.prom")) as components:
        a_full_history(components)
        components.configuration.adopt_pending()
        found = exported(components)

    assert found["last_run_outcome", "FAILED"] == 1
    assert found["last_run_outcome", "PROMOTED"] == 0
    assert found["newest_row_timestamp_seconds", ""] == (NOW - timedelta(hours=5)).timestamp()
    assert found["holdout_auc", "candidate"] == 0.77
    assert ("holdout_auc", "incumbent") not in found
    assert {gate: found["gate_passed", gate] for gate in ("skill", "calibration")} == {"skill": 1, "calibration": 0}
    assert ("gate_passed", "agreement") not in found
    assert found["current_run_stage", "SHADOW"] == 1
    assert found["trial_outcomes", "SHADOW"] == 17
    assert found["paused", ""] == 1
    assert ("next_run_timestamp_seconds", "") not in found
    assert found["process_resident_memory_bytes", ""] > 0


def test_a_home_without_runs_has_metrics_too(tmp_path: Path) -> None:
    with opened_components(tmp_path / "home", METRICS_FILE=str(tmp_path / "retrain.prom")) as components:
        found = exported(components)

    assert found["events_pending", ""] == 0
    assert found["next_run_timestamp_seconds", ""] == pytest.approx(datetime.now(UTC).timestamp(), abs=60)
    assert ("last_run_outcome", "FAILED") not in found


def test_the_loopback_server_answers_and_is_closed_with_the_daemon(tmp_path: Path) -> None:
    port = free_port()
    with opened_components(tmp_path / "home", METRICS_PORT=str(port)) as components:
        with monitoring_jobs(components) as (job,):
            job.action()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                found = samples(answer.read().decode())
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")

    assert found["build_info", next(key for name, key in found if name == "build_info")] == 1


def test_what_cannot_be_published_is_one_warning_and_stops_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken, capture_logs() as logged:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            opened_components(
                tmp_path / "home", METRICS_PORT=str(port), METRICS_FILE=str(tmp_path / "missing/retrain.prom")
            ) as components,
            monitoring_jobs(components) as (job,),
        ):
            job.action()
            job.action()

    assert [each["event"] for each in logged] == ["metrics_not_published"] * 2
    assert f"127.0.0.1:{port} cannot be used: Address already in use" in logged[0]["message"]
    assert "METRICS_FILE cannot be written" in logged[1]["message"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---------------------------------------------------------------- docs/monitoring


def published_names(components: Any) -> set[str]:
    a_full_history(components)
    context = components
    return {family.name for family in metrics_of(context.store, context.configuration, context.schedule)}


def test_every_metric_is_published(components: Any) -> None:
    # a fresh home has no deployment
    slot = {"retrain_worker_slot_info", "retrain_worker_slot_timestamp_seconds", "retrain_worker_slot_confirmed"}
    assert {f"retrain_worker_{name}" for name in METRICS} == published_names(components) | slot


@pytest.mark.parametrize("name", ["alerts.yml", "dashboard.json"])
def test_rules_and_dashboard_name_only_metrics_of_the_page(name: str) -> None:
    text = (DOCS / "monitoring" / name).read_text()
    used = set(re.findall(r"retrain_worker_[a-z_]+", text)) - {"retrain_worker_process_resident_memory_bytes"}
    assert used
    assert used <= {f"retrain_worker_{name}" for name in METRICS}


def test_the_dashboard_is_json_with_one_place_for_each_panel() -> None:
    dashboard = json.loads((DOCS / "monitoring/dashboard.json").read_text())

    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert all(panel["targets"] for panel in dashboard["panels"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian package prometheus) is not installed")
def test_the_alert_rules_fire_as_their_tests_say() -> None:
    for arguments in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")):
        done = subprocess.run(
            ["promtool", *arguments], cwd=DOCS / "monitoring", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
