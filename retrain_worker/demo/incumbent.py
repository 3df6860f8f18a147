"""A stale incumbent: a model of an older market, trained by this program, in the engine's directory and env file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from retrain_worker import typed_json
from retrain_worker.domain.artifact import checksum_file, manifest_file, model_file, version_of
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.domain.recipe import Preset, Recipe
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.worker_protocol import DatabaseAccess, PullRequest, TrainRequest, WorkerExit
from retrain_worker.errors import WorkerFailedError

#: learns the signal of a few thousand rows in seconds. One thread: two synchronise slowly on shared cores
_RECIPE = Recipe(
    preset=Preset.PAPER,
    max_epochs=5,
    patience=5,
    batch_size=32,
    learning_rate=3e-3,
    dropout=0.1,
    threads=1,
    device="cpu",
)
_ENV_FILE = """\
# Environment of the AI engine (stand-in of the demo; a real one looks like this).
PYTHONUNBUFFERED=1
AI_ENGINE_PORT=8001
LOG_LEVEL=INFO

# Models. The retraining worker writes PATCHTST_MODEL_PATH and nothing else in this file.
XGB_MODEL_PATH={models}/xgb_v20251230_010203.pkl
PATCHTST_MODEL_PATH={model}
PATCHTST_SHADOW_ONLY=true

# Ensemble
ENSEMBLE_WEIGHTS="xgb=0.25,lgbm=0.25,nhits=0.3,patchtst=0.2"
MIN_CONFIDENCE=0.55
"""


def write_incumbent(
    database: Path,
    *,
    work_dir: Path,
    engine_models_dir: Path,
    engine_env_file: Path,
    trained_at: datetime,
    recipe: Recipe = _RECIPE,
) -> Path:
    """Train on `database` as of `trained_at`, put the model into the engine's directory, and write its env file.

    The files of the run stay in `work_dir`. Raises WorkerFailedError when a stage ends without a result.
    """
    run_id = trained_at.strftime("%Y%m%d_%H%M%S")
    version, data, run_dir = version_of(run_id), DataPolicy(), work_dir / run_id
    run_dir.mkdir(parents=True, exist_ok=True)
    pull = PullRequest(
        run_id=run_id, run_dir=str(run_dir), policy=data, watermark_path=None, now=trained_at.isoformat()
    )
    _run(Stage.PULL, pull, run_dir, database)
    train = TrainRequest(
        run_id=run_id,
        run_dir=str(run_dir),
        version=version,
        data=data,
        split=SplitPolicy(backtest_folds=0),
        recipe=recipe,
        checkpoint_dir=str(work_dir / "checkpoints"),
        incumbent_path=None,
    )
    result = _run(Stage.TRAIN, train, run_dir, database)
    candidate, incumbent = Path(result["model_path"]), model_file(engine_models_dir, version)
    engine_models_dir.mkdir(parents=True, exist_ok=True)
    for place in (lambda path: path, checksum_file, manifest_file):
        shutil.copyfile(place(candidate), place(incumbent))
    engine_env_file.parent.mkdir(parents=True, exist_ok=True)
    engine_env_file.write_text(_ENV_FILE.format(models=engine_models_dir, model=incumbent), encoding="utf-8")
    return incumbent


def _run(stage: Stage, request: PullRequest | TrainRequest, run_dir: Path, database: Path) -> dict[str, Any]:
    """Run one stage in a worker, as the daemon does; the fields of its result."""
    request_file, result_file = run_dir / f"{stage.lower()}.request.json", run_dir / f"{stage.lower()}.result.json"
    request_file.write_bytes(msgspec.json.encode({"stage": stage, "request": request}))
    command = [sys.executable, "-m", "retrain_worker.worker", str(request_file), str(result_file)]
    access = DatabaseAccess(url=os.fsencode(f"sqlite:///{database.absolute()}"))
    # the worker stops when its stdin closes
    worker = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with worker:
        assert worker.stdin is not None, "PIPE is given above"
        assert worker.stdout is not None, "PIPE is given above"
        print(msgspec.json.encode(access).decode(), file=worker.stdin, flush=True)
        output = worker.stdout.read()
        worker.wait()  # before stdin closes, which would stop it
    if worker.returncode != WorkerExit.DONE:
        last = (output.splitlines() or ["no output"])[-1]
        what = result_file.read_text() if worker.returncode == WorkerExit.ERROR else last
        raise WorkerFailedError(
            f"the incumbent could not be trained: {what[:300]}", where=f"{stage} of the older market"
        )
    result: dict[str, Any] = typed_json.decode(result_file.read_bytes(), dict[str, Any])["result"]
    return result
