"""`retrain-worker once`: from rows in a database to an outcome, as its user sees it."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.domain.env_file import parse
from tests.acceptance.conftest import once, retrain_worker

RESULT_KEYS = {
    "outcome",
    "reasons",
    "run_id",
    "rows",
    "candidate",
    "incumbent",
    "gates",
    "model_path",
    "sha256",
    "previous_model_path",
    "event_id",
    "report",
    "seconds",
}
CARD_KEYS = {"auc", "log_loss", "brier", "ece", "accuracy", "actions", "p_std", "p10_p90", "n"}


#: exit code, result, stderr, home
Ended = tuple[int, dict[str, Any], str, Path]


@pytest.fixture(scope="module")
def promoted(learnable: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    home = tmp_path_factory.mktemp("promoted") / "home"
    code, result, said = once(learnable, home)
    return code, result, said, home


def test_a_learnable_market_is_promoted(promoted: Ended) -> None:
    code, result, said, _ = promoted

    assert (code, result.get("outcome")) == (0, "PROMOTED"), said
    assert result["candidate"]["auc"] > 0.7


def test_the_result_has_the_names_of_the_contract(promoted: Ended) -> None:
    result = promoted[1]

    assert set(result) >= RESULT_KEYS
    assert set(result["rows"]) >= {"loaded", "labelled", "win", "loss", "quarantined", "contradictions"}
    assert set(result["candidate"]) >= CARD_KEYS
    assert all(set(gate) >= {"name", "result", "measurements", "thresholds"} for gate in result["gates"])
    assert set(result["seconds"]) == {"pull", "audit", "train", "gate", "promote"}


def test_the_env_file_names_the_verified_model(promoted: Ended) -> None:
    _, result, _, home = promoted
    env = parse((home / "engine/ai-engine.env").read_bytes())
    model = Path(result["model_path"])

    assert env == {"PATCHTST_MODEL_PATH": str(model), "PATCHTST_SHADOW_ONLY": "true"}
    assert hashlib.sha256(model.read_bytes()).hexdigest() == result["sha256"]
    subprocess.run(["sha256sum", "--check", "--strict", f"{model.name}.sha256"], cwd=model.parent, check=True)
    assert json.loads(model.with_name(model.name + ".json").read_text())["version"] == model.stem


def test_without_an_engine_no_confirmation_is_waited_for(promoted: Ended) -> None:
    result = promoted[1]

    assert result["confirmed"] is None
    assert result["reasons"][0].startswith("no confirmation expected: no follower has ever answered")


def test_the_part_that_trained_was_balanced_and_the_others_were_not(promoted: Ended) -> None:
    parts = promoted[1]["parts"]

    assert parts["train_balanced"]["win"] == parts["train_balanced"]["loss"] == min(parts["train"].values())
    assert parts["holdout"]["win"] != parts["holdout"]["loss"]


def test_everything_it_wrote_lies_under_the_home(promoted: Ended, learnable: Path) -> None:
    _, result, _, home = promoted

    assert all(str(home) in result[name] for name in ("model_path", "candidate_path", "report"))
    assert [path.name for path in learnable.parent.iterdir()] == [learnable.name]


def test_status_history_and_gates_show_the_run(promoted: Ended) -> None:
    _, result, _, home = promoted
    told = {verb: retrain_worker(verb, "--home", home) for verb in ("status", "history", "gates")}

    # no daemon is running
    assert {verb: done.returncode for verb, done in told.items()} == {"status": 3, "history": 0, "gates": 0}
    assert result["model_path"] in told["status"].stdout
    assert "next run" in told["status"].stdout
    assert result["run_id"] in told["history"].stdout
    assert "✔ skill" in told["gates"].stdout


def test_report_shows_the_run_as_text_and_as_a_page(
    promoted: Ended,
    tmp_path: Path,
) -> None:
    _, result, _, home = promoted
    page = tmp_path / "page.html"
    shown = retrain_worker("report", "--home", home, result["run_id"], "--html", page)

    assert shown.returncode == 0, shown.stderr
    assert "PROMOTED" in shown.stdout
    assert str(page) in shown.stdout
    assert result["run_id"] in page.read_text()
    assert retrain_worker("report", "--home", home, "20200101_000000").returncode == 2


def test_a_second_run_on_the_same_rows_is_skipped(promoted: Ended, learnable: Path) -> None:
    home = promoted[3]
    before = (home / "engine/ai-engine.env").read_bytes()
    code, result, _ = once(learnable, home)

    assert (code, result["outcome"]) == (10, "SKIPPED")
    assert result["reasons"][0].startswith("0 newly labelled rows")
    assert (home / "engine/ai-engine.env").read_bytes() == before


def test_the_index_shows_each_run_and_two_runs_are_compared(promoted: Ended, learnable: Path, tmp_path: Path) -> None:
    _, first, _, home = promoted
    done = retrain_worker("once", "--db", learnable, "--home", home, "--force", "--json", MAX_EPOCHS=2)
    second = json.loads(done.stdout)
    runs, page = [first["run_id"], second["run_id"]], tmp_path / "compare.html"
    (home / "models/runs" / runs[0] / "report.html").unlink()
    index = retrain_worker("report", "--home", home, "--index")
    compared = retrain_worker("report", "--home", home, "--compare", *runs, "--html", page)

    assert second["outcome"] == "REFUSED", done.stderr
    assert index.stdout == f"{home}/models/runs/index/index.html\n", index.stderr
    site = (home / "models/runs/index/index.html").read_text()
    for run_id in runs:
        assert f'href="../{run_id}/report.html"' in site
        folder = home / "models/runs" / run_id
        assert "Precision and recall" in (folder / "report.html").read_text()
        assert {"predictions.csv", "predictions.parquet"} <= {path.name for path in folder.iterdir()}
    assert (compared.returncode, compared.stdout) == (0, f"{page}\n"), compared.stderr
    text = page.read_text()
    assert "Two runs side by side" in text
    assert text.index("PROMOTED") < text.index("REFUSED")
    assert "max_epochs 2" in text


def test_a_market_without_signal_is_refused_with_the_gates_that_failed(hopeless: Path, tmp_path: Path) -> None:
    code, result, _ = once(hopeless, tmp_path / "home", MAX_EPOCHS=3)

    assert (code, result["outcome"]) == (11, "REFUSED")
    assert any(reason.startswith("skill") for reason in result["reasons"])
    assert result["model_path"] is None
    assert list((tmp_path / "home/engine/models").iterdir()) == []
    assert (tmp_path / "home/engine/ai-engine.env").read_text().count("PATCHTST_MODEL_PATH=") == 0


def test_wrong_settings_exit_78_and_name_every_problem(tmp_path: Path) -> None:
    done = retrain_worker("once", "--home", tmp_path / "home", "--db", tmp_path / "x.db", LABEL="up", SEQ_LEN="one")

    assert done.returncode == 78
    assert "LABEL" in done.stderr
    assert "SEQ_LEN" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_misspelled_setting_in_an_env_file_is_not_ignored(tmp_path: Path) -> None:
    env = tmp_path / "worker.env"
    env.write_text("RETRAIN_INTERVL_H=4\n")
    done = retrain_worker("once", "--env-file", env)

    assert done.returncode == 78
    assert "was RETRAIN_INTERVAL_H meant" in done.stderr


@pytest.mark.parametrize("arguments", [("fly",), ("once", "--no-such-option")])
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    assert retrain_worker(*arguments).returncode == 2
