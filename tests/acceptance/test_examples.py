"""The scripts and the notebook of examples/, on what one run has left."""

import csv
import importlib.util
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.domain.report_request import PREDICTIONS_FILE
from tests.acceptance.conftest import COMMAND, clean_environment, once, retrain_worker, wait_for
from tests.redis_world import RedisServer

README = Path(__file__).parents[2] / "README.md"
EXAMPLES = README.parent / "examples"
COLUMNS = ("symbol", "timestamp", "execution_side", "entry_price", "exit_price", "exit_time", "realized_pnl")
HEADER = ("symbol", "decided_at", "side", "entry_price", "exit_price", "exit_at", "pnl")


def csv_of(database: Path, file: Path) -> int:
    """The trades of a database as the CSV that the tutorial shows; their number."""
    with sqlite3.connect(database) as connection, file.open("w", newline="") as text:
        lines = csv.writer(text)
        rows = connection.execute(f"SELECT {', '.join(COLUMNS)}, features, feature_names FROM ai_training_samples")
        for number, (*cells, features, names) in enumerate(rows):
            if number == 0:
                lines.writerow((*HEADER, *json.loads(names)))
            lines.writerow("" if cell is None else cell for cell in (*cells, *json.loads(features)))
    return number + 1


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, learnable: Path) -> Path:
    """A home with one run on a database that was made of a CSV."""
    folder = tmp_path_factory.mktemp("own_data")
    rows = csv_of(learnable, folder / "trades.csv")
    script = EXAMPLES / "csv_to_database.py"
    done = subprocess.run(
        [sys.executable, script, folder / "trades.csv", folder / "trader.db"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{rows:,} rows" in done.stdout
    assert retrain_worker("audit", "--db", folder / "trader.db", "--home", folder / "home").returncode == 0
    code, result, errors = once(folder / "trader.db", folder / "home", MAX_EPOCHS=4)
    assert code == 0, (result.get("reasons"), errors)
    return folder / "home"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("BTCUSDT,2026-01-01T00:00,HEDGE,1,1,2026-01-01T01:00,1,5", "line 2: the side .HEDGE. is none of buy, long"),
        ("BTCUSDT,2026-01-01T00:00,BUY,1,,,1,5", "line 2: .*profit and the exit time"),
        (
            "BTCUSDT,2026-01-01T00:00,BUY,1,1,2026-01-01T01:00,1,nan",
            "line 2: .*rsi is a feature, and .nan. is no finite number",
        ),
        ("BTCUSDT,2026-01-01T00:00,BUY,1,1,2026-01-01T01:00,1,x7", "line 2: .*add it to IGNORED"),
        ("BTCUSDT,yesterday,BUY,1,1,2026-01-01T01:00,1,5", "line 2: .*Invalid isoformat"),
    ],
)
def test_a_line_of_the_csv_that_is_no_trade_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "trades.csv").write_text(f"{','.join(HEADER)},rsi\n{line}\n")

    done = subprocess.run(
        [sys.executable, EXAMPLES / "csv_to_database.py", tmp_path / "trades.csv", tmp_path / "trader.db"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "trader.db").exists()


def test_the_notebook_opens_snapshot_and_predictions(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("duckdb", reason="duckdb is not installed")
    monkeypatch.setenv("RUN_DIR", str(max((home / "models/runs").glob("2*"))))
    cells = json.loads((EXAMPLES / "snapshot_and_report.ipynb").read_text())["cells"]
    found: dict[str, Any] = {}

    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), found)  # the cells, in their order

    assert (found["run_dir"] / PREDICTIONS_FILE).exists()
    assert sum(row[1] for row in found["snapshot"].fetchall()) > 3_000
    assert len(found["deciles"]) == 10
    assert found["deciles"]["hit_rate"][-1] > found["deciles"]["hit_rate"][0]
    assert found["by_action"]["rows"].sum() == len(found["holdout"])


def answer(url: str, body: Any = None) -> tuple[int, Any]:
    request = urllib.request.Request(
        url, data=None if body is None else json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture
def service(home: Path, redis_server: RedisServer) -> Iterator[str]:
    """The web service of the tutorial, as a process."""
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "--port", str(port), "follower_fastapi:app"],
        env={**os.environ, "REDIS_URL": redis_server.url, "ENGINE_MODELS_DIR": str(home / "engine/models")},
        stderr=subprocess.DEVNULL,
    )
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    assert process.wait(30) in (0, -15)


def status_of(url: str) -> int:
    try:
        return answer(f"{url}/model")[0]
    except urllib.error.URLError:
        return 0


def test_the_web_service_follows_promotion_and_rollback(home: Path, service: str, redis_server: RedisServer) -> None:
    wait_for(lambda: status_of(service) == 503, what="the service without a model")
    daemon = subprocess.Popen(
        [*COMMAND, "run", "--home", home], env=clean_environment(REDIS_URL=redis_server.url), stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: status_of(service) == 200, what="the model")
        _, model = answer(f"{service}/model")
        row = [0.0] * len(model["feature_names"])
        code, found = answer(f"{service}/predict", {"rows": [row] * model["context_length"]})
        assert (code, found["version"]) == (200, model["version"])
        assert 0.0 <= found["probability"] <= 1.0
        assert found["action"] in ("BUY", "HOLD", "SELL")
        for rows in ([row], [row[1:]] * model["context_length"], [row, row[1:]], []):
            assert answer(f"{service}/predict", {"rows": rows})[0] == 422

        code_of_readme = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)[0]
        shape = (1, model["context_length"], len(model["feature_names"]))
        printed = subprocess.run(
            [
                sys.executable,
                "-c",
                f"import numpy as np\nwindows = np.zeros({shape}, dtype=np.float32)\n"
                + code_of_readme.replace("redis://localhost:6379/0", redis_server.url),
            ],
            env={**os.environ, "ENGINE_MODELS_DIR": str(home / "engine/models")},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert printed.startswith(f"{model['version']} [")

        assert retrain_worker("rollback", "--to-none", "--reason", "test", "--home", home).returncode in (0, 1)
        wait_for(lambda: status_of(service) == 503, what="the empty slot")
    finally:
        daemon.terminate()
        daemon.wait(60)
