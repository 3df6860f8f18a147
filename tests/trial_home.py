"""A home with a run on trial or on probation: two real models, a market that goes on, and what led there."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.demo.incumbent import write_incumbent
from retrain_worker.demo.market import Market, continue_market, write_market
from retrain_worker.demo.regime import Regime
from retrain_worker.domain.artifact import Manifest, checksum_file, manifest_file
from retrain_worker.domain.facts import PromoteFacts, PullFacts, RunFacts
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Run, Stage
from retrain_worker.domain.recipe import Preset, Recipe
from retrain_worker.durable_file import sha256_of
from tests.run_facts import gate_facts, train_facts

OTHER_LINES = "# engine\nA=1\nPATCHTST_SHADOW_ONLY=true\n"
RECIPE = Recipe(
    preset=Preset.PAPER,
    max_epochs=4,
    patience=4,
    batch_size=32,
    learning_rate=3e-3,
    dropout=0.1,
    threads=1,
    device="cpu",
)


@dataclass(frozen=True, kw_only=True)
class TwoModels:
    """A market that ended three days ago; a model of its relation, and one of a relation that turned long ago."""

    market: Market
    good: Path
    stale: Path


def two_models(folder: Path) -> TwoModels:
    """Train both, as the demo trains its incumbent."""
    folder.mkdir(parents=True, exist_ok=True)
    end = datetime.now(UTC) - timedelta(days=3)
    market = write_market(folder / "trader.db", seed=11, end=end, rows=4_000, regime=Regime(strength=0.8))
    old = write_market(
        folder / "old.db", seed=12, end=end - timedelta(days=40), rows=3_000, regime=Regime(turn_degrees=70.0)
    )
    made = [
        write_incumbent(
            one.path,
            work_dir=folder / name,
            engine_models_dir=folder / name / "models",
            engine_env_file=folder / name / "engine.env",
            trained_at=one.end,
            recipe=RECIPE,
        )
        for name, one in (("good", market), ("stale", old))
    ]
    return TwoModels(market=market, good=made[0], stale=made[1])


@dataclass(kw_only=True)
class TrialHome:
    """A home of its own, with a market of its own."""

    home: Path
    market: Market
    run_id: str

    @property
    def env_file(self) -> Path:
        return self.home / "engine/ai-engine.env"

    def named(self) -> str:
        lines = [line for line in self.env_file.read_text().splitlines() if line.startswith("PATCHTST_MODEL_PATH=")]
        return Path(lines[-1].partition("=")[2]).stem if lines else ""

    def run(self) -> Run:
        with StateDb(self.home / "state/state.db", read_only=True) as store:
            found = store.run(self.run_id)
        assert found is not None
        return found

    def days_pass(self, *, rows: int, days: float = 2.0) -> None:
        self.market = continue_market(self.market, rows=rows, days=days)


def trial_home(
    home: Path,
    models: TwoModels,
    *,
    stage: Stage,
    candidate: Path,
    incumbent: Path | None,
) -> TrialHome:
    """A home in which `candidate` is on trial beside `incumbent`, or on probation after it."""
    for folder in ("engine/models", "state", "models/runs"):
        (home / folder).mkdir(parents=True)
    database = home / "trader.db"
    with closing(sqlite3.connect(models.market.path)) as source, closing(sqlite3.connect(database)) as target:
        source.backup(target)
    now = datetime.now(UTC)
    run_id = candidate.stem.removeprefix("patchtst_v")
    before = _copied(incumbent, home / "engine/models") if incumbent else None
    serving = before
    ours = _copied(candidate, home / "models/runs" / run_id / "candidate")
    if stage is Stage.PROBATION:
        serving = _copied(candidate, home / "engine/models")
    made = TrialHome(home=home, market=replace(models.market, path=database), run_id=run_id)
    made.env_file.write_text(OTHER_LINES + (f"PATCHTST_MODEL_PATH={serving}\n" if serving else ""))
    run = Run(
        run_id=run_id,
        requested_by="schedule",
        request_reason="every 24 h",
        created_at=now,
        updated_at=now,
        stage=Stage.SHADOW,
        facts=_facts(candidate, ours, before, models.market),
    )
    with StateDb(home / "state/state.db") as store:
        if before is not None:
            store.record_deployment(
                _deployment(before, None, kind=DeploymentKind.EXTERNAL, run_id=None, at=models.market.end)
            )
        if stage is Stage.PROBATION:
            assert serving is not None
            run = run.moved_to(Stage.PROMOTE, at=now).with_fact(
                PromoteFacts(
                    model_path=str(serving),
                    sha256=sha256_of(serving),
                    version=candidate.stem,
                    previous_version=before.stem if before else None,
                    previous_model_path=str(before) if before else None,
                    confirmed=True,
                )
            )
            run = run.on_probation("follower engine-1 answers with it", at=now)
        store.record(run)
        if stage is Stage.PROBATION:
            assert serving is not None
            store.record_deployment(
                _deployment(serving, before, kind=DeploymentKind.PROMOTE, run_id=run_id, at=models.market.end)
            )
        # the newest run has just ended, so the schedule has nothing to do
        ended, _ = store.open_run(requested_by="schedule", reason="every 24 h", at=now)
        store.record(ended.ended(Outcome.SKIPPED, "nothing new", at=now))
    return made


def _facts(candidate: Path, ours: Path, incumbent: Path | None, market: Market) -> RunFacts:
    newest = max(market.rows["decided_at"]) / 1e6
    return RunFacts(
        pull=PullFacts(last_at=datetime.fromtimestamp(newest, UTC)),
        train=train_facts(
            candidate_path=str(ours),
            version=candidate.stem,
            sha256=sha256_of(ours),
            contract=msgspec.json.decode(manifest_file(candidate).read_bytes(), type=Manifest).contract,
            incumbent_path=str(incumbent) if incumbent else None,
            parts={"train": {"win": 60, "loss": 40}},
        ),
        gate=gate_facts(),
    )


def _deployment(
    model: Path, before: Path | None, *, kind: DeploymentKind, run_id: str | None, at: datetime
) -> Deployment:
    return Deployment(
        deployment_id=run_id or "external_1",
        run_id=run_id,
        kind=kind,
        version=model.stem,
        model_path=str(model),
        sha256=sha256_of(model),
        size_bytes=model.stat().st_size,
        previous_version=before.stem if before else None,
        previous_model_path=str(before) if before else None,
        previous_sha256=sha256_of(before) if before else None,
        state=DeploymentState.CONFIRMED,
        created_at=at,
        updated_at=at,
        requested_by="schedule",
        reason="a test",
        confirmation="follower engine-1 answers with it",
    )


def _copied(model: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file in (model, checksum_file(model), manifest_file(model)):
        shutil.copyfile(file, folder / file.name)
    return folder / model.name
