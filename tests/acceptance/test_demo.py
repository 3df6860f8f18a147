"""`retrain-worker demo`: the main job on embedded defaults, seen from outside."""

import json
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest

from tests.acceptance.conftest import retrain_worker

DOCS = Path(__file__).parents[2] / "docs" / "events"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    home = tmp_path_factory.mktemp("demo") / "home"
    return home, retrain_worker("demo", "--home", home)


def test_it_ends_with_a_promoted_model_that_the_engine_serves(
    shown: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    home, done = shown

    assert done.returncode == 0, done.stdout + done.stderr
    assert "✔ PROMOTED" in done.stdout
    lines = [json.loads(line) for line in (home / "engine.jsonl").read_text().splitlines()]
    swaps = [line for line in lines if line["kind"] == "swap"]
    assert len(swaps) == 2
    assert swaps[1]["version"] in (home / "engine/ai-engine.env").read_text()


def test_the_engine_answered_all_the_time_and_never_failed(
    shown: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    last = json.loads((shown[0] / "engine.jsonl").read_text().splitlines()[-1])

    assert last["kind"] == "stopped"
    assert len(last["answers"]) == 2
    assert all(answers["answered"] > 0 and answers["failed"] == 0 for answers in last["answers"].values())


def test_the_summary_holds_what_a_person_asks_for(shown: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    text = shown[1].stdout

    for expected in (
        "Bayes-optimal",
        "incumbent",
        "training, balanced",
        "PATCHTST_MODEL_PATH",
        "before",
        "model.promoted",
        "✔ skill",
        "confirmed: ",
        "answered",
        "report",
    ):
        assert expected in text, expected


def test_the_twenty_lines_of_the_page_about_consumers_saw_it_happen(
    shown: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """And every event of the run is what its schema says."""
    home, done = shown
    printed = (home / "consumer.log").read_text().splitlines()

    assert printed[0] == "learning.retraining.started started"
    assert re.fullmatch(r"patchtst_v\S+ replaces patchtst_v\S+, AUC 0\.\d{3}", printed[1])
    assert printed[2].startswith("learning.retraining.completed promoted ")
    assert all(f"  {line}" in done.stdout for line in printed)
    for line in (json.loads(line) for line in (home / "engine.jsonl").read_text().splitlines()):
        if line["kind"] == "event":
            jsonschema.validate(line["payload"], json.loads((DOCS / f"{line['event_type']}.json").read_text()))


def test_only_the_model_line_of_the_env_file_changed(shown: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    home = shown[0]
    backup = next((home / "engine").glob("ai-engine.env.bak-*")).read_text().splitlines()
    now = (home / "engine/ai-engine.env").read_text().splitlines()

    changed = [(old, new) for old, new in zip(backup, now, strict=True) if old != new]
    assert len(changed) == 1
    assert changed[0][1].startswith("PATCHTST_MODEL_PATH=")


def test_a_folder_that_is_not_the_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    done = retrain_worker("demo", "--home", tmp_path)

    assert done.returncode == 2
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_the_report_page_stands_alone(shown: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    page = next((shown[0] / "models/runs").glob("*/report.html"))
    text = Path(page).read_text()

    links = re.findall(r"(?:src|href|url)\s*[=(]\s*\"?([^\")]*)", text)
    assert {link for link in links if not link.startswith("#")} == {
        "../index/index.html",
        "predictions.csv",
        "predictions.parquet",
    }
    assert "<script" not in text
    assert "Bayes-optimal" in text
    assert "model.promoted" in text
