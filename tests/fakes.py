"""In-memory ports: the same questions, answered from memory, so that stages can be tested without a world."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from retrain_worker.domain.audit import DataPolicy
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.recipe import Recipe
from retrain_worker.domain.windows import SplitPolicy
from retrain_worker.errors import SlotError
from retrain_worker.stages.ports import Policies, World

NOW = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)


@dataclass
class FakeStore:
    """ports.RunStore in memory; every record is kept, in order."""

    runs: dict = field(default_factory=dict)
    deployments: dict = field(default_factory=dict)
    events: list = field(default_factory=list)
    records: list = field(default_factory=list)
    watermark: Path | None = None

    def unfinished_run(self):
        return next((run for run in self.runs.values() if not run.is_finished), None)

    def record(self, run, *, events=(), deployment=None, watermark_path=None):
        self.records.append((run, tuple(events), deployment, watermark_path))
        self.runs[run.run_id] = run
        known = {event.event_id for event in self.events}
        self.events.extend(event for event in events if event.event_id not in known)
        if deployment is not None:
            self.deployments[deployment.deployment_id] = deployment
        if watermark_path is not None:
            self.watermark = watermark_path

    def deployment(self, deployment_id):
        return self.deployments.get(deployment_id)

    def last_deployment(self):
        reached = [one for one in self.deployments.values() if one.state not in ("INTENDED", "UNDONE")]
        return max(reached, key=lambda one: one.updated_at, default=None)

    def last_promotion(self):
        promotions = [one for one in self.deployments.values() if one.kind == "promote" and one.run_id
                      and one.state not in ("INTENDED", "UNDONE")]
        return max(promotions, key=lambda one: one.updated_at, default=None)

    def watermark_path(self):
        return self.watermark


@dataclass
class FakeChildren:
    """ports.Children: answers each stage from a table."""

    answers: dict[str, Any] = field(default_factory=dict)
    requests: list = field(default_factory=list)

    def result_of(self, stage, run_dir, request):
        self.requests.append((stage, request))
        answer = self.answers[stage]
        return answer(request) if callable(answer) else answer


@dataclass
class FakeSlot:
    """ports.Slot: an env line and a directory, in memory."""

    named: Path | None = Path("/engine/patchtst_v20260109_233444.pth")
    shadow_only: bool = True
    published: list = field(default_factory=list)
    triggered: list = field(default_factory=list)
    fault: SlotError | None = None
    size: int = 1

    def current_path(self):
        return self.named

    def is_shadow_only(self):
        return self.shadow_only

    def publish(self, candidate, *, expected_sha256):
        if self.fault:
            raise self.fault
        self.published.append(candidate)
        return candidate

    def point_to(self, model, *, expected_sha256):
        if self.fault:
            raise self.fault
        self.named = model

    def trigger(self, model):
        self.triggered.append(model)


@dataclass
class FakeFolders:
    """ports.RunFolders under a real folder."""

    root: Path

    def path_of(self, run_id):
        return self.root / "runs" / run_id

    def run_dir(self, run_id):
        path = self.path_of(run_id)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def checkpoint_dir(self, run_id):
        path = self.root / "checkpoints" / run_id
        path.mkdir(parents=True, exist_ok=True)
        return path


@dataclass
class FakeConfirmations:
    """ports.Confirmations: says what it was told to say."""

    seen: str | None = "follower engine-1 answered with it"

    def seen_serving(self, **_):
        return self.seen


@dataclass
class FakeClock:
    """A clock that only moves when told."""

    now: datetime = NOW

    def __call__(self):
        return self.now

    def forward(self, seconds: float):
        self.now += timedelta(seconds=seconds)


def fake_world(root: Path, *, clock: Callable[[], datetime] | None = None, **changes: Any) -> World:
    parts: dict[str, Any] = {
        "store": FakeStore(), "children": FakeChildren(), "slot": FakeSlot(), "folders": FakeFolders(root),
        "confirmations": FakeConfirmations(), "now": clock or FakeClock(),
        "policies": Policies(data=DataPolicy(), split=SplitPolicy(), recipe=Recipe(), gate=GatePolicy()),
    }
    return World(**{**parts, **changes})
