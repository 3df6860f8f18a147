"""A home whose engine serves the newest of three real models, with the history that led there."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import torch

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.artifact import ModelContract, model_file
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome
from retrain_worker.domain.recipe import InputTransform, Preset
from retrain_worker.model import bundle, presets
from retrain_worker.model.patchtst import PatchTST

CONTRACT = ModelContract(
    preset=Preset.PAPER,
    context_length=16,
    feature_names=("rsi", "ma_cross"),
    input_transform=InputTransform.STANDARDISE,
)
VERSIONS = ("patchtst_v20260101_000000", "patchtst_v20260102_000000", "patchtst_v20260103_000000")
OTHER_LINES = "# engine\nA=1\nPATCHTST_SHADOW_ONLY=true\n"


@dataclass(frozen=True, kw_only=True)
class SlotHome:
    """`models`: path and sha256, oldest first; the env line names the last."""

    home: Path
    env_file: Path
    models: tuple[tuple[Path, str], ...]

    def path_of(self, number: int) -> Path:
        return self.models[number][0]

    def named(self) -> Path:
        return Path(self.env_file.read_text().split("PATCHTST_MODEL_PATH=")[1].splitlines()[0])

    def write_line(self, model: Path) -> None:
        self.env_file.write_text(f"{OTHER_LINES}PATCHTST_MODEL_PATH={model}\n")


def write_model(folder: Path, version: str, *, seed: int) -> tuple[Path, str]:
    """A small real model and its sidecars; path and sha256."""
    torch.manual_seed(seed)
    path = model_file(folder, version)
    windows = np.random.default_rng(seed).normal(size=(4, CONTRACT.context_length, 2)).astype(np.float32)
    manifest = bundle.write(
        path,
        model=PatchTST(presets.config_for(CONTRACT, dropout=0.0)),
        contract=CONTRACT,
        canary_windows=windows,
        origin=bundle.Origin(),
    )
    return path, manifest.sha256


def slot_home(home: Path) -> SlotHome:
    """Three promotions behind it, the last run just ended: a daemon that is started on it has nothing to do."""
    folder, env_file = home / "engine/models", home / "engine/ai-engine.env"
    for path in (folder, home / "state"):
        path.mkdir(parents=True)
    models = tuple(write_model(folder, version, seed=number) for number, version in enumerate(VERSIONS))
    made = SlotHome(home=home, env_file=env_file, models=models)
    made.write_line(models[-1][0])
    now = datetime.now(UTC)
    with StateDb(home / "state/state.db") as store:
        run, _ = store.open_run(requested_by="schedule", reason="every 24 h", at=now)
        store.record(run.ended(Outcome.SKIPPED, "nothing new", at=now))
        for number, (path, sha256) in enumerate(models):
            before = models[number - 1] if number else (None, None)
            at = now - timedelta(days=len(models) - number)
            store.record_deployment(
                Deployment(
                    deployment_id=f"{at:%Y%m%d_%H%M%S}",
                    run_id=None,
                    kind=DeploymentKind.PROMOTE,
                    version=path.stem,
                    model_path=str(path),
                    sha256=sha256,
                    size_bytes=path.stat().st_size,
                    previous_version=before[0].stem if before[0] else None,
                    previous_model_path=str(before[0]) if before[0] else None,
                    previous_sha256=before[1],
                    state=DeploymentState.CONFIRMED,
                    created_at=at,
                    updated_at=at,
                    requested_by="schedule",
                    reason="every gate that counts has passed",
                    confirmation="follower engine-1 answers with it",
                )
            )
    return made
