"""A worker of every task reads its own files and none of the others below the same home."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from retrain_worker import confinement
from retrain_worker.domain.worker_protocol import ExportFormat, ExportRequest, InspectRequest, WorkerExit
from retrain_worker.worker.task_paths import paths_of
from tests.worker.test_work_main import Worker, requests_of_every_stage
from tests.worker.trading_database import make_database, make_rows, request_for, url_of

#: tries to open each file of a list; `-c` before the usual arguments
PROGRAM = """
import json, sys
from pathlib import Path
from retrain_worker.worker import __main__ as work
def tried(request, database_url, report, stopping, rank):
    found = {}
    for path in json.loads(Path(sys.argv[1]).with_name("tried.json").read_text()):
        try:
            Path(path).read_bytes()
            found[path] = "read"
        except OSError as error:
            found[path] = type(error).__name__
    return found
work._run = tried
sys.exit(work.main(sys.argv[1:]))
"""
TASKS = ["PULL", "AUDIT", "TRAIN", "GATE", "SHADOW", "PROBATION", "VERIFY", "INSPECT", "EXPORT"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    for name in (
        "engine/ai-engine.env",
        "engine/models/patchtst_v1.pth",
        "engine/models/other.pth",
        "state/state.db",
        "state/state.db-wal",
        "models/runs/own/snapshot.parquet",
        "models/runs/other/snapshot.parquet",
        "models/runs/other/candidate/patchtst_v2.pth",
        "models/runs/watermark/snapshot.parquet",
        "models/runs/watermark/pull.request.json",
        "credentials/settings_DATABASE_URL",
        "redis/appendonly.aof",
        "settings.env",
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("content")
    return home


def request_of(task: str, home: Path) -> Any:
    run_dir, model = home / "models/runs/own", str(home / "engine/models/patchtst_v1.pth")
    if task == "INSPECT":
        return InspectRequest(paths=(os.fsencode(model),))
    if task == "EXPORT":
        return ExportRequest(model_path=model, format=ExportFormat.ONNX, output_path=str(run_dir / "m.onnx"))
    changes: dict[str, dict[str, object]] = {
        "PULL": {"watermark_path": str(home / "models/runs/watermark/snapshot.parquet")},
        "AUDIT": {"reference_dir": str(home / "models/runs/watermark")},
        "TRAIN": {"incumbent_path": model},
        "GATE": {"incumbent_path": model},
        "VERIFY": {"model_path": model},
    }
    request = requests_of_every_stage(run_dir, limit_bytes=0)[task]
    return type(request)(**vars(request) | changes.get(task, {"model_path": model}))


@pytest.mark.skipif(not confinement.version(), reason="this kernel has no Landlock")
@pytest.mark.parametrize("task", TASKS)
def test_only_what_the_task_needs_can_be_read(home: Path, task: str, tmp_path: Path) -> None:
    database = make_database(tmp_path / "home/trading.db", make_rows(3), journal="wal" if task == "PULL" else "delete")
    run_dir = home / "models/runs/own"
    named = {"PULL": database, "SHADOW": database, "PROBATION": database}
    model = home / "engine/models/patchtst_v1.pth"
    snapshot = home / "models/runs/watermark/snapshot.parquet"
    own = {
        str(path)
        for path in (
            run_dir / "snapshot.parquet",
            named.get(task, model),
            {"PULL": snapshot, "AUDIT": snapshot}.get(task, run_dir / "snapshot.parquet"),
        )
        if not (task == "AUDIT" and path == model)
    } | {os.__file__, "/proc/self/status", "/proc/cpuinfo"}
    others = (
        {str(path) for path in home.rglob("*") if path.is_file() and path != model}
        | {
            f"/proc/{os.getpid()}/environ",
            f"/proc/{os.getpid()}/maps",
            "/root/.bashrc",
            "/etc/shadow",
            str(Path(__file__)),
        }
    ) - own
    if task in {"PULL", "AUDIT"}:
        others.add(str(model))
    (run_dir / "tried.json").write_text(json.dumps(sorted(own | others)))

    is_reader = task in named
    worker = Worker(
        run_dir,
        task,
        request_of(task, home),
        program=("-c", PROGRAM),
        database_url=url_of(database) if is_reader else None,
    )

    assert worker.ended() == WorkerExit.DONE, worker.log
    found = worker.result()["result"]
    assert {path for path in own if found[path] != "read"} == set()
    assert {path for path in others if found[path] == "read"} == set()


def test_a_wal_database_that_a_writer_has_open_needs_no_writable_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COVERAGE_FILE", raising=False)
    (tmp_path / "data").mkdir()
    path = make_database(tmp_path / "data/t.db", make_rows(3), journal="wal")
    request, run_dir = request_for(tmp_path / "run"), tmp_path / "run"

    at_rest = paths_of(request, run_dir, url=url_of(path))
    assert at_rest.writable == (run_dir, tmp_path / "data")
    with closing(sqlite3.connect(path)) as writer, writer:
        writer.execute("UPDATE ai_training_samples SET symbol = 'X'")
        in_use = paths_of(request, run_dir, url=url_of(path))
    assert in_use.writable == (run_dir, tmp_path / "data/t.db-shm")
    beside_home = paths_of(request, tmp_path / "data/home/run", url=url_of(path))
    assert tmp_path / "data" not in beside_home.writable
