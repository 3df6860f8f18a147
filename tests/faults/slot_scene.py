"""One scene for every fault of the swap: a promotion that is due, or a roll-back that was ordered.

`work` is what the daemon does with it: it takes the lock, opens its memory, sweeps, takes up what an earlier process
left, and carries it out with the real stages, the real state database and the real slot. So it is the swap and its
recovery as well. Only the worker that would load the model is stood in for (no torch here).
"""

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from retrain_worker import durable_file
from retrain_worker.adapters.artifact_store import ArtifactStore
from retrain_worker.adapters.model_slot import ModelSlot
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.adapters.state_lock import StateLock
from retrain_worker.domain import env_file
from retrain_worker.domain.artifact import checksum_file, checksum_line, manifest_file
from retrain_worker.domain.confirmation import Confirm
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Run, Stage
from retrain_worker.domain.recipe import Recipe
from retrain_worker.domain.slot_request import SlotRequestArguments, SlotRequestKind
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.worker_protocol import Done, VerifyResult
from retrain_worker.stages.advance import advance, resume
from retrain_worker.stages.ports import Policies, StageContext
from retrain_worker.stages.slot_requests import carry_out
from tests.fakes import FakeConfirmations
from tests.run_facts import gate_facts, train_facts

OLDER, OLD = "patchtst_v20260107_120000", "patchtst_v20260108_120000"
NEW, NEXT = "patchtst_v20260109_120000", "patchtst_v20260110_120000"
#: of the env file; the attribute, where the file system keeps one
MODE, NOTE = 0o640, ("user.note", b"the operator's")
START = datetime(2026, 1, 9, 12, 0, tzinfo=UTC)
SCENES = ("promotion", "roll-back")
#: states of a deployment that is over
REACHED = (DeploymentState.CONFIRMED, DeploymentState.NOT_CONFIRMED, DeploymentState.NOT_ASKED)


class Clock:
    """Goes on by a millisecond with each question, so that every pass asks and stores the same."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now


class NobodyToVerify:
    """Stands in for the worker: what the slot has hashed is sound."""

    def result_of(self, stage: str, run_dir: Path, request: Any) -> Done:
        return Done(result=VerifyResult(sha256=request.expected_sha256, canary_error=0.0))


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A home in which `kind` is about to happen."""

    root: Path
    kind: str

    @property
    def wanted(self) -> str:
        """The version that the env line names in the end."""
        return NEW if self.kind == "promotion" else OLDER

    @property
    def env(self) -> Path:
        return self.root / "etc/ai-engine.env"

    def model(self, version: str) -> Path:
        return self.root / "models" / f"{version}.pth"

    def env_content(self, version: str) -> bytes:
        return f"# engine\nA=1\nPATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH={self.model(version)}\nB=2".encode()


def content_of(version: str) -> bytes:
    """What stands for the weights: more than a page, so that it can be torn."""
    return f"{version} weights ".encode() * 500


def prepare(scene: Scene) -> None:
    """Everything as it is before; an existing root is replaced."""
    shutil.rmtree(scene.root, ignore_errors=True)
    for name in ("models", "etc", "state", "run", "checkpoints"):
        (scene.root / name).mkdir(parents=True)
    scene.env.write_bytes(scene.env_content(OLD))
    scene.env.chmod(MODE)
    with contextlib.suppress(OSError):
        os.setxattr(scene.env, *NOTE)
    shas = {version: _put(scene.model(version)) for version in (OLDER, OLD)}
    with StateDb(scene.root / "state/state.db") as store:
        run, _ = store.open_run(requested_by="schedule", reason="every 24 h", at=START)
        before = Deployment(
            deployment_id="earlier",
            run_id=None,
            kind=DeploymentKind.PROMOTE,
            version=OLD,
            model_path=str(scene.model(OLD)),
            sha256=shas[OLD],
            size_bytes=1,
            previous_version=OLDER,
            previous_model_path=str(scene.model(OLDER)),
            previous_sha256=shas[OLDER],
            state=DeploymentState.CONFIRMED,
            created_at=START,
            updated_at=START,
            requested_by="schedule",
            reason="",
            confirmation="seen",
        )
        store.record_deployment(before)
        if scene.kind == "promotion":
            store.record(_due(run, scene, NEW))
        else:
            store.record(run.ended(Outcome.FAILED, "nothing", at=START))
            store.open_slot_request(
                SlotRequestKind.ROLLBACK,
                arguments=SlotRequestArguments(only_from=str(scene.model(OLD))),
                requested_by="ada",
                reason="it loses",
                at=START,
            )


def work(scene: Scene, clock: Callable[[], datetime] | None = None) -> None:
    """Start, heal, finish, as the daemon does."""
    with StateLock(scene.root / "state"), StateDb(scene.root / "state/state.db") as store:
        context = world_of(scene, store, clock or Clock())
        assert isinstance(context.slot, ModelSlot)
        context.slot.sweep()
        while (request := store.waiting_slot_request()) is not None:
            carry_out(request, context)
        run = store.unfinished_run()
        if run is not None:
            run = resume(run, context).run
        while run is not None and not run.is_finished:
            run = advance(run, context).run


def next_run(scene: Scene) -> None:
    """Another run promotes another model: nothing that was left keeps it from that."""
    clock = Clock(START + timedelta(days=1))
    with StateDb(scene.root / "state/state.db") as store:
        run, is_new = store.open_run(requested_by="schedule", reason="every 24 h", at=clock())
        assert is_new, f"run {run.run_id} is still at {run.stage}"
        store.record(_due(run, scene, NEXT))
    work(scene, clock)


def world_of(scene: Scene, store: StateDb, clock: Callable[[], datetime]) -> StageContext:
    policies = Policies(
        data=DataPolicy(),
        split=SplitPolicy(),
        recipe=Recipe(),
        gate=GatePolicy(),
        retry_seconds=0.0,
    )
    slot = ModelSlot(
        engine_models_dir=scene.root / "models",
        engine_env_file=scene.env,
        trigger_file=scene.root / "etc/trigger",
        withdrawn_dir=scene.root / "withdrawn",
        now=clock,
    )
    folders = ArtifactStore(model_path=scene.root / "run", checkpoint_path=scene.root / "checkpoints")
    return StageContext(
        store=store,
        workers=NobodyToVerify(),
        verifier=NobodyToVerify(),
        slot=slot,
        folders=folders,
        confirmations=FakeConfirmations(),
        confirm_by=lambda: Confirm.NONE,
        policies=policies,
        now=clock,
    )


# ---------------------------------------------------------------- what must hold


def broken_after_fault(scene: Scene) -> list[str]:
    """What must hold at every instant, whatever died: the engine may start at any time."""
    found = []
    allowed = {scene.env_content(version) for version in (OLD, scene.wanted)}
    if scene.env.read_bytes() not in allowed:
        found.append("the env file is neither the old nor the new one")
    elif (path := _named(scene)).read_bytes() != content_of(path.stem):
        found.append(f"the env line names {path.name}, which is not whole")
    found += [
        f"{path.name} is not whole"
        for path in (scene.root / "models").glob("patchtst_v*.pth")
        if path.read_bytes() != content_of(path.stem)
    ]
    return found


def undressed(scene: Scene) -> list[str]:
    """Mode and attributes of the env file must be kept too; a crash state has none, so this is asked apart."""
    mode = scene.env.stat().st_mode & 0o7777
    found = [] if mode == MODE else [f"the env file's mode is {mode:o}"]
    try:
        os.setxattr(scene.root, *NOTE)
    except OSError:
        return found
    if NOTE[0] not in os.listxattr(scene.env) or os.getxattr(scene.env, NOTE[0]) != NOTE[1]:
        found.append(f"the env file's attributes are {os.listxattr(scene.env)}")
    return found


def broken_after_restart(scene: Scene, *, may_be_given_up: bool) -> list[str]:
    """What must hold after one restart: it happened wholly or not at all, is told so, and nothing is left over.

    A killed one must have happened; one that met an error may have been given up.
    """
    found = broken_after_fault(scene)
    with StateDb(scene.root / "state/state.db") as store:
        is_done = _named(scene) == scene.model(scene.wanted)
        deployments = [one for one in store.deployments(9) if one.deployment_id != "earlier"]
        events = [row.event.event_type.value for row in store.pending_events(99)]
        if store.unfinished_run() or store.waiting_slot_request():
            found.append("a run or an order is not finished")
    told = "model.promoted" if scene.kind == "promotion" else "model.rolled_back"
    reached = [one for one in deployments if one.state in REACHED]
    if not is_done and not may_be_given_up:
        found.append("the swap was not finished")
    if (len(reached), events.count(told)) != (int(is_done), int(is_done)):
        found.append(
            f"the env line names the {'new' if is_done else 'old'} model, but {len(reached)} deployments "
            f"reached it and {events.count(told)} events say so"
        )
    if any(one.state not in (DeploymentState.UNDONE, *(each.state for each in reached)) for one in deployments):
        found.append(f"a deployment stands at {[one.state.value for one in deployments]}")
    if (
        is_done
        and (scene.root / "etc/trigger").exists()
        and not may_be_given_up
        and (scene.root / "etc/trigger").read_text() != f"{scene.model(scene.wanted)}\n"
    ):
        found.append("the trigger file names another model")
    found += [f"{path.name} was left over" for path in scene.root.rglob(f"{durable_file.TEMPORARY_PREFIX}*")]
    return found


def broken_afterwards(scene: Scene) -> list[str]:
    """The next run must work without help."""
    try:
        next_run(scene)
    except Exception as error:
        return [f"the next run fails: {error!r}"]
    if scene.env.read_bytes() != scene.env_content(NEXT):
        return ["the next run does not reach the env file"]
    return [
        f"{path.name} was left over by the next run" for path in scene.root.rglob(f"{durable_file.TEMPORARY_PREFIX}*")
    ]


def _named(scene: Scene) -> Path:
    return Path(env_file.parse(scene.env.read_bytes())["PATCHTST_MODEL_PATH"])


def _put(model: Path) -> str:
    """A model with its sidecars; its sha256."""
    model.parent.mkdir(parents=True, exist_ok=True)
    model.write_bytes(content_of(model.stem))
    sha256 = durable_file.sha256_of(model)
    checksum_file(model).write_text(checksum_line(model, sha256))
    manifest_file(model).write_text("{}")
    return sha256


def _due(run: Run, scene: Scene, version: str) -> Run:
    """The run, whose candidate has passed every gate."""
    candidate = scene.root / "run" / f"{version}.pth"
    sha256 = _put(candidate)
    incumbent = str(_named(scene))
    known = run.with_fact(
        train_facts(candidate_path=str(candidate), version=version, sha256=sha256, incumbent_path=incumbent)
    )
    at = run.created_at
    for stage in (Stage.AUDIT, Stage.TRAIN, Stage.GATE, Stage.PROMOTE):
        known = known.moved_to(stage, at=at)
    passed = known.with_fact(gate_facts())
    # stopped in good order: the start that goes on with it counts no death yet
    return passed.ended(Outcome.INTERRUPTED, "stopped", at=at)
